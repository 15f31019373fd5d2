//! The same tests over UNIX sockets, TCP and for in-process clients.
#![cfg(all(unix, feature = "broker", feature = "ipc"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod common;

use busrt::proto::request::Operation;
use busrt::{ErrorKind, FrameKind, QoS};
use common::{next, nothing_waits, on_every_transport};

const ALL_QOS: [QoS; 4] = [QoS::No, QoS::Processed, QoS::Realtime, QoS::RealtimeProcessed];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_arrives_with_every_qos() {
    on_every_transport(async |bus| {
        let (_b, mut frames) = bus.listener("b").await;
        let a = bus.client("a").await;
        for qos in ALL_QOS {
            a.send("b", format!("{qos:?}"), qos).await.unwrap();
            let frame = next(&mut frames).await;
            assert_eq!((frame.kind(), frame.sender(), frame.topic()), (FrameKind::Message, "a", None));
            assert_eq!(frame.payload(), format!("{qos:?}").as_bytes());
            assert_eq!(frame.is_realtime(), qos.is_realtime());
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_reaches_itself_and_an_unknown_name_is_an_error() {
    on_every_transport(async |bus| {
        let (a, mut frames) = bus.listener("a").await;
        a.send("a", "me", QoS::Processed).await.unwrap();
        assert_eq!(next(&mut frames).await.payload(), b"me");
        let e = a.send("nobody", "x", QoS::Processed).await.unwrap_err();
        assert_eq!(e.kind(), ErrorKind::NotRegistered);
        nothing_waits(&a, &mut frames).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broadcast_reaches_the_clients_that_match_its_mask() {
    on_every_transport(async |bus| {
        let (one, mut one_frames) = bus.listener("g1.test.client1").await;
        let (two, mut two_frames) = bus.listener("g1.test.sub.client2").await;
        let (other, mut other_frames) = bus.listener("g1.test").await;
        other.broadcast("?.test.*", "hello", QoS::Processed).await.unwrap();
        for frames in [&mut one_frames, &mut two_frames] {
            let frame = next(frames).await;
            assert_eq!(
                (frame.kind(), frame.sender(), frame.payload()),
                (FrameKind::Broadcast, "g1.test", &b"hello"[..])
            );
        }
        other.broadcast("g1.test", "itself", QoS::Processed).await.unwrap();
        assert_eq!(next(&mut other_frames).await.payload(), b"itself");
        other.broadcast("no.such.*", "x", QoS::Processed).await.unwrap();
        nothing_waits(&one, &mut one_frames).await;
        nothing_waits(&two, &mut two_frames).await;
        nothing_waits(&other, &mut other_frames).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscriptions_and_exclusions() {
    on_every_transport(async |bus| {
        let (a, mut frames) = bus.listener("a").await;
        let publisher = bus.client("p").await;
        a.subscribe(["t/#", "t/+", "+/x"].as_slice(), QoS::Processed).await.unwrap();
        a.exclude("t/secret", QoS::Processed).await.unwrap();
        publisher.publish("t/x", "once", QoS::Processed).await.unwrap();
        let frame = next(&mut frames).await;
        assert_eq!((frame.kind(), frame.topic(), frame.sender()), (FrameKind::Publication, Some("t/x"), "p"));
        publisher.publish("t/secret", "no", QoS::Processed).await.unwrap();
        publisher.publish("t", "no", QoS::Processed).await.unwrap();
        nothing_waits(&a, &mut frames).await;
        a.unexclude("t/secret", QoS::Processed).await.unwrap();
        publisher.publish("t/secret", "yes", QoS::Processed).await.unwrap();
        assert_eq!(next(&mut frames).await.payload(), b"yes");
        a.unsubscribe(["t/#", "t/+", "never/had"].as_slice(), QoS::Processed).await.unwrap();
        publisher.publish("t/y", "no", QoS::Processed).await.unwrap();
        publisher.publish("u/x", "still", QoS::Processed).await.unwrap();
        assert_eq!(next(&mut frames).await.payload(), b"still");
        a.publish("a/x", "mine too", QoS::Processed).await.unwrap();
        assert_eq!(next(&mut frames).await.payload(), b"mine too");
        nothing_waits(&a, &mut frames).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publish_for_reaches_one_family_only() {
    on_every_transport(async |bus| {
        let (a, mut a_frames) = bus.listener("a").await;
        let (b, mut b_frames) = bus.listener("b").await;
        let second = a.secondary().await.unwrap();
        let mut second_frames = second.frames().unwrap();
        for client in [&a, &b, &second] {
            client.subscribe("t", QoS::Processed).await.unwrap();
        }
        b.publish_for("t", "a", "for a", QoS::Processed).await.unwrap();
        assert_eq!(next(&mut a_frames).await.payload(), b"for a");
        assert_eq!(next(&mut second_frames).await.payload(), b"for a");
        b.publish_for("t", second.name(), "nobody", QoS::Processed).await.unwrap();
        nothing_waits(&a, &mut a_frames).await;
        nothing_waits(&b, &mut b_frames).await;
        nothing_waits(&second, &mut second_frames).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secondaries_live_with_their_primary() {
    on_every_transport(async |bus| {
        let e = bus.try_client("a%%1").await.unwrap_err();
        assert_eq!(e.kind(), ErrorKind::NotRegistered);
        let (a, mut frames) = bus.listener("a").await;
        let second = a.secondary().await.unwrap();
        assert_eq!(second.name(), "a%%1");
        second.send("a", "from my other self", QoS::Processed).await.unwrap();
        let frame = next(&mut frames).await;
        assert_eq!((frame.sender(), frame.primary_sender()), ("a%%1", "a"));
        a.disconnect().await;
        tokio::time::timeout(common::PATIENCE, second.closed()).await.unwrap();
        assert!(!second.is_connected());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_that_are_refused() {
    on_every_transport(async |bus| {
        let _a = bus.client("a").await;
        for (name, kind) in [
            ("a", ErrorKind::Busy),
            ("", ErrorKind::Data),
            (".hidden", ErrorKind::Data),
            ("b%%1", ErrorKind::NotRegistered),
        ] {
            assert_eq!(bus.try_client(name).await.unwrap_err().kind(), kind, "{name:?}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn order_is_kept_across_qos_values() {
    on_every_transport(async |bus| {
        let (_b, mut frames) = bus.listener("b").await;
        let a = bus.client("a").await;
        let sender = tokio::spawn(async move {
            let mut confirmations = vec![];
            for i in 0..20_000u32 {
                let payload = i.to_le_bytes().to_vec().into();
                let op = Operation::Message { target: "b", payload };
                let qos = ALL_QOS[i as usize % 4];
                let confirmation = a.submit(op, qos).await.unwrap();
                if qos.needs_ack() {
                    confirmations.push(confirmation);
                }
            }
            for confirmation in confirmations {
                confirmation.await.unwrap();
            }
        });
        for i in 0..20_000u32 {
            assert_eq!(next(&mut frames).await.payload(), i.to_le_bytes());
        }
        sender.await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn payloads_of_every_size_arrive_intact() {
    on_every_transport(async |bus| {
        let (_b, mut frames) = bus.listener("b").await;
        let a = bus.client("a").await;
        for size in [0, 1, 100, 4095, 4096, 8191, 8192, 65_536, 300_000, 16 * 1024 * 1024] {
            let payload: Vec<u8> = (0..size).map(|i| (i * 7 + i / 251) as u8).collect();
            a.send("b", payload.clone(), QoS::Processed).await.unwrap();
            a.publish("nobody/listens", payload.clone(), QoS::No).await.unwrap();
            assert!(next(&mut frames).await.payload() == payload, "{size} bytes");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_sent_before_disconnecting_are_delivered() {
    on_every_transport(async |bus| {
        let (b, mut frames) = bus.listener("b").await;
        b.subscribe("#", QoS::Processed).await.unwrap();
        let a = bus.client("a").await;
        for i in 0..5_000u32 {
            a.publish("bye", i.to_le_bytes().to_vec(), QoS::No).await.unwrap();
        }
        drop(a);
        let mut got = 0u32;
        while got < 5_000 {
            let frame = next(&mut frames).await;
            if frame.topic() == Some("bye") {
                assert_eq!(frame.payload(), got.to_le_bytes());
                got += 1;
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_clients_are_told_of_the_shutdown() {
    on_every_transport(async |bus| {
        let (a, mut frames) = bus.listener("a").await;
        let broker = bus.broker.clone();
        let down = tokio::spawn(async move { broker.shutdown().await });
        let frame = next(&mut frames).await;
        assert_eq!((frame.topic(), frame.sender()), (Some(".broker/warn"), ".broker"));
        let event: rmpv::Value = rmp_serde::from_slice(frame.payload()).unwrap();
        assert_eq!(event["s"].as_str(), Some("shutdown"));
        tokio::time::timeout(common::PATIENCE, a.closed()).await.unwrap();
        down.await.unwrap();
        let e = a.send("a", "x", QoS::Processed).await.unwrap_err();
        assert_eq!(e.kind(), ErrorKind::ConnectionLost);
        assert!(bus.try_client("b").await.is_err());
    })
    .await;
}
