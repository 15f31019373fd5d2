//! Serving without a runtime: requests in batches, answered from any thread.
#![cfg(all(unix, feature = "broker", feature = "rpc"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod common;

use busrt::broker::Options;
use busrt::client::{Client, Wait, WakeFd};
use busrt::rpc::{Caller, Incoming, Responder, Rpc, RpcError, Serving};
use busrt::{ErrorKind, QoS};
use common::{Bus, PATIENCE, eventually, no_client_is_left};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::os::fd::AsFd;
use std::sync::mpsc;
use std::time::Duration;
use tokio::runtime::Runtime;

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

/// Connects a client over a socket, or one within the broker's process.
fn server(runtime: &Runtime, bus: &Bus, local: bool) -> Client {
    let config = bus.config("server");
    match local {
        true => runtime.block_on(bus.broker.client_with(&config)).unwrap(),
        false => runtime.block_on(Client::connect(&config)).unwrap(),
    }
}

fn wait_readable(descriptor: &WakeFd) {
    let mut fds = [PollFd::from_borrowed_fd(descriptor.as_fd(), PollFlags::IN)];
    let patience = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
    assert_eq!(poll(&mut fds, Some(&patience)).unwrap(), 1, "not woken");
}

#[test]
fn a_thread_takes_requests_and_others_answer() {
    const CALLS: usize = 2000;
    let runtime = runtime();
    let bus = runtime.block_on(Bus::start(Options::new()));
    for local in [false, true] {
        let client = server(&runtime, &bus, local);
        let Serving { mut requests, .. } = Serving::new(&client);
        let descriptor = WakeFd::new().unwrap();
        requests.set_wake_up(&descriptor);
        let mut workers: Vec<mpsc::Sender<(busrt::rpc::Call, Responder)>> = vec![];
        for _ in 0..3 {
            let (sender, receiver) = mpsc::channel::<(busrt::rpc::Call, Responder)>();
            workers.push(sender);
            std::thread::spawn(move || {
                for (call, responder) in receiver {
                    assert!(responder.wants_reply() && responder.caller() == "caller");
                    match call.method() {
                        "echo" => responder.reply(call.params_bytes()),
                        "fail" => responder.error(RpcError::invalid_params("no")),
                        _ => drop(responder),
                    }
                }
            });
        }
        let serving = std::thread::spawn(move || {
            let (mut batch, mut served) = (vec![], 0);
            loop {
                match requests.take_batch(&mut batch, 100) {
                    None => return served,
                    Some(0) => wait_readable(&descriptor),
                    Some(_) => {}
                }
                for incoming in batch.drain(..) {
                    let Incoming::Request(call, responder) = incoming else { panic!("no request") };
                    workers[served % 3].send((call, responder)).unwrap();
                    served += 1;
                }
            }
        });
        runtime.block_on(async {
            let caller = Caller::new(bus.client("caller").await);
            let mut pending = vec![];
            for i in 0..CALLS {
                let params = i.to_le_bytes().to_vec();
                let method = ["echo", "fail", "other"][i % 3];
                pending.push(caller.submit("server", method, params, QoS::Processed).await.unwrap());
            }
            for (i, call) in pending.into_iter().enumerate() {
                match (i % 3, call.await) {
                    (0, Ok(reply)) => assert_eq!(reply.payload(), i.to_le_bytes()),
                    (1, Err(e)) => assert_eq!(e.code(), -32602),
                    (2, Err(e)) => assert_eq!(e.code(), -32603, "{e}"),
                    (_, outcome) => panic!("call {i}: {outcome:?}"),
                }
            }
            caller.client().disconnect().await;
            client.disconnect().await;
        });
        assert_eq!(serving.join().unwrap(), CALLS);
        drop(client);
        runtime.block_on(eventually("no client is left", || no_client_is_left(&bus)));
    }
}

