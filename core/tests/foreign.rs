//! Foreign code that calls back into the client: wakers, event callbacks, loggers, owners of payloads. None of it may
//! run under a lock. A deadlock fails by timeout.
#![cfg(all(unix, feature = "broker", feature = "ipc", feature = "rpc"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod common;

use busrt::client::topic_broker::TopicBroker;
use busrt::client::{Config, Event, Overflow, Reconnect, WhileDown};
use busrt::rpc::{Call, Caller, Handlers, Notification, Rpc, RpcError};
use busrt::{Client, QoS};
use bytes::Bytes;
use common::Bus;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, mpsc};
use std::task::{Context, Poll, RawWaker, RawWakerVTable, Waker};
use std::time::{Duration, Instant};

/// A longer wait is a deadlock.
const PATIENCE: Duration = Duration::from_secs(20);

/// Runs a test on its own thread, which is abandoned if it hangs.
fn in_time(test: impl Future<Output = ()> + Send + 'static) {
    let (done, finished) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(test);
        runtime.shutdown_background();
        done.send(()).unwrap();
    });
    match finished.recv_timeout(PATIENCE) {
        Ok(()) => {}
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("a deadlock"),
        Err(mpsc::RecvTimeoutError::Disconnected) => std::panic::resume_unwind(thread.join().unwrap_err()),
    }
}

fn poll_once<F: Future>(future: F) -> Poll<F::Output> {
    pin!(future).poll(&mut Context::from_waker(Waker::noop()))
}

/// Uses every part of a client that takes a lock.
fn touch(client: &Client) {
    let _ = client.stats();
    let _ = client.is_connected();
    let _ = client.events().try_recv();
    client.on_event(|_| {}).detach();
    let _ = poll_once(client.ping());
    let _ = poll_once(client.send("nobody", "x", QoS::Processed));
    let _ = poll_once(Caller::new(client.clone()).call("nobody", "method", "", QoS::Processed));
}

/// A waker whose every operation runs foreign code and is counted.
struct Foreign {
    act: Box<dyn Fn() + Send + Sync>,
    acts: AtomicUsize,
}

impl Foreign {
    fn new(act: impl Fn() + Send + Sync + 'static) -> Arc<Foreign> {
        Arc::new(Foreign { act: Box::new(act), acts: AtomicUsize::new(0) })
    }

    fn run(&self) {
        self.acts.fetch_add(1, Ordering::SeqCst);
        (self.act)();
    }

    fn acts(&self) -> usize {
        self.acts.load(Ordering::SeqCst)
    }

    fn waker(self: &Arc<Foreign>) -> Waker {
        // SAFETY: the pointer is that of an `Arc`, whose count the functions of the table keep.
        unsafe { Waker::from_raw(RawWaker::new(Arc::into_raw(self.clone()).cast(), &VTABLE)) }
    }
}

static VTABLE: RawWakerVTable = RawWakerVTable::new(
    |data| {
        // SAFETY: the pointer is that of an `Arc`, which the waker holds for as long as it is borrowed.
        let foreign = unsafe { &*data.cast::<Foreign>() };
        foreign.run();
        // SAFETY: as above. The count belongs to the clone.
        unsafe { Arc::increment_strong_count(data.cast::<Foreign>()) };
        RawWaker::new(data, &VTABLE)
    },
    |data| {
        // SAFETY: the waker is consumed, and its count is taken over.
        unsafe { Arc::from_raw(data.cast::<Foreign>()) }.run();
    },
    // SAFETY: the waker holds the `Arc` for as long as it is borrowed.
    |data| unsafe { &*data.cast::<Foreign>() }.run(),
    |data| {
        // SAFETY: the waker is consumed, and its count is taken over.
        unsafe { Arc::from_raw(data.cast::<Foreign>()) }.run();
    },
);

/// Runs foreign code when it is dropped, as the owner of a payload or captured by a callback.
struct OnDrop(Box<dyn Fn() + Send + Sync>);

impl OnDrop {
    fn new(act: impl Fn() + Send + Sync + 'static) -> OnDrop {
        OnDrop(Box::new(act))
    }
}

impl Drop for OnDrop {
    fn drop(&mut self) {
        (self.0)();
    }
}

impl AsRef<[u8]> for OnDrop {
    fn as_ref(&self) -> &[u8] {
        // Smaller ones are copied. The first byte is not that of an RPC frame.
        &[0x77; 8192]
    }
}

fn payload(act: impl Fn() + Send + Sync + 'static) -> Bytes {
    Bytes::from_owner(OnDrop::new(act))
}

