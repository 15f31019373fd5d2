//! Slow, stuck, dying and hostile clients among the others: no acknowledged message is lost, no reader is
//! disconnected, and each subscriber receives all publications except those that are counted as dropped. A short run
//! by default; `make soak` runs it for `SOAK_SECONDS`.
#![cfg(all(target_os = "linux", feature = "server", feature = "rpc"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod common;

use common::daemon::{Daemon, free_port};
use common::probe::Probe;
use common::random::Random;
use common::raw::{
    ACK, BROADCAST, Item, MESSAGE, PUBLISH, REALTIME, Raw, SUBSCRIBE, UNSUBSCRIBE, call, numbered, payload,
};
use common::slow::{FULL_SPEED, Taker, assert_rising, numbers};
use common::{PATIENCE, Peer};
use rustix::process::Signal;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const BOUNDS: [&str; 12] = [
    "-t",
    "60",
    "--hold-ms",
    "300",
    "--stall-ms",
    "1500",
    "--queue-bytes",
    "1000000",
    "--queue-total",
    "268435456",
    "--drain-ms",
    "3000",
];
const PAIRS: usize = 3;
const HOSTILE: u64 = 4;
/// Maximum number of unacknowledged messages of one sender.
const UNDER_WAY: u32 = 32;

#[derive(Clone)]
struct Place {
    path: String,
    port: String,
    stop: Arc<AtomicBool>,
}

impl Place {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    fn address(&self, index: usize) -> &str {
        [&self.path, &self.port][index % 2]
    }
}

/// Sends acknowledged messages to `receiver` until the end. Returns the numbers that were accepted.
fn send_messages(place: Place, mut raw: Raw, receiver: String) -> JoinHandle<Vec<u32>> {
    std::thread::spawn(move || {
        let head = [receiver.as_bytes(), b"\0"].concat();
        let (mut sent, mut answered, mut accepted) = (0, 0, vec![]);
        while place.goes_on() || answered < sent {
            if place.goes_on() && sent - answered < UNDER_WAY {
                let flags = if sent % 7 == 0 { MESSAGE | ACK | REALTIME } else { MESSAGE | ACK };
                let size = if sent % 100 == 99 { 50_000 } else { 300 };
                raw.stream.write_all(&Peer::operation(sent, flags, &payload(&head, sent, size))).unwrap();
                sent += 1;
                // A receiver keeps everything in memory, so that a soak of many minutes needs a bounded rate.
                if sent % 10 == 0 {
                    std::thread::sleep(Duration::from_millis(5));
                }
                continue;
            }
            match raw.receive(PATIENCE).expect("an acknowledgement in time") {
                Item::Ack { id, code } => {
                    assert_eq!(id, answered, "acknowledgements come in order");
                    answered += 1;
                    match code {
                        1 => accepted.push(id),
                        0x77 => {}
                        code => panic!("answered {code:x}"),
                    }
                }
                Item::End => panic!("a sender was disconnected"),
                Item::Nop | Item::Delivery(_) => {}
            }
        }
        accepted
    })
}

/// Publishes until the end. Returns the number of publications.
fn publish(place: Place, mut raw: Raw) -> JoinHandle<u32> {
    std::thread::spawn(move || {
        let mut published = 0;
        while place.goes_on() {
            raw.stream.write_all(&numbered(PUBLISH, b"news\0", published..published + 20, 1000)).unwrap();
            published += 20;
            assert_eq!(raw.ask(PUBLISH, b"nobody\0"), 1);
            // A reader in a debug build on a loaded machine keeps up with this rate, and a slow one does not.
            std::thread::sleep(Duration::from_millis(20));
        }
        published
    })
}

/// Returns a registered connection, if that name is free and the test is still running.
fn visit(place: &Place, name: &str, random: &mut Random) -> Option<Raw> {
    let mut raw = Raw::connect(place.address(random.below(2) as usize));
    raw.stream.set_write_timeout(Duration::from_millis(50 + random.below(1500)));
    (raw.try_register(name) == Some(1)).then_some(raw)
}

