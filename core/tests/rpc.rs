//! RPC over each transport: callers, servers, and failures.
#![cfg(all(unix, feature = "broker", feature = "rpc"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod common;

use busrt::client::Client;
use busrt::rpc::{Call, Caller, Handlers, Notification, Options, Rpc, RpcError};
use busrt::{ErrorKind, Frame, QoS};
use bytes::Bytes;
use common::{Bus, PATIENCE, on_every_transport};
use std::future::pending;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};

/// A server with all methods that the tests need.
struct Plant {
    caller: OnceLock<Caller>,
    events: mpsc::UnboundedSender<String>,
    /// Each handler that waits takes a permit.
    gate: Semaphore,
    running: AtomicUsize,
    peak: AtomicUsize,
}

impl Handlers for Plant {
    async fn on_call(&self, call: Call) -> Result<Bytes, RpcError> {
        match call.method() {
            "echo" => Ok(call.params_bytes()),
            "who" => Ok(format!("{} {} {}", call.sender(), call.primary_sender(), call.is_realtime()).into()),
            "fail" => Err(RpcError::new(-7, "as told")),
            "panic" => panic!("as told"),
            "never" => pending().await,
            "event" => {
                self.event(format!("call {} {}", call.id() != 0, String::from_utf8_lossy(call.params())));
                Ok(Bytes::new())
            }
            "wait" => {
                let running = self.running.fetch_add(1, Ordering::SeqCst) + 1;
                self.peak.fetch_max(running, Ordering::SeqCst);
                self.pass().await;
                self.running.fetch_sub(1, Ordering::SeqCst);
                Ok("waited".into())
            }
            // Makes a call over the same client, to the method and client in the parameters.
            "back" => {
                let text = String::from_utf8_lossy(call.params()).into_owned();
                let (target, method) = text.split_once(' ').unwrap_or(("", ""));
                let caller = self.caller.get().unwrap();
                Ok(caller.call(target, method, "from back", QoS::Processed).await?.into())
            }
            _ => Err(RpcError::method_not_found()),
        }
    }

    async fn on_notification(&self, notification: Notification) {
        let text = String::from_utf8_lossy(notification.payload()).into_owned();
        match text.as_str() {
            "panic" => panic!("as told"),
            "wait" => self.pass().await,
            _ => {}
        }
        self.event(format!("notification {text}"));
    }

    async fn on_frame(&self, frame: Frame) {
        let text = String::from_utf8_lossy(frame.payload()).into_owned();
        match text.as_str() {
            "panic" => panic!("as told"),
            "wait" => self.pass().await,
            _ => {}
        }
        self.event(format!("frame {:?} {text}", frame.topic()));
    }
}

impl Plant {
    async fn pass(&self) {
        self.gate.acquire().await.unwrap().forget();
    }

    fn event(&self, event: String) {
        self.events.send(event).unwrap();
    }
}

struct Served {
    rpc: Rpc,
    plant: Arc<Plant>,
    events: mpsc::UnboundedReceiver<String>,
}

fn serve(client: Client, options: Options) -> Served {
    let (sender, events) = mpsc::unbounded_channel();
    let plant = Arc::new(Plant {
        caller: OnceLock::new(),
        events: sender,
        gate: Semaphore::new(0),
        running: AtomicUsize::new(0),
        peak: AtomicUsize::new(0),
    });
    plant.caller.set(Caller::new(client.clone())).unwrap();
    Served { rpc: Rpc::with_options(client, plant.clone(), options), plant, events }
}

impl Served {
    async fn event(&mut self) -> String {
        tokio::time::timeout(PATIENCE, self.events.recv()).await.expect("nothing happened").unwrap()
    }
}

fn both_modes() -> [Options; 2] {
    [Options::default(), Options::default().in_order(true)]
}

