//! Receiving: programs that are busy with each frame, batches, and wake-ups.
#![cfg(all(unix, feature = "broker", feature = "rpc"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod common;

use busrt::broker::Options;
use busrt::client::{Client, Config, Frames, WakeFd};
use busrt::rpc::{Call, Caller, Handlers, Notification, Rpc, RpcError};
use busrt::transport::Buffers;
use busrt::{Frame, QoS};
use bytes::Bytes;
use common::raw::{ACK, Item, MESSAGE, Raw};
use common::{Bus, PATIENCE, eventually, no_client_is_left};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Works for that long, like a program on a busy machine.
fn work(time: Duration) {
    if time > Duration::from_millis(1) {
        return std::thread::sleep(time);
    }
    let start = Instant::now();
    while start.elapsed() < time {
        std::hint::spin_loop();
    }
}

/// All buffers are small, so that few frames fill them. A client that reads nothing for a second is disconnected.
fn small_buffers() -> Options {
    Options::new()
        .queue_bytes(128 * 1024)
        .stall(Duration::from_secs(1))
        .socket_buffers(Buffers { send: Some(64 * 1024), receive: None })
}

/// Takes frames with a pause for each, on its own thread, until the last one or the end. Returns their number.
fn take_slowly(mut frames: Frames, count: usize, time: Duration) -> usize {
    let mut taken = 0;
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    let until = Instant::now() + PATIENCE / 3;
    while taken < count && Instant::now() < until {
        match frames.poll_recv(&mut cx) {
            std::task::Poll::Ready(Some(frame)) => {
                taken += 1;
                work(time);
                if frame.payload().first() == Some(&b'!') {
                    break;
                }
            }
            std::task::Poll::Ready(None) => break,
            std::task::Poll::Pending => std::thread::sleep(Duration::from_millis(1)),
        }
    }
    taken
}

/// A read brings more small frames than the program handles in the stall time: between two reads, only the progress
/// reports show that it takes frames.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_receiver_of_small_frames_is_not_stuck() {
    const COUNT: usize = 150;
    let options = small_buffers().queue_size(8).hold(Duration::from_millis(400));
    let options =
        options.stall(Duration::from_millis(500)).socket_buffers(Buffers { send: Some(1), receive: None });
    let bus = Bus::start(options).await;
    let client = Client::connect(&bus.config("busy").inbox_bytes(2000)).await.unwrap();
    let frames = client.frames().unwrap();
    let sender = bus.client("sender").await;
    let sending = tokio::spawn(async move {
        for _ in 0..COUNT {
            sender.send("busy", vec![b'x'; 100], QoS::No).await.unwrap();
        }
        sender
    });
    let taking = tokio::task::spawn_blocking(move || take_slowly(frames, COUNT, Duration::from_millis(25)));
    let taken = taking.await.unwrap();
    let dropped = bus.broker.stats().dropped;
    assert_eq!((taken, dropped, client.is_connected()), (COUNT, 0, true), "{:?}", client.stats());
    sending.await.unwrap();
}

