//! A socket or FIFO at a path. It is made under a temporary name, moved into place when it is complete, watched, put
//! back when it is deleted, and removed at the end.

use super::owned_file::{Found, OwnedFile, inode_of};
use super::path_lock::{LockError, PathLock, hash_of};
use crate::error::{Error, ErrorKind, Result};
use parking_lot::Mutex;
use rustix::fs::{Mode, OFlags};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Interval at which a listener checks that its file is still there.
pub(super) const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// The right to a path, and the file that is published there. The owner must call
/// [`withdraw`](PublishedFile::withdraw); a task that watches the file may hold another reference.
#[derive(Debug)]
pub(super) struct PublishedFile {
    path: PathBuf,
    /// `None`: withdrawn, and not put back any more.
    state: Mutex<Option<State>>,
}

/// The fields are dropped in this order: the file is removed before the lock is released.
#[derive(Debug)]
struct State {
    file: Option<OwnedFile>,
    lock: PathLock,
    /// The problem that was logged last, so that each problem is logged once.
    reported: Option<String>,
}

/// The result of checking the file.
#[derive(Debug)]
pub(super) enum Watched<T> {
    /// Nothing has changed; there is nothing to do or to log.
    Unchanged,
    /// The file was missing. The value is the result of making the new one.
    PutBack(T),
    /// The file cannot be put back. The caller must log the text.
    Trouble(String),
    /// The file was withdrawn: the listener ends.
    Withdrawn,
}

impl PublishedFile {
    /// Takes the lock of `path`. The file does not exist yet.
    pub(super) async fn reserve(path: &Path) -> Result<PublishedFile> {
        if path.file_name().is_none() || path.as_os_str().as_encoded_bytes().ends_with(b"/") {
            let context = format!("cannot listen on {}: the path has no file name", path.display());
            return Err(Error::new(ErrorKind::Data, context));
        }
        let lock = PathLock::acquire(path).await?;
        let state = State { file: None, lock, reported: None };
        Ok(PublishedFile { path: path.to_owned(), state: Mutex::new(Some(state)) })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the file with `make`, which receives a temporary path, and moves it into place. If `over_stale` is true,
    /// it replaces the file of a dead broker in one step; otherwise the path must be free.
    pub(super) fn publish<T>(
        &self,
        over_stale: bool,
        make: impl FnOnce(&Path) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut state = self.state.lock();
        let Some(state) = &mut *state else { return Err(io::ErrorKind::NotConnected.into()) };
        let (file, made) = put_into_place(&self.path, over_stale, make)?;
        state.file = Some(file);
        Ok(made)
    }

    /// Checks the file, and puts it back with `make` if nothing is at its path any more. Another file at that path is
    /// left alone.
    pub(super) fn watch<T>(&self, make: impl FnOnce(&Path) -> io::Result<T>) -> Watched<T> {
        let mut guard = self.state.lock();
        let Some(state) = &mut *guard else { return Watched::Withdrawn };
        let Some(file) = &state.file else { return Watched::Unchanged };
        let trouble = match file.find() {
            Ok(Found::Ours) => {
                state.reported = None;
                return Watched::Unchanged;
            }
            Ok(Found::AnotherFile) => {
                "another file is at its path and is not replaced; new clients cannot reach this broker"
                    .to_owned()
            }
            Err(e) => format!("cannot examine it: {e}"),
            Ok(Found::Nothing) => match state.put_back(&self.path, make) {
                Ok(made) => return Watched::PutBack(made),
                Err(why) => format!("it was deleted and cannot be put back: {why}"),
            },
        };
        if state.reported.as_ref() == Some(&trouble) {
            return Watched::Unchanged;
        }
        state.reported = Some(trouble.clone());
        Watched::Trouble(trouble)
    }

    /// Removes the file if it still belongs to this process, and releases the path for other processes.
    pub(super) fn withdraw(&self) {
        let state = self.state.lock().take();
        drop(state);
    }
}

impl State {
    fn put_back<T>(
        &mut self,
        path: &Path,
        make: impl FnOnce(&Path) -> io::Result<T>,
    ) -> std::result::Result<T, String> {
        // If the lock file is no longer at its path, the lock does not exclude other processes any more.
        if !self.lock.is_in_place() {
            self.lock = PathLock::try_acquire(path).map_err(|e| match e {
                LockError::Held(Some(pid)) => format!("process {pid} took its path"),
                LockError::Held(None) => "another process took its path".to_owned(),
                LockError::Io(e) => format!("cannot lock the path: {e}"),
            })?;
        }
        let (file, made) = put_into_place(path, false, make).map_err(|e| e.to_string())?;
        // The file of the old record was deleted. Its inode number may be that of the new file.
        if let Some(deleted) = self.file.replace(file) {
            deleted.disown();
        }
        self.reported = None;
        Ok(made)
    }
}

/// Makes a file under a temporary name and renames it when it is complete, so that other processes never see it with
/// the wrong permissions or without a process behind it.
fn put_into_place<T>(
    path: &Path,
    replace: bool,
    make: impl FnOnce(&Path) -> io::Result<T>,
) -> io::Result<(OwnedFile, T)> {
    let folder = Folder::of(path)?;
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    // The temporary name is the same in every process, so that a file that a killed broker left behind is found and
    // removed. The lock of the path gives this process the right to do so.
    let temporary = folder.base.join(format!(".busrt-{:016x}", hash_of(name)));
    remove_if_there(&temporary)?;
    let put = || -> io::Result<(OwnedFile, T)> {
        let made = make(&temporary)?;
        let file = OwnedFile::new(path, &temporary)?;
        let place = folder.base.join(name);
        if replace {
            std::fs::rename(&temporary, &place)?;
        } else {
            move_to_free(&temporary, &place)?;
        }
        Ok((file, made))
    };
    let result = put();
    let cleared = remove_if_there(&temporary);
    let put = result?;
    cleared?;
    Ok(put)
}

/// Gives a file a name that is free. Unlike a rename, a link never replaces a file that has just appeared; but not
/// every file system supports links.
fn move_to_free(from: &Path, to: &Path) -> io::Result<()> {
    match std::fs::hard_link(from, to) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => match inode_of(to) {
            Err(missing) if missing.kind() == io::ErrorKind::NotFound => std::fs::rename(from, to),
            _ => Err(e),
        },
        result => result,
    }
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// The directory of a file, under a short path. The kernel limits the length of a socket's path, and a temporary name
/// in the same directory may need more bytes than the final one.
struct Folder {
    base: PathBuf,
    /// Keeps `base` valid.
    _fd: OwnedFd,
}

impl Folder {
    fn of(file: &Path) -> io::Result<Folder> {
        use std::os::fd::AsRawFd;
        let folder = match file.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        #[cfg(target_os = "linux")]
        let access = OFlags::PATH;
        #[cfg(not(target_os = "linux"))]
        let access = OFlags::RDONLY;
        let fd = rustix::fs::open(folder, access | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let short = PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()));
        // Other systems, and containers without /proc, do not have this path.
        let base = if short.is_dir() { short } else { folder.to_owned() };
        Ok(Folder { base, _fd: fd })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn make(path: &Path) -> io::Result<()> {
        std::fs::write(path, "made")
    }

