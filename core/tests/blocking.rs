//! The blocking client against a broker that runs in its own runtime.
#![cfg(all(unix, feature = "broker", feature = "blocking"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod common;

use busrt::blocking::Client;
use busrt::broker::Options;
use busrt::client::{Config, Event, Reconnect, WhileDown};
use busrt::proto::request::Operation;
use busrt::{ErrorKind, QoS};
use bytes::Bytes;
use common::{Bus, PATIENCE};
use tokio::runtime::Runtime;

fn bus() -> (Runtime, Bus) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let bus = runtime.block_on(Bus::start(Options::default()));
    (runtime, bus)
}

#[test]
fn everything_once() {
    let (_runtime, bus) = bus();
    let a = Client::connect(&bus.config("a")).unwrap();
    let b = Client::connect(&bus.config("b")).unwrap();
    assert_eq!(Client::connect(&bus.config("a")).unwrap_err().kind(), ErrorKind::Busy);
    let mut frames = b.frames().unwrap();
    b.subscribe(["t/#", "u"], QoS::Processed).unwrap();
    b.exclude("t/no", QoS::Processed).unwrap();
    b.unsubscribe("u", QoS::Processed).unwrap();
    a.send("b", "message", QoS::Processed).unwrap();
    a.broadcast("b", "broadcast", QoS::Processed).unwrap();
    a.publish("t/x", "publication", QoS::Processed).unwrap();
    a.publish("t/no", "excluded", QoS::Processed).unwrap();
    a.publish("u", "unsubscribed", QoS::Processed).unwrap();
    a.publish_for("t/x", "b", "for b", QoS::Processed).unwrap();
    b.unexclude("t/no", QoS::Processed).unwrap();
    a.publish("t/no", "included", QoS::Processed).unwrap();
    for wanted in ["message", "broadcast", "publication", "for b", "included"] {
        assert_eq!(frames.recv().unwrap().unwrap().payload(), wanted.as_bytes());
    }
    assert_eq!(a.send("nobody", "x", QoS::Processed).unwrap_err().kind(), ErrorKind::NotRegistered);
    a.ping().unwrap();
    let secondary = a.secondary().unwrap();
    assert_eq!(secondary.name(), "a%%1");
    let operation = Operation::Message { target: "b", payload: Bytes::from("submitted") };
    secondary.submit(operation, QoS::Processed).unwrap().wait().unwrap();
    assert_eq!(frames.next().unwrap().sender(), "a%%1");
    a.disconnect().unwrap();
    assert!(!a.is_connected());
    assert_eq!(secondary.closed().unwrap().kind(), ErrorKind::ConnectionLost);
    drop(b);
    assert!(frames.next().is_none());
}

#[test]
fn threads_share_a_client() {
    let (_runtime, bus) = bus();
    let a = Client::connect(&bus.config("a")).unwrap();
    let frames = a.frames().unwrap();
    let threads: Vec<_> = (0..4u8)
        .map(|thread| {
            let a = a.clone();
            std::thread::spawn(move || {
                for _ in 0..100 {
                    a.send("a", vec![thread], QoS::Processed).unwrap();
                }
            })
        })
        .collect();
    let received: Vec<_> = frames.take(400).map(|frame| frame.payload()[0]).collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert!((0..4).all(|thread| received.iter().filter(|t| **t == thread).count() == 100));
}

