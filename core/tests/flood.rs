//! The data path at full speed, through a `busrtd`: senders that send as fast as possible, receivers that keep up or
//! are slow, and clients that come and go all the time. A short run by default; `make soak` runs it for
//! `FLOOD_SECONDS`.
#![cfg(all(target_os = "linux", feature = "server", feature = "rpc"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod common;

use busrt::client::{Client, Config};
use busrt::proto::request::Operation;
use busrt::{ErrorKind, Frame, FrameKind, QoS};
use bytes::Bytes;
use common::daemon::{Daemon, free_port};
use common::random::Random;
use common::traffic::Wrong;
use common::{PATIENCE, Peer, eventually};
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

const SENDERS: usize = 4;
const SINKS: usize = 4;
const GUESTS: usize = 4;
const LARGE: usize = 200_000;
/// Maximum number of unacknowledged operations of one sender.
const UNDER_WAY: usize = 64;
/// Bounds so low that queues are full most of the time.
const BOUNDS: [&str; 6] = ["--queue-size", "1024", "--queue-bytes", "1000000", "--stall-ms", "2000"];
const KINDS: [FrameKind; 3] = [FrameKind::Message, FrameKind::Publication, FrameKind::Broadcast];

/// The source of payload bytes: each number uses a different part of it.
static PATTERN: LazyLock<Vec<u8>> = LazyLock::new(|| (0..LARGE + 256).map(|i| (i % 251) as u8).collect());

fn filling(number: u64, len: usize) -> &'static [u8] {
    let start = (number % 251) as usize;
    &PATTERN[start..start + len]
}

fn sink(index: usize) -> String {
    format!("sink.{index}")
}

/// A receiver's record of one sender.
#[derive(Default)]
struct Book {
    /// The position of its last frame among all frames that the sender has sent.
    order: u64,
    /// The last number of its frames of each kind, which must have no gaps.
    last: [Option<u64>; 3],
}

/// The properties that a receiver checks.
struct Books {
    of: Mutex<HashMap<String, Book>>,
    /// True if the receiver was not connected when the first frames were sent.
    late: bool,
    received: AtomicU64,
}

impl Books {
    fn new(late: bool) -> Books {
        Books { of: Mutex::default(), late, received: AtomicU64::new(0) }
    }

    fn enter(&self, frame: &Frame) -> Result<(), String> {
        if frame.sender() == ".broker" {
            return Ok(());
        }
        self.received.fetch_add(1, Ordering::Relaxed);
        let (head, rest) = frame.payload().split_at(16);
        let [order, number] = [&head[..8], &head[8..]].map(|n| u64::from_le_bytes(n.try_into().unwrap()));
        let kind = KINDS.iter().position(|kind| *kind == frame.kind()).unwrap();
        let what = || format!("{number} of {} as {:?}", frame.sender(), frame.kind());
        let mut of = self.of.lock();
        if !of.contains_key(frame.sender()) {
            of.insert(frame.sender().to_owned(), Book::default());
        }
        let book = of.get_mut(frame.sender()).unwrap();
        if order <= book.order {
            return Err(format!("{}, its {order}., after its {}.", what(), book.order));
        }
        let expected = book.last[kind].map(|last| last + 1).or((!self.late).then_some(1));
        if expected.is_some_and(|expected| expected != number) {
            return Err(format!("{} instead of {expected:?}", what()));
        }
        if rest != filling(number, rest.len()) {
            return Err(format!("{} with a payload that was never sent", what()));
        }
        (book.order, book.last[kind]) = (order, Some(number));
        Ok(())
    }
}

/// Sends under one name, through one client after another.
struct Source {
    order: u64,
    /// Number of messages to each receiver.
    messages: [u64; SINKS],
    /// Number of frames to all of them: publications, broadcasts.
    to_all: [u64; 2],
    random: Random,
}

impl Source {
    fn new(random: Random) -> Source {
        Source { order: 0, messages: [0; SINKS], to_all: [0; 2], random }
    }

    /// Returns the number of frames of each kind that a receiver must have received.
    fn sent_to(&self, sink: usize) -> [u64; 3] {
        [self.messages[sink], self.to_all[0], self.to_all[1]]
    }

