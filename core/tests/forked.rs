//! A child made by fork and the clients of its parent: every use fails or does nothing, nothing hangs, and the
//! parent's connections are not affected.
#![cfg(all(unix, feature = "broker", feature = "rpc", feature = "blocking"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod common;

use busrt::broker::Options;
use busrt::client::{Client, CompletionQueue, Deadline, Reconnect, Request, Stats, Wait, WakeFd};
use busrt::rpc::{CallRequest, Caller, Incoming, Rpc, Serving};
use busrt::{ErrorKind, QoS, blocking};
use common::{Bus, PATIENCE};
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::runtime::Runtime;

unsafe extern "C" {
    fn fork() -> i32;
    fn waitpid(pid: i32, status: *mut i32, options: i32) -> i32;
    fn _exit(status: i32) -> !;
    fn alarm(seconds: u32) -> u32;
}

/// A child that hangs is killed after this time.
const CHILD_SECONDS: u32 = 10;

/// Runs `child` in a child process and returns its wait status: 0 when it returns true.
fn in_child(child: impl FnOnce() -> bool) -> i32 {
    // SAFETY: `fork` takes no arguments; the child does what forking programs do, and exits.
    let pid = unsafe { fork() };
    if pid == 0 {
        // SAFETY: `alarm` ends the process after the time.
        unsafe { alarm(CHILD_SECONDS) };
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(child));
        // SAFETY: `_exit` ends the process.
        unsafe { _exit(i32::from(!result.unwrap_or(false))) };
    }
    let mut status = -1;
    // SAFETY: `status` is valid for writes while the call lasts.
    assert_eq!(unsafe { waitpid(pid, &raw mut status, 0) }, pid);
    status
}

fn bus() -> (Runtime, Bus) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let bus = runtime.block_on(Bus::start(Options::default()));
    (runtime, bus)
}

/// Polls a future once: in a child, no future may be pending.
fn once<F: Future>(future: F) -> Option<F::Output> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

fn is_refused<T, E: std::fmt::Display>(result: Result<T, E>) -> bool {
    result.is_err_and(|e| e.to_string().contains("fork"))
}

#[test]
fn a_blocking_client_is_refused_and_its_frames_stay_with_the_parent() {
    let (_runtime, bus) = bus();
    let a = blocking::Client::connect(&bus.config("a")).unwrap();
    let rpc = blocking::Rpc::new(blocking::Client::connect(&bus.config("rpc")).unwrap(), ()).unwrap();
    let mut frames = a.frames().unwrap();
    let mut events = a.events().unwrap();
    for i in 0..10u8 {
        a.send("a", vec![i], QoS::Processed).unwrap();
    }
    // The others are in the batch, because the parent has taken a frame.
    assert_eq!(frames.recv().unwrap().unwrap().payload(), [0]);
    let status = in_child(|| {
        is_refused(frames.recv())
            && is_refused(frames.recv_timeout(Duration::from_millis(1)))
            && frames.try_recv().is_none()
            && frames.next().is_none()
            && is_refused(events.recv())
            && events.try_recv().is_none()
            && is_refused(a.events())
            && is_refused(a.frames())
            && is_refused(a.publish("t", "x", QoS::No))
            && is_refused(a.ping())
            && is_refused(a.disconnect())
            && is_refused(a.closed())
            && is_refused(rpc.call("a", "m", "", QoS::No))
            && is_refused(rpc.notify("a", "", QoS::No))
            && !a.is_connected()
            && a.stats() == Stats::default()
            && {
                a.on_event(|_| ()).detach();
                drop((frames, events, a.clone(), rpc.clone()));
                true
            }
    });
    assert_eq!(status, 0);
}

