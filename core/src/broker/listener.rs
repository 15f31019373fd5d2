//! Opening what a broker listens on, and the loop that accepts connections.

use super::{Core, connection, tcp_listener};
#[cfg(unix)]
use super::{fifo, published_file::PublishedFile, unix_listener};
use crate::error::{Error, ErrorKind, Result};
use crate::transport::{Address, Socket};
use std::io;
#[cfg(unix)]
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;

/// Accepting pauses this long after its first failure, such as running out of descriptors; the pause
/// doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

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
        // A task may still be running: after this it puts no file back.
        #[cfg(unix)]
        if let Some(file) = &self.file {
            file.withdraw();
        }
    }
}

impl Listener {
    /// Opens what `address` says, logs what was bound, and returns the address as clients reach it.
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

pub(super) fn failed(address: &str, e: io::Error) -> Error {
    Error::new(ErrorKind::Io, format!("cannot listen on {address}")).with_source(e)
}

/// Serves every connection that `accept` returns. Failures of accepting, such as running out of
/// descriptors, are temporary: the first is logged, and accepting continues after a pause.
pub(super) async fn serve_all(
    core: Arc<Core>,
    port: Arc<str>,
    mut accept: impl AsyncFnMut() -> io::Result<Socket>,
) {
    let mut pause = FIRST_PAUSE;
    loop {
        match accept().await {
            Ok(socket) => {
                pause = FIRST_PAUSE;
                tokio::spawn(connection::serve(core.clone(), socket, port.clone()));
            }
            // The peer closed the connection before it was accepted.
            Err(e) if matches!(e.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::NotConnected) => {}
            Err(e) => {
                if pause == FIRST_PAUSE {
                    log::warn!("cannot accept connections on {port}: {e}");
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}
