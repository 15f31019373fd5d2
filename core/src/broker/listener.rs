//! Accept loops, and the socket files they stand for.

use super::{Core, connection};
use crate::error::{Error, ErrorKind, Result};
use crate::transport::{Address, Socket};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
#[cfg(unix)]
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;
use tokio::net::TcpListener;
#[cfg(unix)]
use tokio::net::UnixListener;
use tokio::task::JoinHandle;

/// Out of descriptors, accepting pauses this long at first, doubling up to a second.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// A listener at work. Dropping it ends it and removes what it made.
pub(super) struct Listener {
    task: JoinHandle<()>,
    /// Dropped after the task is told to stop.
    _file: Option<OwnedFile>,
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Listener {
    /// Opens what `address` says, and returns it as clients reach it.
    pub(super) async fn open(core: &Arc<Core>, address: &str) -> Result<(Listener, String)> {
        #[cfg(unix)]
        if let Some(path) = address.strip_prefix("fifo:") {
            let (task, file) = super::fifo::open(core, Path::new(path)).map_err(|e| failed(address, e))?;
            return Ok((Listener { task, _file: Some(file) }, address.to_owned()));
        }
        match address.parse()? {
            #[cfg(unix)]
            Address::Unix(path) => {
                let (listener, file) = bind_unix(&path, core.options.socket_mode).await?;
                let accept = async move || {
                    let (stream, _) = listener.accept().await?;
                    Socket::from_unix(stream.into_std()?)
                };
                let task = tokio::spawn(accept_all(core.clone(), address.into(), accept));
                Ok((Listener { task, _file: Some(file) }, address.to_owned()))
            }
            #[cfg(not(unix))]
            Address::Unix(_) => Err(Error::new(ErrorKind::NotSupported, "UNIX sockets on this system")),
            Address::Tcp(host_port) => {
                let listener = TcpListener::bind(&host_port).await.map_err(|e| failed(address, e))?;
                let bound = listener.local_addr()?;
                let accept = async move || {
                    let (stream, _) = listener.accept().await?;
                    Socket::from_tcp(stream.into_std()?)
                };
                let task = tokio::spawn(accept_all(core.clone(), address.into(), accept));
                // A free port was asked for: tell which it is, under the host that was asked for.
                let reached = match host_port.strip_suffix(":0") {
                    Some(host) => format!("{host}:{}", bound.port()),
                    None => host_port,
                };
                Ok((Listener { task, _file: None }, reached))
            }
        }
    }
}

fn failed(address: &str, e: io::Error) -> Error {
    Error::new(ErrorKind::Io, format!("cannot listen on {address}")).with_source(e)
}

/// Serves every connection. Errors of accepting, such as running out of descriptors, pass: they are
/// logged once, and accepting goes on after a pause.
async fn accept_all(core: Arc<Core>, port: Arc<str>, accept: impl AsyncFn() -> io::Result<Socket>) {
    let mut pause = FIRST_PAUSE;
    loop {
        match accept().await {
            Ok(socket) => {
                pause = FIRST_PAUSE;
                tokio::spawn(connection::serve(core.clone(), socket, port.clone()));
            }
            // The peer went before it was accepted: nothing of ours.
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

/// A file in the file system that goes with its owner, unless somebody else has replaced it.
pub(super) struct OwnedFile {
    path: PathBuf,
    #[cfg(unix)]
    inode: (u64, u64),
}

#[cfg(unix)]
impl OwnedFile {
    pub(super) fn new(path: &Path) -> io::Result<OwnedFile> {
        Ok(OwnedFile { path: path.to_owned(), inode: inode(path)? })
    }
}

impl Drop for OwnedFile {
    fn drop(&mut self) {
        #[cfg(unix)]
        if inode(&self.path).ok() != Some(self.inode) {
            return;
        }
        if let Err(e) = std::fs::remove_file(&self.path) {
            log::warn!("cannot remove {}: {e}", self.path.display());
        }
    }
}

#[cfg(unix)]
fn inode(path: &Path) -> io::Result<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    let meta = std::fs::symlink_metadata(path)?;
    Ok((meta.dev(), meta.ino()))
}

/// Binds a UNIX socket: a stale file is replaced, a live socket is not taken over. The socket is bound
/// under another name first and then moved, so that it never can be seen with the wrong permissions.
#[cfg(unix)]
async fn bind_unix(path: &Path, mode: Option<u32>) -> Result<(UnixListener, OwnedFile)> {
    use std::os::unix::fs::{FileTypeExt, PermissionsExt};
    let address = path.display().to_string();
    match std::fs::symlink_metadata(path) {
        Ok(meta) if !meta.file_type().is_socket() => {
            return Err(Error::new(
                ErrorKind::Busy,
                format!("cannot listen on {address}: a file that is no socket is there"),
            ));
        }
        Ok(_) => match tokio::net::UnixStream::connect(path).await {
            Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
                log::info!("replacing the stale socket {address}")
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) if e.kind() != io::ErrorKind::WouldBlock => return Err(failed(&address, e)),
            _ => {
                return Err(Error::new(
                    ErrorKind::Busy,
                    format!("cannot listen on {address}: somebody is listening there already"),
                ));
            }
        },
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(failed(&address, e)),
    }
    // Short: a socket's path has hardly more than a hundred bytes.
    static BOUND: AtomicU32 = AtomicU32::new(0);
    let temporary =
        path.with_file_name(format!(".{:x}.{:x}", std::process::id(), BOUND.fetch_add(1, Relaxed)));
    let bind = || {
        let _ = std::fs::remove_file(&temporary);
        let listener = UnixListener::bind(&temporary)?;
        if let Some(mode) = mode {
            std::fs::set_permissions(&temporary, std::fs::Permissions::from_mode(mode))?;
        }
        let file = OwnedFile { path: path.to_owned(), inode: inode(&temporary)? };
        std::fs::rename(&temporary, path)?;
        Ok((listener, file))
    };
    bind().map_err(|e| {
        let _ = std::fs::remove_file(&temporary);
        failed(&address, e)
    })
}