#[cfg(feature = "rpc")]
mod rpc {
    use super::*;
    use busrt::blocking::{Handlers, Rpc};
    use busrt::client::{Deadline, Wait};
    use busrt::rpc::{Call, CallRequest, Notification, Options, RpcError};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex, OnceLock, mpsc};
    use std::time::Duration;

    struct Plant {
        back: OnceLock<Rpc>,
        notified: mpsc::Sender<Vec<u8>>,
    }

    impl Handlers for &'static Plant {
        fn on_call(&self, call: Call) -> Result<Bytes, RpcError> {
            match call.method() {
                "echo" => Ok(call.params_bytes()),
                "back" => Ok(self.back.get().unwrap().call("a", "echo", "from back", QoS::Processed)?.into()),
                "panic" => panic!("as told"),
                _ => Err(RpcError::method_not_found()),
            }
        }

        fn on_notification(&self, notification: Notification) {
            self.notified.send(notification.payload().to_vec()).unwrap();
        }
    }

    #[test]
    fn calls_and_callbacks() {
        let (_runtime, bus) = bus();
        for in_order in [false, true] {
            let (sender, notified) = mpsc::channel();
            let plant: &'static Plant =
                Box::leak(Box::new(Plant { back: OnceLock::new(), notified: sender }));
            let config = bus.config(&format!("b{in_order}"));
            let options = Options::default().in_order(in_order);
            let b = Rpc::with_options(Client::connect(&config).unwrap(), plant, options).unwrap();
            plant.back.set(b.clone()).unwrap();
            let a = Rpc::new(Client::connect(&bus.config("a")).unwrap(), plant).unwrap();
            let target = b.client().name();
            assert_eq!(a.call(target, "echo", "x", QoS::Processed).unwrap().payload(), b"x");
            assert_eq!(a.call(target, "back", "x", QoS::Processed).unwrap().payload(), b"from back");
            assert_eq!(a.call(target, "panic", "x", QoS::Processed).unwrap_err().code(), -32603);
            assert_eq!(a.call(target, "none", "x", QoS::Processed).unwrap_err().code(), -32601);
            assert_eq!(a.call("nobody", "none", "x", QoS::Processed).unwrap_err().code(), -32113);
            let pending = a.submit(target, "echo", "later", QoS::Processed).unwrap();
            a.notify(target, "note", QoS::Processed).unwrap();
            assert_eq!(notified.recv().unwrap(), b"note");
            assert_eq!(pending.wait().unwrap().payload(), b"later");
            a.client().disconnect().unwrap();
        }
    }

    /// Answers after some time, by calling the caller back.
    struct Back(OnceLock<busrt::rpc::Caller>);

    impl busrt::rpc::Handlers for &'static Back {
        async fn on_call(&self, _: Call) -> Result<Bytes, RpcError> {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            Ok(self.0.get().unwrap().call("outer", "inner", "", QoS::Processed).await?.into())
        }
    }

    struct Outer(OnceLock<Rpc>);

    impl Handlers for &'static Outer {
        fn on_call(&self, call: Call) -> Result<Bytes, RpcError> {
            if call.method() == "inner" {
                return Ok("inner".into());
            }
            Ok(self.0.get().unwrap().call("back", "", "", QoS::Processed)?.into())
        }
    }

    #[test]
    fn more_handlers_may_wait_than_a_runtime_has_threads() {
        // tokio has 512 threads for blocking work.
        const CALLS: usize = 600;
        let (runtime, bus) = bus();
        let outer: &'static Outer = Box::leak(Box::new(Outer(OnceLock::new())));
        let rpc = Rpc::new(Client::connect(&bus.config("outer")).unwrap(), outer).unwrap();
        outer.0.set(rpc).unwrap();
        let back: &'static Back = Box::leak(Box::new(Back(OnceLock::new())));
        let succeeded = runtime.block_on(async {
            let client = bus.client("back").await;
            back.0.set(busrt::rpc::Caller::new(client.clone())).unwrap();
            let _back = busrt::rpc::Rpc::new(client, back);
            let caller = busrt::rpc::Caller::new(bus.client("user").await);
            let mut calls = vec![];
            for _ in 0..CALLS {
                calls.push(caller.submit("outer", "outer", "", QoS::Processed).await.unwrap());
            }
            let mut succeeded = 0;
            for call in calls {
                succeeded += usize::from(call.await.is_ok());
            }
            succeeded
        });
        assert_eq!(succeeded, CALLS);
    }

    /// Sleeps in each call, and counts how many calls do so at the same time.
    #[derive(Default)]
    struct Sleepy {
        now: AtomicUsize,
        most: AtomicUsize,
        handled: Mutex<Vec<u8>>,
    }

    impl Handlers for Sleepy {
        fn on_call(&self, call: Call) -> Result<Bytes, RpcError> {
            let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
            self.most.fetch_max(now, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(2));
            self.handled.lock().unwrap().push(call.params()[0]);
            self.now.fetch_sub(1, Ordering::SeqCst);
            Ok(call.params_bytes())
        }

        fn on_notification(&self, notification: Notification) {
            self.handled.lock().unwrap().push(notification.payload()[0]);
        }
    }

    #[test]
    fn no_more_concurrent_calls_than_allowed() {
        const CALLS: u8 = 100;
        let (_runtime, bus) = bus();
        let caller = Client::connect(&bus.config("caller")).unwrap();
        let caller = Rpc::new(caller, ()).unwrap();
        for most in [1, 3, 64] {
            let sleepy = Arc::new(Sleepy::default());
            let client = Client::connect(&bus.config("server")).unwrap();
            let options = Options::default().max_concurrent(most);
            let server = Rpc::with_options(client, sleepy.clone(), options).unwrap();
            let calls: Vec<_> =
                (0..CALLS).map(|n| caller.submit("server", "m", vec![n], QoS::Processed).unwrap()).collect();
            for (n, call) in (0..CALLS).zip(calls) {
                assert_eq!(call.wait().unwrap().payload(), [n]);
            }
            let reached = sleepy.most.load(Ordering::SeqCst);
            assert!(reached <= most && (most == 1 || reached > 1), "{reached} of {most}");
            server.client().disconnect().unwrap();
        }
    }

    #[test]
    fn in_order_is_in_order() {
        let (_runtime, bus) = bus();
        let caller = busrt::blocking::Caller::new(Client::connect(&bus.config("caller")).unwrap());
        let sleepy = Arc::new(Sleepy::default());
        let client = Client::connect(&bus.config("server")).unwrap();
        let options = Options::default().in_order(true);
        let _server = Rpc::with_options(client, sleepy.clone(), options).unwrap();
        for n in 0..50 {
            if n % 3 == 0 {
                caller.call0("server", "m", vec![n], QoS::Processed).unwrap();
            } else {
                caller.notify("server", vec![n], QoS::Processed).unwrap();
            }
        }
        caller.call("server", "m", vec![50], QoS::Processed).unwrap();
        assert!(sleepy.handled.lock().unwrap().iter().copied().eq(0..=50));
    }

    /// Handles a call when the test releases it.
    struct Gate(Mutex<mpsc::Receiver<()>>);

    impl Handlers for Gate {
        fn on_call(&self, call: Call) -> Result<Bytes, RpcError> {
            self.0.lock().unwrap().recv().unwrap();
            Ok(call.params_bytes())
        }
    }

    #[test]
    fn calls_may_be_waited_for_in_every_way() {
        let (_runtime, bus) = bus();
        let (open, gate) = mpsc::channel();
        let server = Client::connect(&bus.config("server")).unwrap();
        let server = Rpc::new(server, Gate(Mutex::new(gate))).unwrap();
        let rpc = Rpc::new(Client::connect(&bus.config("caller")).unwrap(), ()).unwrap();
        let call = CallRequest::new("server", "m", b"x", QoS::Processed).deadline(Deadline::Never);
        let pending = rpc.caller().start(&call, Wait::forever()).unwrap();
        assert!(pending.wait_timeout(Duration::from_millis(10)).is_none() && !pending.is_completed());
        let e = rpc.caller().call_with(&call, Wait::at_most(Duration::from_millis(10))).unwrap_err();
        assert_eq!((e.code(), e.origin()), (-32120, busrt::rpc::Origin::Client));
        let mut check = || Err(ErrorKind::Other.into());
        let wait = Wait::forever().slice(Duration::from_millis(1)).check(&mut check);
        assert_eq!(rpc.caller().call_with(&call, wait).unwrap_err().kind(), Some(ErrorKind::Other));
        let e = rpc.call_with_deadline("server", "m", "", QoS::Processed, Duration::from_millis(10));
        assert_eq!(e.unwrap_err().code(), -32120);
        (0..4).for_each(|_| open.send(()).unwrap());
        assert_eq!(pending.wait().unwrap().payload(), b"x");
        assert_eq!(pending.wait_timeout(Duration::ZERO).unwrap().unwrap().payload(), b"x");
        // A client that drains waits for its handlers.
        let last = rpc.caller().start(&call, Wait::forever()).unwrap();
        let taken = || server.client().stats().queue == 0 && server.client().stats().r_frames == 5;
        while !taken() {
            std::thread::sleep(Duration::from_millis(1));
        }
        let draining = std::thread::spawn({
            let server = server.client().clone();
            move || server.drain(PATIENCE)
        });
        std::thread::sleep(Duration::from_millis(50));
        assert!(!draining.is_finished());
        open.send(()).unwrap();
        assert!(draining.join().unwrap().unwrap());
        assert_eq!(last.wait().unwrap().payload(), b"x");
    }

    #[test]
    fn a_dropped_server_takes_no_more_requests() {
        let (_runtime, bus) = bus();
        let (open, gate) = mpsc::channel();
        let client = Client::connect(&bus.config("server")).unwrap();
        let options = Options::default().max_concurrent(1);
        let server = Rpc::with_options(client.clone(), Gate(Mutex::new(gate)), options).unwrap();
        let rpc = Rpc::new(Client::connect(&bus.config("caller")).unwrap(), ()).unwrap();
        let first = rpc.submit("server", "m", "1", QoS::Processed).unwrap();
        while client.stats().queue > 0 || client.stats().r_frames == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        // The call in progress is answered; the next one goes to the server that takes over.
        let second = rpc.submit("server", "m", "2", QoS::Processed).unwrap();
        let successor = Rpc::new(client.clone(), Arc::new(Sleepy::default())).unwrap();
        assert_eq!(second.wait().unwrap().payload(), b"2");
        drop(server);
        open.send(()).unwrap();
        assert_eq!(first.wait().unwrap().payload(), b"1");
        drop(successor);
        let mut frames = client.frames().unwrap();
        rpc.notify("server", "x", QoS::Processed).unwrap();
        assert_eq!(frames.recv_timeout(PATIENCE).unwrap().unwrap().payload(), b"\0x");
    }

    #[test]
    fn threads_call_over_one_client() {
        let (_runtime, bus) = bus();
        let client = Client::connect(&bus.config("server")).unwrap();
        let _server = Rpc::new(client, Arc::new(Sleepy::default())).unwrap();
        let rpc = Rpc::new(Client::connect(&bus.config("caller")).unwrap(), ()).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..8u8 {
                let rpc = &rpc;
                scope.spawn(move || {
                    for n in 0..50u8 {
                        let reply = rpc.call("server", "m", vec![thread, n], QoS::Processed).unwrap();
                        assert_eq!(reply.payload(), [thread, n]);
                    }
                });
            }
        });
    }

    #[cfg(feature = "cursors")]
    #[test]
    fn cursors_on_plain_threads() {
        use busrt::cursor::{CursorMap, from_iter};

        struct Rows(CursorMap);

        impl Handlers for Rows {
            fn on_call(&self, call: Call) -> Result<Bytes, RpcError> {
                if let Some(answer) = self.0.handle_blocking(call.method(), call.params()) {
                    return answer;
                }
                let rows = from_iter((0..10u8).map(|n| Bytes::from(vec![n])));
                Ok(CursorMap::reply(self.0.add(rows)))
            }
        }

        let (_runtime, bus) = bus();
        let rows = Rows(CursorMap::new(Duration::from_secs(60)));
        let _server = Rpc::new(Client::connect(&bus.config("server")).unwrap(), rows).unwrap();
        let rpc = Rpc::new(Client::connect(&bus.config("caller")).unwrap(), ()).unwrap();
        let all =
            |items: Vec<Result<Bytes, RpcError>>| items.into_iter().map(|item| item.unwrap()[0]).eq(0..10);
        assert!(all(rpc.cursor("server", "rows", "").unwrap().collect()));
        assert!(all(rpc.cursor("server", "rows", "").unwrap().bulk(4).collect()));
        let mut cursor = rpc.cursor("server", "rows", "").unwrap();
        assert_eq!(cursor.next().unwrap().unwrap(), vec![0]);
        assert_eq!(cursor.next_bulk(4).unwrap(), [[1], [2], [3], [4]].map(|n| Bytes::from(n.to_vec())));
        assert_eq!(cursor.next_bulk(100).unwrap().len(), 5);
        assert!(cursor.next().is_none());
        assert!(cursor.next_bulk(1).unwrap().is_empty());
    }
}