#[test]
fn the_parent_continues_after_its_child_dropped_everything() {
    let (_runtime, bus) = bus();
    let a = blocking::Client::connect(&bus.config("a")).unwrap();
    let mut frames = Some(a.frames().unwrap());
    let mut client = Some(a);
    let rpc = blocking::Rpc::new(blocking::Client::connect(&bus.config("rpc")).unwrap(), ()).unwrap();
    let mut server = Some(rpc);
    let status = in_child(|| {
        drop((frames.take(), client.take(), server.take()));
        true
    });
    assert_eq!(status, 0);
    let (a, mut frames, rpc) = (client.unwrap(), frames.unwrap(), server.unwrap());
    a.send("a", "still there", QoS::Processed).unwrap();
    assert_eq!(frames.recv().unwrap().unwrap().payload(), b"still there");
    // The server answers that there is no such method.
    assert_eq!(rpc.call("rpc", "none", "", QoS::Processed).unwrap_err().code(), -32601);
}

#[test]
fn an_async_client_is_refused_too() {
    let (runtime, bus) = bus();
    for reconnects in [false, true] {
        let name = format!("a{reconnects}");
        let config = bus.config(&name).reconnect(reconnects.then(Reconnect::new));
        let client = runtime.block_on(Client::connect(&config)).unwrap();
        refuses(client);
    }
    let client = runtime.block_on(bus.broker.client("local")).unwrap();
    refuses(client);
}

fn refuses(client: Client) {
    let name = client.name().to_owned();
    let mut frames = client.frames().unwrap();
    let mut events = client.events();
    let caller = Caller::new(client.clone());
    let (mut room, mut flush) = (client.room(), client.flush());
    let request = Request::message(&name, "from the child", QoS::Processed);
    let status = in_child(|| {
        once(client.send(&name, "from the child", QoS::Realtime)).is_some_and(is_refused)
            && once(client.send(&name, "from the child", QoS::Processed)).is_some_and(is_refused)
            && once(client.subscribe("t", QoS::No)).is_some_and(is_refused)
            && once(client.ping()).is_some_and(is_refused)
            && once(client.secondary()).is_some_and(is_refused)
            && once(client.disconnect()).is_some()
            && once(client.drain(PATIENCE)) == Some(false)
            && once(client.closed()).is_some_and(|e| e.kind() == ErrorKind::NotSupported)
            && once(caller.call(&name, "m", "", QoS::No)).is_some_and(is_refused)
            && once(caller.call0(&name, "m", "", QoS::No)).is_some_and(is_refused)
            && is_refused(client.frames())
            && matches!(once(frames.recv()), Some(None))
            && frames.try_recv().is_none()
            && frames.take_batch(&mut vec![], 10, 1000).is_none()
            && is_refused(client.try_send(&request))
            && is_refused(client.send_in_order(&request))
            && once(client.submit_request(&request)).is_some_and(is_refused)
            && is_refused(room.wait(Wait::at_most(Duration::from_millis(1))))
            && is_refused(flush.wait(Wait::at_most(Duration::from_millis(1))))
            && once(events.recv()) == Some(None)
            && events.try_recv().is_none()
            && once(client.events().recv()) == Some(None)
            && !client.is_connected()
            && client.stats() == Stats::default()
            && {
                client.on_event(|_| ()).detach();
                client.close();
                drop((frames, events, caller, room, flush, client));
                true
            }
    });
    assert_eq!(status, 0, "{name}");
}

