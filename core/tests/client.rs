//! The whole life of a client, against a broker.
#![cfg(all(unix, feature = "broker", feature = "ipc"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod common;

use busrt::broker::Options;
use busrt::client::{Client, Config};
use busrt::proto::request::Operation;
use busrt::transport::Socket;
use busrt::{ErrorKind, QoS};
use bytes::Bytes;
use common::{Bus, PATIENCE, next, on_every_transport};
use std::time::Duration;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publications_before_a_drop_arrive() {
    on_every_transport(async |bus| {
        let (b, mut frames) = bus.listener("b").await;
        b.subscribe("t/#", QoS::Processed).await.unwrap();
        for round in 0..20u32 {
            let a = bus.client("a").await;
            for i in 0..50u32 {
                a.publish("t/x", [round.to_le_bytes(), i.to_le_bytes()].concat(), QoS::No).await.unwrap();
            }
            // If the receiver has unread bytes, TCP discards the data that was not yet sent.
            a.send("a", "unread", QoS::No).await.unwrap();
            drop(a);
            for i in 0..50u32 {
                assert_eq!(
                    next(&mut frames).await.payload(),
                    [round.to_le_bytes(), i.to_le_bytes()].concat()
                );
            }
            gone(&bus, "a").await;
        }
    })
    .await;
}

/// Waits until the broker has unregistered a client.
async fn gone(bus: &Bus, name: &str) {
    let work = async {
        while bus.broker.clients().clients.iter().any(|c| c.name == name) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, work).await.expect("the client stays registered");
}

