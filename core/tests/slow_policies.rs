//! Stuck receivers: the effect of each policy. That it begins after the stall time and not before is tested with a moved
//! clock in `core/src/broker/tests/`.
#![cfg(all(unix, feature = "broker", feature = "ipc"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod common;

use busrt::broker::{Broker, Options, SlowPolicy};
use busrt::client::Config;
use busrt::{ErrorKind, QoS};
use common::raw::{ACK, Item, MESSAGE, PUBLISH, Raw, SUBSCRIBE, numbered, payload};
use common::slow::{
    ENOUGH, FULL_SPEED, HOLD, Pump, SIZE, Taker, ask_numbered, assert_rising, numbers, options,
};
use common::{Bus, PATIENCE, Peer, eventually, next};
use std::time::{Duration, Instant};

const SHORT: Duration = Duration::from_millis(100);

fn small_queues(slow: SlowPolicy) -> Options {
    Options::new()
        .timeout(PATIENCE)
        .queue_size(64)
        .queue_bytes(1 << 20)
        .hold(Duration::from_millis(50))
        .stall(Duration::from_millis(50))
        .slow(slow)
}

/// Number of frames that fill a peer that never reads, until its queue in the broker is over the budget too.
const FLOOD: usize = 20_000;

fn is_connected(broker: &Broker, name: &str) -> bool {
    broker.clients().clients.iter().any(|client| client.name == name)
}

/// With drop-new, a stuck receiver stays connected, and messages to it are refused and counted. When it reads again,
/// it gets the earlier messages and then all new ones.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drop_new_refuses_and_counts() {
    let bus = Bus::start(options(SlowPolicy::DropNew).stall(HOLD * 2)).await;
    let mut observer = Raw::register(&bus.path, "observer");
    let mut stuck = Raw::register(&bus.path, "stuck");
    let mut sender = Raw::register(&bus.path, "sender");
    let asked = ask_numbered(&mut sender, MESSAGE, b"stuck\0", 0..ENOUGH, SIZE);
    let accepted = asked.codes.iter().filter(|code| **code == 1).count() as u32;
    assert!(asked.codes[accepted as usize..].iter().all(|code| *code == 0x77));
    let state = observer.wait_for_state("stuck", |state| state.is("stuck"));
    assert_eq!(state.dropped, u64::from(ENOUGH - accepted));
    Pump::start(&sender.stream, numbered(MESSAGE, b"stuck\0", ENOUGH..ENOUGH + 100, SIZE)).join();
    observer.wait_for_state("stuck", |state| state.dropped == u64::from(ENOUGH + 100 - accepted));
    assert_eq!(numbers(&stuck.rest()), (0..accepted).collect::<Vec<_>>());
    observer.wait_for_state("stuck", |state| state.is("ok"));
    assert_eq!(sender.ask(MESSAGE, &payload(b"stuck\0", 9999, SIZE)), 1);
    assert_eq!(numbers(&stuck.rest()), [9999]);
}

/// Every refusal is counted, also of several simultaneous senders.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_refusal_is_counted() {
    let broker = Broker::new(small_queues(SlowPolicy::DropNew));
    let config = Config::new("", "stuck").inbox_bytes(1000);
    let stuck = broker.client_with(&config).await.unwrap();
    let _frames = stuck.frames().unwrap();
    let mut senders = vec![];
    for name in ["a", "b", "c"] {
        let client = broker.client(name).await.unwrap();
        senders.push(tokio::spawn(async move {
            let mut refused = 0;
            for _ in 0..FLOOD {
                match client.send("stuck", "x", QoS::Processed).await {
                    Ok(()) => {}
                    Err(e) if e.kind() == ErrorKind::NotDelivered => refused += 1,
                    Err(e) => panic!("{e}"),
                }
            }
            refused
        }));
    }
    let mut refused = 0;
    for sender in senders {
        refused += sender.await.unwrap();
    }
    assert!(refused > 0);
    assert_eq!(broker.stats().dropped, refused);
}