    async fn pump(&mut self, client: &Client, goes_on: impl Fn(usize) -> bool) {
        let mut under_way = VecDeque::new();
        for count in 0.. {
            if !goes_on(count) {
                break;
            }
            self.order += 1;
            let target = self.random.below(SINKS as u64) as usize;
            let kind = self.random.below(10);
            let number = match kind {
                0 => &mut self.to_all[1],
                1..4 => &mut self.to_all[0],
                _ => &mut self.messages[target],
            };
            *number += 1;
            let len = match self.random.below(1000) {
                0 => LARGE,
                1..100 => 1000,
                _ => self.random.below(100) as usize,
            };
            let mut payload = Vec::with_capacity(16 + len);
            payload.extend(self.order.to_le_bytes());
            payload.extend(number.to_le_bytes());
            payload.extend(filling(*number, len));
            let (payload, target) = (Bytes::from(payload), sink(target));
            let operation = match kind {
                0 => Operation::Broadcast { mask: "sink.*", payload },
                1..4 => Operation::Publish { topic: "flood/all", payload },
                _ => Operation::Message { target: &target, payload },
            };
            let qos = match self.random.below(20) {
                0 => QoS::Realtime,
                1 => QoS::RealtimeProcessed,
                2..6 => QoS::Processed,
                _ => QoS::No,
            };
            let confirmation = client.submit(operation, qos).await.unwrap();
            if qos.needs_ack() {
                under_way.push_back(confirmation);
            }
            if under_way.len() > UNDER_WAY {
                under_way.pop_front().unwrap().await.unwrap();
            }
        }
        for confirmation in under_way {
            confirmation.await.unwrap();
        }
    }
}

/// A receiver that stays connected.
struct Sink {
    client: Client,
    books: Arc<Books>,
}

impl Sink {
    async fn start(config: &Config, slow: bool, mut random: Random, wrong: &Wrong) -> Sink {
        let client = Client::connect(config).await.unwrap();
        client.subscribe("flood/#", QoS::Processed).await.unwrap();
        let (mut frames, wrong, name) = (client.frames().unwrap(), wrong.clone(), client.name().to_owned());
        let books = Arc::new(Books::new(false));
        let taking = books.clone();
        tokio::spawn(async move {
            while let Some(frame) = frames.recv().await {
                if let Err(what) = taking.enter(&frame) {
                    wrong.lock().push(format!("{name} got {what}"));
                    break;
                }
                if slow && random.below(1000) == 0 {
                    tokio::time::sleep(Duration::from_millis(random.below(30))).await;
                }
            }
        });
        Sink { client, books }
    }
}

/// A client that comes and goes under the same name.
struct Guest {
    path: String,
    config: Config,
    source: Source,
    stop: Arc<AtomicBool>,
    wrong: Wrong,
    visits: u64,
}

impl Guest {
    async fn come_and_go(mut self) -> Guest {
        while !self.stop.load(Ordering::Relaxed) {
            match self.source.random.below(4) {
                0 => self.be_rude().await,
                1 => self.listen().await,
                _ => self.send().await,
            }
            self.visits += 1;
        }
        self
    }