/// The other values that a program holds: handles of operations and calls, callbacks, weak handles, parts of a
/// server.
#[test]
fn a_child_gets_nothing_of_the_handles_of_its_parent() {
    let (runtime, bus) = bus();
    let client = runtime.block_on(Client::connect(&bus.config("a"))).unwrap();
    let quiet = runtime.block_on(Client::connect(&bus.config("quiet"))).unwrap();
    let caller = Caller::new(client.clone());
    let frames = client.frames().unwrap();
    let mut events = client.events();
    let request = Request::message("a", "x", QoS::Processed);
    let done = client.try_send(&request).unwrap().sent().unwrap();
    assert!(done.wait_timeout(PATIENCE).unwrap().is_ok());
    let call = CallRequest::new("quiet", "m", "", QoS::No).deadline(Deadline::Never);
    let pending = caller.try_call(&call).unwrap().sent().unwrap();
    let Serving { requests, notifications, frames: publications, .. } = Serving::new(&quiet);
    let callback = client.on_event(|_| ());
    let weak = client.downgrade();
    let (room, flush) = (client.room(), client.flush());
    let descriptor = WakeFd::new().unwrap();
    let server = {
        let _guard = runtime.enter();
        let own = runtime.block_on(Client::connect(&bus.config("server"))).unwrap();
        Rpc::new(own, ())
    };
    let mut parts = Some((frames, requests, notifications, publications, callback, room, flush, server));
    let mut kept = Some((done, pending));
    let status = in_child(|| {
        let (done, pending) = kept.take().unwrap();
        let (mut frames, mut requests, notifications, publications, callback, room, flush, server) =
            parts.take().unwrap();
        let short = || Wait::at_most(Duration::from_millis(1));
        let mut batch = vec![];
        done.is_completed()
            && done.result().is_some_and(is_refused)
            && is_refused(done.wait(short()).map(Option::unwrap).unwrap())
            && once(done).is_some_and(is_refused)
            && pending.is_completed()
            && pending.result().is_some_and(is_refused)
            && once(pending).is_some_and(is_refused)
            && weak.upgrade().is_some_and(|client| !client.is_connected())
            && matches!(requests.wait_batch(&mut batch, 10, Wait::forever()), Ok(None))
            && once(server.call("a", "m", "", QoS::No)).is_some_and(is_refused)
            && is_refused(caller.try_call(&call))
            && !caller.cancel(1)
            && frames.poll_recv(&mut Context::from_waker(Waker::noop())).is_ready()
            && once(std::future::poll_fn(|cx| events.poll_recv(cx))) == Some(None)
            && {
                frames.set_wake_up(&descriptor);
                requests.set_wake_up(&descriptor);
                drop((frames, requests, notifications, publications, callback, room, flush, server));
                drop((client.clone(), caller.clone(), weak.clone()));
                true
            }
    });
    assert_eq!(status, 0);
    let (mut frames, mut requests, .., server) = parts.unwrap();
    assert_eq!(frames.try_recv().unwrap().payload(), b"x");
    let mut batch = vec![];
    assert!(requests.wait_batch(&mut batch, 10, Wait::forever()).unwrap().is_some());
    let Some(Incoming::Request(_, responder)) = batch.pop() else { panic!("no request") };
    responder.reply("from the parent");
    let (done, pending) = kept.unwrap();
    assert!(done.is_acknowledged());
    assert_eq!(pending.wait_timeout(PATIENCE).expect("no reply").unwrap().payload(), b"from the parent");
    assert!(server.client().is_connected());
}

/// A client within the broker's process, secondary clients, and clients that reconnect.
#[test]
fn a_child_uses_no_kind_of_client() {
    let (runtime, bus) = bus();
    let primary = runtime.block_on(Client::connect(&bus.config("primary"))).unwrap();
    let local = runtime.block_on(bus.broker.client("local")).unwrap();
    for client in
        [runtime.block_on(primary.secondary()).unwrap(), runtime.block_on(local.secondary()).unwrap()]
    {
        refuses(client);
    }
    // The child has dropped its copies of the secondaries, and the parent its own.
    runtime.block_on(primary.send("primary", "x", QoS::Processed)).unwrap();
    runtime.block_on(local.send("local", "x", QoS::Processed)).unwrap();
}

#[test]
fn a_child_never_waits_for_a_lock_of_its_parent() {
    let (_runtime, bus) = bus();
    let a = blocking::Client::connect(&bus.config("a")).unwrap();
    let mut frames = a.frames().unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let busy: Vec<_> = (0..2)
        .map(|_| {
            let (a, stop) = (a.clone(), stop.clone());
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    std::hint::black_box((a.stats(), a.is_connected(), a.events().is_ok()));
                }
            })
        })
        .collect();
    for _ in 0..60 {
        let status = in_child(|| {
            let _ = frames.recv_timeout(Duration::from_millis(1));
            let _ = (a.stats(), a.is_connected(), a.events());
            true
        });
        assert_eq!(status, 0, "a child has hung or failed");
    }
    stop.store(true, Ordering::Relaxed);
    busy.into_iter().for_each(|thread| thread.join().unwrap());
    a.send("a", "still there", QoS::Processed).unwrap();
    assert_eq!(frames.recv().unwrap().unwrap().payload(), b"still there");
}

