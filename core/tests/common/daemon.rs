//! Starts a `busrtd` process for a test, which may kill, stop and restart it.

use super::PATIENCE;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use tempfile::NamedTempFile;

/// Number of lines of the broker's log that are shown when a test fails.
const MOST_LINES: usize = 2000;

pub struct Daemon {
    child: Child,
    /// The lines of its log.
    log: NamedTempFile,
    binds: Vec<String>,
    more: Vec<String>,
}

impl Daemon {
    /// Starts a broker and waits until it accepts connections.
    pub fn start(binds: &[String], more: &[&str]) -> Daemon {
        let more: Vec<_> = more.iter().map(|s| (*s).to_owned()).collect();
        let log = NamedTempFile::new().unwrap();
        let child = spawn(binds, &more, &log);
        let daemon = Daemon { child, log, binds: binds.to_vec(), more };
        daemon.wait_ready();
        daemon
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again after its end.
    pub fn restart(&mut self) {
        self.child = spawn(&self.binds, &self.more, &self.log);
        self.wait_ready();
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    pub fn size(&self) -> Size {
        Size::of(self.child.id())
    }

    /// Waits until it has exited by itself.
    pub fn wait(&mut self) -> std::process::ExitStatus {
        let started = std::time::Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(started.elapsed() < PATIENCE, "the broker does not end");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }

    fn wait_ready(&self) {
        let started = std::time::Instant::now();
        for bind in &self.binds {
            let ready = || match bind.starts_with('/') {
                true => std::os::unix::net::UnixStream::connect(bind).is_ok(),
                false => std::net::TcpStream::connect(bind).is_ok(),
            };
            while !ready() {
                assert!(started.elapsed() < PATIENCE, "the broker does not start");
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
        }
    }
}

/// The memory and descriptors of a process.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    pub descriptors: usize,
    /// Resident memory, in bytes.
    pub memory: usize,
}

impl Size {
    pub fn of(pid: u32) -> Size {
        let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).unwrap();
        let pages: usize = statm.split_whitespace().nth(1).unwrap().parse().unwrap();
        let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
        Size { descriptors, memory: pages * 4096 }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // The broker may be in any state; an error means that it has already exited.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.log.path()).unwrap_or_default();
            let lines: Vec<_> = log.lines().collect();
            let last = &lines[lines.len().saturating_sub(MOST_LINES)..];
            eprintln!("the last lines of the broker's log:\n{}", last.join("\n"));
        }
    }
}

fn spawn(binds: &[String], more: &[String], log: &NamedTempFile) -> Child {
    let mut command = Command::new(busrtd());
    for bind in binds {
        command.args(["-B", bind]);
    }
    command
        .args(more)
        .env_remove("RUST_LOG")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log.as_file().try_clone().unwrap());
    command.spawn().unwrap()
}

fn busrtd() -> &'static str {
    env!("CARGO_BIN_EXE_busrtd")
}

/// Returns a port that is free, and stays free until a broker listens on it: the system does not assign ports from
/// this range.
pub fn free_port() -> u16 {
    static TAKEN: AtomicU16 = AtomicU16::new(0);
    let start = 10_000 + (std::process::id() % 20_000) as u16;
    loop {
        let port = start + TAKEN.fetch_add(1, Ordering::Relaxed);
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