/// Every waiting thread is woken when another one ends the client.
#[test]
fn the_end_wakes_every_thread_that_waits() {
    use std::sync::mpsc;
    use std::time::Duration;

    for local in [false, true] {
        let (runtime, bus) = bus();
        let client = Client::connect(&bus.config("a")).unwrap();
        let (mut frames, mut events) = (client.frames().unwrap(), client.events().unwrap());
        let (told, tells) = mpsc::channel();
        let spawn = |wait: Box<dyn FnOnce() -> String + Send>| {
            let told = told.clone();
            std::thread::spawn(move || told.send(wait()).unwrap());
        };
        spawn(Box::new(move || format!("frames {:?}", frames.recv())));
        spawn(Box::new(move || {
            while let Ok(Some(event)) = events.recv() {
                if matches!(event, Event::Disconnected { last: true, .. }) {
                    return "events".into();
                }
            }
            "no event".into()
        }));
        let (closed, flood) = (client.clone(), client.clone());
        spawn(Box::new(move || format!("closed {:?}", closed.closed().map(|e| e.kind()))));
        // It reads nothing, so that its sender waits for room.
        let slow = bus.peer("slow");
        spawn(Box::new(move || {
            loop {
                if let Err(e) = flood.send("slow", vec![0; 1 << 20], QoS::No) {
                    return format!("room {:?}", e.kind());
                }
            }
        }));
        std::thread::sleep(Duration::from_millis(300));
        assert!(tells.try_recv().is_err());
        let started = std::time::Instant::now();
        if local {
            assert!(runtime.block_on(async { bus.broker.disconnect("a") }));
        } else {
            let client = client.clone();
            std::thread::spawn(move || client.disconnect());
        }
        let mut answers: Vec<_> = (0..3).map(|_| tells.recv_timeout(PATIENCE).unwrap()).collect();
        if let Some(at) = answers.iter().position(|answer| answer == "events") {
            answers.swap_remove(at);
            answers.push(tells.recv_timeout(PATIENCE).unwrap());
        }
        assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
        answers.sort_unstable();
        assert_eq!(answers, ["closed Ok(ConnectionLost)", "frames Ok(None)", "room ConnectionLost"]);
        drop(slow);
    }
}

