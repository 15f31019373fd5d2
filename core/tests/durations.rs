//! Durations of any length are accepted: they cause no panic, no disconnect and no endless loop.
#![cfg(all(
    unix,
    feature = "broker",
    feature = "ipc",
    feature = "rpc",
    feature = "cursors",
    feature = "blocking"
))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod common;

use busrt::blocking;
use busrt::client::{Config, Event, Reconnect, WhileDown};
use busrt::cursor::{self, CursorMap};
use busrt::rpc::{Call, Handlers, Rpc, RpcError};
use busrt::{Client, ErrorKind, QoS};
use bytes::Bytes;
use common::{Bus, PATIENCE, next};
use std::time::Duration;

/// The longest, the shortest, and some with which arithmetic could overflow.
const ODD: [Duration; 6] = [
    Duration::MAX,
    Duration::from_secs(u64::MAX),
    Duration::from_secs(i64::MAX as u64),
    Duration::from_millis(u64::MAX),
    Duration::from_nanos(1),
    Duration::ZERO,
];

struct Echo;

impl Handlers for Echo {
    async fn on_call(&self, call: Call) -> Result<Bytes, RpcError> {
        Ok(call.params_bytes())
    }
}

/// Checks that the client works, and is still connected after some of its timers have fired.
async fn works(client: &Client) {
    let mut frames = client.frames().unwrap();
    for _ in 0..2 {
        client.send(client.name(), "x", QoS::No).await.unwrap();
        // The announcement of a broker that shuts down may come before.
        while next(&mut frames).await.payload() != b"x" {}
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    assert!(client.is_connected());
}

#[tokio::test]
async fn ping_intervals_and_silence() {
    let bus = Bus::start(Default::default()).await;
    for duration in ODD {
        let config = bus.config("a").ping_interval(duration).silence(duration);
        let client = Client::connect(&config).await.unwrap();
        works(&client).await;
        client.disconnect().await;
    }
}

#[tokio::test]
async fn timeouts() {
    let bus = Bus::start(Default::default()).await;
    for (i, duration) in ODD.into_iter().enumerate() {
        // A short one may end before the client is connected: then it fails with a timeout.
        let config = bus.config(&format!("a{i}")).timeout(duration).silence(Duration::from_millis(10));
        match Client::connect(&config).await {
            Ok(client) => {
                works(&client).await;
                client.disconnect().await;
            }
            Err(e) => {
                assert!(duration < Duration::from_secs(1), "{duration:?}");
                assert_eq!(e.kind(), ErrorKind::Timeout, "{duration:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deadlines_of_calls() {
    let bus = Bus::start(Default::default()).await;
    let _server = Rpc::new(bus.client("server").await, Echo);
    let config = bus.config("a").timeout(Duration::MAX);
    let caller = Rpc::new(Client::connect(&config).await.unwrap(), ());
    assert_eq!(caller.call("server", "m", "1", QoS::No).await.unwrap().payload(), b"1");
    for duration in ODD {
        match caller.call_with_deadline("server", "m", "2", QoS::Processed, duration).await {
            Ok(reply) => assert_eq!(reply.payload(), b"2"),
            Err(e) => {
                assert!(duration < Duration::from_secs(1), "{duration:?}");
                assert_eq!(e.kind(), Some(ErrorKind::Timeout), "{duration:?}");
            }
        }
    }
    assert!(caller.client().is_connected());
}

#[tokio::test]
async fn drains() {
    let bus = Bus::start(Default::default()).await;
    for (i, duration) in ODD.into_iter().enumerate() {
        let client = bus.client(&format!("a{i}")).await;
        client.send("nobody", "x", QoS::No).await.unwrap();
        let done = client.drain(duration).await;
        assert!(done || duration < Duration::from_secs(1), "{duration:?}");
        client.closed().await;
    }
}

#[tokio::test]
async fn waits_for_the_connection_and_delays_before_it() {
    for duration in ODD {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bus.sock").display().to_string();
        let broker = busrt::broker::Broker::new(Default::default());
        broker.listen(&path).await.unwrap();
        let short = duration < Duration::from_secs(1);
        let config = Config::new(&path, "a")
            .timeout(PATIENCE)
            .reconnect(Reconnect::new().delays(duration, duration))
            .while_down(WhileDown::Wait(duration));
        let client = Client::connect(&config).await.unwrap();
        let mut events = client.events();
        broker.shutdown().await;
        while !matches!(events.recv().await.unwrap(), Event::Reconnecting { .. }) {}
        let sending = client.send("a", "x", QoS::Processed);
        match tokio::time::timeout(Duration::from_millis(50), sending).await {
            Ok(result) => {
                assert!(short, "{duration:?} did not wait");
                assert_eq!(result.unwrap_err().kind(), ErrorKind::ConnectionLost);
            }
            Err(_) => assert!(!short, "{duration:?} waits on"),
        }
        if short {
            let broker = busrt::broker::Broker::new(Default::default());
            broker.listen(&path).await.unwrap();
            while events.recv().await.unwrap() != Event::Connected {}
            works(&client).await;
        }
        client.disconnect().await;
    }
}

#[tokio::test(start_paused = true)]
async fn lives_of_cursors() {
    for duration in ODD {
        let map = CursorMap::new(duration);
        let id = map.add(cursor::from_iter((1..4).map(|i| Bytes::from(vec![i]))));
        let params = CursorMap::reply(id);
        if duration > Duration::from_secs(1) {
            for item in 1..4 {
                assert_eq!(map.next(&params).await.unwrap(), [item][..], "{duration:?}");
            }
            assert!(map.next(&params).await.unwrap().is_empty());
        }
        tokio::time::timeout(PATIENCE, async {
            while !map.is_empty() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await
        .expect("the cursor stays");
    }
}

/// A cursor is not dropped while it is used.
#[tokio::test(start_paused = true)]
async fn a_cursor_in_use_outlasts_the_shortest_life() {
    struct Slow;
    impl cursor::Cursor for Slow {
        async fn next(&mut self) -> Result<Option<Bytes>, RpcError> {
            tokio::time::sleep(Duration::from_millis(100)).await;
            Ok(Some(Bytes::from_static(b"\x01")))
        }
    }
    let map = CursorMap::new(Duration::ZERO);
    // The call must begin within the millisecond for which an unused cursor is kept, so it is tried again.
    let item = loop {
        let id = map.add(Slow);
        match map.next(&CursorMap::reply(id)).await {
            Ok(item) => break item,
            Err(e) => assert_eq!(e.code(), -32001),
        }
    };
    assert_eq!(item, &b"\x01"[..]);
}

/// A program may use a map in one runtime after another. The task that drops cursors ends with the first runtime.
#[test]
fn cursors_outlast_a_runtime() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let map = CursorMap::new(Duration::from_millis(20));
    let add = || map.add(cursor::from_iter([]));
    runtime().block_on(async { add() });
    runtime().block_on(async {
        add();
        tokio::time::timeout(PATIENCE, async {
            while !map.is_empty() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await
        .expect("the cursors stay");
    });
}

#[test]
fn waits_of_the_blocking_client() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let bus = runtime.block_on(Bus::start(Default::default()));
    let client = blocking::Client::connect(&bus.config("a").timeout(Duration::MAX)).unwrap();
    let mut frames = client.frames().unwrap();
    for duration in ODD {
        client.send("a", "x", QoS::Processed).unwrap();
        match frames.recv_timeout(duration) {
            Ok(frame) => assert_eq!(frame.unwrap().payload(), b"x"),
            Err(e) => {
                assert!(duration < Duration::from_secs(1), "{duration:?}");
                assert_eq!(e.kind(), ErrorKind::Timeout);
                frames.recv().unwrap().unwrap();
            }
        }
    }
    assert!(client.drain(Duration::MAX).unwrap());
}
