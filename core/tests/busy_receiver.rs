//! Programs that work for some time on each received frame: every one-to-one message arrives, every publication
//! arrives or is counted as dropped, and no receiver is disconnected.
//!
//! The ordinary tests use small buffers and few frames. The tests at full scale are ignored by default: a broker with
//! all defaults, an inbox of 1 MiB, 100,000 frames. Run one of them with
//!
//! ```text
//! cargo test -p busrt --all-features --test busy_receiver -- --ignored --nocapture full_scale_500us
//! ```
//!
//! `BUSY_FRAMES` is the number of frames, `BUSY_SIZE` the size of a payload, `BUSY_SECONDS` the time after which a
//! test ends early: the frames received by then must be complete and in order.
#![cfg(all(unix, feature = "broker", feature = "rpc", feature = "blocking"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod common;

use busrt::broker::Options;
use busrt::client::{Client, Config, Wait};
use busrt::rpc::{Handlers, Incoming, Notification, Rpc, Serving};
use busrt::transport::Buffers;
use busrt::{ErrorKind, Frame, QoS};
use common::Bus;
use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

const INBOX_BYTES: usize = 1 << 20;
/// A test fails when nothing has arrived for this long.
const PATIENCE: Duration = Duration::from_secs(30);
/// Shorter work spins, because a sleep would take much longer than requested.
const SHORTEST_SLEEP: Duration = Duration::from_micros(200);

/// The way in which a program takes its frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// An async loop that awaits the work.
    Frames,
    /// An async loop that works on the single thread of its runtime, which also serves the connection.
    CurrentThread,
    /// An async loop within the broker's process.
    InProcess,
    /// A plain thread.
    Blocking,
    /// The async handlers of an RPC server.
    Rpc,
    /// The handlers of a blocking RPC server.
    BlockingRpc,
    /// A plain thread that serves RPC.
    Serving,
}

const KINDS: [Kind; 7] = [
    Kind::Frames,
    Kind::CurrentThread,
    Kind::InProcess,
    Kind::Blocking,
    Kind::Rpc,
    Kind::BlockingRpc,
    Kind::Serving,
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sent {
    Messages,
    Publications,
}

/// The parameters of one test.
#[derive(Debug, Clone)]
struct Plan {
    options: Options,
    /// The time for which the program works on a frame.
    time: Duration,
    frames: u32,
    size: usize,
    /// The time at which the test ends early.
    until: Option<Instant>,
}

/// Creates a runtime with one thread for its tasks.
fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

/// The program's work on frames, and the check that they arrive in order.
#[derive(Clone)]
struct Work {
    time: Duration,
    taken: Arc<AtomicU32>,
    /// The lowest number that the next frame may have.
    next: Arc<AtomicU32>,
}

impl Work {
    fn new(time: Duration) -> Work {
        Work { time, taken: Arc::default(), next: Arc::default() }
    }

    fn begin(&self, payload: &[u8]) {
        let number = u32::from_le_bytes(payload[..4].try_into().unwrap());
        let next = self.next.swap(number + 1, Ordering::Relaxed);
        assert!(number >= next, "frame {number} came after frame {}", next - 1);
    }

    fn end(&self) {
        self.taken.fetch_add(1, Ordering::Relaxed);
    }

    fn handle(&self, payload: &[u8]) {
        self.begin(payload);
        if self.time >= SHORTEST_SLEEP {
            std::thread::sleep(self.time);
        } else {
            let start = Instant::now();
            while start.elapsed() < self.time {
                std::hint::spin_loop();
            }
        }
        self.end();
    }

    async fn handle_async(&self, payload: &[u8]) {
        if self.time < Duration::from_millis(1) {
            return self.handle(payload);
        }
        self.begin(payload);
        tokio::time::sleep(self.time).await;
        self.end();
    }
}

/// Returns the number of a frame. RPC servers receive it as a notification, which begins with a zero byte.
fn number(frame: &Frame) -> &[u8] {
    &frame.payload()[1..]
}

impl Handlers for Work {
    async fn on_frame(&self, frame: Frame) {
        self.handle_async(number(&frame)).await;
    }

    async fn on_notification(&self, notification: Notification) {
        self.handle_async(notification.payload()).await;
    }
}

struct OnThreads(Work);

impl busrt::blocking::Handlers for OnThreads {
    fn on_frame(&self, frame: Frame) {
        self.0.handle(number(&frame));
    }

    fn on_notification(&self, notification: Notification) {
        self.0.handle(notification.payload());
    }
}

/// A receiver that works until the value is dropped.
struct Receiver {
    client: Client,
    _parts: Box<dyn Any>,
}

/// Takes frames on a thread with its own runtime until the connection ends.
fn take_on_one_thread(
    connect: impl AsyncFnOnce() -> Client + Send + 'static,
    subscribes: bool,
    work: Work,
) -> Client {
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let client = connect().await;
            let mut frames = client.frames().unwrap();
            if subscribes {
                client.subscribe("t", QoS::Processed).await.unwrap();
            }
            sender.send(client).unwrap();
            while let Some(frame) = frames.recv().await {
                work.handle(number(&frame));
            }
        });
    });
    receiver.recv().unwrap()
}

