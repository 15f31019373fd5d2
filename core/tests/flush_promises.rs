//! Frames that are queued for a reading receiver are written to it promptly, even if the client that queued them is
//! held back afterwards.
#![cfg(all(unix, feature = "broker", feature = "ipc"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod common;

use busrt::broker::SlowPolicy;
use common::raw::{ACK, BROADCAST, MESSAGE, PUBLISH, REALTIME, Raw, call, numbered, payload};
use common::slow::{ENOUGH, FULL_SPEED, Pump, SIZE, Taker, options};
use common::{Bus, PATIENCE, Peer};
use std::io::Write;
use std::time::{Duration, Instant};

/// Far less than the time for which the first sender is held.
const PROMPT: Duration = Duration::from_millis(1500);
const HELD: Duration = Duration::from_secs(6);

/// Creates a bus on which the client `stuck` is full, and has been full for less than the hold time.
async fn with_a_full_receiver(policy: SlowPolicy) -> (Bus, Raw) {
    let bus = Bus::start(options(policy).hold(HELD).stall(HELD * 3)).await;
    let mut stuck = Raw::register(&bus.path, "stuck");
    stuck.subscribe("t");
    let filler = Raw::register(&bus.path, "filler");
    let pump = Pump::start(&filler.stream, numbered(MESSAGE, b"stuck\0", 0..ENOUGH, SIZE));
    let started = Instant::now();
    let (mut seen, mut looks) = (0, 0);
    while looks < 20 {
        assert!(started.elapsed() < PATIENCE / 4, "the receiver does not become full");
        std::thread::sleep(Duration::from_millis(5));
        let clients = bus.broker.clients().clients;
        let queue = clients.iter().find(|client| client.name == "stuck").unwrap().queue;
        looks = if queue > 500 && queue == seen { looks + 1 } else { 0 };
        seen = queue;
    }
    assert!(!pump.is_finished(), "the filler is not held back");
    // The filler's connection must stay open: the thread owns a handle of it, and ends with the bus.
    std::mem::forget(filler);
    (bus, stuck)
}

/// A sends, in one write, frames to a receiver and frames that wait for a stuck client. A frame that B sends to that
/// receiver is delivered as promptly as it is acknowledged.
async fn is_prompt(frames_of_a: Vec<u8>, flags_of_b: u8) {
    let (bus, _stuck) = with_a_full_receiver(SlowPolicy::DropNew).await;
    let mut receiver = Raw::register(&bus.path, "receiver");
    receiver.subscribe("t");
    let receiver = Taker::start(receiver, FULL_SPEED);
    let mut b = Raw::register(&bus.path, "b");
    let a = Raw::register(&bus.path, "a");
    let started = Instant::now();
    // This is one write, unless it is more than the broker reads while it holds the sender.
    let _pump = Pump::start(&a.stream, frames_of_a);
    std::thread::sleep(Duration::from_millis(100));
    for number in 0..20 {
        let before = receiver.count();
        let sent = Instant::now();
        assert_eq!(b.ask_within(flags_of_b, &payload(b"receiver\0", number, 10), PROMPT), Some(1));
        assert!(receiver.wait_for(before + 1, PROMPT), "acknowledged and not delivered in time");
        assert!(sent.elapsed() < PROMPT);
    }
    assert!(started.elapsed() < HELD, "too slow to tell: {:?}", started.elapsed());
    let (_raw, deliveries) = receiver.finish();
    let from_a = deliveries.iter().filter(|delivery| delivery.sender() == b"a").count();
    assert!(from_a >= 1, "the first frame of A has not arrived");
    assert!(bus.broker.clients().clients.iter().any(|client| client.name == "receiver"));
}

fn to(flags: u8, head: &[u8], number: u32) -> Vec<u8> {
    Peer::operation(number, flags, &payload(head, number, SIZE))
}

/// The waiting frame is a message.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn held_by_a_message() {
    is_prompt([to(MESSAGE, b"receiver\0", 1), to(MESSAGE, b"stuck\0", 2)].concat(), MESSAGE).await;
}

/// The waiting frame is a publication to both.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn held_by_a_publication() {
    is_prompt(to(PUBLISH, b"t\0", 1), MESSAGE).await;
}

/// Many frames alternate between the two receivers, so that the sender is held more than once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn held_in_between() {
    let frames =
        (0..40).map(|n| to(MESSAGE, if n % 2 == 0 { b"receiver\0".as_slice() } else { b"stuck\0" }, n));
    is_prompt(frames.collect::<Vec<_>>().concat(), MESSAGE).await;
}

