//! Receivers that do not keep up: an honest flood loses nothing, a stuck receiver hurts nobody for
//! longer than the stall, and each policy does what it says.
#![cfg(all(unix, feature = "broker", feature = "ipc"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod common;

use busrt::broker::{Broker, Options, SlowPolicy};
use busrt::{ErrorKind, QoS};
use common::{Bus, PATIENCE, eventually, next};
use std::time::Duration;

fn small_queues(slow: SlowPolicy) -> Options {
    // The peers do not ping, and a loaded machine may need long.
    Options::new()
        .timeout(PATIENCE)
        .queue_size(64)
        .queue_bytes(1 << 20)
        .stall(Duration::from_millis(50))
        .slow(slow)
}

/// Fills a peer that never reads, until its queue in the broker is over the budget too.
const FLOOD: usize = 20_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_honest_flood_loses_nothing() {
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stuck_receiver_is_disconnected_and_others_go_on() {
    let bus = Bus::start(small_queues(SlowPolicy::Disconnect)).await;
    let stuck = bus.peer("stuck");
    let (_well, mut frames) = bus.listener("well").await;
    let a = bus.client("a").await;
    let mut refused = None;
    for i in 0..FLOOD {
        a.send("well", i.to_le_bytes().to_vec(), QoS::No).await.unwrap();
        if let Err(e) = a.send("stuck", vec![0; 100], QoS::Processed).await {
            refused = Some(e.kind());
            break;
        }
        next(&mut frames).await;
    }
    assert_eq!(refused, Some(ErrorKind::NotDelivered));
    assert!(bus.broker.clients().clients.iter().all(|client| client.name != "stuck"));
    let e = a.send("stuck", "x", QoS::Processed).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::NotRegistered);
    drop(stuck);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_stuck_subscribers_cost_a_publisher_one_stall() {
    let options = small_queues(SlowPolicy::Disconnect).stall(Duration::from_millis(100));
    let bus = Bus::start(options).await;
    let mut stuck: Vec<_> = (0..20).map(|i| bus.peer(&format!("stuck{i}"))).collect();
    for peer in &mut stuck {
        peer.send(1, 0x42, b"t");
        assert_eq!(peer.next().0, [0xfe, 1, 0, 0, 0, 1]);
    }
    let a = bus.client("a").await;
    let mut longest = Duration::ZERO;
    while bus.broker.stats().clients > 1 {
        let started = std::time::Instant::now();
        a.publish("t", vec![0; 1000], QoS::Processed).await.unwrap();
        longest = longest.max(started.elapsed());
    }
    // Not a bound on speed: one after the other, twenty stalls would be two seconds of sleeping.
    assert!(longest < Duration::from_millis(100 * 20), "{longest:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drop_new_refuses_and_counts() {
    let bus = Bus::start(small_queues(SlowPolicy::DropNew)).await;
    let mut stuck = bus.peer("stuck");
    let a = bus.client("a").await;
    let mut accepted = 0u32;
    let refused = loop {
        match a.send("stuck", accepted.to_le_bytes().to_vec(), QoS::Processed).await {
            Ok(()) => accepted += 1,
            Err(e) => break e.kind(),
        }
    };
    assert_eq!(refused, ErrorKind::NotDelivered);
    for _ in 0..100 {
        a.send("stuck", "more", QoS::No).await.unwrap();
    }
    a.ping().await.unwrap();
    eventually("the drops are counted", || {
        bus.broker.clients().clients.iter().any(|client| client.name == "stuck" && client.dropped == 101)
    })
    .await;
    // What was accepted is there, in order; then the receiver is as good as new.
    for i in 0..accepted {
        assert_eq!(stuck.next().1, [b"a\0".as_slice(), &i.to_le_bytes()].concat());
    }
    eventually("there is room again", || bus.broker.clients().clients.iter().all(|client| client.queue == 0))
        .await;
    a.send("stuck", "again", QoS::Processed).await.unwrap();
    assert_eq!(stuck.next().1, b"a\0again");
}

/// Every refusal counts, also of several senders at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_refusal_goes_uncounted() {
    let broker = Broker::new(small_queues(SlowPolicy::DropNew));
    let stuck = broker.client("stuck").await.unwrap();
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drop_old_keeps_the_newest_in_order() {
    let bus = Bus::start(small_queues(SlowPolicy::DropOld)).await;
    let mut stuck = bus.peer("stuck");
    let a = bus.client("a").await;
    for i in 0..FLOOD as u32 {
        a.send("stuck", i.to_le_bytes().to_vec(), QoS::Processed).await.unwrap();
    }
    let dropped = bus.broker.stats().dropped;
    assert!(dropped > 0);
    let mut got = vec![];
    while got.last() != Some(&(FLOOD as u32 - 1)) {
        let body = stuck.next().1;
        got.push(u32::from_le_bytes(body[2..].try_into().unwrap()));
    }
    assert!(got.is_sorted(), "out of order");
    assert_eq!(got.len() + dropped as usize, FLOOD);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn block_waits_and_loses_nothing() {
    let bus = Bus::start(small_queues(SlowPolicy::Block)).await;
    let mut stuck = bus.peer("stuck");
    let a = bus.client("a").await;
    let sender = tokio::spawn(async move {
        for i in 0..FLOOD as u32 {
            a.send("stuck", i.to_le_bytes().to_vec(), QoS::Processed).await.unwrap();
        }
    });
    eventually("the sender is held back", || {
        bus.broker.clients().clients.iter().any(|client| client.name == "stuck" && client.queue >= 64)
    })
    .await;
    // Longer than the stall: nothing is cut.
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!sender.is_finished());
    let reader = tokio::task::spawn_blocking(move || {
        for i in 0..FLOOD as u32 {
            assert_eq!(stuck.next().1[2..], i.to_le_bytes());
        }
    });
    sender.await.unwrap();
    reader.await.unwrap();
    assert_eq!(bus.broker.stats().dropped, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_read_acknowledgements_is_held_back_not_buffered() {
    let bus = Bus::start(small_queues(SlowPolicy::Block).queue_bytes(64 * 1024)).await;
    let mut peer = bus.peer("rude");
    peer.stream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    let batch: Vec<u8> = (0..1000).flat_map(|i| common::Peer::operation(i, 0x41, b"t\0x")).collect();
    let mut sent = 0;
    use std::io::Write;
    while peer.stream.write_all(&batch).is_ok() {
        sent += 1;
        assert!(sent < 10_000, "the broker reads on and on");
    }
    let info = bus.broker.clients();
    assert!(info.clients.iter().any(|client| client.name == "rude"), "block does not disconnect");
}

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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_in_process_receiver_has_a_budget_too() {
    for slow in [SlowPolicy::Disconnect, SlowPolicy::DropNew] {
        let bus = Bus::start(small_queues(slow)).await;
        let local = bus.broker.client_with(&bus.config("local").queue_size(64)).await.unwrap();
        let mut frames = local.frames().unwrap();
        let a = bus.client("a").await;
        let refused = loop {
            if let Err(e) = a.send("local", "x", QoS::Processed).await {
                break e.kind();
            }
        };
        assert_eq!(refused, ErrorKind::NotDelivered);
        if slow == SlowPolicy::DropNew {
            next(&mut frames).await;
            a.send("local", "fits", QoS::Processed).await.unwrap();
        } else {
            tokio::time::timeout(PATIENCE, local.closed()).await.unwrap();
        }
    }
}
