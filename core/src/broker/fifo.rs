//! A named pipe that executes one command per line, so that a shell can use the bus (docs/protocol.md section 10).

use super::Core;
use super::accept::failed;
use super::fifo_command::parse_line;
use super::fifo_lines::LineSplitter;
use super::in_process::LocalLink;
use super::path_lock::in_use;
use super::published_file::{PublishedFile, WATCH_INTERVAL, Watched};
use crate::error::Result;
use crate::log_limit::LogLimit;
use crate::proto::op::QoS;
use crate::shown::shown;
use rustix::fs::{Mode, OFlags};
use std::borrow::Cow;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;
use tokio::net::unix::pipe;
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::MissedTickBehavior;

const MODE: u32 = 0o622;
/// Maximum number of bytes that one read takes out of the pipe.
const READ_BYTES: usize = 16 * 1024;
/// Number of lines that are executed before the task yields to other tasks of the worker.
const LINES_PER_TURN: u32 = 16;

/// Creates the pipe and begins to read it. Replaces a pipe that a broker left behind when it died.
pub(super) async fn open(core: &Arc<Core>, path: &Path) -> Result<(JoinHandle<()>, Arc<PublishedFile>)> {
    let address = format!("fifo:{}", path.display());
    let file = Arc::new(PublishedFile::reserve(path).await?);
    let made = is_stale(path)
        .and_then(|stale| file.publish(stale, make).map_err(|e| failed(&address, e)))
        .inspect_err(|_| file.withdraw())?;
    let commands = Arc::new(Commands {
        link: LocalLink::broker(core),
        path: path.display().to_string(),
        complaints: LogLimit::default(),
    });
    Ok((tokio::spawn(run(file.clone(), made, commands)), file))
}

/// Returns whether a pipe without a reader is at the path. An error means that the path cannot be used.
fn is_stale(path: &Path) -> Result<bool> {
    let cannot = |e: io::Error| failed(&format!("fifo:{}", path.display()), e);
    match std::fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(cannot(e)),
        Ok(meta) if !meta.file_type().is_fifo() => return Err(in_use(path, "a file that is not a FIFO")),
        Ok(_) => {}
    }
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(_) => Err(in_use(path, "another process, which reads from it")),
        // No process has it open for reading.
        Err(rustix::io::Errno::NXIO) => Ok(true),
        Err(rustix::io::Errno::NOENT) => Ok(false),
        Err(e) => Err(cannot(e.into())),
    }
}

fn make(path: &Path) -> io::Result<pipe::Receiver> {
    rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, Mode::from_raw_mode(MODE), 0)?;
    // The umask may have removed permissions.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(MODE))?;
    // The pipe is opened for writing too, so that it does not end when a shell closes its end.
    pipe::OpenOptions::new().read_write(true).open_receiver(path)
}

/// The state that the readers of one FIFO share.
struct Commands {
    link: LocalLink,
    path: String,
    complaints: LogLimit,
}

impl Drop for Commands {
    fn drop(&mut self) {
        self.tell_suppressed(self.complaints.take_all());
    }
}

impl Commands {
    fn complain(&self, line: &[u8], why: &str) {
        let (admitted, suppressed) = self.complaints.admit(Instant::now());
        self.tell_suppressed(suppressed);
        if admitted {
            log::warn!("{}: {why}: {}", self.path, shown(line.trim_ascii_end()));
        }
    }

    fn tell_suppressed(&self, count: u64) {
        if count > 0 {
            log::warn!("{}: {count} more lines could not be executed", self.path);
        }
    }
}

/// Reads the pipe, and replaces it after its file was deleted.
async fn run(file: Arc<PublishedFile>, pipe: pipe::Receiver, commands: Arc<Commands>) {
    // The tasks are aborted when the set is dropped.
    let mut readers = JoinSet::new();
    let (mut current, retired) = oneshot::channel();
    readers.spawn(read(pipe, commands.clone(), retired));
    let mut looks = tokio::time::interval(WATCH_INTERVAL);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        while readers.try_join_next().is_some() {}
        commands.tell_suppressed(commands.complaints.take_ended(Instant::now()));
        match file.watch(make) {
            Watched::Unchanged => {}
            Watched::Withdrawn => return,
            Watched::Trouble(trouble) => log::error!("{}: {trouble}", commands.path),
            Watched::PutBack(pipe) => {
                log::warn!("{} was deleted: listening on it again", commands.path);
                let (next, retired) = oneshot::channel();
                readers.spawn(read(pipe, commands.clone(), retired));
                // Dropping the sender tells the reader of the old pipe that its pipe is retired.
                drop(std::mem::replace(&mut current, next));
            }
        }
    }
}

/// Executes the lines of one pipe. After the sender of `retired` is dropped, the function returns when no line has
/// come for a while: shells may still have the old pipe open.
async fn read(pipe: pipe::Receiver, commands: Arc<Commands>, mut retired: oneshot::Receiver<()>) {
    let mut lines = LineSplitter::default();
    let mut chunk = vec![0; READ_BYTES];
    let mut turn = 0;
    let mut is_retired = false;
    loop {
        let readable = if is_retired {
            match tokio::time::timeout(WATCH_INTERVAL, pipe.readable()).await {
                Ok(readable) => readable,
                Err(_) => return,
            }
        } else {
            tokio::select! {
                readable = pipe.readable() => readable,
                _ = &mut retired => {
                    is_retired = true;
                    continue;
                }
            }
        };
        let len = match readable.and_then(|()| pipe.try_read(&mut chunk)) {
            Ok(len) => len,
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => continue,
            Err(e) => return log::error!("{}: cannot read: {e}", commands.path),
        };
        let mut rest = &chunk[..len];
        while let Some(line) = lines.next_line(&mut rest) {
            let result = match &line {
                Ok(line) => execute_line(&commands.link, line).await,
                Err(_) => Err("the line is too long".into()),
            };
            if let Err(why) = result {
                let (Ok(line) | Err(line)) = &line;
                commands.complain(line, &why);
            }
            turn += 1;
            if turn % LINES_PER_TURN == 0 {
                tokio::task::yield_now().await;
            }
        }
    }
}

async fn execute_line(link: &LocalLink, line: &[u8]) -> std::result::Result<(), Cow<'static, str>> {
    match parse_line(line)? {
        None => Ok(()),
        Some(op) => link.submit(&op, QoS::Processed).outcome().await.map_err(|kind| kind.to_string().into()),
    }
}