/// Several frames to the receiver, then a broadcast to both.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn held_by_a_broadcast() {
    let frames = [to(MESSAGE, b"receiver\0", 1), to(MESSAGE, b"receiver\0", 2), to(BROADCAST, b"*\0", 3)];
    is_prompt(frames.concat(), MESSAGE).await;
}

/// The second frame is realtime.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn realtime_behind_a_held_sender() {
    is_prompt([to(MESSAGE, b"receiver\0", 1), to(MESSAGE, b"stuck\0", 2)].concat(), MESSAGE | REALTIME).await;
}

/// The sender is delayed not by a wait but by its own heavy work.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn delayed_by_heavy_work() {
    let filter =
        rmp_serde::to_vec_named(&std::collections::BTreeMap::from([("filter", r"\w{200}")])).unwrap();
    let mut bytes = to(MESSAGE, b"receiver\0", 1);
    for id in 0..40 {
        bytes.extend(Peer::operation(id, MESSAGE, &call(id, "client.list", &filter)));
    }
    is_prompt(bytes, MESSAGE).await;
}

/// The sender is held by messages to itself, which it does not read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn held_by_itself() {
    is_prompt([to(MESSAGE, b"receiver\0", 1), numbered(MESSAGE, b"a\0", 2..1200, SIZE)].concat(), MESSAGE)
        .await;
}

/// The first frame is realtime and acknowledged: it is delivered and answered although its sender is held next.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operations_before_the_wait_are_answered() {
    let (bus, _stuck) = with_a_full_receiver(SlowPolicy::DropNew).await;
    let receiver = Taker::start(Raw::register(&bus.path, "receiver"), FULL_SPEED);
    let mut a = Raw::register(&bus.path, "a");
    let frames = [to(MESSAGE | REALTIME | ACK, b"receiver\0", 71), to(MESSAGE, b"stuck\0", 72)].concat();
    a.stream.write_all(&frames).unwrap();
    assert_eq!(a.ack(71, PROMPT), Some(1));
    assert!(receiver.wait_for(1, PROMPT), "acknowledged and not delivered in time");
}

/// A receiver reads all the time, while the senders before it are held again and again: it is not disconnected, and
/// loses nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_behind_held_senders_is_not_disconnected() {
    let stall = Duration::from_millis(1000);
    let hold = Duration::from_millis(300);
    let bus = Bus::start(options(SlowPolicy::Disconnect).queue_size(16).hold(hold).stall(stall)).await;
    let receiver = Taker::start(Raw::register(&bus.path, "receiver"), FULL_SPEED);
    let mut stuck: Vec<Raw> = (0..3).map(|i| Raw::register(&bus.path, &format!("stuck{i}"))).collect();
    for stuck in &mut stuck {
        stuck.subscribe("t");
    }
    let mut pumps = vec![];
    let senders: Vec<Raw> = (0..4).map(|i| Raw::register(&bus.path, &format!("sender{i}"))).collect();
    for (i, sender) in (0..4).zip(&senders) {
        let mut bytes = vec![];
        for number in 0..1000 {
            bytes.extend(to(MESSAGE, b"receiver\0", i * 1000 + number));
            if number % 10 == 9 {
                bytes.extend(to(PUBLISH, b"t\0", number));
            }
        }
        pumps.push(Pump::start(&sender.stream, bytes));
    }
    pumps.into_iter().for_each(Pump::join);
    assert!(receiver.wait_for(4000, PATIENCE / 4), "it got {}", receiver.count());
    assert!(bus.broker.clients().clients.iter().any(|client| client.name == "receiver"));
}

/// A publication of an in-process client is cancelled while it is divided: the frames that it has queued so far are
/// written nevertheless.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_operation_is_flushed() {
    let bus = Bus::start(busrt::broker::Options::new().timeout(PATIENCE)).await;
    let mut subscribers: Vec<Raw> = (0..100)
        .map(|number| {
            let mut raw = Raw::register(&bus.path, &format!("s{number}"));
            raw.subscribe("t");
            raw
        })
        .collect();
    let client = bus.broker.client("local").await.unwrap();
    {
        let mut publication =
            std::pin::pin!(client.publish("t", vec![7; 1024 * 1024], busrt::QoS::Processed));
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(publication.as_mut().poll(&mut cx).is_pending(), "it is not divided");
    }
    let queued: Vec<usize> = bus
        .broker
        .clients()
        .clients
        .iter()
        .filter_map(|client| client.name.strip_prefix('s')?.parse().ok().filter(|_| client.w_frames > 1))
        .collect();
    assert!(queued.len() > 1, "{} got it", queued.len());
    for number in queued {
        let got = subscribers[number].delivery(PATIENCE / 4);
        assert!(got.is_some(), "s{number} waits for what is in its queue");
    }
}