/// The child is forked while a thread of the parent polls the socket.
#[test]
fn a_child_does_not_wait_for_an_answer_of_its_parent() {
    let (_runtime, bus) = bus();
    let a = blocking::Client::connect(&bus.config("a")).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let conversing = std::thread::spawn({
        let (a, stop) = (a.clone(), stop.clone());
        move || {
            while !stop.load(Ordering::Relaxed) {
                a.publish("t", "x", QoS::Processed).unwrap();
            }
        }
    });
    for _ in 0..30 {
        let operation = busrt::proto::request::Operation::Publish { topic: "t", payload: "x".into() };
        let pending = a.submit(operation, QoS::Processed).unwrap();
        let status =
            in_child(|| is_refused(pending.wait()) && is_refused(a.publish("t", "x", QoS::Processed)));
        assert_eq!(status, 0, "a child has hung or failed");
        pending.wait().unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    conversing.join().unwrap();
    a.publish("t", "x", QoS::Processed).unwrap();
}

#[test]
fn a_child_serves_nothing() {
    let (runtime, bus) = bus();
    let server = runtime.block_on(Client::connect(&bus.config("server"))).unwrap();
    let caller = Caller::new(runtime.block_on(Client::connect(&bus.config("caller"))).unwrap());
    let mut serving = Serving::new(&server);
    let calls: Vec<_> =
        (0..3).map(|_| runtime.block_on(caller.submit("server", "m", "", QoS::Processed)).unwrap()).collect();
    let mut batch = vec![];
    while batch.is_empty() {
        serving.requests.take_batch(&mut batch, 1);
        std::thread::sleep(Duration::from_millis(1));
    }
    let (mut kept, mut parts) = (Some(batch), Some(serving));
    let status = in_child(|| {
        let mut serving = parts.take().unwrap();
        for incoming in kept.take().unwrap() {
            match incoming {
                Incoming::Request(_, responder) => responder.reply("from the child"),
                other => panic!("{other:?}"),
            }
        }
        serving.requests.take_batch(&mut vec![], 10).is_none() && {
            drop((serving, server.clone()));
            true
        }
    });
    assert_eq!(status, 0);
    let (mut batch, mut serving) = (kept.unwrap(), parts.unwrap());
    while batch.len() < calls.len() {
        assert!(serving.requests.wait_batch(&mut batch, 10, Wait::at_most(PATIENCE)).unwrap().is_some());
    }
    for incoming in batch {
        let Incoming::Request(_, responder) = incoming else { panic!("no request") };
        responder.reply("from the parent");
    }
    for call in calls {
        let reply = call.wait_timeout(PATIENCE).expect("no reply").unwrap();
        assert_eq!(reply.payload(), b"from the parent");
    }
}

#[test]
fn a_child_finds_the_completions_of_its_parent_empty() {
    let (runtime, bus) = bus();
    let client = runtime.block_on(Client::connect(&bus.config("a"))).unwrap();
    let queue = CompletionQueue::new();
    let request = Request::message("a", "x", QoS::Processed);
    for token in 0..3 {
        assert!(client.try_send_to(&request, &queue, token).unwrap().is_sent());
    }
    while queue.len() < 3 {
        assert!(queue.wait(Wait::at_most(PATIENCE)).unwrap());
    }
    let mut kept = Some(queue);
    let status = in_child(|| {
        let queue = kept.take().unwrap();
        queue.is_empty()
            && queue.try_take().is_none()
            && queue.take(&mut vec![], 10) == 0
            && once(queue.ready()).is_some()
            && is_refused(queue.wait(Wait::at_most(Duration::from_millis(1))))
            && is_refused(client.try_send_to(&request, &queue, 9))
    });
    assert_eq!(status, 0);
    let mut batch = vec![];
    assert_eq!(kept.unwrap().take(&mut batch, 10), 3);
    assert!(batch.iter().all(|completion| completion.error().is_none()));
}