impl Receiver {
    fn start(kind: Kind, config: Config, bus: &Bus, subscribes: bool, work: Work) -> Receiver {
        let qos = QoS::Processed;
        match kind {
            Kind::Frames | Kind::Rpc => {
                let runtime = runtime();
                let client = runtime.block_on(Client::connect(&config)).unwrap();
                if subscribes {
                    runtime.block_on(client.subscribe("t", qos)).unwrap();
                }
                if kind == Kind::Rpc {
                    let _guard = runtime.enter();
                    let rpc = Rpc::new(client.clone(), work);
                    return Receiver { client, _parts: Box::new((rpc, runtime)) };
                }
                let mut frames = client.frames().unwrap();
                runtime.spawn(async move {
                    while let Some(frame) = frames.recv().await {
                        work.handle_async(number(&frame)).await;
                    }
                });
                Receiver { client, _parts: Box::new(runtime) }
            }
            Kind::CurrentThread => {
                let connect = async move || Client::connect(&config).await.unwrap();
                Receiver { client: take_on_one_thread(connect, subscribes, work), _parts: Box::new(()) }
            }
            Kind::InProcess => {
                let broker = bus.broker.clone();
                let connect = async move || broker.client_with(&config).await.unwrap();
                Receiver { client: take_on_one_thread(connect, subscribes, work), _parts: Box::new(()) }
            }
            Kind::Blocking | Kind::BlockingRpc | Kind::Serving => {
                let client = busrt::blocking::Client::connect(&config).unwrap();
                if subscribes {
                    client.subscribe("t", qos).unwrap();
                }
                let inner = client.inner().clone();
                if kind == Kind::BlockingRpc {
                    let rpc = busrt::blocking::Rpc::new(client, OnThreads(work)).unwrap();
                    return Receiver { client: inner, _parts: Box::new(rpc) };
                }
                if kind == Kind::Serving {
                    let Serving { mut frames, .. } = Serving::in_order(&inner);
                    std::thread::spawn(move || {
                        let mut batch = vec![];
                        while frames.wait_batch(&mut batch, 1, Wait::forever()).unwrap().is_some() {
                            match batch.pop() {
                                Some(Incoming::Frame(frame)) => work.handle(number(&frame)),
                                Some(Incoming::Notification(notification)) => {
                                    work.handle(notification.payload());
                                }
                                other => panic!("{other:?}"),
                            }
                        }
                    });
                    return Receiver { client: inner, _parts: Box::new(client) };
                }
                let frames = client.frames().unwrap();
                std::thread::spawn(move || {
                    for frame in frames {
                        work.handle(number(&frame));
                    }
                });
                Receiver { client: inner, _parts: Box::new(client) }
            }
        }
    }
}

/// Sends as fast as the client accepts. Returns how often it had no room within the client's timeout.
async fn send(client: &Client, sent: Sent, frames: u32, size: usize) -> u32 {
    let mut timeouts = 0;
    for number in 0..frames {
        let mut payload = vec![b'x'; size.max(5)];
        payload[0] = 0;
        payload[1..5].copy_from_slice(&number.to_le_bytes());
        let payload = bytes::Bytes::from(payload);
        loop {
            let result = match sent {
                Sent::Messages => client.send("busy", payload.clone(), QoS::No).await,
                Sent::Publications => client.publish("t", payload.clone(), QoS::No).await,
            };
            match result {
                Ok(()) => break,
                // The frame was not sent.
                Err(e) if e.kind() == ErrorKind::Timeout => timeouts += 1,
                Err(e) => panic!("frame {number}: {e}"),
            }
        }
    }
    timeouts
}

