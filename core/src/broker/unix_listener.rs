//! Listening on a UNIX socket.

use super::Core;
use super::accept::{failed, serve_all};
use super::path_lock::in_use;
use super::published_file::{PublishedFile, WATCH_INTERVAL, Watched};
use crate::error::{Error, ErrorKind, Result};
use crate::transport::Socket;
use crate::transport::address::check_socket_path;
use rustix::fs::Mode;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use tokio::net::{UnixListener, UnixSocket, UnixStream};
use tokio::task::JoinHandle;
use tokio::time::{Interval, MissedTickBehavior};

/// Maximum number of connections that the kernel queues until they are accepted; `somaxconn` may reduce it.
const BACKLOG: u32 = 1024;

/// Binds the socket and begins to accept. Replaces a file that a dead broker left behind, but never a socket that a
/// process uses.
pub(super) async fn open(core: &Arc<Core>, path: &Path) -> Result<(JoinHandle<()>, Arc<PublishedFile>)> {
    let address = path.display().to_string();
    check_socket_path(path)
        .map_err(|e| Error::new(ErrorKind::Data, format!("cannot listen on {address}: {e}")))?;
    let file = Arc::new(PublishedFile::reserve(path).await?);
    let mode = core.options.socket_mode;
    let bound = match is_stale(path).await {
        Ok(stale) => file.publish(stale, |path| bind(path, mode)).map_err(|e| failed(&address, e)),
        Err(e) => Err(e),
    };
    let listener = bound.inspect_err(|_| file.withdraw())?;
    let mut accepting = Accepting::new(file.clone(), listener, mode);
    let accept = async move || accepting.accept().await;
    let task = tokio::spawn(serve_all(core.clone(), address.into(), accept));
    Ok((task, file))
}

/// Returns whether a socket without a process behind it is at the path. An error means that the path cannot be used.
async fn is_stale(path: &Path) -> Result<bool> {
    let address = path.display();
    match std::fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(failed(&address.to_string(), e)),
        Ok(meta) if !meta.file_type().is_socket() => return Err(in_use(path, "a file that is not a socket")),
        Ok(_) => {}
    }
    match UnixStream::connect(path).await {
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
            log::info!("replacing the stale socket {address}");
            Ok(true)
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        // The backlog of that process is full.
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Err(in_use(path, "another process")),
        Err(e) => Err(failed(&address.to_string(), e)),
        Ok(stream) => {
            let pid = stream.peer_cred().ok().and_then(|peer| peer.pid()).filter(|pid| *pid > 0);
            Err(in_use(path, &pid.map_or("another process".to_owned(), |pid| format!("process {pid}"))))
        }
    }
}

/// Binds a socket with its permissions. It accepts connections only after these are set.
fn bind(path: &Path, mode: Option<u32>) -> io::Result<UnixListener> {
    let socket = UnixSocket::new_stream()?;
    if let Some(mode) = mode {
        // On Linux, a socket file gets the permissions of its descriptor. Other systems refuse this call.
        let _ = rustix::fs::fchmod(&socket, Mode::from_raw_mode(mode as _));
    }
    socket.bind(path)?;
    if let Some(mode) = mode {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    }
    socket.listen(BACKLOG)
}

/// Accepts connections, and replaces the socket after its file was deleted.
struct Accepting {
    file: Arc<PublishedFile>,
    listener: UnixListener,
    /// A socket whose file was deleted, kept until its backlog has been accepted.
    replaced: Option<UnixListener>,
    mode: Option<u32>,
    looks: Interval,
}

impl Accepting {
    fn new(file: Arc<PublishedFile>, listener: UnixListener, mode: Option<u32>) -> Accepting {
        let mut looks = tokio::time::interval(WATCH_INTERVAL);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Accepting { file, listener, replaced: None, mode, looks }
    }

    async fn accept(&mut self) -> io::Result<Socket> {
        loop {
            let from_replaced = async {
                match &self.replaced {
                    Some(listener) => listener.accept().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                // This branch comes first, so that a flood of connections does not delay it.
                _ = self.looks.tick() => self.look(),
                accepted = from_replaced => return Socket::from_unix(accepted?.0.into_std()?),
                accepted = self.listener.accept() => return Socket::from_unix(accepted?.0.into_std()?),
            }
        }
    }

    fn look(&mut self) {
        let path = self.file.path().display();
        match self.file.watch(|path| bind(path, self.mode)) {
            Watched::Unchanged => {
                // A connection that was made through the old file has been accepted by now.
                self.replaced = self.replaced.take().filter(has_backlog);
            }
            // The task is about to be aborted.
            Watched::Withdrawn => {}
            Watched::Trouble(trouble) => log::error!("{path}: {trouble}"),
            Watched::PutBack(listener) => {
                log::warn!("{path} was deleted: listening on it again");
                self.replaced = Some(std::mem::replace(&mut self.listener, listener));
            }
        }
    }
}

fn has_backlog(listener: &UnixListener) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut fds = [PollFd::new(listener, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
}
