//! A file in the file system that belongs to this process for as long as it is the same file.

use std::io;
use std::path::{Path, PathBuf};

/// A socket or FIFO that this process made. It is known by its inode, so that a file which replaced it is
/// never removed.
#[derive(Debug)]
pub(super) struct OwnedFile {
    path: PathBuf,
    inode: (u64, u64),
}

/// The result of looking at the path of an [`OwnedFile`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    Ours,
    Nothing,
    AnotherFile,
}

impl OwnedFile {
    /// The file of that inode, which is or is going to be at `path`.
    pub(super) fn new(path: &Path, inode: (u64, u64)) -> OwnedFile {
        OwnedFile { path: path.to_owned(), inode }
    }

    /// Looks what is at the path now.
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

/// Device and inode of what is at `path`; a symbolic link is not followed.
pub(super) fn inode_of(path: &Path) -> io::Result<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    let meta = std::fs::symlink_metadata(path)?;
    Ok((meta.dev(), meta.ino()))
}