/// Operations in progress are answered while the connection is closed in order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operations_in_progress_are_answered_when_the_last_handle_is_dropped() {
    on_every_transport(async |bus| {
        let (_b, mut frames) = bus.listener("b").await;
        let a = bus.client("a").await;
        let mut pending = vec![];
        for i in 0..50u8 {
            let operation = Operation::Message { target: "b", payload: vec![i; 10_000].into() };
            pending.push(a.submit(operation, QoS::Processed).await.unwrap());
        }
        drop(a);
        for pending in pending {
            pending.await.unwrap();
        }
        for i in 0..50u8 {
            assert_eq!(next(&mut frames).await.payload()[0], i);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_payload_survives_drop_and_disconnect() {
    on_every_transport(async |bus| {
        let (_b, mut frames) = bus.listener("b").await;
        let payload = Bytes::from((0..6_000_000u32).map(|i| i as u8).collect::<Vec<_>>());
        let a = bus.client("a").await;
        a.send("b", payload.clone(), QoS::No).await.unwrap();
        drop(a);
        assert!(next(&mut frames).await.payload() == payload);
        let a = reconnected(&bus, "a").await;
        a.send("b", payload.clone(), QoS::No).await.unwrap();
        a.disconnect().await;
        assert!(!a.is_connected());
        assert!(next(&mut frames).await.payload() == payload);
    })
    .await;
}

async fn reconnected(bus: &Bus, name: &str) -> Client {
    gone(bus, name).await;
    bus.client(name).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disconnect_is_for_all_clones() {
    on_every_transport(async |bus| {
        let (a, mut frames) = bus.listener("a").await;
        let clone = a.clone();
        a.disconnect().await;
        assert!(!clone.is_connected());
        assert_eq!(clone.send("a", "x", QoS::No).await.unwrap_err().kind(), ErrorKind::ConnectionLost);
        assert_eq!(clone.send("a", "x", QoS::Processed).await.unwrap_err().kind(), ErrorKind::ConnectionLost);
        assert_eq!(clone.ping().await.unwrap_err().kind(), ErrorKind::ConnectionLost);
        assert!(frames.recv().await.is_none());
        assert_eq!(a.closed().await.kind(), ErrorKind::ConnectionLost);
        a.disconnect().await;
        reconnected(&bus, "a").await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_brokers_shutdown_is_reported() {
    on_every_transport(async |bus| {
        let (a, mut frames) = bus.listener("a").await;
        assert!(a.is_connected());
        bus.broker.shutdown().await;
        assert_eq!(a.closed().await.kind(), ErrorKind::ConnectionLost);
        assert!(!a.is_connected());
        assert_eq!(next(&mut frames).await.topic(), Some(".broker/warn"));
        assert!(frames.recv().await.is_none());
        assert!(bus.try_client("b").await.is_err());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_operations_under_way() {
    on_every_transport(async |bus| {
        let (_b, mut frames) = bus.listener("b").await;
        let a = bus.client("a").await;
        let mut confirmations = vec![];
        for i in 0..5000u32 {
            let payload = Bytes::from(i.to_le_bytes().to_vec());
            let target = if i % 10 == 9 { "nobody" } else { "b" };
            confirmations
                .push(a.submit(Operation::Message { target, payload }, QoS::Processed).await.unwrap());
        }
        for (i, confirmation) in confirmations.into_iter().enumerate() {
            let kind = confirmation.await.err().map(|e| e.kind());
            assert_eq!(kind, (i % 10 == 9).then_some(ErrorKind::NotRegistered));
        }
        for i in (0..5000u32).filter(|i| i % 10 != 9) {
            assert_eq!(next(&mut frames).await.payload(), i.to_le_bytes());
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operations_from_many_tasks_are_answered_each() {
    on_every_transport(async |bus| {
        let (_b, mut frames) = bus.listener("b").await;
        let a = bus.client("a").await;
        let tasks: Vec<_> = (0..16u8)
            .map(|task| {
                let a = a.clone();
                tokio::spawn(async move {
                    for i in 0..200u8 {
                        a.send("b", vec![task, i], QoS::Processed).await.unwrap();
                        let e = a.send("nobody", vec![task, i], QoS::Processed).await.unwrap_err();
                        assert_eq!(e.kind(), ErrorKind::NotRegistered);
                    }
                })
            })
            .collect();
        let mut next_of = [0u8; 16];
        for _ in 0..16 * 200 {
            let frame = next(&mut frames).await;
            let (task, i) = (usize::from(frame.payload()[0]), frame.payload()[1]);
            assert_eq!(i, next_of[task]);
            next_of[task] += 1;
        }
        for task in tasks {
            task.await.unwrap();
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secondaries_are_numbered_and_end_with_their_primary() {
    on_every_transport(async |bus| {
        let a = bus.client("a").await;
        let first = a.secondary().await.unwrap();
        let second = first.secondary().await.unwrap();
        assert_eq!((first.name(), second.name()), ("a%%1", "a%%2"));
        let named = a.secondary_named("4").await.unwrap();
        assert_eq!(named.name(), "a%%4");
        assert_eq!(a.secondary_named("4").await.unwrap_err().kind(), ErrorKind::Busy);
        assert_eq!(a.secondary().await.unwrap().name(), "a%%3");
        // Number 4 is taken by a client that chose its name.
        let fifth = a.secondary().await.unwrap();
        assert_eq!(fifth.name(), "a%%5");
        let mut frames = second.frames().unwrap();
        a.send("a%%2", "x", QoS::Processed).await.unwrap();
        let frame = next(&mut frames).await;
        assert_eq!((frame.sender(), frame.primary_sender()), ("a", "a"));
        a.disconnect().await;
        for secondary in [first, second, named, fifth] {
            assert_eq!(secondary.closed().await.kind(), ErrorKind::ConnectionLost);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_of_a_stream() {
    let bus = Bus::start(Options::default()).await;
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    bus.broker.attach(Socket::from_unix(theirs).unwrap()).unwrap();
    let a = Client::connect_stream(Socket::from_unix(ours).unwrap(), &Config::new("", "a")).await.unwrap();
    a.send("a", "x", QoS::Processed).await.unwrap();
    assert_eq!(a.frames().unwrap().recv().await.unwrap().payload(), b"x");
    assert_eq!(a.secondary().await.unwrap_err().kind(), ErrorKind::NotSupported);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_stops_holds_the_sender_back_and_loses_nothing() {
    let bus = Bus::start(Options::default().queue_size(64).stall(PATIENCE)).await;
    for transport in common::TRANSPORTS {
        let bus = &Bus { transport, ..Bus::start(Options::default().queue_size(64).stall(PATIENCE)).await };
        let config = bus.config("b").inbox_bytes(64 * common::held_by(10_000));
        let b = match transport {
            common::Transport::Local => bus.broker.client_with(&config).await.unwrap(),
            _ => Client::connect(&config).await.unwrap(),
        };
        let mut frames = b.frames().unwrap();
        let a = bus.client("a").await;
        let payload = Bytes::from(vec![7; 10_000]);
        let sending = tokio::spawn(async move {
            for i in 0..2000u32 {
                let payload = [&i.to_le_bytes()[..], &payload].concat();
                a.send("b", payload, QoS::No).await.unwrap();
            }
            a.disconnect().await;
        });
        // No program takes a frame for some time.
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(!sending.is_finished(), "{transport:?}");
        for i in 0..2000u32 {
            assert_eq!(next(&mut frames).await.payload()[..4], i.to_le_bytes());
        }
        sending.await.unwrap();
    }
    drop(bus);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_that_send_to_each_other_without_reading_are_not_stuck() {
    // Each handler awaits an acknowledgement while its own queue is full.
    for transport in common::TRANSPORTS {
        let bus = &Bus { transport, ..Bus::start(Options::default()).await };
        let mut tasks = vec![];
        let mut clients = vec![];
        for name in ["a", "b"] {
            let config = bus.config(name).inbox_bytes(4 * common::held_by(6));
            clients.push(match transport {
                common::Transport::Local => bus.broker.client_with(&config).await.unwrap(),
                _ => Client::connect(&config).await.unwrap(),
            });
        }
        let frames: Vec<_> = clients.iter().map(|c| c.frames().unwrap()).collect();
        for ((client, mut frames), target) in clients.iter().cloned().zip(frames).zip(["b", "a"]) {
            tasks.push(tokio::spawn(async move {
                for i in 0..2000u32 {
                    client.send(target, i.to_le_bytes().to_vec(), QoS::Processed).await.unwrap();
                }
                for i in 0..2000u32 {
                    assert_eq!(next(&mut frames).await.payload(), i.to_le_bytes());
                }
            }));
        }
        for task in tasks {
            tokio::time::timeout(PATIENCE, task).await.expect("stuck").unwrap();
        }
    }
}