mod forked {
    //! A child process cannot use a client of its parent: every use fails. It can connect its own client.
    use super::*;

    unsafe extern "C" {
        fn fork() -> i32;
        fn waitpid(pid: i32, status: *mut i32, options: i32) -> i32;
        fn _exit(status: i32) -> !;
    }

    #[test]
    fn a_child_connects_its_own_client_and_cannot_use_its_parents() {
        let (_runtime, bus) = bus();
        let a = Client::connect(&bus.config("a")).unwrap();
        let config = bus.config("child");
        // SAFETY: `fork` takes no arguments; the child only does what forking programs do, and then exits.
        let pid = unsafe { fork() };
        if pid == 0 {
            let works = || -> busrt::Result<bool> {
                let refused = a.send("a", "x", QoS::No).unwrap_err();
                drop(a);
                let child = Client::connect(&config)?;
                child.send("a", "from the child", QoS::Processed)?;
                child.disconnect()?;
                Ok(refused.to_string().contains("fork"))
            };
            let status = i32::from(!works().unwrap_or(false));
            // SAFETY: `_exit` ends the process and does not return.
            unsafe { _exit(status) };
        }
        let mut status = -1;
        // SAFETY: `status` is valid for writes while the call lasts.
        assert_eq!(unsafe { waitpid(pid, &raw mut status, 0) }, pid);
        assert_eq!(status, 0);
        let frame = a.frames().unwrap().recv().unwrap().unwrap();
        assert_eq!((frame.sender(), frame.payload()), ("child", &b"from the child"[..]));
        a.send("a", "still there", QoS::Processed).unwrap();
    }
}

