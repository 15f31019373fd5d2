//! The programs of both implementations as processes: `busrtd`, and `busrt` on the command line.

use crate::{Maker, PATIENCE, until};
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use tempfile::TempDir;

/// Returns the path of a program. The directories are in `OUR_BIN` and `REFERENCE_BIN`, as `make test` sets them.
fn program(maker: Maker, name: &str) -> PathBuf {
    let (variable, default) = match maker {
        Maker::Ours => ("OUR_BIN", "../../target/debug"),
        Maker::Theirs => ("REFERENCE_BIN", "../.reference/bin"),
    };
    let folder = std::env::var_os(variable)
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(default), PathBuf::from);
    let path = folder.join(name);
    assert!(path.exists(), "{} is missing: `make test` builds it, or set {variable}", path.display());
    path
}

/// A process that ends with its owner.
pub struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // This fails only if the process has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A `busrtd` on its own socket.
pub struct Busrtd {
    pub address: String,
    _process: Running,
    _folder: TempDir,
}

impl Busrtd {
    pub fn start(maker: Maker) -> Busrtd {
        let folder = tempfile::tempdir().unwrap();
        let address = folder.path().join("bus.sock").display().to_string();
        let process = Command::new(program(maker, "busrtd"))
            .args(["-B", &address, "-t", "30", "-w", "2"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let process = Running(process);
        until("busrtd listens", || std::os::unix::net::UnixStream::connect(&address).ok());
        Busrtd { address, _process: process, _folder: folder }
    }
}

/// The command-line client of `maker` for the broker at `address`.
pub struct Cli {
    pub maker: Maker,
    pub address: String,
}

impl Cli {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(program(self.maker, "busrt"));
        command.arg(&self.address).args(["--timeout", "30"]).args(arguments).env_remove("RUST_LOG");
        command
    }

    /// Runs a command until it exits.
    pub fn run(&self, arguments: &[&str], stdin: &[u8]) -> Output {
        let mut child = self
            .command(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A program that reads nothing may have exited already.
        let _ = child.stdin.take().unwrap().write_all(stdin);
        child.wait_with_output().unwrap()
    }

    /// Returns the output of a command, which must succeed.
    pub fn stdout(&self, arguments: &[&str], stdin: &[u8]) -> Vec<u8> {
        let output = self.run(arguments, stdin);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        output.stdout
    }

    /// Returns the output of a command as text. The command must succeed.
    pub fn text(&self, arguments: &[&str]) -> String {
        String::from_utf8(self.stdout(arguments, b"")).unwrap()
    }

    /// Starts a command that runs until it is dropped.
    pub fn start(&self, arguments: &[&str]) -> Started {
        let mut child = self
            .command(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let printed = Arc::new(Mutex::new(vec![]));
        let (stdout, into) = (child.stdout.take().unwrap(), printed.clone());
        std::thread::spawn(move || collect(stdout, &into));
        Started { printed, _process: Running(child) }
    }
}

fn collect(mut stdout: ChildStdout, into: &Mutex<Vec<u8>>) {
    let mut buf = [0; 4096];
    while let Ok(n @ 1..) = stdout.read(&mut buf) {
        into.lock().unwrap().extend_from_slice(&buf[..n]);
    }
}

/// A running command.
pub struct Started {
    printed: Arc<Mutex<Vec<u8>>>,
    _process: Running,
}

impl Started {
    /// Returns everything printed so far.
    pub fn printed(&self) -> String {
        String::from_utf8_lossy(&self.printed.lock().unwrap()).into_owned()
    }

    /// Waits until everything in `texts` has been printed.
    pub fn wait_for(&self, texts: &[&str]) {
        let started = std::time::Instant::now();
        while !texts.iter().all(|text| self.printed().contains(text)) {
            assert!(started.elapsed() < PATIENCE, "{texts:?} is not all in {}", self.printed());
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}