/// Waits until a condition holds.
async fn becomes(condition: impl Fn() -> bool) {
    while !condition() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[test]
fn the_waker_of_a_consumer_of_frames() {
    in_time(async {
        let bus = Bus::start(Default::default()).await;
        let sender = bus.client("sender").await;
        for local in [true, false] {
            let config = bus.config("receiver");
            let client = match local {
                true => bus.broker.client_with(&config).await.unwrap(),
                false => Client::connect(&config).await.unwrap(),
            };
            let mut frames = client.frames().unwrap();
            let touched = client.clone();
            let wakers = [(); 2].map(|()| {
                let client = touched.clone();
                Foreign::new(move || touch(&client))
            });
            // The wakers are cloned, replaced and dropped alternately.
            for foreign in [&wakers[0], &wakers[0], &wakers[1], &wakers[0]] {
                assert!(frames.poll_recv(&mut Context::from_waker(&foreign.waker())).is_pending());
            }
            let before = wakers[0].acts();
            sender.send("receiver", "x", QoS::Processed).await.unwrap();
            becomes(|| wakers[0].acts() > before).await;
            assert!(frames.recv().await.is_some());
            client.disconnect().await;
        }
    });
}

#[test]
fn the_waker_of_a_consumer_of_events() {
    in_time(async {
        let bus = Bus::start(Default::default()).await;
        let client = bus.client("a").await;
        let mut events = client.events();
        assert_eq!(events.recv().await, Some(Event::Connected));
        let touched = client.clone();
        let foreign = Foreign::new(move || touch(&touched));
        assert!(events.poll_recv(&mut Context::from_waker(&foreign.waker())).is_pending());
        let before = foreign.acts();
        client.disconnect().await;
        becomes(|| foreign.acts() > before).await;
        // A clone of the waker ends the client whose end is reported by these events.
        let client = bus.client("b").await;
        let mut events = client.events();
        assert_eq!(events.recv().await, Some(Event::Connected));
        let ended = client.clone();
        let foreign = Foreign::new(move || {
            let _ = poll_once(ended.disconnect());
        });
        let first = events.poll_recv(&mut Context::from_waker(&foreign.waker()));
        let told = match first {
            Poll::Ready(event) => event,
            Poll::Pending => events.recv().await,
        };
        assert!(matches!(told, Some(Event::Disconnected { .. })));
    });
}

#[test]
fn the_waker_of_a_call_that_is_forgotten() {
    in_time(async {
        let bus = Bus::start(Default::default()).await;
        let (_server, _frames) = bus.listener("server").await;
        let client = bus.client("a").await;
        let touched = client.clone();
        let foreign = Foreign::new(move || touch(&touched));
        let caller = Caller::new(client.clone());
        let mut call = caller.submit("server", "never", "", QoS::No).await.unwrap();
        assert!(Pin::new(&mut call).poll(&mut Context::from_waker(&foreign.waker())).is_pending());
        drop(call);
        // The same for a call that the end of the client ends.
        let mut call = caller.submit("server", "never", "", QoS::No).await.unwrap();
        assert!(Pin::new(&mut call).poll(&mut Context::from_waker(&foreign.waker())).is_pending());
        client.disconnect().await;
        assert!(call.await.is_err());
    });
}

#[test]
fn the_waker_of_a_task_that_waits_for_an_acknowledgement() {
    in_time(async {
        let bus = Bus::start(Default::default()).await;
        let (_receiver, _frames) = bus.listener("receiver").await;
        let client = bus.client("a").await;
        let touched = client.clone();
        let foreign = Foreign::new(move || touch(&touched));
        let mut sending = Box::pin(client.send("receiver", "x", QoS::Processed));
        while sending.as_mut().poll(&mut Context::from_waker(&foreign.waker())).is_pending() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
}

#[test]
fn the_waker_of_a_task_that_waits_for_the_connection() {
    in_time(async {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bus.sock").display().to_string();
        let broker = busrt::broker::Broker::new(Default::default());
        broker.listen(&path).await.unwrap();
        let reconnect = Reconnect::new().delays(Duration::from_millis(5), Duration::from_millis(5));
        let config = Config::new(&path, "a").reconnect(reconnect).while_down(WhileDown::Wait(Duration::MAX));
        let client = Client::connect(&config).await.unwrap();
        let mut events = client.events();
        broker.shutdown().await;
        while !matches!(events.recv().await, Some(Event::Disconnected { .. })) {}
        becomes(|| !client.is_connected()).await;
        let touched = client.clone();
        let foreign = Foreign::new(move || touch(&touched));
        let mut sending = Box::pin(client.send("a", "x", QoS::Processed));
        assert!(sending.as_mut().poll(&mut Context::from_waker(&foreign.waker())).is_pending());
        let before = foreign.acts();
        let broker = busrt::broker::Broker::new(Default::default());
        broker.listen(&path).await.unwrap();
        becomes(|| foreign.acts() > before).await;
        sending.await.unwrap();
        client.disconnect().await;
    });
}

#[test]
fn the_owner_of_a_payload_that_is_dropped_to_make_room() {
    in_time(async {
        let bus = Bus::start(Default::default()).await;
        for overflow in [Overflow::DropOld, Overflow::DropNew] {
            let config = bus.config("receiver").inbox_bytes(1).overflow(overflow);
            let receiver = bus.broker.client_with(&config).await.unwrap();
            let mut frames = receiver.frames().unwrap();
            let sender = bus.broker.client("sender").await.unwrap();
            let dropped = Arc::new(AtomicUsize::new(0));
            for _ in 0..4 {
                let (receiver, dropped) = (receiver.clone(), dropped.clone());
                let payload = payload(move || {
                    touch(&receiver);
                    dropped.fetch_add(1, Ordering::SeqCst);
                });
                sender.send("receiver", payload, QoS::No).await.unwrap();
            }
            assert_eq!(dropped.load(Ordering::SeqCst), 3);
            assert!(frames.try_recv().is_some());
            sender.disconnect().await;
            receiver.disconnect().await;
        }
    });
}

#[test]
fn the_owner_of_a_payload_that_waits_when_the_consumer_changes() {
    in_time(async {
        let bus = Bus::start(Default::default()).await;
        let receiver = bus.broker.client("receiver").await.unwrap();
        let sender = bus.broker.client("sender").await.unwrap();
        let dropped = Arc::new(AtomicUsize::new(0));
        let send = async || {
            for _ in 0..3 {
                let (receiver, dropped) = (receiver.clone(), dropped.clone());
                let payload = payload(move || {
                    touch(&receiver);
                    dropped.fetch_add(1, Ordering::SeqCst);
                });
                sender.send("receiver", payload, QoS::No).await.unwrap();
            }
        };
        // These are not RPC frames: a server drops them.
        send().await;
        let rpc = Rpc::new(receiver.clone(), ());
        becomes(|| dropped.load(Ordering::SeqCst) == 3).await;
        send().await;
        assert_eq!(dropped.load(Ordering::SeqCst), 6);
        drop(rpc);
        // The same for frames that wait for a consumer that is dropped, or that arrive after it.
        let frames = receiver.frames().unwrap();
        send().await;
        drop(frames);
        assert_eq!(dropped.load(Ordering::SeqCst), 9);
        send().await;
        assert_eq!(dropped.load(Ordering::SeqCst), 12);
    });
}

#[test]
fn a_callback_that_ends_clients() {
    in_time(async {
        let bus = Bus::start(Default::default()).await;
        for local in [false, true] {
            let connect = async |name: &str| match local {
                true => bus.broker.client(name).await.unwrap(),
                false => bus.client(name).await,
            };
            let name = if local { "local" } else { "other" };
            let client = connect("a").await;
            let other = Mutex::new(Some(connect(name).await));
            let told = Arc::new(AtomicUsize::new(0));
            let (ended, count) = (client.clone(), told.clone());
            client
                .on_event(move |event| {
                    if matches!(event, Event::Disconnected { .. }) {
                        touch(&ended);
                        let _ = poll_once(ended.disconnect());
                        // This drops the last handle.
                        drop(other.lock().unwrap().take());
                        count.fetch_add(1, Ordering::SeqCst);
                    }
                })
                .detach();
            client.disconnect().await;
            becomes(|| told.load(Ordering::SeqCst) == 1).await;
            client.closed().await;
            // The name is free: the other client has ended too.
            while bus.try_client(name).await.is_err() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
    });
}

#[test]
fn a_callback_that_panics_and_one_whose_drop_panics() {
    in_time(async {
        let bus = Bus::start(Default::default()).await;
        let client = bus.client("a").await;
        let told = Arc::new(AtomicUsize::new(0));
        let count = |event: &Event, told: &AtomicUsize| {
            told.fetch_add(usize::from(matches!(event, Event::Disconnected { .. })), Ordering::SeqCst);
        };
        client.on_event(|event| assert_eq!(*event, Event::Connected)).detach();
        let bomb = OnDrop::new(|| {
            if !std::thread::panicking() {
                panic!("the drop of what a callback has captured");
            }
        });
        let counted = told.clone();
        client
            .on_event(move |event| {
                let _captured = &bomb;
                count(event, &counted);
            })
            .detach();
        let counted = told.clone();
        client.on_event(move |event| count(event, &counted)).detach();
        let mut events = client.events();
        assert_eq!(events.recv().await, Some(Event::Connected));
        let mut frames = client.frames().unwrap();
        client.disconnect().await;
        assert!(matches!(events.recv().await, Some(Event::Disconnected { .. })));
        assert_eq!(events.recv().await, None);
        assert!(frames.recv().await.is_none());
        client.closed().await;
        becomes(|| told.load(Ordering::SeqCst) == 2).await;
    });
}

#[test]
fn a_handler_of_topics_that_is_removed() {
    in_time(async {
        let broker = Arc::new(TopicBroker::new());
        for prefix in [false, true] {
            let inner = broker.clone();
            let captured = OnDrop::new(move || drop(inner.topic("another", 1)));
            let handler = move |_| {
                let _captured = &captured;
                async {}
            };
            let removed = match prefix {
                false => broker.on_topic("t", handler).map(|()| broker.remove_topic("t")),
                true => broker.on_prefix("t", handler).map(|()| broker.remove_prefix("t")),
            };
            assert!(removed.unwrap() && broker.remove_topic("another"));
        }
    });
}

/// Panics with a value whose drop panics.
struct Bombs;

impl Handlers for Bombs {
    async fn on_call(&self, call: Call) -> Result<Bytes, RpcError> {
        match call.method() {
            "bomb" => std::panic::panic_any(bomb()),
            _ => Ok(call.params_bytes()),
        }
    }

    async fn on_notification(&self, _: Notification) {
        std::panic::panic_any(bomb());
    }
}

fn bomb() -> OnDrop {
    OnDrop::new(|| panic!("the drop of a panic's value"))
}

#[test]
fn a_handler_that_panics_with_a_value_that_panics() {
    in_time(async {
        let bus = Bus::start(Default::default()).await;
        for in_order in [false, true] {
            let name = format!("server.{in_order}");
            let _server = Rpc::with_options(
                bus.client(&name).await,
                Bombs,
                busrt::rpc::Options::default().in_order(in_order),
            );
            let caller = Caller::new(bus.client(&format!("caller.{in_order}")).await);
            for _ in 0..3 {
                caller.notify(&name, "x", QoS::Processed).await.unwrap();
                let e = caller.call(&name, "bomb", "", QoS::Processed).await.unwrap_err();
                assert_eq!(e.code(), -32603);
                assert_eq!(caller.call(&name, "echo", "1", QoS::Processed).await.unwrap().payload(), b"1");
            }
        }
    });
}

/// A logger that sends every line over a client, if there is one.
struct BusLogger(OnceLock<Client>, AtomicUsize);

static LOGGER: BusLogger = BusLogger(OnceLock::new(), AtomicUsize::new(0));

impl log::Log for BusLogger {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        std::thread_local!(static LOGGING: std::cell::Cell<bool> = const { std::cell::Cell::new(false) });
        let Some(client) = self.0.get() else { return };
        // Log lines that the logger itself causes are not logged.
        if !record.target().starts_with("busrt::client") || LOGGING.replace(true) {
            return;
        }
        touch(client);
        let _ = poll_once(client.send("logged", record.args().to_string(), QoS::No));
        self.1.fetch_add(1, Ordering::SeqCst);
        LOGGING.set(false);
    }

    fn flush(&self) {}
}

#[test]
fn a_logger_that_sends_over_the_client() {
    in_time(async {
        let bus = Bus::start(Default::default()).await;
        let config = bus.config("logged").inbox_bytes(200).overflow(Overflow::DropOld);
        let client = bus.broker.client_with(&config).await.unwrap();
        assert!(LOGGER.0.set(client.clone()).is_ok());
        log::set_logger(&LOGGER).unwrap();
        log::set_max_level(log::LevelFilter::Debug);
        let sender = bus.broker.client("sender").await.unwrap();
        // The first frame that is dropped is logged, and so is a panic.
        client.on_event(|event| assert!(!matches!(event, Event::Dropped { .. }))).detach();
        for _ in 0..5 {
            sender.send("logged", "x", QoS::No).await.unwrap();
        }
        assert!(LOGGER.1.load(Ordering::SeqCst) >= 2);
        // Messages that are not RPC frames are logged too.
        let before = LOGGER.1.load(Ordering::SeqCst);
        let _rpc = Rpc::new(client.clone(), ());
        sender.send("logged", "x", QoS::No).await.unwrap();
        let start = Instant::now();
        becomes(|| LOGGER.1.load(Ordering::SeqCst) > before || start.elapsed() > PATIENCE / 2).await;
        assert!(LOGGER.1.load(Ordering::SeqCst) > before);
        client.disconnect().await;
    });
}