    async fn connect(&self) -> Client {
        let started = Instant::now();
        loop {
            match Client::connect(&self.config).await {
                Ok(client) => return client,
                // The previous client's data is still being written.
                Err(e) if e.kind() == ErrorKind::Busy => {}
                Err(e) => panic!("{}: {e}", self.config.name()),
            }
            assert!(started.elapsed() < PATIENCE, "the name {} is not given up", self.config.name());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    async fn leave(&mut self, client: Client) {
        if self.source.random.below(2) == 0 {
            client.disconnect().await;
        }
    }

    /// Sends and disconnects immediately: everything that it sent arrives.
    async fn send(&mut self) {
        let client = self.connect().await;
        let most = self.source.random.below(500) as usize;
        self.source.pump(&client, |count| count < most).await;
        self.leave(client).await;
    }

    /// Takes publications for a short time, without a gap.
    async fn listen(&mut self) {
        let client = self.connect().await;
        let mut frames = client.frames().unwrap();
        client.subscribe("flood/#", QoS::Processed).await.unwrap();
        let books = Books::new(true);
        let end = tokio::time::sleep(Duration::from_millis(self.source.random.below(100)));
        let mut end = std::pin::pin!(end);
        loop {
            let frame = tokio::select! {
                frame = frames.recv() => frame,
                () = &mut end => break,
            };
            let right = frame.ok_or("its end".to_owned()).and_then(|frame| books.enter(&frame));
            if let Err(what) = right {
                self.wrong.lock().push(format!("{} got {what}", client.name()));
                break;
            }
        }
        self.leave(client).await;
    }

    /// Subscribes to everything, reads nothing, and disconnects without notice.
    async fn be_rude(&mut self) {
        let (path, name) = (self.path.clone(), format!("{}.rude", self.config.name()));
        let long = Duration::from_millis(self.source.random.below(20));
        let visit = move || {
            let mut peer = Peer::connect(&path);
            // Another answer means that the broker has not noticed the end of the previous connection yet.
            if peer.try_register(&name) == 1 {
                peer.send(1, 2, b"flood/#");
                std::thread::sleep(long);
            }
        };
        tokio::task::spawn_blocking(visit).await.unwrap();
    }
}

async fn flood(length: Duration) {
    let mut random = Random::new("flood");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bus.sock").display().to_string();
    let port = format!("127.0.0.1:{}", free_port());
    let daemon = Daemon::start(&[path.clone(), port.clone()], &BOUNDS);
    let config = |index: usize, name: String| {
        Config::new([&path, &port][index % 2], name)
            .timeout(PATIENCE)
            .queue_size(1024)
            .inbox_bytes(256 * 1024)
    };
    let (stop, wrong) = (Arc::new(AtomicBool::new(false)), Wrong::default());
    let mut sinks = vec![];
    for i in 0..SINKS {
        // One of the receivers over each transport is slow.
        sinks.push(Sink::start(&config(i, sink(i)), i >= 2, random.fork(), &wrong).await);
    }
    let mut senders = vec![];
    for i in 0..SENDERS {
        let client = Client::connect(&config(i / 2, format!("sender.{i}"))).await.unwrap();
        let (mut source, stop) = (Source::new(random.fork()), stop.clone());
        senders.push(tokio::spawn(async move {
            source.pump(&client, |_| !stop.load(Ordering::Relaxed)).await;
            (client, source)
        }));
    }
    let mut guests = vec![];
    let calm = daemon.size();
    for i in 0..GUESTS {
        let (path, config, source) = (path.clone(), config(i, format!("guest.{i}")), random.fork());
        let source = Source::new(source);
        let guest = Guest { path, config, source, stop: stop.clone(), wrong: wrong.clone(), visits: 0 };
        guests.push(tokio::spawn(guest.come_and_go()));
    }
    // The broker may use at most as much memory at the end as in the first seconds.
    let started = Instant::now();
    let (mut early, mut last) = (0, 0);
    while started.elapsed() < length && wrong.lock().is_empty() {
        tokio::time::sleep(Duration::from_millis(50)).await;
        last = daemon.size().memory;
        if started.elapsed() < (length / 10).max(Duration::from_secs(1)) {
            early = early.max(last);
        }
    }
    stop.store(true, Ordering::Relaxed);
    let mut sources = vec![];
    let mut clients = vec![];
    for sender in senders {
        let (client, source) = tokio::time::timeout(PATIENCE, sender).await.expect("a sender hangs").unwrap();
        sources.push((client.name().to_owned(), source));
        clients.push(client);
    }
    let mut visits = 0;
    for guest in guests {
        let guest = tokio::time::timeout(PATIENCE, guest).await.expect("a guest hangs").unwrap();
        visits += guest.visits;
        sources.push((guest.config.name().to_owned(), guest.source));
    }
    for (index, sink) in sinks.iter().enumerate() {
        for (name, source) in &sources {
            let must = source.sent_to(index);
            let has = || {
                let of = sink.books.of.lock();
                of.get(name).map_or([0; 3], |book| book.last.map(Option::unwrap_or_default)) == must
            };
            let what = format!("{} gets {must:?} of {name}", sink.client.name());
            eventually(&what, || has() || !wrong.lock().is_empty()).await;
        }
    }
    assert!(wrong.lock().is_empty(), "{:?}", wrong.lock());
    for client in sinks.iter().map(|sink| &sink.client).chain(&clients) {
        assert!(client.is_connected(), "{} was cut", client.name());
        assert_eq!(client.stats().dropped, 0, "{}", client.name());
    }
    eventually("guests leave no descriptor", || daemon.size().descriptors <= calm.descriptors).await;
    let sent: u64 = sources.iter().map(|(_, source)| source.order).sum();
    let received: u64 = sinks.iter().map(|sink| sink.books.received.load(Ordering::Relaxed)).sum();
    println!(
        "{length:?}: {sent} sent, {received} received, {visits} visits; the broker's memory: {} kB when calm, \
         {} kB early, {} kB at last",
        calm.memory / 1000,
        early / 1000,
        last / 1000
    );
    assert!(last < early + (32 << 20), "the broker's memory grows");
    assert!(sent > 0 && visits > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn for_a_moment() {
    flood(Duration::from_secs(3)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "as long as FLOOD_SECONDS says"]
async fn for_long() {
    let seconds = std::env::var("FLOOD_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(120);
    flood(Duration::from_secs(seconds)).await;
}
