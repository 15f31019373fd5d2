//! The file with the process id of the broker.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// A pid file that this process wrote. Dropping it removes the file, unless the file has another process's id or was
/// replaced.
#[derive(Debug)]
pub(crate) struct PidFile {
    path: PathBuf,
    identity: Identity,
}

impl PidFile {
    /// Writes the id of this process. A link at the path is neither followed nor replaced, and only a regular file is
    /// replaced.
    pub(crate) fn write(path: &Path) -> Result<PidFile, String> {
        let write = || {
            check(path)?;
            match write_new(path) {
                // The directory may belong to the system, with a file that was prepared for this user.
                Err(e) if e.kind() == io::ErrorKind::PermissionDenied => write_in_place(path).map_err(|_| e),
                result => result,
            }
        };
        let identity = write().map_err(|e| format!("cannot write the pid file {}: {e}", path.display()))?;
        Ok(PidFile { path: path.to_owned(), identity })
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        let path = self.path.display();
        match is_ours(&self.path, self.identity) {
            Ok(true) => {}
            Ok(false) => {
                return log::warn!("the pid file {path} now belongs to another process: not removed");
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => return,
            Err(e) => return log::warn!("cannot read the pid file {path}: not removed: {e}"),
        }
        if let Err(e) = std::fs::remove_file(&self.path) {
            log::warn!("cannot remove the pid file {path}: {e}");
        }
    }
}

fn content() -> String {
    format!("{}\n", std::process::id())
}

fn check(path: &Path) -> io::Result<()> {
    let refused = |why| Err(io::Error::new(io::ErrorKind::AlreadyExists, why));
    match std::fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
        Ok(meta) if meta.file_type().is_symlink() => refused("a symbolic link is there"),
        Ok(meta) if !meta.is_file() => refused("something that is not a file is there"),
        Ok(_) => Ok(()),
    }
}

/// Writes a new file beside the old one and moves it into place when it is complete.
fn write_new(path: &Path) -> io::Result<Identity> {
    let temporary = path.with_file_name(format!(".busrtd.{}.pid", std::process::id()));
    // A killed process with the same id may have left this file behind.
    let _ = std::fs::remove_file(&temporary);
    let write = || {
        // This fails if anything exists at the path, so that it follows no link.
        let mut file = File::create_new(&temporary)?;
        file.write_all(content().as_bytes())?;
        std::fs::rename(&temporary, path)?;
        Identity::of(&file)
    };
    write().inspect_err(|_| {
        let _ = std::fs::remove_file(&temporary);
    })
}

fn write_in_place(path: &Path) -> io::Result<Identity> {
    let mut file = open_no_follow(File::options().write(true), path)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let meta = file.metadata()?;
        if !meta.is_file() || meta.nlink() > 1 {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the file has other names"));
        }
    }
    file.set_len(0)?;
    file.write_all(content().as_bytes())?;
    Identity::of(&file)
}

fn is_ours(path: &Path, identity: Identity) -> io::Result<bool> {
    let file = open_no_follow(File::options().read(true), path)?;
    let same_file = Identity::of(&file)? == identity;
    let mut text = String::new();
    // One byte more than the content has, to detect anything that follows it.
    file.take(content().len() as u64 + 1).read_to_string(&mut text)?;
    Ok(same_file && text == content())
}

fn open_no_follow(options: &mut std::fs::OpenOptions, path: &Path) -> io::Result<File> {
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(options, libc::O_NOFOLLOW | libc::O_NONBLOCK);
    options.open(path)
}

/// The identity of a file, which differs from that of a file that replaced it: device and inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity(u64, u64);

impl Identity {
    #[cfg(unix)]
    fn of(file: &File) -> io::Result<Identity> {
        use std::os::unix::fs::MetadataExt;
        let meta = file.metadata()?;
        Ok(Identity(meta.dev(), meta.ino()))
    }

    /// On other systems, only the content identifies the file.
    #[cfg(not(unix))]
    fn of(_file: &File) -> io::Result<Identity> {
        Ok(Identity(0, 0))
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn written_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        std::fs::write(&path, "12345 of a broker that was killed\n").unwrap();
        let file = PidFile::write(&path).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), content());
        drop(file);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (path, precious) = (dir.path().join("pid"), dir.path().join("precious"));
        std::fs::write(&precious, "precious").unwrap();
        std::os::unix::fs::symlink(&precious, &path).unwrap();
        let e = PidFile::write(&path).unwrap_err();
        assert!(e.contains("symbolic link"), "{e}");
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(dir.path().join("nothing"), &path).unwrap();
        PidFile::write(&path).unwrap_err();
        std::fs::remove_file(&path).unwrap();
        // A hard link is replaced; its other name keeps the content.
        std::fs::hard_link(&precious, &path).unwrap();
        write_in_place(&path).unwrap_err();
        drop(PidFile::write(&path).unwrap());
        assert_eq!(std::fs::read_to_string(&precious).unwrap(), "precious");
    }

    #[test]
    fn the_file_of_another_process_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        let file = PidFile::write(&path).unwrap();
        std::fs::write(&path, "1\n").unwrap();
        drop(file);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "1\n");
        // Another file with the same content.
        let file = PidFile::write(&path).unwrap();
        std::fs::write(dir.path().join("other"), content()).unwrap();
        std::fs::rename(dir.path().join("other"), &path).unwrap();
        drop(file);
        assert!(path.exists());
    }

    #[test]
    fn only_regular_files_are_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let e = PidFile::write(dir.path()).unwrap_err();
        assert!(e.contains("not a file"), "{e}");
        assert!(dir.path().is_dir());
    }
}