/// With drop-old, the oldest publications of a stuck subscriber are dropped for the newest ones; queued messages and
/// acknowledgements stay.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drop_old_keeps_the_newest_publications_and_every_message() {
    let bus = Bus::start(options(SlowPolicy::DropOld).stall(HOLD * 2)).await;
    let mut observer = Raw::register(&bus.path, "observer");
    let mut stuck = Raw::register(&bus.path, "stuck");
    stuck.subscribe("t");
    let mut publisher = Raw::register(&bus.path, "publisher");
    // Messages and acknowledgements wait behind the data in the socket.
    let asked = ask_numbered(&mut publisher, PUBLISH, b"t\0", 0..200, SIZE);
    assert_eq!(asked.codes, [1; 200]);
    let asked = ask_numbered(&mut publisher, MESSAGE, b"stuck\0", 1_000_000..1_000_010, SIZE);
    assert_eq!(asked.codes, [1; 10]);
    let mut subscribed = vec![];
    for i in 0..50 {
        subscribed.push(stuck.send(SUBSCRIBE | ACK, format!("other/{i}").as_bytes()));
    }
    ask_numbered(&mut publisher, PUBLISH, b"t\0", 200..ENOUGH, SIZE);
    observer.wait_for_state("stuck", |state| state.is("stuck"));
    let asked = ask_numbered(&mut publisher, PUBLISH, b"t\0", ENOUGH..3 * ENOUGH, SIZE);
    assert!(asked.codes.iter().all(|code| *code == 1));
    assert!(asked.held < HOLD * 3, "held for {:?}", asked.held);
    let last = stuck.send(SUBSCRIBE | ACK, b"last");
    let (mut messages, mut publications) = (vec![], vec![]);
    loop {
        match stuck.receive(PATIENCE / 4).expect("a frame") {
            Item::Ack { id, code } if id == last => {
                assert_eq!(code, 1);
                break;
            }
            Item::Ack { id, code } => {
                assert_eq!((id, code), (subscribed.remove(0), 1));
            }
            Item::Delivery(delivery) if delivery.kind == MESSAGE => messages.push(delivery.number()),
            Item::Delivery(delivery) => publications.push(delivery.number()),
            Item::Nop => {}
            Item::End => panic!("disconnected"),
        }
    }
    let dropped = observer.state_of("stuck").expect("drop-old does not disconnect").dropped;
    assert!(dropped > 0);
    assert!(subscribed.is_empty(), "acknowledgements are lost: {subscribed:?}");
    assert_eq!(messages, (1_000_000..1_000_010).collect::<Vec<_>>());
    assert_rising(&publications);
    assert_eq!(publications.last(), Some(&(3 * ENOUGH - 1)));
    assert_eq!(publications.len() as u64 + dropped, u64::from(3 * ENOUGH));
}

/// With drop-old, a message that finds only messages in the queue is refused and counted, because messages are never
/// dropped.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drop_old_drops_no_message_for_another() {
    let bus = Bus::start(options(SlowPolicy::DropOld).stall(HOLD * 2)).await;
    let mut observer = Raw::register(&bus.path, "observer");
    let mut stuck = Raw::register(&bus.path, "stuck");
    let mut sender = Raw::register(&bus.path, "sender");
    let first = ask_numbered(&mut sender, MESSAGE, b"stuck\0", 0..ENOUGH, SIZE);
    observer.wait_for_state("stuck", |state| state.is("stuck"));
    let second = ask_numbered(&mut sender, MESSAGE, b"stuck\0", ENOUGH..2 * ENOUGH, SIZE);
    let codes = [first.codes, second.codes].concat();
    let accepted: Vec<u32> = (0..2 * ENOUGH).filter(|number| codes[*number as usize] == 1).collect();
    assert!(accepted.len() < codes.len(), "everything fitted");
    assert_eq!(numbers(&stuck.rest()), accepted);
    let dropped = observer.state_of("stuck").unwrap().dropped;
    assert_eq!(dropped as usize + accepted.len(), codes.len());
}

