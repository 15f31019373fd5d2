//! Checks that the README contains the Rust programs of `src/bin`, and that they print the expected output.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

const PROGRAMS: [&str; 8] =
    ["broker", "client", "reconnect", "blocking", "without_async", "rpc_server", "rpc_caller", "access"];

/// A program that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a program that keeps running, and waits for its first line.
fn start(program: &str, address: &str, first_line: &str) -> (Running, BufReader<std::process::ChildStdout>) {
    let mut child = Command::new(program).arg(address).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let running = Running(child);
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    assert!(line.contains(first_line), "{program} says {line:?}");
    (running, stdout)
}

/// Runs a program until it exits, and returns its output.
fn run(program: &str, address: &str) -> String {
    let output = Command::new(program).arg(address).output().unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_readme_shows_these_programs() {
    let readme = include_str!("../../../README.md");
    let blocks: Vec<&str> =
        readme.split("```rust\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    for program in PROGRAMS {
        let path = format!("{}/src/bin/{program}.rs", env!("CARGO_MANIFEST_DIR"));
        let source = std::fs::read_to_string(path).unwrap();
        assert!(blocks.contains(&source.as_str()), "the README does not show {program}.rs as it is");
    }
    assert_eq!(blocks.len(), PROGRAMS.len(), "every Rust program in the README is run here");
}

#[test]
fn the_programs_run() {
    let dir = tempfile::tempdir().unwrap();
    let address = dir.path().join("bus.sock").display().to_string();
    let (_broker, _) = start(env!("CARGO_BIN_EXE_broker"), &address, "listening");
    let out = run(env!("CARGO_BIN_EXE_client"), &address);
    assert_eq!(
        out,
        "Publication from example.client: Hello!\nMessage from example.client: a message to myself\n\
         Broadcast from example.client: to all examples\nno.such.client is not registered\n"
    );
    let out = run(env!("CARGO_BIN_EXE_blocking"), &address);
    assert_eq!(out, "plant/boiler/temperature = 87.5\n");
    let out = run(env!("CARGO_BIN_EXE_without_async"), &address);
    assert_eq!(
        out,
        "plant/boiler: temperature 87.5\nplant/boiler: temperature 88.0\n\
         the squares of 1 to 8 add up to 204\nno luck: no number, or too large (code: -32602)\nclosed\n"
    );
    let (_server, mut said) = start(env!("CARGO_BIN_EXE_rpc_server"), &address, "at work");
    let out = run(env!("CARGO_BIN_EXE_rpc_caller"), &address);
    assert_eq!(
        out,
        "40 + 2 = 42\ninvalid parameters: expected struct Sum, got string \"40 and 2\" (code: -32602)\n\
         no luck: code -32601\n"
    );
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    assert_eq!(line, "accountant says: I will have a question\n");
}

#[test]
fn a_client_reconnects() {
    let dir = tempfile::tempdir().unwrap();
    let address = dir.path().join("bus.sock").display().to_string();
    let broker = start(env!("CARGO_BIN_EXE_broker"), &address, "listening");
    let (_client, said) = start(env!("CARGO_BIN_EXE_reconnect"), &address, "connected");
    let mut lines = said.lines().map(|line| line.unwrap());
    // The broker publishes the time since its start every second.
    assert!(lines.next().unwrap().ends_with(" s"));
    drop(broker);
    assert!(lines.by_ref().any(|line| line.starts_with("disconnected: ")));
    assert_eq!(lines.next().unwrap(), "attempt 1");
    let _broker = start(env!("CARGO_BIN_EXE_broker"), &address, "listening");
    assert!(lines.by_ref().any(|line| line == "connected"));
    assert!(lines.by_ref().any(|line| line.ends_with(" s")), "the client has subscribed again");
}

#[test]
fn access_rules_apply() {
    let dir = tempfile::tempdir().unwrap();
    let address = dir.path().join("bus.sock").display().to_string();
    assert_eq!(
        run(env!("CARGO_BIN_EXE_access"), &address),
        "the pump subscribes: Err(AccessDenied)\nthe pump subscribes: Ok(())\nthe pump publishes: Err(AccessDenied)\n"
    );
}

#[test]
fn the_demonstration_runs() {
    let out = run(env!("CARGO_BIN_EXE_demo"), "");
    for part in
        ["One to one", "One to many", "Publish and subscribe", "RPC", "A cursor", "tank full", "shut down"]
    {
        assert!(out.contains(part), "{part:?} is missing in {out}");
    }
}
