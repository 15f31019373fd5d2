//! One-to-one messages to receivers that do not keep up: whether and how long they wait, and how they are answered.
#![cfg(all(unix, feature = "broker", feature = "ipc"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod common;

use busrt::broker::{Options, SlowPolicy};
use busrt::{ErrorKind, QoS};
use common::raw::{MESSAGE, Raw, numbered, payload};
use common::slow::{
    ENOUGH, FULL_SPEED, HOLD, Pump, SIZE, SLOW, Taker, ask_numbered, assert_rising, numbers, options,
};
use common::{Bus, PATIENCE, next};
use std::time::{Duration, Instant};

const NOT_DELIVERED: u8 = 0x77;

/// Even with small queues, a flood of messages to a reading receiver loses none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_to_a_reading_receiver_loses_nothing() {
    let bus = Bus::start(Options::new().queue_size(64)).await;
    let (_b, mut frames) = bus.listener("b").await;
    let a = bus.client("a").await;
    let sender = tokio::spawn(async move {
        for i in 0..200_000u32 {
            a.send("b", i.to_le_bytes().to_vec(), QoS::No).await.unwrap();
        }
        a
    });
    for i in 0..200_000u32 {
        assert_eq!(next(&mut frames).await.payload(), i.to_le_bytes());
    }
    sender.await.unwrap();
    assert_eq!(bus.broker.stats().dropped, 0);
}

/// A frame over the budget passes when nothing else waits for its receiver.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frame_over_the_budget_passes_when_nothing_waits() {
    let bus = Bus::start(Options::new().queue_bytes(1000)).await;
    let (_b, mut frames) = bus.listener("b").await;
    let a = bus.client("a").await;
    for _ in 0..20 {
        a.send("b", vec![7; 100_000], QoS::Processed).await.unwrap();
    }
    for _ in 0..20 {
        assert_eq!(next(&mut frames).await.payload().len(), 100_000);
    }
}

/// Messages without an acknowledgement wait for a slow receiver as long as it reads, although publications would not:
/// the sender is held, and nothing is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_wait_for_a_slow_receiver() {
    const COUNT: u32 = 2500;
    let bus = Bus::start(options(SlowPolicy::Disconnect)).await;
    let mut observer = Raw::register(&bus.path, "observer");
    let slow = Taker::start(Raw::register(&bus.path, "slow"), SLOW);
    let sender = Raw::register(&bus.path, "sender");
    let pump = Pump::start(&sender.stream, numbered(MESSAGE, b"slow\0", 0..COUNT, SIZE));
    std::thread::sleep(HOLD * 4);
    assert!(!pump.is_finished(), "the sender is not held back");
    observer.wait_for_state("slow", |state| state.held_senders == Some(1));
    slow.set_rate(FULL_SPEED);
    pump.join();
    assert!(slow.wait_for(COUNT as usize, PATIENCE / 4), "it got {}", slow.count());
    let (_raw, received) = slow.finish();
    assert_eq!(numbers(&received), (0..COUNT).collect::<Vec<_>>());
    assert_eq!(observer.state_of("slow").expect("still connected").dropped, 0);
}

/// An acknowledged message that finds no room at a slow receiver is answered 77 after the stall time. The next ones
/// that find no room are answered 77 immediately until the receiver is below half its budget.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_acknowledged_message_waits_for_the_stall_time() {
    // There is room for it only after several seconds.
    const LARGE: usize = 900_000;
    let stall = Duration::from_millis(1000);
    let bus = Bus::start(options(SlowPolicy::Disconnect).stall(stall)).await;
    let slow = Taker::start(Raw::register(&bus.path, "slow"), SLOW / 2);
    let filler = Raw::register(&bus.path, "filler");
    // This nearly fills the receiver, without a sender that competes for the freed room.
    Pump::start(&filler.stream, numbered(MESSAGE, b"slow\0", 0..1000, SIZE)).join();
    let mut sender = Raw::register(&bus.path, "sender");
    let started = Instant::now();
    assert_eq!(sender.ask(MESSAGE, &payload(b"slow\0", 5000, LARGE)), NOT_DELIVERED);
    let took = started.elapsed();
    assert!(took > stall / 2 && took < stall * 3, "answered after {took:?}");
    let started = Instant::now();
    for number in 5001..5004 {
        assert_eq!(sender.ask(MESSAGE, &payload(b"slow\0", number, LARGE)), NOT_DELIVERED);
    }
    assert!(started.elapsed() < stall, "not immediately: {:?}", started.elapsed());
    slow.set_rate(FULL_SPEED);
    assert!(slow.wait_for(1000, PATIENCE / 4), "it got {}", slow.count());
    assert_eq!(sender.ask(MESSAGE, &payload(b"slow\0", 5004, LARGE)), 1);
    let (_raw, received) = slow.finish();
    assert_eq!(numbers(&received), (0..1000).chain([5004]).collect::<Vec<_>>());
}