/// With block, there are no time limits: a publication waits as long as its subscriber reads nothing; nothing is
/// lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn block_waits_and_loses_nothing() {
    for (flags, head) in [(PUBLISH, b"t\0".as_slice()), (MESSAGE, b"stuck\0")] {
        let bus = Bus::start(options(SlowPolicy::Block).hold(SHORT).stall(SHORT)).await;
        let mut observer = Raw::register(&bus.path, "observer");
        let mut stuck = Raw::register(&bus.path, "stuck");
        stuck.subscribe("t");
        let mut sender = Raw::register(&bus.path, "sender");
        let mut bytes = numbered(flags, head, 0..ENOUGH, SIZE);
        let asked = ENOUGH;
        bytes.extend(Peer::operation(asked, flags | ACK, &payload(head, ENOUGH, SIZE)));
        let pump = Pump::start(&sender.stream, bytes);
        std::thread::sleep(SHORT * 10);
        let state = observer.wait_for_state("stuck", |state| state.held_senders == Some(1));
        assert_eq!(state.dropped, 0);
        assert_eq!(sender.ack(asked, SHORT * 5), None, "the sender is not held");
        assert!(is_connected(&bus.broker, "stuck"));
        let taker = Taker::start(stuck, FULL_SPEED);
        pump.join();
        assert_eq!(sender.ack(asked, PATIENCE / 4), Some(1));
        let (_raw, received) = taker.finish();
        assert_eq!(numbers(&received), (0..=ENOUGH).collect::<Vec<_>>());
        assert_eq!(observer.state_of("stuck").unwrap().dropped, 0);
    }
}

/// A client that reads no acknowledgements is held back; they are not buffered without a bound.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unread_acknowledgements_hold_their_sender_back() {
    let bus = Bus::start(small_queues(SlowPolicy::Block).queue_bytes(64 * 1024)).await;
    let mut peer = bus.peer("rude");
    peer.stream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    let batch: Vec<u8> = (0..1000).flat_map(|i| Peer::operation(i, 0x41, b"t\0x")).collect();
    let mut sent = 0;
    use std::io::Write;
    while peer.stream.write_all(&batch).is_ok() {
        sent += 1;
        assert!(sent < 10_000, "the broker reads without a bound");
    }
    assert!(is_connected(&bus.broker, "rude"), "block does not disconnect");
}

/// A client that reads no acknowledgements for the stall time is stuck like any other receiver.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unread_acknowledgements_end_a_stuck_client() {
    let bus = Bus::start(small_queues(SlowPolicy::Disconnect).queue_bytes(64 * 1024)).await;
    let mut peer = bus.peer("rude");
    peer.stream.set_write_timeout(Some(PATIENCE / 4)).unwrap();
    let batch: Vec<u8> = (0..1000).flat_map(|i| Peer::operation(i, 0x41, b"t\0x")).collect();
    let mut sent = 0;
    use std::io::Write;
    while peer.stream.write_all(&batch).is_ok() {
        sent += 1;
        assert!(sent < 10_000, "the broker reads without a bound");
    }
    eventually("the client is disconnected", || !is_connected(&bus.broker, "rude")).await;
}

/// A client within the broker's process has a budget too: frames that do not fit are refused and counted. It is never
/// disconnected for that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_in_process_receiver_is_never_disconnected() {
    for slow in [SlowPolicy::Disconnect, SlowPolicy::DropNew] {
        let bus = Bus::start(small_queues(slow)).await;
        let local =
            bus.broker.client_with(&bus.config("local").inbox_bytes(64 * common::held_by(6))).await.unwrap();
        let mut frames = local.frames().unwrap();
        let a = bus.client("a").await;
        let mut accepted = 0u32;
        let refused = loop {
            match a.send("local", accepted.to_le_bytes().to_vec(), QoS::Processed).await {
                Ok(()) => accepted += 1,
                Err(e) => break e.kind(),
            }
        };
        assert_eq!(refused, ErrorKind::NotDelivered);
        tokio::time::sleep(Duration::from_millis(500)).await;
        let e = a.send("local", "x", QoS::Processed).await.unwrap_err();
        assert_eq!(e.kind(), ErrorKind::NotDelivered, "{slow:?}");
        assert!(local.is_connected(), "{slow:?}");
        for i in 0..accepted {
            assert_eq!(next(&mut frames).await.payload(), i.to_le_bytes());
        }
        // Messages are accepted again as soon as there is room.
        let started = Instant::now();
        while let Err(e) = a.send("local", "fits", QoS::Processed).await {
            assert_eq!(e.kind(), ErrorKind::NotDelivered);
            assert!(started.elapsed() < PATIENCE / 4, "refused for ever");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(next(&mut frames).await.payload(), b"fits");
    }
}