#[test]
fn kinds_apart_or_all_in_order() {
    let runtime = runtime();
    let bus = runtime.block_on(Bus::start(Options::new()));
    for in_order in [false, true] {
        let client = server(&runtime, &bus, false);
        let peer = runtime.block_on(async {
            client.subscribe("t", QoS::Processed).await.unwrap();
            let peer = Caller::new(bus.client("peer").await);
            for i in 0..3u8 {
                peer.client().publish("t", vec![i], QoS::Processed).await.unwrap();
                peer.notify("server", vec![i], QoS::Processed).await.unwrap();
                peer.call0("server", "m", vec![i], QoS::Processed).await.unwrap();
            }
            eventually("all frames have arrived", || client.stats().r_frames == 9).await;
            peer
        });
        let mut serving = if in_order { Serving::in_order(&client) } else { Serving::new(&client) };
        let text = |incoming: &Incoming| match incoming {
            Incoming::Request(call, responder) => {
                assert!(!responder.wants_reply());
                format!("call {}", call.params()[0])
            }
            Incoming::Notification(notification) => format!("notification {}", notification.payload()[0]),
            Incoming::Frame(frame) => format!("frame {}", frame.payload()[0]),
            _ => panic!("unknown"),
        };
        let all = |intake: &mut busrt::rpc::Intake| {
            let mut batch = vec![];
            assert_eq!(intake.take_batch(&mut batch, 2).unwrap(), batch.len());
            intake.take_batch(&mut batch, 100).unwrap();
            assert_eq!(intake.take_batch(&mut batch, 100), Some(0));
            batch.iter().map(text).collect::<Vec<_>>()
        };
        let got = [all(&mut serving.frames), all(&mut serving.notifications), all(&mut serving.requests)];
        if in_order {
            let wanted =
                (0..3).flat_map(|i| ["frame", "notification", "call"].map(|kind| format!("{kind} {i}")));
            assert_eq!(got, [wanted.collect(), vec![], vec![]]);
        } else {
            let wanted = ["frame", "notification", "call"]
                .map(|kind| (0..3).map(|i| format!("{kind} {i}")).collect::<Vec<_>>());
            assert_eq!(got, wanted);
        }
        // A server that takes over ends it.
        let _rpc = runtime.block_on(async { Rpc::new(client.clone(), ()) });
        assert_eq!(serving.requests.take_batch(&mut vec![], 1), None);
        runtime.block_on(async {
            client.disconnect().await;
            peer.client().disconnect().await;
            eventually("no client is left", || no_client_is_left(&bus)).await;
        });
    }
}

