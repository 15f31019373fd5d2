//! Callbacks, wakers and destructors of the program that embeds the broker may use the whole public interface: none
//! of them runs under a lock of the broker or of a client.
#![cfg(all(unix, feature = "broker", feature = "ipc"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod common;

use busrt::broker::{Broker, Options};
use busrt::client::{Client, Config, Event, Frames, PendingOperation, Request};
use busrt::{ErrorKind, QoS};
use bytes::Bytes;
use common::raw::{MESSAGE, PUBLISH, Raw, payload};
use common::{PATIENCE, eventually};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

/// Runs a case in a runtime on its own thread, and fails if it does not end: a thread in a deadlock cannot be
/// stopped.
fn without_deadlock(case: impl AsyncFnOnce() + Send + 'static) {
    let (done, ended) = mpsc::channel();
    std::thread::spawn(move || {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(case());
        done.send(()).unwrap();
        runtime.shutdown_background();
    });
    match ended.recv_timeout(Duration::from_secs(20)) {
        Ok(()) => {}
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("a deadlock"),
        Err(mpsc::RecvTimeoutError::Disconnected) => panic!("the case failed"),
    }
}

/// A callback that disconnects another client by its name when its own client is disconnected.
#[test]
fn a_callback_that_disconnects_another_client() {
    without_deadlock(async || {
        let broker = Broker::new(Options::new());
        let first = broker.client("first").await.unwrap();
        let second = broker.client("second").await.unwrap();
        let called = Arc::new(AtomicUsize::new(0));
        first
            .on_event({
                let (broker, called) = (broker.clone(), called.clone());
                move |event| {
                    if matches!(event, Event::Disconnected { .. }) {
                        broker.disconnect("second");
                        called.fetch_add(1, Ordering::SeqCst);
                    }
                }
            })
            .detach();
        assert!(broker.disconnect("first"));
        eventually("both clients have left", || !first.is_connected() && !second.is_connected()).await;
        eventually("the callback was called", || called.load(Ordering::SeqCst) == 1).await;
        broker.client("first").await.unwrap();
    });
}

/// Callbacks that each disconnect the next client, through each of the broker's methods.
#[test]
fn callbacks_that_disconnect_in_a_chain() {
    without_deadlock(async || {
        let broker = Broker::new(Options::new());
        let mut clients = vec![];
        for i in 0..20 {
            let client = broker.client(&format!("c{i}")).await.unwrap();
            client
                .on_event({
                    let broker = broker.clone();
                    move |event| {
                        if matches!(event, Event::Disconnected { .. }) {
                            broker.disconnect(&format!("c{}", i + 1));
                            broker.clients();
                            broker.stats();
                        }
                    }
                })
                .detach();
            clients.push(client);
        }
        broker.disconnect("c0");
        eventually("all clients have left", || clients.iter().all(|client| !client.is_connected())).await;
        assert_eq!(broker.clients().clients.len(), 1);
    });
}

/// A callback that only owns the last handle of another client: dropping the callback disconnects that one.
#[test]
fn a_callback_that_owns_the_last_handle_of_a_client() {
    without_deadlock(async || {
        let broker = Broker::new(Options::new());
        let first = broker.client("first").await.unwrap();
        let second = broker.client("second").await.unwrap();
        first
            .on_event(move |_| {
                let _ = second.name();
            })
            .detach();
        assert!(broker.disconnect("first"));
        drop(first);
        eventually("both clients have left", || broker.clients().clients.len() == 1).await;
        broker.client("second").await.unwrap();
    });
}

/// Callbacks that own handles, when the client ends itself, when a new client evicts it, and when the broker ends.
#[test]
fn owners_of_handles_at_every_kind_of_end() {
    without_deadlock(async || {
        for kind in 0..4 {
            let broker = Broker::new(Options::new().force_register(true).drain(Duration::ZERO));
            let first = broker.client("first").await.unwrap();
            let second = broker.client("second").await.unwrap();
            first
                .on_event(move |_| {
                    let _ = second.name();
                })
                .detach();
            match kind {
                0 => first.disconnect().await,
                1 => drop(broker.client("first").await.unwrap()),
                2 => broker.shutdown().await,
                _ => drop(broker),
            }
            eventually("the first client has left", || !first.is_connected()).await;
            drop(first);
        }
    });
}

/// A callback that owns the last handle of the broker.
#[test]
fn a_callback_that_owns_the_last_handle_of_the_broker() {
    without_deadlock(async || {
        let broker = Broker::new(Options::new());
        let first = broker.client("first").await.unwrap();
        let second = broker.client("second").await.unwrap();
        let owned = Mutex::new(Some(broker));
        first
            .on_event(move |event| {
                if matches!(event, Event::Disconnected { .. }) {
                    drop(owned.lock().take());
                }
            })
            .detach();
        first.disconnect().await;
        drop(first);
        eventually("the broker has ended", || !second.is_connected()).await;
    });
}

