//! The lock beside a socket or FIFO: if several brokers are given the same path, only one gets it.
//!
//! The lock is a file `.NAME.lock` with an exclusive `flock`, which the kernel releases however the process ends. The
//! file contains the process id of the broker, for the error messages of other processes. An orderly end removes the
//! file while its lock is held. A process that has taken a lock therefore checks that the locked file is still at the
//! path, and tries again if it is not.

use super::owned_file::inode_of;
use crate::error::{Error, ErrorKind, Result};
use rustix::fs::{FlockOperation, Mode, OFlags};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

const MAX_FILE_NAME_BYTES: usize = 255;
/// Number of attempts to take the lock while its holder starts or ends.
const ATTEMPTS: u32 = 25;
const ATTEMPT_INTERVAL: Duration = Duration::from_millis(10);

/// The exclusive right of this process to a path. Dropping it releases the path.
#[derive(Debug)]
pub(super) struct PathLock {
    path: PathBuf,
    file: File,
}

/// The reason why a lock was not taken.
#[derive(Debug)]
pub(super) enum LockError {
    /// Another open file holds it. The process id is missing if the holder has not written it yet.
    Held(Option<u32>),
    Io(io::Error),
}

impl PathLock {
    /// Takes the lock of `target`, the path of a socket or FIFO that will be made.
    pub(super) async fn acquire(target: &Path) -> Result<PathLock> {
        let mut attempt = 1;
        loop {
            let held = match PathLock::try_acquire(target) {
                Ok(lock) => return Ok(lock),
                Err(LockError::Io(e)) => {
                    let context = format!("cannot lock {}", lock_path(target).display());
                    return Err(Error::new(ErrorKind::Io, context).with_source(e));
                }
                Err(LockError::Held(pid)) => pid,
            };
            // Without the id of a running process, the holder is just starting or just ending.
            match held.filter(|pid| is_running(*pid)) {
                Some(pid) => return Err(in_use(target, &format!("process {pid}"))),
                None if attempt == ATTEMPTS => return Err(in_use(target, "another process")),
                None => tokio::time::sleep(ATTEMPT_INTERVAL).await,
            }
            attempt += 1;
        }
    }

    /// Takes the lock unless another process has it.
    pub(super) fn try_acquire(target: &Path) -> std::result::Result<PathLock, LockError> {
        let path = lock_path(target);
        // Each failed attempt means that another process removed its lock file in between.
        for _ in 0..ATTEMPTS {
            let Some(mut file) = open(&path).map_err(LockError::Io)? else { continue };
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(rustix::io::Errno::WOULDBLOCK) => return Err(LockError::Held(read_pid(&mut file))),
                Err(e) => return Err(LockError::Io(e.into())),
            }
            let lock = PathLock { path: path.clone(), file };
            if lock.is_in_place() {
                lock.write_pid().map_err(LockError::Io)?;
                return Ok(lock);
            }
        }
        Err(LockError::Held(None))
    }

    /// Returns whether the locked file is still the one at the path. If not, other processes can take the lock.
    pub(super) fn is_in_place(&self) -> bool {
        use std::os::unix::fs::MetadataExt;
        match (self.file.metadata(), inode_of(&self.path)) {
            (Ok(ours), Ok(there)) => (ours.dev(), ours.ino()) == there,
            _ => false,
        }
    }

    fn write_pid(&self) -> io::Result<()> {
        self.file.set_len(0)?;
        (&self.file).write_all(format!("{}\n", std::process::id()).as_bytes())
    }
}

impl Drop for PathLock {
    fn drop(&mut self) {
        // The lock is still held here, so that another process cannot have replaced the file since the check.
        if self.is_in_place()
            && let Err(e) = std::fs::remove_file(&self.path)
        {
            log::warn!("cannot remove {}: {e}", self.path.display());
        }
    }
}

/// Returns an error that names the path and its holder.
pub(super) fn in_use(target: &Path, holder: &str) -> Error {
    Error::new(ErrorKind::Busy, format!("cannot listen on {}: in use by {holder}", target.display()))
}