/// Answers for which there is no room to send are sent as soon as there is some.
#[test]
fn answers_beyond_the_room_to_send_are_sent_later() {
    const CALLS: usize = 200;
    let runtime = runtime();
    let bus = runtime.block_on(Bus::start(Options::new().queue_size(16).stall(PATIENCE)));
    for local in [false, true] {
        let config = bus.config("server").queue_size(1);
        let client = match local {
            true => runtime.block_on(bus.broker.client_with(&config)).unwrap(),
            false => runtime.block_on(Client::connect(&config)).unwrap(),
        };
        let mut serving = Serving::new(&client);
        let caller = runtime.block_on(async {
            // The caller takes only a few frames at a time.
            Caller::new(Client::connect(&bus.config("caller").inbox_bytes(1)).await.unwrap())
        });
        let calling = runtime.spawn(async move {
            let mut pending = vec![];
            for _ in 0..CALLS {
                pending.push(caller.submit("server", "m", "", QoS::No).await.unwrap());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
            for call in pending {
                assert_eq!(call.await.unwrap().payload().len(), 50_000);
            }
            caller.client().disconnect().await;
        });
        let mut batch = vec![];
        while batch.len() < CALLS {
            assert!(serving.requests.wait_batch(&mut batch, 64, Wait::at_most(PATIENCE)).unwrap().is_some());
        }
        for incoming in batch {
            let Incoming::Request(_, responder) = incoming else { panic!("no request") };
            responder.reply(vec![0; 50_000]);
        }
        runtime.block_on(calling).unwrap();
        runtime.block_on(client.disconnect());
        assert_eq!(serving.requests.wait_batch(&mut vec![], 1, Wait::at_most(PATIENCE)).unwrap(), None);
        runtime.block_on(eventually("no client is left", || no_client_is_left(&bus)));
    }
}

/// A draining client waits for requests that were taken but not answered.
#[test]
fn a_drain_waits_for_the_answers() {
    let runtime = runtime();
    let bus = runtime.block_on(Bus::start(Options::new()));
    let client = server(&runtime, &bus, false);
    let mut serving = Serving::new(&client);
    let caller = runtime.block_on(async { Caller::new(bus.client("caller").await) });
    let call = runtime.block_on(caller.submit("server", "m", "", QoS::Processed)).unwrap();
    let mut batch = vec![];
    assert!(serving.requests.wait_batch(&mut batch, 10, Wait::at_most(PATIENCE)).unwrap().is_some());
    let draining = runtime.spawn({
        let client = client.clone();
        async move { client.drain(PATIENCE).await }
    });
    while serving.requests.take_batch(&mut vec![], 10).is_some() {
        std::thread::sleep(Duration::from_millis(1));
    }
    drop(serving);
    std::thread::sleep(Duration::from_millis(50));
    assert!(!draining.is_finished());
    let Some(Incoming::Request(_, responder)) = batch.pop() else { panic!("no request") };
    std::thread::spawn(move || responder.reply("done")).join().unwrap();
    assert!(runtime.block_on(draining).unwrap());
    assert_eq!(runtime.block_on(call).unwrap().payload(), b"done");
}

/// A responder outlives its client: the answer is dropped.
#[test]
fn a_responder_may_outlive_everything() {
    let runtime = runtime();
    let bus = runtime.block_on(Bus::start(Options::new()));
    let client = server(&runtime, &bus, false);
    let mut serving = Serving::new(&client);
    let caller = runtime.block_on(async { Caller::new(bus.client("caller").await) });
    let calls: Vec<_> =
        (0..2).map(|_| runtime.block_on(caller.submit("server", "m", "", QoS::Processed)).unwrap()).collect();
    let mut batch = vec![];
    while batch.len() < 2 {
        assert!(serving.requests.wait_batch(&mut batch, 10, Wait::at_most(PATIENCE)).unwrap().is_some());
    }
    let mut responders: Vec<_> = batch
        .into_iter()
        .map(|incoming| match incoming {
            Incoming::Request(_, responder) => responder,
            _ => panic!("no request"),
        })
        .collect();
    drop((client, serving));
    responders.pop().unwrap().reply("late");
    runtime.block_on(async {
        caller.client().disconnect().await;
        for call in calls {
            assert_eq!(call.await.unwrap_err().kind(), Some(ErrorKind::Io));
        }
    });
    drop(runtime);
    drop(responders);
}

#[test]
fn parts_that_a_server_dropped_take_no_room() {
    const BYTES: usize = 64 * 1024;
    let runtime = runtime();
    let bus = runtime.block_on(Bus::start(Options::new()));
    for local in [false, true] {
        let config = bus.config("server").inbox_bytes(BYTES).inbox_awaiting_bytes(0);
        let client = match local {
            true => runtime.block_on(bus.broker.client_with(&config)).unwrap(),
            false => runtime.block_on(Client::connect(&config)).unwrap(),
        };
        // The other parts are dropped.
        let mut requests = Serving::new(&client).requests;
        let serving = std::thread::spawn(move || {
            let mut batch = vec![];
            requests.wait_batch(&mut batch, 1, Wait::at_most(PATIENCE)).unwrap();
            let Some(Incoming::Request(_, responder)) = batch.pop() else { panic!("no request") };
            responder.reply("served");
        });
        runtime.block_on(async {
            let caller = Caller::new(bus.client("caller").await);
            for _ in 0..10 * BYTES / 4096 {
                caller.notify("server", vec![7; 4096], QoS::Processed).await.unwrap();
                caller.client().broadcast("server", vec![7; 4096], QoS::Processed).await.unwrap();
            }
            let reply = caller.call("server", "method", "", QoS::Processed).await.unwrap();
            assert_eq!(reply.payload(), b"served");
            caller.client().disconnect().await;
        });
        serving.join().unwrap();
        runtime.block_on(client.disconnect());
        runtime.block_on(eventually("the clients have left", || no_client_is_left(&bus)));
    }
}