/// A remote flood ends an in-process client's session during a delivery to it; its callback calls the broker.
#[test]
fn a_callback_while_a_client_is_flooded() {
    without_deadlock(async || {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bus.sock").display().to_string();
        let broker = Broker::new(Options::new().timeout(PATIENCE));
        broker.listen(&path).await.unwrap();
        let local = broker.client("local").await.unwrap();
        local.subscribe("t", QoS::Processed).await.unwrap();
        local
            .on_event({
                let broker = broker.clone();
                move |_| {
                    broker.disconnect("flood");
                }
            })
            .detach();
        let mut flood = Raw::register(&path, "flood");
        for i in 0..1000 {
            flood.send(PUBLISH, &payload(b"t\0", i, 100));
            flood.send(MESSAGE, &payload(b"local\0", i, 100));
        }
        broker.disconnect("local");
        eventually("both clients have left", || broker.clients().clients.len() == 1).await;
    });
}

/// Calls into the broker whenever it is woken.
struct CallsBack {
    broker: Broker,
    client: Client,
    woken: AtomicUsize,
}

impl Wake for CallsBack {
    fn wake(self: Arc<Self>) {
        self.broker.clients();
        self.broker.stats();
        self.broker.disconnect("another");
        assert_eq!(self.client.name(), "woken");
        let _ = self.client.is_connected();
        let _ = self.client.stats();
        self.woken.fetch_add(1, Ordering::SeqCst);
    }
}

/// Wakers that call the broker and the client, when a frame arrives and when the client ends.
#[test]
fn wakers_that_call_back() {
    without_deadlock(async || {
        let broker = Broker::new(Options::new());
        let client = broker.client("woken").await.unwrap();
        let _another = broker.client("another").await.unwrap();
        let mut frames = client.frames().unwrap();
        let mut events = client.events();
        let calls = Arc::new(CallsBack {
            broker: broker.clone(),
            client: client.clone(),
            woken: AtomicUsize::new(0),
        });
        let waker = Waker::from(calls.clone());
        let mut cx = Context::from_waker(&waker);
        let sender = broker.client("sender").await.unwrap();
        {
            let receiving = std::pin::pin!(frames.recv());
            assert!(receiving.poll(&mut cx).is_pending());
            sender.send("woken", "x", QoS::Processed).await.unwrap();
        }
        assert!(calls.woken.load(Ordering::SeqCst) >= 1, "woken for a frame");
        common::next(&mut frames).await;
        while events.poll_recv(&mut cx).is_ready() {}
        let mut closed = Box::pin(client.closed());
        assert!(closed.as_mut().poll(&mut cx).is_pending());
        let receiving = std::pin::pin!(frames.recv());
        assert!(receiving.poll(&mut cx).is_pending());
        let before = calls.woken.load(Ordering::SeqCst);
        broker.disconnect("woken");
        eventually("woken at the end", || calls.woken.load(Ordering::SeqCst) > before).await;
        assert!(broker.clients().clients.iter().all(|client| client.name != "another"));
    });
}

/// A payload whose owner calls the broker when its last handle is dropped.
struct Owner(Broker, Arc<AtomicUsize>);

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        &[7; 100_000]
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.clients();
        self.0.stats();
        self.0.disconnect("victim");
        self.1.fetch_add(1, Ordering::SeqCst);
    }
}