/// The broker counts an operation 0 with QoS bits as progress of the client, and does not answer it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn progress_reports_keep_a_receiver_connected() {
    let stall = Duration::from_millis(600);
    let options = || small_buffers().hold(Duration::from_millis(300)).stall(stall);
    for reports in [true, false] {
        let bus = Bus::start(options()).await;
        let mut receiver = Raw::register(&bus.path, "receiver");
        receiver.subscribe("t");
        let publisher = bus.client("publisher").await;
        for _ in 0..100 {
            publisher.publish("t", vec![b'x'; 10_000], QoS::No).await.unwrap();
        }
        let until = Instant::now() + stall * 4;
        while Instant::now() < until {
            if reports {
                receiver.send(ACK, b"\0");
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let clients = bus.broker.clients().clients;
        let found = clients.iter().find(|client| client.name == "receiver");
        assert_eq!(found.is_some(), reports);
        if let Some(found) = found {
            // The registration is not a frame, the subscription is.
            assert_eq!(found.r_frames, 1);
        }
    }
    let bus = Bus::start(Options::new()).await;
    let mut client = Raw::register(&bus.path, "client");
    let report = client.send(ACK, b"\0");
    let id = client.send(MESSAGE | ACK, b"client\0x");
    let items: Vec<_> = (0..2).map(|_| client.receive(PATIENCE).unwrap()).collect();
    assert!(items.contains(&Item::Ack { id, code: 1 }));
    assert!(!items.contains(&Item::Ack { id: report, code: 1 }));
}

/// A handler that causes a switch of threads for each frame.
#[cfg(feature = "blocking")]
#[test]
fn a_blocking_server_with_an_empty_handler_stays_connected() {
    const COUNT: usize = 20_000;
    struct Counts(Arc<AtomicUsize>);
    impl busrt::blocking::Handlers for Counts {
        fn on_frame(&self, _: Frame) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let bus = runtime.block_on(Bus::start(Options::new().queue_size(256).stall(Duration::from_secs(1))));
    let client = busrt::blocking::Client::connect(&bus.config("server").inbox_bytes(256 * 1024)).unwrap();
    let handled = Arc::new(AtomicUsize::new(0));
    let _rpc = busrt::blocking::Rpc::new(client.clone(), Counts(handled.clone())).unwrap();
    client.subscribe("t", QoS::Processed).unwrap();
    runtime.block_on(async {
        let publisher = bus.client("publisher").await;
        for _ in 0..COUNT {
            publisher.publish("t", vec![0; 100], QoS::No).await.unwrap();
        }
        eventually("all are handled or dropped", || {
            handled.load(Ordering::Relaxed) + bus.broker.stats().dropped as usize == COUNT
        })
        .await;
    });
    assert!(client.is_connected());
}

struct Busy(Duration, Arc<AtomicUsize>);

impl Handlers for Busy {
    async fn on_frame(&self, _: Frame) {
        work(self.0);
        self.1.fetch_add(1, Ordering::Relaxed);
    }
}

/// A task that is busy with frames leaves time for other tasks, even with a single thread.
#[test]
fn others_run_while_frames_are_handled() {
    const COUNT: usize = 4000;
    let time = Duration::from_micros(200);
    let server = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let bus = server.block_on(Bus::start(Options::new()));
    for with_rpc in [false, true] {
        let publisher = server.block_on(bus.client(&format!("publisher.{with_rpc}")));
        let handled = Arc::new(AtomicUsize::new(0));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let longest = runtime.block_on(async {
            let client = bus.client(&format!("busy.{with_rpc}")).await;
            client.subscribe("t", QoS::Processed).await.unwrap();
            server
                .spawn(async move {
                    for _ in 0..COUNT {
                        publisher.publish("t", "x", QoS::No).await.unwrap();
                    }
                    publisher.disconnect().await;
                })
                .await
                .unwrap();
            eventually("all frames have arrived", || client.stats().r_frames as usize == COUNT).await;
            let _rpc = with_rpc.then(|| Rpc::new(client.clone(), Busy(time, handled.clone())));
            if !with_rpc {
                let (mut frames, handled) = (client.frames().unwrap(), handled.clone());
                tokio::spawn(async move {
                    while frames.recv().await.is_some() {
                        work(time);
                        handled.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            let mut longest = Duration::ZERO;
            while handled.load(Ordering::Relaxed) < COUNT {
                let start = Instant::now();
                tokio::time::sleep(Duration::from_millis(5)).await;
                longest = longest.max(start.elapsed());
            }
            longest
        });
        assert!(longest < Duration::from_millis(250), "nothing else ran for {longest:?}");
    }
}

struct SlowFrames;

impl Handlers for SlowFrames {
    async fn on_call(&self, call: Call) -> Result<Bytes, RpcError> {
        Ok(call.params_bytes())
    }

    async fn on_frame(&self, _: Frame) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_handler_of_frames_does_not_hold_up_calls() {
    let bus = Bus::start(Options::new()).await;
    // Over a socket, the 20,000 publications exceed the former bound in frames, but not the one in bytes. In process,
    // the lane of frames is full, and the call has its own lane.
    for (local, inbox) in [(false, 64 << 20), (true, 256 * common::held_by(10))] {
        let config = bus.config("server").inbox_bytes(inbox);
        let client = match local {
            true => bus.broker.client_with(&config).await.unwrap(),
            false => Client::connect(&config).await.unwrap(),
        };
        client.subscribe("t", QoS::Processed).await.unwrap();
        let rpc = Rpc::new(client.clone(), SlowFrames);
        let publisher = bus.client("publisher").await;
        let flood = tokio::spawn(async move {
            for _ in 0..20_000 {
                publisher.publish("t", "x", QoS::No).await.unwrap();
            }
            publisher
        });
        eventually("frames are waiting", || client.stats().queue > 200).await;
        if !local {
            flood.await.unwrap().disconnect().await;
        } else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            flood.abort();
            // If all publications were sent first, this holds the publisher back.
            drop(flood.await);
        }
        let caller = Caller::new(bus.client("caller").await);
        let start = Instant::now();
        let reply = caller.call("server", "echo", "x", QoS::Processed).await.unwrap();
        assert_eq!(reply.payload(), b"x");
        assert!(start.elapsed() < Duration::from_secs(2), "it took {:?}", start.elapsed());
        assert!(client.stats().queue > 100);
        drop(rpc);
        client.disconnect().await;
        caller.client().disconnect().await;
        eventually("no client is left", || no_client_is_left(&bus)).await;
    }
}

/// A handler that waits for the semaphore, and counts.
struct Gate(Arc<tokio::sync::Semaphore>, Arc<AtomicUsize>);

impl Handlers for Gate {
    async fn on_notification(&self, _: Notification) {
        self.1.fetch_add(1, Ordering::SeqCst);
        self.0.acquire().await.unwrap().forget();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_takes_over_handles_the_remaining_frames() {
    let bus = Bus::start(Options::new()).await;
    let client = bus.client("server").await;
    let peer = Caller::new(bus.client("peer").await);
    for _ in 0..100 {
        peer.notify("server", "n", QoS::Processed).await.unwrap();
    }
    eventually("all frames have arrived", || client.stats().r_frames == 100).await;
    let (closed, open) =
        (Arc::new(tokio::sync::Semaphore::new(0)), Arc::new(tokio::sync::Semaphore::new(1000)));
    let (a, b) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let _first = Rpc::new(client.clone(), Gate(closed.clone(), a.clone()));
    eventually("the first has begun", || a.load(Ordering::SeqCst) == 1).await;
    let _second = Rpc::new(client.clone(), Gate(open, b.clone()));
    eventually("the second has handled the rest", || b.load(Ordering::SeqCst) == 99).await;
    closed.add_permits(1000);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!((a.load(Ordering::SeqCst), b.load(Ordering::SeqCst)), (1, 99));
    assert_eq!((client.stats().queue, client.stats().dropped), (0, 0));
}

/// Records the kind and number of each handled item, then waits.
#[derive(Clone)]
struct Notes(Arc<tokio::sync::Semaphore>, Arc<parking_lot::Mutex<Vec<(char, u32)>>>);

impl Notes {
    fn new(open: bool) -> Notes {
        Notes(Arc::new(tokio::sync::Semaphore::new(if open { 1000 } else { 0 })), Arc::default())
    }

    async fn note(&self, kind: char, payload: &[u8]) {
        self.1.lock().push((kind, u32::from_le_bytes(payload.try_into().unwrap())));
        self.0.acquire().await.unwrap().forget();
    }

    fn count(&self) -> usize {
        self.1.lock().len()
    }
}

impl Handlers for Notes {
    async fn on_call(&self, call: Call) -> Result<Bytes, RpcError> {
        self.note('c', call.params()).await;
        Ok(Bytes::new())
    }

    async fn on_notification(&self, notification: Notification) {
        self.note('n', notification.payload()).await;
    }

    async fn on_frame(&self, frame: Frame) {
        self.note('p', frame.payload()).await;
    }
}

/// One server after another takes over, in lanes and in order: each frame is handled once, and the frames of a kind
/// in order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_done_twice_by_take_overs() {
    const COUNT: u32 = 60;
    for orders in [[false, false, false], [false, true, false], [true, false, true], [true, true, true]] {
        let bus = Bus::start(Options::new()).await;
        let client = bus.client("server").await;
        client.subscribe("t", QoS::Processed).await.unwrap();
        let peer = Caller::new(bus.client("peer").await);
        for i in 0..COUNT {
            let number = i.to_le_bytes().to_vec();
            peer.notify("server", number.clone(), QoS::Processed).await.unwrap();
            peer.client().publish("t", number.clone(), QoS::Processed).await.unwrap();
            peer.call0("server", "m", number, QoS::Processed).await.unwrap();
        }
        let all = 3 * COUNT as usize;
        eventually("all frames have arrived", || client.stats().r_frames as usize == all).await;
        let options = |in_order| busrt::rpc::Options::default().in_order(in_order).max_concurrent(2);
        let (first, second, third) = (Notes::new(false), Notes::new(false), Notes::new(true));
        // In lanes, two calls, a notification and a publication are in progress; in order, one frame is.
        let begun = |in_order| if in_order { 1 } else { 4 };
        let _a = Rpc::with_options(client.clone(), first.clone(), options(orders[0]));
        eventually("the first has begun", || first.count() == begun(orders[0])).await;
        let _b = Rpc::with_options(client.clone(), second.clone(), options(orders[1]));
        eventually("the second has begun", || second.count() == begun(orders[1])).await;
        let _c = Rpc::with_options(client.clone(), third.clone(), options(orders[2]));
        eventually("the third has handled the rest", || {
            third.count() + first.count() + second.count() >= all
        })
        .await;
        for former in [&first, &second] {
            former.0.add_permits(1000);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        let mut handled = [first, second, third].map(|notes| notes.1.lock().clone()).concat();
        for kind in ['n', 'p'] {
            let numbers: Vec<_> = handled.iter().filter(|(k, _)| *k == kind).map(|(_, n)| *n).collect();
            assert!(numbers.iter().copied().eq(0..COUNT), "{orders:?}: {kind}: {numbers:?}");
        }
        handled.sort_unstable();
        handled.dedup();
        assert_eq!(handled.len(), all, "{orders:?}");
        assert_eq!((client.stats().queue, client.stats().dropped), (0, 0));
    }
}

/// The former consumer is not a server, and then a plain thread takes over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_take_over_from_frames_and_by_a_plain_thread() {
    let bus = Bus::start(Options::new()).await;
    let client = bus.client("server").await;
    let mut frames = client.frames().unwrap();
    let peer = Caller::new(bus.client("peer").await);
    for i in 0..100u32 {
        peer.notify("server", i.to_le_bytes().to_vec(), QoS::Processed).await.unwrap();
    }
    eventually("all frames have arrived", || client.stats().r_frames == 100).await;
    assert_eq!(frames.recv().await.unwrap().payload()[1..], 0u32.to_le_bytes());
    let mut serving = busrt::rpc::Serving::new(&client);
    // Frames that the former consumer has taken but not yielded come back when it is dropped.
    drop(frames);
    let mut batch = vec![];
    let mut numbers = vec![0];
    while serving.notifications.take_batch(&mut batch, 7).unwrap() > 0 {
        for incoming in batch.drain(..) {
            let busrt::rpc::Incoming::Notification(notification) = incoming else { panic!("{incoming:?}") };
            numbers.push(u32::from_le_bytes(notification.payload().try_into().unwrap()));
        }
        if numbers.len() == 50 {
            break;
        }
    }
    // An RPC server takes over from the thread.
    let notes = Notes::new(true);
    let _rpc = Rpc::new(client.clone(), notes.clone());
    eventually("all frames are handled", || notes.count() + numbers.len() >= 100).await;
    numbers.extend(notes.1.lock().iter().map(|(_, number)| *number));
    assert!(numbers.iter().copied().eq(0..100), "{numbers:?}");
    assert_eq!(serving.notifications.take_batch(&mut batch, 7), None);
}

fn wait_readable(descriptor: &WakeFd) {
    let mut fds = [PollFd::from_borrowed_fd(descriptor.as_fd(), PollFlags::IN)];
    let patience = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
    assert_eq!(poll(&mut fds, Some(&patience)).unwrap(), 1, "not woken");
}

/// A thread without a runtime takes frames in batches and sleeps in `poll` between them.
#[test]
fn a_thread_takes_batches_and_sleeps_in_poll() {
    const COUNT: u32 = 20_000;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let bus = runtime.block_on(Bus::start(Options::new()));
    for local in [false, true] {
        let config = bus.config("receiver");
        let client = match local {
            true => runtime.block_on(bus.broker.client_with(&config)).unwrap(),
            false => runtime.block_on(Client::connect(&config)).unwrap(),
        };
        let mut frames = client.frames().unwrap();
        let sender = runtime.block_on(bus.client("sender"));
        let sending = runtime.spawn(async move {
            for i in 0..COUNT {
                sender.send("receiver", i.to_le_bytes().to_vec(), QoS::No).await.unwrap();
                if i % 1000 == 0 {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
            sender.disconnect().await;
        });
        let descriptor = WakeFd::new().unwrap();
        frames.set_wake_up(&descriptor);
        let (mut got, mut batch, mut wakes) = (0, vec![], 0);
        while got < COUNT {
            wait_readable(&descriptor);
            wakes += 1;
            while frames.take_batch(&mut batch, 500, 1 << 20).unwrap() > 0 {
                for frame in batch.drain(..) {
                    assert_eq!(frame.payload(), got.to_le_bytes());
                    got += 1;
                }
            }
        }
        assert!(wakes <= COUNT / 2, "{wakes} wake-ups for {COUNT} frames");
        runtime.block_on(sending).unwrap();
        runtime.block_on(client.disconnect());
        wait_readable(&descriptor);
        assert_eq!(frames.take_batch(&mut batch, 1, 1), None);
        drop(client);
        runtime.block_on(eventually("no client is left", || no_client_is_left(&bus)));
    }
}

/// The inbox of a client whose handler sleeps never holds more than its bound plus one read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_inbox_keeps_its_bound() {
    let bus = Bus::start(Options::new().stall(PATIENCE)).await;
    let config: Config = bus.config("receiver").inbox_bytes(100 * common::held_by(1007)).buf_size(4096);
    let client = Client::connect(&config).await.unwrap();
    let mut frames = client.frames().unwrap();
    let sender = bus.client("sender").await;
    let sending = tokio::spawn(async move {
        for _ in 0..10_000 {
            sender.send("receiver", vec![0; 1000], QoS::No).await.unwrap();
        }
        sender
    });
    let mut most = 0;
    for _ in 0..10_000 {
        common::next(&mut frames).await;
        most = most.max(client.stats().queue);
    }
    assert!(most <= 105, "{most} frames waited");
    sending.await.unwrap();
}
