//! Programs that send a burst without acknowledgement and exit: everything that they sent arrives. Each program is
//! this test binary, running the ignored test `program`.
#![cfg(all(unix, not(busrt_portable), feature = "broker", feature = "blocking"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod common;

use busrt::broker::Options;
use busrt::client::{Client, Config, Frames, Reconnect, Request, TrySend, Wait};
use busrt::{ErrorKind, QoS, blocking, runtime};
use common::{Bus, PATIENCE, next};
use std::process::Command;
use std::time::Duration;

/// The numbers of frames and their sizes: frames that fill the socket, and small ones that are written together.
const FRAMES: usize = 100;
const FRAME_BYTES: usize = 10_000;
const SMALL_FRAMES: usize = 3000;
const SMALL_BYTES: usize = 50;

/// The number and the size of the frames of a program.
fn frames_of(how: &str) -> (usize, usize) {
    if how.contains("small") { (SMALL_FRAMES, SMALL_BYTES) } else { (FRAMES, FRAME_BYTES) }
}

const HOW: &str = "BUSRT_TEST_HOW";
const PATH: &str = "BUSRT_TEST_PATH";

unsafe extern "C" {
    fn _exit(status: i32) -> !;
    fn fork() -> i32;
    fn waitpid(pid: i32, status: *mut i32, options: i32) -> i32;
}

/// Ends the process without any handler or destructor.
fn end() -> ! {
    // SAFETY: `_exit` ends the process.
    unsafe { _exit(0) }
}

/// Runs a program that ends in the way named `how`. Returns the number of its frames that arrive.
async fn arrived(how: &str) -> usize {
    let bus = Bus::start(Options::default()).await;
    let (_receiver, mut frames) = bus.listener("receiver").await;
    run(&bus, how).await;
    // When the name is free again, the broker has read everything that the program's socket accepted.
    let name = format!("program.{how}");
    common::eventually("the program has exited", || {
        !bus.broker.clients().clients.iter().any(|client| client.name == name)
    })
    .await;
    let marker = bus.client("marker").await;
    marker.send("receiver", "end", QoS::Processed).await.unwrap();
    count(&mut frames, frames_of(how).1).await
}

/// Asserts that all frames of a program arrive.
async fn arrive(how: &str) {
    assert_eq!(arrived(how).await, frames_of(how).0, "{how}");
}

