//! A named pipe that takes a line a command, so that a shell can use the bus (PROTOCOL.md section 10).

use super::Core;
use super::listener::OwnedFile;
use super::local::LocalLink;
use crate::params;
use crate::proto::op::QoS;
use crate::proto::request::Operation;
use crate::proto::rpc;
use bytes::Bytes;
use rustix::fs::{Mode, OFlags};
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::unix::pipe;
use tokio::task::JoinHandle;

/// A longer line is no command.
const LONGEST_LINE: u64 = 1024 * 1024;
const MODE: u32 = 0o622;

/// Makes the pipe and begins to read it. A pipe that a dead broker left is replaced.
pub(super) fn open(core: &Arc<Core>, path: &Path) -> io::Result<(JoinHandle<()>, OwnedFile)> {
    match std::fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(e),
        Ok(meta) if !meta.file_type().is_fifo() => {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "a file that is no FIFO is there"));
        }
        // Opening for writing works only if somebody reads.
        Ok(_) => match rustix::fs::open(path, OFlags::WRONLY | OFlags::NONBLOCK, Mode::empty()) {
            Ok(_) => {
                return Err(io::Error::new(io::ErrorKind::AddrInUse, "somebody is reading from it already"));
            }
            Err(_) => std::fs::remove_file(path)?,
        },
    }
    rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, Mode::from_raw_mode(MODE), 0)?;
    let file = OwnedFile::new(path)?;
    // What the umask took away is given back.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(MODE))?;
    // Open for writing too: the pipe does not end when a shell closes its end.
    let pipe = pipe::OpenOptions::new().read_write(true).open_receiver(path)?;
    let link = LocalLink::broker(core);
    let shown = path.display().to_string();
    Ok((tokio::spawn(async move { read_lines(pipe, &link, &shown).await }), file))
}

async fn read_lines(pipe: pipe::Receiver, link: &LocalLink, path: &str) {
    let mut lines = BufReader::new(pipe);
    let mut line = vec![];
    let mut overlong = false;
    loop {
        line.clear();
        match (&mut lines).take(LONGEST_LINE).read_until(b'\n', &mut line).await {
            Ok(0) => {}
            Ok(_) if line.last() != Some(&b'\n') => overlong = true,
            Ok(_) if overlong => {
                overlong = false;
                log::warn!("{path}: a line of over {LONGEST_LINE} bytes is no command");
            }
            Ok(_) => {
                if let Err(why) = obey(link, &line).await {
                    log::warn!("{path}: {why}: {}", String::from_utf8_lossy(&line).trim_end());
                }
            }
            Err(e) => {
                log::error!("{path}: {e}");
                return;
            }
        }
    }
}

async fn obey(link: &LocalLink, line: &[u8]) -> Result<(), String> {
    let line = std::str::from_utf8(line).map_err(|_| "a command that is not UTF-8")?;
    let line = line.trim_end_matches(['\n', '\r']);
    if line.trim().is_empty() {
        return Ok(());
    }
    let (target, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let text = || Bytes::copy_from_slice(rest.as_bytes());
    let request;
    let op = if let Some(topic) = target.strip_prefix('=') {
        Operation::Publish { topic, payload: text() }
    } else if let Some(message) = rest.strip_prefix('.') {
        request = [&[rpc::NOTIFICATION], message.as_bytes()].concat();
        Operation::Message { target, payload: request.into() }
    } else if let Some(call) = rest.strip_prefix(':') {
        let mut words = call.split_whitespace();
        let method = words.next().ok_or("the method is missing")?;
        let params = params::pack(words).map_err(|e| e.to_string())?;
        request = [&rpc::request_header(0, method)[..], &params].concat();
        Operation::Message { target, payload: request.into() }
    } else if target.contains(['*', '?']) {
        Operation::Broadcast { mask: target, payload: text() }
    } else {
        Operation::Message { target, payload: text() }
    };
    link.submit(&op, QoS::Processed).outcome().await.map_err(|kind| kind.to_string())
}
