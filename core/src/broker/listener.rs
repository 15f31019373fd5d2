//! Opens the listeners of a broker.

use super::core::Core;
use super::tcp_listener;
#[cfg(unix)]
use super::{fifo, published_file::PublishedFile, unix_listener};
use crate::error::Result;
#[cfg(not(unix))]
use crate::error::{Error, ErrorKind};
use crate::transport::Address;
#[cfg(unix)]
use std::path::Path;
use std::sync::Arc;
use tokio::task::JoinHandle;

/// An open listener. Dropping it stops accepting and removes the files that it made.
pub(super) struct Listener {
    tasks: Vec<JoinHandle<()>>,
    #[cfg(unix)]
    file: Option<Arc<PublishedFile>>,
}

impl Drop for Listener {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
        // A task may still be running: after this, it does not put the file back.
        #[cfg(unix)]
        if let Some(file) = &self.file {
            file.withdraw();
        }
    }
}

impl Listener {
    /// Opens a listener for `address`, logs what was bound, and returns the address that clients use.
    pub(super) async fn open(core: &Arc<Core>, address: &str) -> Result<(Listener, String)> {
        #[cfg(unix)]
        if let Some(path) = address.strip_prefix("fifo:") {
            let (task, file) = fifo::open(core, Path::new(path)).await?;
            log::info!("listening on {address}");
            return Ok((Listener { tasks: vec![task], file: Some(file) }, address.to_owned()));
        }
        match address.parse()? {
            #[cfg(unix)]
            Address::Unix(path) => {
                let (task, file) = unix_listener::open(core, &path).await?;
                log::info!("listening on {address}");
                Ok((Listener { tasks: vec![task], file: Some(file) }, address.to_owned()))
            }
            #[cfg(not(unix))]
            Address::Unix(_) => Err(Error::new(ErrorKind::NotSupported, "UNIX sockets on this system")),
            Address::Tcp(host_port) => {
                let (tasks, reached) = tcp_listener::open(core, &host_port).await?;
                #[cfg(unix)]
                let listener = Listener { tasks, file: None };
                #[cfg(not(unix))]
                let listener = Listener { tasks };
                Ok((listener, reached))
            }
        }
    }
}