/// Performs one hostile action after the other, under one name. Errors are ignored: the broker may end any of these
/// connections.
fn be_hostile(place: Place, index: u64, mut random: Random) -> JoinHandle<u64> {
    std::thread::spawn(move || {
        let name = format!("hostile.{index}");
        let mut visits = 0;
        while place.goes_on() {
            let Some(raw) = visit(&place, &name, &mut random) else {
                std::thread::sleep(Duration::from_millis(10));
                continue;
            };
            visits += 1;
            harm(raw, &name, &mut random);
        }
        visits
    })
}

fn harm(mut raw: Raw, name: &str, random: &mut Random) {
    let pause = Duration::from_millis(random.below(400));
    let other = format!("hostile.{}\0", random.below(HOSTILE));
    match random.below(9) {
        // Reads no publications, for a short time or until it is stuck.
        0 => {
            let _ = raw.stream.write_all(&Peer::operation(1, SUBSCRIBE, b"news\0hostile/#"));
            std::thread::sleep(Duration::from_millis(random.below(2500)));
        }
        // Floods another client, and reads nothing.
        1 => {
            let flood = numbered(MESSAGE | ACK, other.as_bytes(), 0..3000, 1000);
            let _ = raw.stream.write_all(&flood);
            std::thread::sleep(pause);
        }
        2 => {
            let flood = [
                Peer::operation(1, SUBSCRIBE, b"hostile/#"),
                numbered(PUBLISH, b"hostile/flood\0", 0..3000, 1000),
                numbered(BROADCAST | ACK, b"hostile.*\0", 0..100, 1000),
            ];
            let _ = raw.stream.write_all(&flood.concat());
        }
        // Subscribes to many topics, and disconnects or unsubscribes.
        3 => {
            let topics: Vec<String> =
                (0..5000).map(|i| format!("hostile/{i}/{}", if i % 3 == 0 { "+" } else { "x" })).collect();
            let body = topics.join("\0").into_bytes();
            let _ = raw.stream.write_all(&Peer::operation(1, SUBSCRIBE, &body));
            if random.below(2) == 0 {
                let _ = raw.stream.write_all(&Peer::operation(2, UNSUBSCRIBE, &body));
            }
        }
        // Sends expensive requests, and does not read the answers.
        4 => {
            let filter = [r"\w{200}", "(", r"(a|b)*c", r"\w{1000}\w{1000}"][random.below(4) as usize];
            let params =
                rmp_serde::to_vec_named(&std::collections::BTreeMap::from([("filter", filter)])).unwrap();
            for id in 0..10 {
                let _ =
                    raw.stream.write_all(&Peer::operation(id, MESSAGE, &call(id, "client.list", &params)));
            }
            std::thread::sleep(pause);
        }
        // Breaks the protocol.
        5 => {
            let bytes: Vec<u8> = (0..random.below(2000)).map(|_| random.next() as u8).collect();
            let _ = raw.stream.write_all(&bytes);
            std::thread::sleep(pause);
        }
        // Declares a long body and disconnects.
        6 => {
            let head = [1, 0, 0, 0, PUBLISH, 0xff, 0xff, 0xff, random.below(256) as u8];
            let _ = raw.stream.write_all(&head);
            let _ = raw.stream.write_all(b"hostile/part\0and no more");
            std::thread::sleep(pause);
        }
        // Reserved topics, masks of many levels, the broker's name.
        7 => {
            let deep = "+/".repeat(random.below(600) as usize);
            for body in
                [".broker/info\0x".to_owned(), format!("{deep}\0x"), format!("{}\0x", "t".repeat(70_000))]
            {
                let _ = raw.stream.write_all(&Peer::operation(1, PUBLISH, body.as_bytes()));
            }
            let _ = raw.stream.write_all(&Peer::operation(1, SUBSCRIBE, deep.as_bytes()));
            std::thread::sleep(pause);
        }
        // Sends to itself and disconnects while it is held.
        _ => {
            let head = format!("{name}\0");
            let _ = raw.stream.write_all(&numbered(MESSAGE, head.as_bytes(), 0..3000, 1000));
        }
    }
}

