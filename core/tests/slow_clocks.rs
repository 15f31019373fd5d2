//! Receivers that read are never treated as stuck, by the real clock: not with many senders at the same time, not while the
//! broker's process is suspended, not when their link is interrupted for a moment. Rules that depend on time alone are
//! tested with a moved clock in `core/src/broker/tests/`.
#![cfg(all(target_os = "linux", feature = "server", feature = "rpc"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod common;

use busrt::broker::{Options, SlowPolicy};
use common::daemon::Daemon;
use common::raw::{MESSAGE, PUBLISH, Raw, numbered};
use common::slow::{FULL_SPEED, Pump, SIZE, Taker, numbers, options};
use common::{Bus, PATIENCE};
use rustix::process::Signal;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// With a queue of a single frame and 300 senders, a receiver that reads all the time is not disconnected and gets
/// everything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_of_one_frame_and_many_senders() {
    const SENDERS: u32 = 300;
    const EACH: u32 = 40;
    let options = Options::new()
        .timeout(PATIENCE)
        .queue_size(1)
        .hold(Duration::from_millis(1000))
        .stall(Duration::from_millis(1500));
    let bus = Bus::start(options).await;
    let mut observer = Raw::register(&bus.path, "observer");
    let receiver = Taker::start(Raw::register(&bus.path, "receiver"), FULL_SPEED);
    let senders: Vec<Raw> = (0..SENDERS).map(|i| Raw::register(&bus.path, &format!("sender{i}"))).collect();
    let mut pumps = vec![];
    for (i, sender) in (0..SENDERS).zip(&senders) {
        pumps.push(Pump::start(
            &sender.stream,
            numbered(MESSAGE, b"receiver\0", i * EACH..(i + 1) * EACH, SIZE),
        ));
    }
    pumps.into_iter().for_each(Pump::join);
    let all = (SENDERS * EACH) as usize;
    let whole = receiver.wait_for(all, PATIENCE / 2);
    let state = observer.state_of("receiver").expect("the receiver was disconnected");
    assert!(whole, "it got {} of {all}; {state:?}", receiver.count());
    let mut received = numbers(&receiver.finish().1);
    received.sort_unstable();
    assert_eq!(received, (0..SENDERS * EACH).collect::<Vec<_>>());
    assert_eq!(state.dropped, 0);
}

/// Time in which the broker's process is stopped does not count: after SIGSTOP and SIGCONT under a flood, no reader is
/// disconnected and none loses a frame.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_suspended_broker_blames_no_reader() {
    const READERS: usize = 12;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bus.sock").display().to_string();
    let more = ["-t", "60", "--hold-ms", "1000", "--stall-ms", "1000", "--queue-size", "8"];
    let daemon = Daemon::start(std::slice::from_ref(&path), &more);
    let readers: Vec<Taker> = (0..READERS)
        .map(|i| {
            let mut raw = Raw::register(&path, &format!("reader{i}"));
            raw.subscribe("t");
            Taker::start(raw, FULL_SPEED)
        })
        .collect();
    let stop = Arc::new(AtomicBool::new(false));
    let senders: Vec<Raw> = (0..4).map(|i| Raw::register(&path, &format!("sender{i}"))).collect();
    let floods: Vec<_> = senders
        .iter()
        .map(|sender| {
            let (mut stream, stop) = (sender.stream.try_clone(), stop.clone());
            std::thread::spawn(move || {
                let mut sent = 0;
                while !stop.load(Ordering::Relaxed) {
                    stream.write_all(&numbered(PUBLISH, b"t\0", sent..sent + 100, SIZE)).unwrap();
                    sent += 100;
                }
                sent as usize
            })
        })
        .collect();
    std::thread::sleep(Duration::from_millis(200));
    daemon.signal(Signal::STOP);
    std::thread::sleep(Duration::from_millis(1300));
    daemon.signal(Signal::CONT);
    std::thread::sleep(Duration::from_millis(200));
    stop.store(true, Ordering::Relaxed);
    let sent: usize = floods.into_iter().map(|flood| flood.join().unwrap()).sum();
    for mut sender in senders {
        assert_eq!(sender.ask(PUBLISH, b"other\0x"), 1);
    }
    for reader in readers {
        let (_raw, received) = reader.finish();
        assert_eq!(numbers(&received).len(), sent, "a reader lost something");
    }
}

/// Forwards the bytes of one TCP connection, except while the test interrupts it.
struct Link {
    address: String,
    away: Arc<AtomicBool>,
}

impl Link {
    fn start(broker: &str) -> Link {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let away = Arc::new(AtomicBool::new(false));
        let (broker, pause) = (broker.to_owned(), away.clone());
        std::thread::spawn(move || {
            let (client, _) = listener.accept().unwrap();
            let server = TcpStream::connect(broker).unwrap();
            let (from, to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            let paused = pause.clone();
            std::thread::spawn(move || carry(from, to, &paused));
            carry(server, client, &pause);
        });
        Link { address, away }
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream, away: &AtomicBool) {
    let mut bytes = [0; 16 * 1024];
    while let Ok(n @ 1..) = from.read(&mut bytes) {
        while away.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(5));
        }
        if to.write_all(&bytes[..n]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Both);
}

/// A TCP receiver whose link is interrupted for 0.3 s several times is not disconnected, and loses no message.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupted_link() {
    const COUNT: u32 = 10_000;
    let options = options(SlowPolicy::Disconnect)
        .queue_bytes(64 * 1024)
        .hold(Duration::from_millis(500))
        .stall(Duration::from_millis(1500));
    let bus = Bus::start(options).await;
    let link = Link::start(&bus.port);
    let receiver = Taker::start(Raw::register(&link.address, "receiver"), FULL_SPEED);
    let sender = Raw::register(&bus.path, "sender");
    let pump = Pump::start(&sender.stream, numbered(MESSAGE, b"receiver\0", 0..COUNT, SIZE));
    for _ in 0..4 {
        link.away.store(true, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(300));
        link.away.store(false, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(100));
    }
    pump.join();
    assert!(receiver.wait_for(COUNT as usize, PATIENCE / 4), "it got {}", receiver.count());
    let (_raw, received) = receiver.finish();
    assert_eq!(numbers(&received), (0..COUNT).collect::<Vec<_>>());
}