#[test]
fn it_reconnects_and_reports_it() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bus.sock").display().to_string();
    let start = || {
        runtime.block_on(async {
            let broker = busrt::broker::Broker::new(busrt::broker::Options::default());
            broker.listen(&path).await.unwrap();
            broker
        })
    };
    let broker = start();
    let config = Config::new(&path, "a").timeout(PATIENCE);
    let config = config.reconnect(Reconnect::new()).while_down(WhileDown::Wait(PATIENCE));
    let client = Client::connect(&config).unwrap();
    let mut frames = client.frames().unwrap();
    let mut events = client.events().unwrap();
    client.subscribe("t", QoS::Processed).unwrap();
    assert_eq!(events.recv().unwrap(), Some(Event::Connected));
    {
        let _guard = runtime.enter();
        drop(broker);
    }
    assert!(matches!(events.recv().unwrap(), Some(Event::Disconnected { .. })));
    let _broker = start();
    client.publish("t", "x", QoS::Processed).unwrap();
    assert_eq!(frames.recv().unwrap().unwrap().topic(), Some("t"));
    assert!(events.any(|event| event == Event::Connected));
    assert!(client.drain(PATIENCE).unwrap());
    assert!(events.last().is_some() && frames.next().is_none());
}

/// The client has no connection when it is dropped: its queued operations are sent over the next one.
#[test]
fn a_drop_waits_until_queued_operations_are_sent_over_the_next_connection() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bus.sock").display().to_string();
    let start = || {
        runtime.block_on(async {
            let broker = busrt::broker::Broker::new(busrt::broker::Options::default());
            let listener = broker.client("listener").await.unwrap();
            listener.subscribe("t", QoS::Processed).await.unwrap();
            broker.listen(&path).await.unwrap();
            (broker, listener)
        })
    };
    let first = start();
    let config = Config::new(&path, "a").timeout(PATIENCE);
    let config = config.reconnect(Reconnect::new()).while_down(WhileDown::Queue(1 << 20));
    let client = Client::connect(&config).unwrap();
    {
        let _guard = runtime.enter();
        drop(first);
    }
    while client.is_connected() {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    client.publish("t", "queued", QoS::No).unwrap();
    let dropping = std::thread::spawn(move || drop(client));
    let (_broker, listener) = start();
    let frame = runtime.block_on(common::next(&mut listener.frames().unwrap()));
    assert_eq!(frame.payload(), b"queued");
    dropping.join().unwrap();
}
