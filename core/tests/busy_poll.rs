//! Clients that poll the socket for answers, by the reading task or by waiting plain threads, get each of the
//! answers.
#![cfg(all(unix, feature = "broker", feature = "rpc", feature = "blocking"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod common;

use busrt::broker::{Broker, Options};
use busrt::client::{Client, Config, Event, Reconnect, WhileDown};
use busrt::rpc::{Call, Handlers, Rpc, RpcError};
use busrt::{QoS, blocking};
use bytes::Bytes;
use common::{Bus, PATIENCE, TRANSPORTS, next};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::runtime::Runtime;

struct Echo;

impl Handlers for Echo {
    async fn on_call(&self, call: Call) -> Result<Bytes, RpcError> {
        if call.method() == "slow" {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(call.params_bytes())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_comes() {
    let bus = Bus::start(Options::default()).await;
    let _server = Rpc::new(bus.client("server").await, Echo);
    let config = bus.config("poller").busy_poll_async(Duration::from_micros(500));
    let client = Client::connect(&config).await.unwrap();
    let rpc = busrt::rpc::Caller::new(client.clone());
    let mut frames = client.frames().unwrap();
    for number in 0..500_u32 {
        let params = number.to_le_bytes().to_vec();
        let method = if number % 100 == 7 { "slow" } else { "fast" };
        let reply = rpc.call("server", method, params.clone(), QoS::Processed).await.unwrap();
        assert_eq!(reply.payload(), params);
        client.send("poller", params.clone(), QoS::Processed).await.unwrap();
        assert_eq!(next(&mut frames).await.payload(), params);
    }
    // Many operations in progress at the same time.
    let pending: Vec<_> = {
        let mut pending = vec![];
        for number in 0..300_u32 {
            let call = rpc.submit("server", "fast", number.to_le_bytes().to_vec(), QoS::No).await.unwrap();
            pending.push((number, call));
        }
        pending
    };
    for (number, call) in pending {
        assert_eq!(call.await.unwrap().payload(), number.to_le_bytes());
    }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

/// Plain threads make one exchange after another: acknowledgements, replies, messages to the client itself, some
/// after a pause, so that reading is lent and taken back.
#[test]
fn every_answer_comes_to_plain_threads() {
    for transport in TRANSPORTS {
        let runtime = runtime();
        let bus = runtime.block_on(Bus::start_for(transport, Options::default()));
        let _server = runtime.block_on(async { Rpc::new(bus.client("server").await, Echo) });
        let client = blocking::Client::from(runtime.block_on(bus.client("caller")));
        let caller = blocking::Caller::new(client.clone());
        let mut frames = client.frames().unwrap();
        for number in 0..400_u32 {
            let params = number.to_le_bytes().to_vec();
            let method = if number % 100 == 7 { "slow" } else { "fast" };
            let reply = caller.call("server", method, params.clone(), QoS::Processed).unwrap();
            assert_eq!(reply.payload(), params);
            client.publish("nowhere", params.clone(), QoS::Processed).unwrap();
            client.send("caller", params.clone(), QoS::No).unwrap();
            assert_eq!(frames.recv().unwrap().unwrap().payload(), params);
            if number % 50 == 0 {
                std::thread::sleep(Duration::from_millis(12));
            }
        }
    }
}

/// Threads share a client with an async task that takes the frames.
#[test]
fn threads_and_tasks_share_a_client() {
    let runtime = runtime();
    let bus = runtime.block_on(Bus::start(Options::default()));
    let _server = runtime.block_on(async { Rpc::new(bus.client("server").await, Echo) });
    let (client, mut frames) = runtime.block_on(bus.listener("shared"));
    let received = runtime.spawn(async move {
        for number in 0..400_u32 {
            assert_eq!(next(&mut frames).await.payload(), number.to_le_bytes());
        }
    });
    let shared = blocking::Client::from(client);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let caller = blocking::Caller::new(shared.clone());
                for number in 0..200_u32 {
                    let params = number.to_le_bytes().to_vec();
                    let reply = caller.call("server", "fast", params.clone(), QoS::No).unwrap();
                    assert_eq!(reply.payload(), params);
                    shared.publish("nowhere", params, QoS::Processed).unwrap();
                }
            });
        }
        scope.spawn(|| {
            for number in 0..400_u32 {
                shared.send("shared", number.to_le_bytes().to_vec(), QoS::Processed).unwrap();
            }
        });
    });
    runtime.block_on(async { tokio::time::timeout(PATIENCE, received).await.unwrap().unwrap() });
}

/// The connection ends again and again while a thread polls, and is established again.
#[test]
fn a_thread_continues_over_the_next_connection() {
    let runtime = runtime();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bus.sock").display().to_string();
    let start = || {
        runtime.block_on(async {
            let broker = Broker::new(Options::default());
            broker.listen(&path).await.unwrap();
            broker
        })
    };
    let mut broker = start();
    let config = Config::new(&path, "comes.back").timeout(PATIENCE);
    let config = config.reconnect(Reconnect::new()).while_down(WhileDown::Wait(PATIENCE));
    let client = blocking::Client::connect(&config).unwrap();
    let mut events = client.events().unwrap();
    assert_eq!(events.recv().unwrap(), Some(Event::Connected));
    let stop = AtomicBool::new(false);
    let _broker = std::thread::scope(|scope| {
        let exchanging = scope.spawn(|| {
            let mut answered = 0;
            while !stop.load(Ordering::Relaxed) {
                // An operation in progress fails when the connection ends.
                answered += u32::from(client.publish("t", "x", QoS::Processed).is_ok());
            }
            answered
        });
        for _ in 0..4 {
            std::thread::sleep(Duration::from_millis(30));
            {
                let _guard = runtime.enter();
                drop(broker);
            }
            broker = start();
            while !matches!(events.recv().unwrap(), Some(Event::Connected)) {}
        }
        stop.store(true, Ordering::Relaxed);
        assert!(exchanging.join().unwrap() > 4);
        broker
    });
    client.publish("t", "x", QoS::Processed).unwrap();
}