/// Runs one case on its own broker.
fn run(kind: Kind, sent: Sent, plan: &Plan) {
    let server = runtime();
    let bus = server.block_on(Bus::start(plan.options.clone()));
    let work = Work::new(plan.time);
    let config = Config::new(&bus.path, "busy").inbox_bytes(INBOX_BYTES);
    let receiver = Receiver::start(kind, config, &bus, sent == Sent::Publications, work.clone());
    let sending = server.block_on(Client::connect(&Config::new(&bus.path, "sender"))).unwrap();
    let (frames, size) = (plan.frames, plan.size);
    // The sender stays connected: its frames would be lost if it left while it is held back.
    let task = server.spawn({
        let sending = sending.clone();
        async move { send(&sending, sent, frames, size).await }
    });
    let (started, mut printed) = (Instant::now(), Instant::now());
    let (mut last, mut moved) = (0, Instant::now());
    let (taken, dropped) = loop {
        let (taken, dropped) = (work.taken.load(Ordering::Relaxed), bus.broker.stats().dropped);
        let state = || format!("{kind:?}, {sent:?}, {:?}: {taken} taken, {dropped} dropped", plan.time);
        assert!(receiver.client.is_connected(), "the receiver was disconnected: {}", state());
        assert!(sending.is_connected(), "the sender was disconnected: {}", state());
        assert!(sent == Sent::Publications || dropped == 0, "messages were dropped: {}", state());
        if u64::from(taken) + dropped >= u64::from(frames) {
            break (taken, dropped);
        }
        if taken != last {
            (last, moved) = (taken, Instant::now());
        }
        assert!(moved.elapsed() < PATIENCE + plan.time * 20, "no frames arrive any more: {}", state());
        if printed.elapsed() > Duration::from_secs(60) {
            printed = Instant::now();
            eprintln!("after {:?}: {}", started.elapsed(), state());
        }
        if plan.until.is_some_and(|until| Instant::now() >= until) {
            eprintln!("ended after {:?}: {}", started.elapsed(), state());
            // The frames taken were in order, and none was dropped: that was checked above.
            let begun = work.next.load(Ordering::Relaxed);
            let taken = work.taken.load(Ordering::Relaxed);
            let complete = sent == Sent::Publications || begun <= taken + 1;
            assert!(complete, "messages are missing: {} begun, {}", begun, state());
            task.abort();
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let timeouts = server.block_on(task).unwrap();
    eprintln!(
        "{kind:?}, {sent:?}, {:?}: {taken} taken, {dropped} dropped in {:?}; {timeouts} times no room in time",
        plan.time,
        started.elapsed()
    );
    // After a short wait, there are no more frames.
    std::thread::sleep(Duration::from_millis(100));
    let (taken, dropped) = (work.taken.load(Ordering::Relaxed), bus.broker.stats().dropped);
    assert_eq!(u64::from(taken) + dropped, u64::from(frames), "{kind:?}, {sent:?}: {dropped} dropped");
    assert!(receiver.client.is_connected() && sending.is_connected());
}

/// Runs all kinds of receivers: at the same time if they mostly sleep, otherwise one after the other.
fn run_all(sent: Sent, plan: &Plan) {
    if plan.time < SHORTEST_SLEEP {
        return KINDS.into_iter().for_each(|kind| run(kind, sent, plan));
    }
    std::thread::scope(|scope| {
        for kind in KINDS {
            scope.spawn(move || run(kind, sent, plan));
        }
    });
}

/// All buffers are small, so that few frames fill them. A client that reads nothing for a second is disconnected.
fn small(time: Duration, frames: u32, size: usize) -> Plan {
    let options = Options::new()
        .queue_bytes(128 * 1024)
        .stall(Duration::from_secs(1))
        .socket_buffers(Buffers { send: Some(64 * 1024), receive: None });
    Plan { options, time, frames, size, until: None }
}

/// Each case sends several times what the buffers between sender and program hold.
fn scaled_down(sent: Sent) {
    std::thread::scope(|scope| {
        for plan in [
            small(Duration::from_micros(500), 4_000, 2_000),
            small(Duration::from_millis(5), 400, 20_000),
            small(Duration::from_millis(50), 50, 200_000),
        ] {
            scope.spawn(move || run_all(sent, &plan));
        }
    });
}

#[test]
fn messages_to_busy_receivers_arrive() {
    scaled_down(Sent::Messages);
}

#[test]
fn publications_to_busy_receivers_arrive_or_are_counted() {
    scaled_down(Sent::Publications);
}

#[test]
fn messages_to_receivers_that_compute_for_50us_arrive() {
    run_all(Sent::Messages, &small(Duration::from_micros(50), 8_000, 1_000));
}

#[test]
fn publications_to_receivers_that_compute_for_50us_arrive_or_are_counted() {
    run_all(Sent::Publications, &small(Duration::from_micros(50), 8_000, 1_000));
}

/// A program that passes each frame on to a slower one is as slow as that one, and waits for room to send most of the
/// time.
#[test]
fn messages_pass_through_a_receiver_that_waits_for_another() {
    let (frames, size) = (400, 20_000);
    let time = Duration::from_millis(10);
    let server = runtime();
    let bus = server.block_on(Bus::start(small(time, frames, size).options));
    let config = |name: &str| Config::new(&bus.path, name).inbox_bytes(INBOX_BYTES).queue_bytes(256 * 1024);
    let work = Work::new(time);
    let receiver = Receiver::start(Kind::Blocking, config("last"), &bus, false, work.clone());
    let passing = server.block_on(Client::connect(&config("busy").inbox_awaiting_bytes(1))).unwrap();
    let sending = server.block_on(Client::connect(&config("sender"))).unwrap();
    server.spawn({
        let (passing, mut frames) = (passing.clone(), passing.frames().unwrap());
        async move {
            while let Some(frame) = frames.recv().await {
                while let Err(e) = passing.send("last", frame.payload_bytes(), QoS::No).await {
                    assert_eq!(e.kind(), ErrorKind::Timeout);
                }
            }
        }
    });
    let task = server.spawn({
        let sending = sending.clone();
        async move { send(&sending, Sent::Messages, frames, size).await }
    });
    let started = Instant::now();
    while work.taken.load(Ordering::Relaxed) < frames {
        let dropped = bus.broker.stats().dropped;
        let taken = work.taken.load(Ordering::Relaxed);
        assert_eq!(dropped, 0, "messages were dropped after {taken}");
        for client in [&receiver.client, &passing, &sending] {
            assert!(client.is_connected(), "{} was disconnected after {taken}", client.name());
        }
        assert!(started.elapsed() < PATIENCE, "{taken} taken");
        std::thread::sleep(Duration::from_millis(20));
    }
    server.block_on(task).unwrap();
}

fn parameter(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap())
}

/// A broker with all defaults.
fn full_scale(time: Duration) {
    let plan = Plan {
        options: Options::new(),
        time,
        frames: parameter("BUSY_FRAMES").unwrap_or(100_000) as u32,
        size: parameter("BUSY_SIZE").unwrap_or(1_000) as usize,
        until: parameter("BUSY_SECONDS").map(|seconds| Instant::now() + Duration::from_secs(seconds)),
    };
    if time < SHORTEST_SLEEP {
        return [Sent::Messages, Sent::Publications].into_iter().for_each(|sent| run_all(sent, &plan));
    }
    std::thread::scope(|scope| {
        for sent in [Sent::Messages, Sent::Publications] {
            let plan = &plan;
            scope.spawn(move || run_all(sent, plan));
        }
    });
}

#[test]
#[ignore = "takes two minutes"]
fn full_scale_50us() {
    full_scale(Duration::from_micros(50));
}

#[test]
#[ignore = "takes two minutes"]
fn full_scale_500us() {
    full_scale(Duration::from_micros(500));
}

#[test]
#[ignore = "takes ten minutes"]
fn full_scale_5ms() {
    full_scale(Duration::from_millis(5));
}

#[test]
#[ignore = "takes 85 minutes"]
fn full_scale_50ms() {
    full_scale(Duration::from_millis(50));
}