/// Runs a program, which must succeed.
async fn run(bus: &Bus, how: &str) {
    let mut program = Command::new(std::env::current_exe().unwrap());
    program
        .args(["--exact", "program", "--ignored", "--nocapture"])
        .env(HOW, how)
        .env(PATH, if how.contains("tcp") { &bus.port } else { &bus.path });
    let output = tokio::task::spawn_blocking(move || program.output().unwrap()).await.unwrap();
    assert!(output.status.success(), "{how}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Counts frames up to the marker.
async fn count(frames: &mut Frames, size: usize) -> usize {
    let mut count = 0;
    loop {
        let frame = next(frames).await;
        if frame.payload() == b"end" {
            return count;
        }
        assert_eq!(frame.payload().len(), size);
        count += 1;
    }
}

#[test]
#[ignore = "the program that the other tests run"]
fn program() {
    let Ok(how) = std::env::var(HOW) else { return };
    let config = Config::new(std::env::var(PATH).unwrap(), format!("program.{how}")).timeout(PATIENCE);
    let config = if how.contains("reconnects") { config.reconnect(Reconnect::new()) } else { config };
    if how.starts_with("shut-down") {
        shut_down(&config, how == "shut-down-used");
    }
    let (frames, size) = frames_of(&how);
    if how.starts_with("blocking") {
        let client = blocking::Client::connect(&config).unwrap();
        let sending = if how.contains("secondary") { client.secondary().unwrap() } else { client.clone() };
        for _ in 0..frames {
            sending.send("receiver", vec![7; size], QoS::No).unwrap();
        }
        if how.contains("rpc") {
            let rpc = blocking::Rpc::new(sending.clone(), ()).unwrap();
            drop((sending, client));
            // The server has a clone of the client.
            drop(rpc);
            end();
        }
        if how.contains("flushed") {
            assert!(sending.inner().flush().wait(busrt::client::Wait::at_most(PATIENCE)).unwrap());
            end();
        }
        drop(sending);
        if how.contains("dropped") {
            drop(client);
            end();
        }
        if how.contains("shutdown") {
            assert!(runtime::shutdown(PATIENCE));
            end();
        }
        // A client that is never dropped writes its data when the process exits.
        std::mem::forget(client);
        std::process::exit(0);
    }
    let mut builder = if how.contains("threads") {
        tokio::runtime::Builder::new_multi_thread()
    } else {
        tokio::runtime::Builder::new_current_thread()
    };
    let own = builder.enable_all().build().unwrap();
    let client = own.block_on(async {
        let client = Client::connect(&config).await.unwrap();
        let sending =
            if how.contains("secondary") { client.secondary().await.unwrap() } else { client.clone() };
        for _ in 0..frames {
            sending.send("receiver", vec![7; size], QoS::No).await.unwrap();
        }
        (client, sending)
    });
    if how.contains("client-first") {
        drop(client);
        drop(own);
    } else {
        drop(own);
        drop(client);
    }
    end();
}

/// Shuts the runtime down, before or after it was used: this process creates no other one, but its child does.
fn shut_down(config: &Config, used: bool) -> ! {
    if used {
        Client::connect_blocking(config).unwrap();
    }
    let refused = |result: Result<(), busrt::Error>| {
        let e = result.unwrap_err();
        assert_eq!(e.kind(), ErrorKind::NotSupported);
        assert!(e.to_string().contains("shut down"), "{e}");
    };
    for _ in 0..2 {
        assert!(runtime::shutdown(PATIENCE));
        refused(runtime::handle().map(drop));
        refused(Client::connect_blocking(config).map(drop));
        refused(blocking::Client::connect(config).map(drop));
    }
    // SAFETY: `fork` takes no arguments; the child connects and exits.
    let pid = unsafe { fork() };
    if pid == 0 {
        let sent = Client::connect_blocking(config).is_ok_and(|client| {
            let request = Request::message("receiver", b"from the child", QoS::Processed);
            let sent = client.try_send(&request).ok().and_then(TrySend::sent);
            sent.and_then(|sent| sent.wait_timeout(PATIENCE)).is_some_and(|answer| answer.is_ok())
        });
        // SAFETY: `_exit` ends the process.
        unsafe { _exit(i32::from(!sent)) }
    }
    let mut status = -1;
    // SAFETY: `status` is valid for writes while the call lasts.
    unsafe { waitpid(pid, &raw mut status, 0) };
    assert_eq!(status, 0, "the child could not connect");
    refused(runtime::handle().map(drop));
    end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_the_shutdown_only_a_child_creates_a_runtime() {
    for how in ["shut-down-used", "shut-down-unused"] {
        let bus = Bus::start(Options::default()).await;
        let (_receiver, mut frames) = bus.listener("receiver").await;
        run(&bus, how).await;
        assert_eq!(next(&mut frames).await.payload(), b"from the child");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blocking_client_that_is_dropped_has_written_everything() {
    for how in [
        "blocking-dropped",
        "blocking-dropped-reconnects",
        "blocking-dropped-small",
        "blocking-dropped-small-reconnects",
        "blocking-dropped-small-rpc",
        "blocking-flushed-small",
        "blocking-flushed-reconnects",
    ] {
        arrive(how).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_exit_of_the_process_writes_data_of_blocking_clients() {
    for kind in
        ["", "-reconnects", "-small", "-small-reconnects", "-secondary", "-secondary-reconnects", "-tcp"]
    {
        arrive(&format!("blocking-exit{kind}")).await;
        arrive(&format!("blocking-shutdown{kind}")).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_async_client_that_ends_with_its_runtime_has_written_everything() {
    for order in ["client-first", "runtime-first"] {
        for kind in ["", "-threads", "-reconnects", "-small", "-small-threads", "-small-reconnects", "-tcp"] {
            arrive(&format!("async-{order}{kind}")).await;
        }
    }
}

#[cfg(target_os = "linux")]
fn the_threads_of_the_runtime_take_no_signals() {
    let (started, has_started) = std::sync::mpsc::channel();
    runtime::handle().unwrap().spawn(async move { started.send(()).unwrap() });
    has_started.recv_timeout(PATIENCE).unwrap();
    let mut threads = 0;
    for task in std::fs::read_dir("/proc/self/task").unwrap() {
        let status = std::fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        let field = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace().nth(1).unwrap().to_owned()
        };
        if field("Name:") != "busrt" {
            continue;
        }
        threads += 1;
        let blocked = u64::from_str_radix(&field("SigBlk:"), 16).unwrap();
        // The first 31 signals, except SIGKILL and SIGSTOP, which cannot be blocked.
        let all = 0x7fff_ffff & !(1 << 8) & !(1 << 18);
        assert_eq!(blocked & all, all, "{blocked:x}");
    }
    assert!(threads > 0);
}

/// This is one test, because there is only one runtime in a process.
#[test]
fn the_runtime_takes_no_signals_and_is_shut_down_in_order() {
    #[cfg(target_os = "linux")]
    the_threads_of_the_runtime_take_no_signals();
    let broker = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let bus = broker.block_on(Bus::start(Options::default()));
    let client = Client::connect_blocking(&bus.config("a")).unwrap();
    let mut check = || Err(busrt::ErrorKind::Other.into());
    let wait = Wait::forever().slice(Duration::from_millis(1)).check(&mut check);
    let refused = Client::connect_blocking_with(&bus.config("b"), wait);
    // The check may run too late, when the client is already connected.
    drop(refused);
    assert!(runtime::shutdown(PATIENCE));
    assert!(!client.is_connected());
    assert!(runtime::shutdown(PATIENCE));
    assert!(Client::connect_blocking(&bus.config("c")).is_err());
}