/// Opens or creates the lock file. Returns `None` if it appeared or vanished between the two attempts.
///
/// It is first opened without `O_CREAT`, because Linux denies `O_CREAT` in `/tmp` for files of other users.
fn open(path: &Path) -> io::Result<Option<File>> {
    use rustix::io::Errno;
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(fd) => return checked(File::from(fd)).map(Some),
        Err(Errno::NOENT) => {}
        Err(e) => return Err(e.into()),
    }
    match rustix::fs::open(path, flags | OFlags::CREATE | OFlags::EXCL, Mode::RUSR | Mode::WUSR) {
        Ok(fd) => Ok(Some(File::from(fd))),
        Err(Errno::EXIST) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// Refuses a file that cannot be a lock, because its content would be overwritten.
fn checked(file: File) -> io::Result<File> {
    use std::os::unix::fs::MetadataExt;
    let meta = file.metadata()?;
    // A lock file holds at most a process id and a line feed.
    if !meta.is_file() || meta.nlink() > 1 || meta.len() > 32 {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "a file that is not a lock file is there"));
    }
    Ok(file)
}

fn read_pid(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(32).read_to_string(&mut text).ok()?;
    // Without its line feed, the number may be incomplete.
    text.strip_suffix('\n')?.parse().ok()
}

fn is_running(pid: u32) -> bool {
    let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) else { return false };
    !matches!(rustix::process::test_kill_process(pid), Err(rustix::io::Errno::SRCH))
}

/// Returns the path of the lock file: `/run/.bus.sock.lock` for `/run/bus.sock`.
fn lock_path(target: &Path) -> PathBuf {
    let name = target.file_name().unwrap_or_default();
    let mut file_name = OsString::from(".");
    if name.len() + ".".len() + ".lock".len() <= MAX_FILE_NAME_BYTES {
        file_name.push(name);
    } else {
        file_name.push(format!("{:016x}", hash_of(name)));
    }
    file_name.push(".lock");
    target.with_file_name(file_name)
}

/// FNV-1a hash. It is the same in every process, which the hashes of the standard library do not guarantee.
pub(super) fn hash_of(name: &OsStr) -> u64 {
    name.as_bytes().iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holder_at_a_time_and_nothing_left_behind() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("bus.sock");
        let lock = PathLock::try_acquire(&target).unwrap();
        assert!(dir.path().join(".bus.sock.lock").exists());
        let pid = std::process::id();
        assert!(
            matches!(PathLock::try_acquire(&target), Err(LockError::Held(Some(holder))) if holder == pid)
        );
        drop(lock);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        PathLock::try_acquire(&target).unwrap();
    }

    #[test]
    fn many_threads_never_hold_it_together() {
        use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("bus.sock");
        let holders = AtomicU32::new(0);
        let taken = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..500 {
                        if let Ok(lock) = PathLock::try_acquire(&target) {
                            assert_eq!(holders.fetch_add(1, SeqCst), 0);
                            taken.fetch_add(1, SeqCst);
                            holders.fetch_sub(1, SeqCst);
                            drop(lock);
                        }
                    }
                });
            }
        });
        assert!(taken.load(SeqCst) > 0);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_lock_file_of_a_dead_process_is_taken_over() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(".bus.sock.lock"), "999999999\n").unwrap();
        let lock = PathLock::try_acquire(&dir.path().join("bus.sock")).unwrap();
        let written = std::fs::read_to_string(dir.path().join(".bus.sock.lock")).unwrap();
        assert_eq!(written, format!("{}\n", std::process::id()));
        drop(lock);
    }

    #[test]
    fn another_file_is_not_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let precious = dir.path().join("precious");
        std::fs::write(&precious, "precious").unwrap();
        std::os::unix::fs::symlink(&precious, dir.path().join(".a.lock")).unwrap();
        std::fs::hard_link(&precious, dir.path().join(".b.lock")).unwrap();
        for target in ["a", "b"] {
            assert!(matches!(PathLock::try_acquire(&dir.path().join(target)), Err(LockError::Io(_))));
        }
        assert_eq!(std::fs::read_to_string(&precious).unwrap(), "precious");
    }

    #[test]
    fn a_name_of_any_length_has_a_lock() {
        let dir = tempfile::tempdir().unwrap();
        PathLock::try_acquire(&dir.path().join("x".repeat(255))).unwrap();
    }
}
