//! A file that belongs to this process for as long as the same file is at its path.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// A socket or FIFO that this process made. It is identified by its inode, so that a file that replaced it is never
/// removed.
#[derive(Debug)]
pub(super) struct OwnedFile {
    path: PathBuf,
    inode: (u64, u64),
    /// While the file is open, the file system gives its inode number to no other file, even if the file is deleted.
    _handle: Option<OwnedFd>,
}

/// The result of looking at the path of an [`OwnedFile`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    Ours,
    Nothing,
    AnotherFile,
}

impl OwnedFile {
    /// Describes the file that was made at `temporary` and will be moved to `path`.
    ///
    /// # Errors
    ///
    /// The file cannot be examined.
    pub(super) fn new(path: &Path, temporary: &Path) -> io::Result<OwnedFile> {
        let handle = open_handle(temporary)?;
        Ok(OwnedFile { path: path.to_owned(), inode: inode_of(temporary)?, _handle: handle })
    }

    /// Forgets the file without removing it.
    pub(super) fn disown(mut self) {
        self.path.clear();
    }

    /// Returns what is at the path now.
    pub(super) fn find(&self) -> io::Result<Found> {
        match inode_of(&self.path) {
            Ok(inode) if inode == self.inode => Ok(Found::Ours),
            Ok(_) => Ok(Found::AnotherFile),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Found::Nothing),
            Err(e) => Err(e),
        }
    }
}

impl Drop for OwnedFile {
    fn drop(&mut self) {
        if !matches!(self.find(), Ok(Found::Ours)) {
            return;
        }
        if let Err(e) = std::fs::remove_file(&self.path) {
            log::warn!("cannot remove {}: {e}", self.path.display());
        }
    }
}

/// Opens a file of any kind without reading, writing or connecting to it. Only Linux supports this.
#[cfg(target_os = "linux")]
fn open_handle(path: &Path) -> io::Result<Option<OwnedFd>> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(Some(rustix::fs::open(path, flags, Mode::empty())?))
}

#[cfg(not(target_os = "linux"))]
fn open_handle(_path: &Path) -> io::Result<Option<OwnedFd>> {
    Ok(None)
}

/// Returns device and inode of the file at `path`; a symbolic link is not followed.
pub(super) fn inode_of(path: &Path) -> io::Result<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    let meta = std::fs::symlink_metadata(path)?;
    Ok((meta.dev(), meta.ino()))
}