    fn names(dir: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(dir).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[tokio::test]
    async fn published_put_back_and_withdrawn() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let file = PublishedFile::reserve(&path).await.unwrap();
        file.publish(false, make).unwrap();
        assert_eq!(names(dir.path()), [".x.lock", "x"]);
        assert!(matches!(file.watch(make), Watched::Unchanged));
        // The lock may be deleted with the file.
        std::fs::remove_file(&path).unwrap();
        std::fs::remove_file(dir.path().join(".x.lock")).unwrap();
        assert!(matches!(file.watch(make), Watched::PutBack(())));
        assert_eq!(names(dir.path()), [".x.lock", "x"]);
        file.withdraw();
        assert!(matches!(file.watch(make), Watched::Withdrawn));
        assert!(names(dir.path()).is_empty());
    }

    /// A file system may give a new file the inode number of the one that was deleted.
    #[tokio::test]
    async fn a_file_that_was_put_back_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let file = PublishedFile::reserve(&path).await.unwrap();
        file.publish(false, make).unwrap();
        for _ in 0..200 {
            std::fs::remove_file(&path).unwrap();
            assert!(matches!(file.watch(make), Watched::PutBack(())));
            assert!(path.exists());
        }
        file.withdraw();
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn another_file_is_reported_once_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let file = PublishedFile::reserve(&path).await.unwrap();
        file.publish(false, make).unwrap();
        std::fs::write(dir.path().join("y"), "precious").unwrap();
        std::fs::rename(dir.path().join("y"), &path).unwrap();
        assert!(matches!(file.watch(make), Watched::Trouble(_)));
        assert!(matches!(file.watch(make), Watched::Unchanged));
        file.withdraw();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    }

    #[tokio::test]
    async fn a_path_that_another_process_took_is_not_taken_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let file = PublishedFile::reserve(&path).await.unwrap();
        file.publish(false, make).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::remove_file(dir.path().join(".x.lock")).unwrap();
        let other = PublishedFile::reserve(&path).await.unwrap();
        assert!(matches!(file.watch(make), Watched::Trouble(_)));
        assert!(!path.exists());
        other.withdraw();
        assert!(matches!(file.watch(make), Watched::PutBack(())));
        file.withdraw();
    }

    #[tokio::test]
    async fn files_of_a_failed_start_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        std::fs::write(&path, "precious").unwrap();
        let file = PublishedFile::reserve(&path).await.unwrap();
        assert!(file.publish(false, make).is_err());
        let fails = |path: &Path| {
            make(path)?;
            Err::<(), _>(io::Error::other("fails"))
        };
        assert!(file.publish(true, fails).is_err());
        file.withdraw();
        assert_eq!(names(dir.path()), ["x"]);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    }
}