async fn soon<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.expect("it hangs")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn results_and_errors() {
    on_every_transport(async |bus| {
        for (i, options) in both_modes().into_iter().enumerate() {
            let served = serve(bus.client(&format!("plant{i}")).await, options);
            let caller = Caller::new(bus.client(&format!("caller{i}")).await);
            let target = served.rpc.client().name();
            for qos in [QoS::No, QoS::Processed, QoS::Realtime, QoS::RealtimeProcessed] {
                for payload in [Bytes::new(), "hello".into(), vec![7; 100_000].into()] {
                    let reply = caller.call(target, "echo", payload.clone(), qos).await.unwrap();
                    assert_eq!(reply.payload(), payload);
                    assert_eq!(reply.payload_bytes(), payload);
                    assert_eq!(reply.frame().sender(), target);
                    assert_eq!(reply.frame().is_realtime(), qos.is_realtime());
                }
            }
            let who = caller.call(target, "who", "", QoS::Realtime).await.unwrap();
            assert_eq!(who.payload(), format!("caller{i} caller{i} true").as_bytes());
            let e = caller.call(target, "fail", "", QoS::Processed).await.unwrap_err();
            assert_eq!((e.code(), e.data()), (-7, &b"as told"[..]));
            let e = caller.call(target, "none", "", QoS::Processed).await.unwrap_err();
            assert_eq!(e.code(), -32601);
            let e = caller.call("nobody", "echo", "", QoS::Processed).await.unwrap_err();
            assert_eq!((e.code(), e.kind()), (-32113, Some(ErrorKind::NotRegistered)));
            let e = caller.call(target, "a\0b", "", QoS::Processed).await.unwrap_err();
            assert_eq!(e.code(), -32114);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn panics_are_error_replies_without_other_effects() {
    on_every_transport(async |bus| {
        for (i, options) in both_modes().into_iter().enumerate() {
            let mut served = serve(bus.client(&format!("plant{i}")).await, options);
            let caller = Caller::new(bus.client(&format!("caller{i}")).await);
            let target = served.rpc.client().name().to_owned();
            served.rpc.client().subscribe("t", QoS::Processed).await.unwrap();
            assert_eq!(caller.call(&target, "panic", "", QoS::Processed).await.unwrap_err().code(), -32603);
            caller.notify(&target, "panic", QoS::Processed).await.unwrap();
            caller.client().publish("t", "panic", QoS::Processed).await.unwrap();
            caller.notify(&target, "after", QoS::Processed).await.unwrap();
            assert_eq!(served.event().await, "notification after");
            caller.client().publish("t", "after", QoS::Processed).await.unwrap();
            assert_eq!(served.event().await, "frame Some(\"t\") after");
            assert_eq!(caller.call(&target, "echo", "x", QoS::Processed).await.unwrap().payload(), b"x");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handlers_call_back_in_either_mode() {
    on_every_transport(async |bus| {
        for (i, options) in both_modes().into_iter().enumerate() {
            let a = serve(bus.client(&format!("a{i}")).await, options.clone());
            let b = serve(bus.client(&format!("b{i}")).await, options.clone());
            let calls = a.rpc.call(b.rpc.client().name(), "back", ".broker benchmark.test", QoS::Processed);
            assert!(!soon(calls).await.unwrap().payload().is_empty());
            if !options.in_order {
                // The called client calls its caller, and itself.
                for target in [a.rpc.client().name(), b.rpc.client().name()] {
                    let calls =
                        a.rpc.call(b.rpc.client().name(), "back", format!("{target} echo"), QoS::Processed);
                    assert_eq!(soon(calls).await.unwrap().payload(), b"from back");
                }
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_calls_back_with_a_full_queue_gets_its_reply() {
    for in_order in [false, true] {
        for transport in common::TRANSPORTS {
            let bus = Bus { transport, ..Bus::start(Default::default()).await };
            let config = bus.config("plant").inbox_bytes(8 * common::held_by(16));
            let client = match transport {
                common::Transport::Local => bus.broker.client_with(&config).await.unwrap(),
                _ => Client::connect(&config).await.unwrap(),
            };
            let mut served = serve(client, Options::default().in_order(in_order));
            let caller = Caller::new(bus.client("caller").await);
            served.rpc.client().subscribe("t", QoS::Processed).await.unwrap();
            // The handler of this frame does not return, and more frames arrive than the queue holds.
            caller.client().publish("t", "wait", QoS::Processed).await.unwrap();
            let flood = tokio::spawn({
                let client = caller.client().clone();
                async move {
                    for _ in 0..5000 {
                        client.publish("t", "flood", QoS::No).await.unwrap();
                    }
                }
            });
            while served.rpc.client().stats().queue < 8 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            let reply = soon(served.rpc.call(".broker", "test", "", QoS::Processed)).await.unwrap();
            assert!(!reply.payload().is_empty());
            served.plant.gate.add_permits(1);
            soon(flood).await.unwrap();
            assert_eq!(served.event().await, "frame Some(\"t\") wait");
            for _ in 0..5000 {
                assert_eq!(served.event().await, "frame Some(\"t\") flood");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_are_concurrent_or_in_order() {
    on_every_transport(async |bus| {
        let served = serve(bus.client("plant").await, Options::default());
        let caller = Caller::new(bus.client("caller").await);
        let mut waiting = vec![];
        for _ in 0..50 {
            waiting.push(caller.submit("plant", "wait", "", QoS::Processed).await.unwrap());
        }
        assert_eq!(caller.call("plant", "echo", "x", QoS::Processed).await.unwrap().payload(), b"x");
        while served.plant.running.load(Ordering::SeqCst) < 50 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        served.plant.gate.add_permits(50);
        for waiting in waiting {
            assert_eq!(soon(waiting).await.unwrap().payload(), b"waited");
        }

        let mut served = serve(bus.client("orderly").await, Options::default().in_order(true));
        served.rpc.client().subscribe("t", QoS::Processed).await.unwrap();
        let waiting = caller.submit("orderly", "wait", "", QoS::Processed).await.unwrap();
        for i in 0..10 {
            caller.call0("orderly", "event", i.to_string(), QoS::Processed).await.unwrap();
            caller.notify("orderly", i.to_string(), QoS::Processed).await.unwrap();
            caller.client().publish("t", i.to_string(), QoS::Processed).await.unwrap();
        }
        assert!(served.events.try_recv().is_err());
        served.plant.gate.add_permits(1);
        assert_eq!(soon(waiting).await.unwrap().payload(), b"waited");
        for i in 0..10 {
            assert_eq!(served.event().await, format!("call false {i}"));
            assert_eq!(served.event().await, format!("notification {i}"));
            assert_eq!(served.event().await, format!("frame Some(\"t\") {i}"));
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bound_on_concurrent_calls() {
    let bus = Bus::start(Default::default()).await;
    let served = serve(bus.client("plant").await, Options::default().max_concurrent(2));
    let caller = Caller::new(bus.client("caller").await);
    let mut waiting = vec![];
    for _ in 0..6 {
        waiting.push(tokio::spawn(caller.submit("plant", "wait", "", QoS::Processed).await.unwrap()));
    }
    // None of the six calls is released before the maximum number waits.
    while served.plant.running.load(Ordering::SeqCst) < 2 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    served.plant.gate.add_permits(6);
    for waiting in waiting {
        assert_eq!(soon(waiting).await.unwrap().unwrap().payload(), b"waited");
    }
    assert_eq!(served.plant.peak.load(Ordering::SeqCst), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn notifications_do_not_wait_for_frames() {
    on_every_transport(async |bus| {
        let mut served = serve(bus.client("plant").await, Options::default());
        let caller = Caller::new(bus.client("caller").await);
        served.rpc.client().subscribe("t", QoS::Processed).await.unwrap();
        caller.client().publish("t", "wait", QoS::Processed).await.unwrap();
        caller.notify("plant", "passes", QoS::Processed).await.unwrap();
        assert_eq!(served.event().await, "notification passes");
        caller.call("plant", "echo", "", QoS::Processed).await.unwrap();
        served.plant.gate.add_permits(1);
        assert_eq!(served.event().await, "frame Some(\"t\") wait");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deadlines_and_cancellation() {
    on_every_transport(async |bus| {
        let _served = serve(bus.client("plant").await, Options::default());
        let caller = Caller::new(bus.client("caller").await);
        let short = Duration::from_millis(20);
        let e = caller.call_with_deadline("plant", "never", "", QoS::Processed, short).await.unwrap_err();
        assert_eq!((e.code(), e.kind()), (-32120, Some(ErrorKind::Timeout)));
        // Without an acknowledgement, only the deadline ends the call.
        let e = caller.call_with_deadline("nobody", "x", "", QoS::No, short).await.unwrap_err();
        assert_eq!(e.code(), -32120);
        for _ in 0..10 {
            let call = caller.call("plant", "never", "", QoS::Processed);
            assert!(tokio::time::timeout(short, call).await.is_err());
        }
        assert_eq!(caller.call("plant", "echo", "x", QoS::Processed).await.unwrap().payload(), b"x");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_connection_fails_calls_immediately() {
    on_every_transport(async |bus| {
        let _served = serve(bus.client("plant").await, Options::default());
        let caller = Caller::new(bus.client("caller").await);
        let mut calls = vec![];
        for _ in 0..100 {
            calls.push(caller.submit("plant", "never", "", QoS::Processed).await.unwrap());
        }
        assert!(bus.broker.disconnect("caller"));
        for call in calls {
            assert_eq!(soon(call).await.unwrap_err().code(), -32115);
        }
        let e = soon(caller.call("plant", "echo", "", QoS::Processed)).await.unwrap_err();
        assert_eq!(e.code(), -32115);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_calls_under_way() {
    on_every_transport(async |bus| {
        let served = serve(bus.client("plant").await, Options::default());
        let rpc = serve(bus.client("caller").await, Options::default()).rpc;
        let mut calls = vec![];
        for i in 0..3000u32 {
            calls.push(rpc.submit("plant", "echo", i.to_le_bytes().to_vec(), QoS::Processed).await.unwrap());
        }
        for (i, call) in calls.into_iter().enumerate() {
            assert_eq!(soon(call).await.unwrap().payload(), (i as u32).to_le_bytes());
        }
        drop(served);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_frames_are_handled() {
    on_every_transport(async |bus| {
        let client = bus.client("plant").await;
        let caller = Caller::new(bus.client("caller").await);
        client.subscribe("t", QoS::Processed).await.unwrap();
        caller.client().publish("t", "early", QoS::Processed).await.unwrap();
        let call = caller.submit("plant", "echo", "early", QoS::Processed).await.unwrap();
        caller.notify("plant", "early", QoS::Processed).await.unwrap();
        while client.stats().queue < 3 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let mut served = serve(client, Options::default());
        assert_eq!(soon(call).await.unwrap().payload(), b"early");
        let mut events = [served.event().await, served.event().await];
        events.sort();
        assert_eq!(events, ["frame Some(\"t\") early", "notification early"]);
        assert_eq!(served.rpc.client().frames().unwrap_err().kind(), ErrorKind::Busy);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invalid_rpc_frames_are_dropped() {
    on_every_transport(async |bus| {
        let served = serve(bus.client("plant").await, Options::default());
        let caller = Caller::new(bus.client("caller").await);
        for garbage in
            [&b""[..], b"\x05", b"\x01\x01\0", b"\x01\x01\0\0\0name", b"\x11\x01\0\0\0x", b"\x12\x01"]
        {
            caller.client().send("plant", garbage.to_vec(), QoS::Processed).await.unwrap();
        }
        // A request whose method is not text is answered.
        let mut frames = caller.client().frames().unwrap();
        caller.client().send("plant", b"\x01\x09\0\0\0\xff\0".to_vec(), QoS::Processed).await.unwrap();
        let answer = soon(frames.recv()).await.unwrap();
        assert_eq!(answer.payload()[..5], *b"\x12\x09\0\0\0");
        assert_eq!(answer.payload()[5..7], (-32114i16).to_le_bytes());
        assert_eq!(caller.call("plant", "echo", "x", QoS::Processed).await.unwrap().payload(), b"x");
        assert!(served.rpc.client().is_connected());
        assert_eq!(served.rpc.client().stats().unhandled, 6);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_called_client_can_answer() {
    on_every_transport(async |bus| {
        let _served = serve(bus.client("plant").await, Options::default());
        let caller = Caller::new(bus.client("caller").await);
        let liar = bus.client("liar").await;
        let call = caller.submit("plant", "wait", "", QoS::Processed).await.unwrap();
        for id in 0..10u8 {
            liar.send("caller", vec![0x11, id, 0, 0, 0, b'!'], QoS::Processed).await.unwrap();
        }
        _served.plant.gate.add_permits(1);
        assert_eq!(soon(call).await.unwrap().payload(), b"waited");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secondaries_answer_for_their_primary() {
    on_every_transport(async |bus| {
        let plant = bus.client("plant").await;
        let secondary = serve(plant.secondary().await.unwrap(), Options::default());
        let primary = bus.client("caller").await;
        let caller = Caller::new(primary.secondary().await.unwrap());
        let reply = caller.call("plant%%1", "who", "", QoS::Processed).await.unwrap();
        assert_eq!(reply.payload(), b"caller%%1 caller false");
        drop(secondary);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_handle_ends_the_server_though_its_handlers_hold_a_caller() {
    on_every_transport(async |bus| {
        let Served { rpc, plant, events } = serve(bus.client("plant").await, Options::default());
        let clone = rpc.clone();
        let client = rpc.client().clone();
        drop(rpc);
        let caller = Caller::new(bus.client("caller").await);
        caller.call("plant", "echo", "", QoS::Processed).await.unwrap();
        drop(clone);
        // The values that the tasks held are dropped.
        let weak = Arc::downgrade(&plant);
        drop(plant);
        while weak.strong_count() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        // The client still exists, and its frames can be taken again.
        let mut frames = client.frames().unwrap();
        caller.client().send("plant", "plain", QoS::Processed).await.unwrap();
        assert_eq!(soon(frames.recv()).await.unwrap().payload(), b"plain");
        drop(client);
        while bus.broker.clients().clients.iter().any(|c| c.name == "plant") {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        drop(events);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_broker_answers() {
    on_every_transport(async |bus| {
        let caller = Caller::new(bus.client("caller").await);
        assert_eq!(
            caller.call(".broker", "benchmark.test", "x", QoS::Processed).await.unwrap().payload(),
            b"x"
        );
        assert_eq!(caller.call(".broker", "none", "", QoS::Processed).await.unwrap_err().code(), -32601);
    })
    .await;
}
