//! Senders that are held back: they hinder no others, and nothing of them is lost. Their pings, their silence and their
//! end are tested with a moved clock in `core/src/broker/tests/`.
#![cfg(all(unix, feature = "broker", feature = "ipc"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod common;

use busrt::broker::SlowPolicy;
use common::raw::{ACK, MESSAGE, PUBLISH, Raw, numbered, payload};
use common::slow::{ENOUGH, FULL_SPEED, SIZE, Taker, numbers, options};
use common::{Bus, PATIENCE, Peer};
use std::io::Write;
use std::time::{Duration, Instant};

/// How long clients flood each other.
const FLOOD: Duration = Duration::from_millis(1000);

/// Fills the queue of a client that reads nothing, and disconnects.
fn fill(bus: &Bus, name: &str) {
    let mut filler = Raw::register(&bus.path, "filler");
    filler.stream.set_write_timeout(Duration::from_millis(300));
    let head = [name.as_bytes(), b"\0"].concat();
    // An error means that the filler is held back.
    let _ = filler.stream.write_all(&numbered(MESSAGE, &head, 0..2 * ENOUGH, SIZE));
}

fn is_connected(bus: &Bus, name: &str) -> bool {
    bus.broker.clients().clients.iter().any(|client| client.name == name)
}

/// Clients that flood each other and read nothing do not stop the others: an unrelated pair continues, and the broker
/// shuts down in time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_flood_each_other_do_not_affect_others() {
    for policy in [SlowPolicy::Disconnect, SlowPolicy::DropNew, SlowPolicy::DropOld, SlowPolicy::Block] {
        let hold = Duration::from_millis(200);
        let bus = Bus::start(options(policy).hold(hold).stall(Duration::from_millis(1000))).await;
        let mut flooders: Vec<Raw> = (0..6).map(|i| Raw::register(&bus.path, &format!("f{i}"))).collect();
        for flooder in &mut flooders {
            flooder.subscribe("flood");
        }
        let mut threads = vec![];
        for (i, flooder) in flooders.iter().enumerate() {
            let mut stream = flooder.stream.try_clone();
            stream.set_write_timeout(Duration::from_millis(2500));
            let head = format!("f{}\0", (i + 1) % 6);
            let batch = [
                numbered(MESSAGE | ACK, head.as_bytes(), 0..50, SIZE),
                numbered(PUBLISH, b"flood\0", 0..50, SIZE),
            ]
            .concat();
            threads.push(std::thread::spawn(move || {
                let started = Instant::now();
                while started.elapsed() < FLOOD && stream.write_all(&batch).is_ok() {}
            }));
        }
        let mut alive = Raw::register(&bus.path, "alive");
        let started = Instant::now();
        let mut rounds = 0;
        let mut longest = Duration::ZERO;
        while started.elapsed() < FLOOD {
            let sent = Instant::now();
            assert_eq!(alive.ask(MESSAGE, &payload(b"alive\0", rounds, 10)), 1);
            assert!(alive.delivery(PATIENCE / 4).is_some());
            longest = longest.max(sent.elapsed());
            rounds += 1;
        }
        assert!(longest < Duration::from_millis(2000), "{policy:?}: a round trip took {longest:?}");
        assert!(is_connected(&bus, "alive"));
        let ending = Instant::now();
        tokio::time::timeout(PATIENCE / 4, bus.broker.shutdown()).await.expect("the broker ends");
        assert!(ending.elapsed() < Duration::from_secs(5), "the end took {:?}", ending.elapsed());
        drop(flooders);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    }
}

/// When the receiver of a held sender is disconnected, the sender is released.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_a_receiver_releases_its_senders() {
    let bus = Bus::start(options(SlowPolicy::Block)).await;
    let stuck = Raw::register(&bus.path, "stuck");
    fill(&bus, "stuck");
    let mut sender = Raw::register(&bus.path, "sender");
    let asked = sender.send(MESSAGE | ACK, &payload(b"stuck\0", 1, SIZE));
    assert_eq!(sender.ack(asked, Duration::from_millis(300)), None, "not held");
    drop(stuck);
    assert!(matches!(sender.ack(asked, PATIENCE / 4), Some(0x71 | 0x77)));
}

/// Frames that a sender wrote before it closed are delivered, even if it was held when it closed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_read_before_the_end_are_delivered() {
    let bus = Bus::start(options(SlowPolicy::Disconnect)).await;
    let receiver = Taker::start(Raw::register(&bus.path, "receiver"), FULL_SPEED);
    let mut sender = Raw::register(&bus.path, "sender");
    let bytes = [numbered(MESSAGE, b"receiver\0", 0..500, SIZE), Peer::operation(0, 0, b"")].concat();
    sender.stream.write_all(&bytes).unwrap();
    drop(sender);
    assert!(receiver.wait_for(500, PATIENCE / 4), "it got {}", receiver.count());
    let (_raw, received) = receiver.finish();
    assert_eq!(numbers(&received), (0..500).collect::<Vec<_>>());
}