/// A receiver that reads nothing for the hold time no longer holds messages: acknowledged ones are answered 77,
/// others are dropped, and all are counted. As soon as it reads, messages wait for it again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_to_a_receiver_that_reads_nothing_are_held_once() {
    let bus = Bus::start(options(SlowPolicy::Disconnect).stall(PATIENCE / 2)).await;
    let mut observer = Raw::register(&bus.path, "observer");
    let receiver = Raw::register(&bus.path, "receiver");
    let mut sender = Raw::register(&bus.path, "sender");
    let asked = ask_numbered(&mut sender, MESSAGE, b"receiver\0", 0..ENOUGH, SIZE);
    let accepted = asked.codes.iter().filter(|code| **code == 1).count() as u64;
    assert!(asked.codes.is_sorted(), "accepted after a refusal");
    assert!(asked.codes.iter().all(|code| matches!(*code, 1 | NOT_DELIVERED)));
    assert!(asked.longest > HOLD / 2 && asked.held < HOLD * 5, "held for {:?}", asked.held);
    let state = observer.state_of("receiver").expect("still connected");
    assert!(state.is("lagging"), "{state:?}");
    assert_eq!(state.dropped, u64::from(ENOUGH) - accepted);
    Pump::start(&sender.stream, numbered(MESSAGE, b"receiver\0", ENOUGH..2 * ENOUGH, SIZE)).join();
    let state =
        observer.wait_for_state("receiver", |state| state.dropped == u64::from(2 * ENOUGH) - accepted);
    let dropped = state.dropped;
    let taker = Taker::start(receiver, SLOW);
    assert!(taker.wait_for(100, PATIENCE / 4));
    Pump::start(&sender.stream, numbered(MESSAGE, b"receiver\0", 2 * ENOUGH..3 * ENOUGH, SIZE)).join();
    taker.set_rate(FULL_SPEED);
    assert!(
        taker.wait_for((accepted + u64::from(ENOUGH)) as usize, PATIENCE / 4),
        "it got {}",
        taker.count()
    );
    assert_eq!(observer.state_of("receiver").expect("still connected").dropped, dropped);
    let (_raw, received) = taker.finish();
    assert_rising(&numbers(&received));
}

/// All senders of a receiver share one clock: twenty of them are released together.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_senders_share_one_clock() {
    let bus = Bus::start(options(SlowPolicy::Disconnect).stall(HOLD * 20)).await;
    let _stuck = Raw::register(&bus.path, "stuck");
    let started = Instant::now();
    let mut senders = vec![];
    for i in 0..20 {
        let mut sender = Raw::register(&bus.path, &format!("sender{i}"));
        senders.push(std::thread::spawn(move || {
            ask_numbered(&mut sender, MESSAGE, b"stuck\0", 0..ENOUGH / 10, SIZE)
        }));
    }
    let (mut longest, mut refused) = (vec![], 0);
    for sender in senders {
        let asked = sender.join().unwrap();
        refused += u32::from(asked.codes.contains(&NOT_DELIVERED));
        longest.push(asked.longest);
    }
    assert!(refused >= 10, "{refused} senders had a refusal");
    assert!(longest.iter().any(|longest| *longest > HOLD / 2), "none was held: {longest:?}");
    assert!(longest.iter().all(|longest| *longest < HOLD * 5), "held too long: {longest:?}");
    assert!(started.elapsed() < HOLD * 20, "released one after the other: {:?}", started.elapsed());
}

/// A stuck receiver is disconnected, and messages to another one continue.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stuck_receiver_does_not_stop_messages_to_others() {
    let bus = Bus::start(options(SlowPolicy::Disconnect).stall(HOLD)).await;
    let _stuck = bus.peer("stuck");
    let (_well, mut frames) = bus.listener("well").await;
    let a = bus.client("a").await;
    let mut refused = None;
    for i in 0..20_000u32 {
        a.send("well", i.to_le_bytes().to_vec(), QoS::No).await.unwrap();
        if let Err(e) = a.send("stuck", vec![0; SIZE], QoS::Processed).await {
            refused = Some(e.kind());
            break;
        }
        next(&mut frames).await;
    }
    assert_eq!(refused, Some(ErrorKind::NotDelivered));
    common::eventually("the stuck receiver is disconnected", || {
        bus.broker.clients().clients.iter().all(|client| client.name != "stuck")
    })
    .await;
    let e = a.send("stuck", "x", QoS::Processed).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::NotRegistered);
}