fn soak(length: Duration) {
    let mut random = Random::new("hostile_soak");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bus.sock").display().to_string();
    let port = format!("127.0.0.1:{}", free_port());
    let mut daemon = Daemon::start(&[path.clone(), port.clone()], &BOUNDS);
    let place = Place { path: path.clone(), port, stop: Arc::default() };
    let probe = Probe::start(&path);
    let mut receivers = vec![];
    let mut senders = vec![];
    for i in 0..PAIRS {
        let name = format!("receiver.{i}");
        receivers.push(Taker::start(Raw::register(place.address(i), &name), FULL_SPEED));
        let sender = Raw::register(place.address(i / 2), &format!("sender.{i}"));
        senders.push(send_messages(place.clone(), sender, name));
    }
    // There is also a slow receiver of messages: messages to it are held or refused, but not lost.
    receivers.push(Taker::start(Raw::register(&path, "receiver.slow"), 150_000));
    let sender = Raw::register(&path, "sender.slow");
    senders.push(send_messages(place.clone(), sender, "receiver.slow".to_owned()));
    let subscribers: Vec<(String, Taker)> = [FULL_SPEED, FULL_SPEED, 300_000, 200_000]
        .into_iter()
        .enumerate()
        .map(|(i, rate)| {
            let name = format!("subscriber.{i}");
            let mut raw = Raw::register(place.address(i), &name);
            raw.subscribe("news");
            (name, Taker::start(raw, rate))
        })
        .collect();
    let publisher = publish(place.clone(), Raw::register(&path, "publisher"));
    let hostile: Vec<_> = (0..HOSTILE).map(|i| be_hostile(place.clone(), i, random.fork())).collect();

    let started = Instant::now();
    let mut most = 0;
    while started.elapsed() < length {
        std::thread::sleep(Duration::from_millis(100));
        most = most.max(daemon.size().memory);
        assert!(!publisher.is_finished(), "the publisher has failed");
    }
    place.stop.store(true, Ordering::Relaxed);
    let visits: u64 = hostile.into_iter().map(|thread| thread.join().unwrap()).sum();
    let published = publisher.join().unwrap();
    let longest = probe.longest();

    for taker in receivers.iter().chain(subscribers.iter().map(|(_, taker)| taker)) {
        taker.set_rate(FULL_SPEED);
    }
    let mut delivered = 0;
    for (sender, receiver) in senders.into_iter().zip(receivers) {
        let accepted = sender.join().unwrap();
        let received = numbers(&receiver.finish().1);
        assert_rising(&received);
        assert_eq!(received, accepted, "what was accepted arrives, and nothing else");
        delivered += received.len();
    }
    let mut observer = Raw::register(&path, "observer");
    let mut dropped = vec![];
    for (name, subscriber) in subscribers {
        let (_raw, received) = subscriber.finish();
        let received = numbers(&received);
        assert_rising(&received);
        let state = observer.state_of(&name).expect("a subscriber was disconnected");
        assert_eq!(received.len() as u64 + state.dropped, u64::from(published), "{name}: {state:?}");
        dropped.push(state.dropped);
    }
    drop(probe);
    println!(
        "{length:?}: {delivered} messages, {published} publications, dropped {dropped:?}, {visits} hostile visits; \
         the probe waited for {longest:?} at most; the broker held {} kB at most",
        most / 1000
    );
    assert!(visits > 0 && published > 0 && delivered > 0);
    assert!(most < 1 << 30, "the broker held {most} bytes");
    daemon.signal(Signal::TERM);
    assert!(daemon.wait().success());
}

#[test]
fn for_a_moment() {
    soak(Duration::from_secs(4));
}

#[test]
#[ignore = "as long as SOAK_SECONDS says"]
fn for_long() {
    let seconds = std::env::var("SOAK_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(300);
    soak(Duration::from_secs(seconds));
}