/// Payloads are released in every way: delivered, dropped by a policy, left in the queue of a client that
/// disconnects.
#[test]
fn payloads_that_call_back_when_they_are_released() {
    without_deadlock(async || {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bus.sock").display().to_string();
        let options =
            Options::new().timeout(PATIENCE).queue_bytes(1 << 20).slow(busrt::broker::SlowPolicy::DropOld);
        let broker = Broker::new(options.hold(Duration::from_millis(50)).stall(Duration::from_millis(100)));
        broker.listen(&path).await.unwrap();
        let released = Arc::new(AtomicUsize::new(0));
        let large = || Bytes::from_owner(Owner(broker.clone(), released.clone()));
        let sender = broker.client("sender").await.unwrap();
        let mut receiver = Raw::register(&path, "receiver");
        receiver.subscribe("t");
        let local = broker
            .client_with(&busrt::client::Config::new("", "local").inbox_bytes(16 * common::held_by(10)))
            .await
            .unwrap();
        local.subscribe("t", QoS::Processed).await.unwrap();
        const COUNT: usize = 100;
        for _ in 0..COUNT {
            sender.publish("t", large(), QoS::Processed).await.unwrap();
        }
        // Some were dropped, some wait in both queues. One client disconnects by itself, one is disconnected.
        broker.disconnect("local");
        drop(receiver);
        eventually("the receiver is unregistered", || broker.clients().clients.len() == 2).await;
        drop(local);
        let e = sender.send("nobody", large(), QoS::Processed).await.unwrap_err();
        assert_eq!(e.kind(), ErrorKind::NotRegistered);
        // The caches of the last client may hold payloads of the others.
        drop(sender);
        let started = std::time::Instant::now();
        while released.load(Ordering::SeqCst) < COUNT + 1 {
            let released = released.load(Ordering::SeqCst);
            assert!(started.elapsed() < Duration::from_secs(10), "{released} of {} are released", COUNT + 1);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
}

/// The broker's keep-alive does not depend on the runtime of the first client: it continues after that has ended.
#[test]
fn keep_alive_outlives_the_runtime_of_the_first_client() {
    without_deadlock(async || {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bus.sock").display().to_string();
        let broker = Broker::new(Options::new().timeout(Duration::from_millis(400)));
        let first = std::thread::spawn({
            let broker = broker.clone();
            move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(broker.client("first")).unwrap()
            }
        });
        let _first = first.join().unwrap();
        broker.listen(&path).await.unwrap();
        let mut silent = Raw::register(&path, "silent");
        let closed = tokio::task::spawn_blocking(move || {
            while silent.receive(Duration::from_secs(5)).is_some_and(|item| item != common::raw::Item::End) {}
            (silent.has_ended(), silent.nops)
        });
        let (ended, nops) = closed.await.unwrap();
        assert!(ended, "a silent client is not disconnected");
        assert!(nops > 0, "it was not pinged");
    });
}

/// The keep-alive also continues when the listener's runtime ends: the broker serves connections that are attached in
/// another runtime.
#[test]
fn keep_alive_outlives_the_runtime_of_the_first_listener() {
    without_deadlock(async || {
        let dir = tempfile::tempdir().unwrap();
        let [first, second] =
            ["first.sock", "second.sock"].map(|name| dir.path().join(name).display().to_string());
        let broker = Broker::new(Options::new().timeout(Duration::from_millis(400)));
        std::thread::spawn({
            let broker = broker.clone();
            move || {
                let runtime = tokio::runtime::Builder::new_multi_thread()
                    .worker_threads(1)
                    .enable_all()
                    .build()
                    .unwrap();
                runtime.block_on(broker.listen(&first)).unwrap();
                Raw::register(&first, "first");
            }
        })
        .join()
        .unwrap();
        broker.listen(&second).await.unwrap();
        let mut silent = Raw::register(&second, "silent");
        let ended = tokio::task::spawn_blocking(move || silent.is_closed_within(Duration::from_secs(5)));
        assert!(ended.await.unwrap(), "a silent client is not disconnected");
    });
}

/// A waker that uses its client on the thread that runs it: it takes frames, sends, and checks an operation.
struct UsesItsClient {
    client: Client,
    frames: Mutex<Option<Frames>>,
    pending: PendingOperation,
    taken: AtomicUsize,
    runs: AtomicUsize,
}

impl Wake for UsesItsClient {
    fn wake(self: Arc<Self>) {
        let request = Request::message("peer", b"from the waker", QoS::No);
        assert!(self.client.try_send(&request).unwrap().is_sent());
        let _ = self.pending.wait_timeout(Duration::ZERO);
        if let Some(frames) = &mut *self.frames.lock() {
            let mut batch = vec![];
            let taken = frames.take_batch(&mut batch, 100, usize::MAX);
            self.taken.fetch_add(taken.unwrap_or(0), Ordering::SeqCst);
            let waker = Waker::from(self.clone());
            while let Poll::Ready(Some(_)) = frames.poll_recv(&mut Context::from_waker(&waker)) {
                self.taken.fetch_add(1, Ordering::SeqCst);
            }
        }
        self.runs.fetch_add(1, Ordering::SeqCst);
    }
}

/// Frames and acknowledgements wake a waker that uses the same client.
#[test]
fn a_waker_that_uses_its_client() {
    without_deadlock(async || {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bus.sock").display().to_string();
        let broker = Broker::new(Options::new());
        broker.listen(&path).await.unwrap();
        let peer = Client::connect(&Config::new(&path, "peer")).await.unwrap();
        let client = Client::connect(&Config::new(&path, "me")).await.unwrap();
        let mut frames = client.frames().unwrap();
        let acknowledged = Request::message("peer", b"x", QoS::Processed);
        let pending = client.try_send(&acknowledged).unwrap().sent().unwrap();
        let second = client.try_send(&acknowledged).unwrap().sent().unwrap();
        let uses = Arc::new_cyclic(|me: &std::sync::Weak<UsesItsClient>| {
            // The waker is registered before the value exists: a wake-up in between does nothing.
            struct Later(std::sync::Weak<UsesItsClient>);
            impl Wake for Later {
                fn wake(self: Arc<Self>) {
                    if let Some(it) = self.0.upgrade() {
                        it.wake();
                    }
                }
            }
            let waker = Waker::from(Arc::new(Later(me.clone())));
            let mut cx = Context::from_waker(&waker);
            let _ = frames.poll_recv(&mut cx);
            let _ = second.poll_result(&mut cx);
            UsesItsClient {
                client: client.clone(),
                frames: Mutex::new(Some(frames)),
                pending,
                taken: AtomicUsize::new(0),
                runs: AtomicUsize::new(0),
            }
        });
        uses.clone().wake();
        for _ in 0..200 {
            peer.send("me", "x", QoS::Processed).await.unwrap();
        }
        eventually("all frames are taken", || uses.taken.load(Ordering::SeqCst) == 200).await;
        assert!(uses.runs.load(Ordering::SeqCst) > 1);
        client.disconnect().await;
        uses.frames.lock().take();
    });
}
