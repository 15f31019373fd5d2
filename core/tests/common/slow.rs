//! Receivers that read as slowly as a test wants, on a broker with small queues.

use super::PATIENCE;
use super::raw::{Delivery, Item, Raw, Stream};
use busrt::broker::{Options, SlowPolicy};
use busrt::proto::request;
use busrt::transport::Buffers;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub const HOLD: Duration = Duration::from_millis(400);
pub const STALL: Duration = Duration::from_millis(8000);
pub const BUDGET: usize = 1 << 20;
/// The size of most payloads in these tests.
pub const SIZE: usize = 1000;
/// A number of payloads of that size that exceeds a receiver's budget and its socket.
pub const ENOUGH: u32 = 1500;
/// Bytes per second: less than a quarter of the budget in the hold time, but some in each tenth of it.
pub const SLOW: usize = 300_000;
/// Bytes per second: more than a quarter of the budget in half of the hold time.
pub const STEADY: usize = 3_000_000;

/// Options with kernel buffers so small that the broker immediately notices what a receiver reads.
pub fn options(slow: SlowPolicy) -> Options {
    Options::new()
        .timeout(PATIENCE)
        .queue_size(100_000)
        .queue_bytes(BUDGET)
        .hold(HOLD)
        .stall(STALL)
        .socket_buffers(Buffers { send: Some(16 * 1024), receive: Some(16 * 1024) })
        .slow(slow)
}

/// Reads a client's socket at a pace that can be changed.
pub struct Taker {
    rate: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    count: Arc<AtomicUsize>,
    thread: JoinHandle<(Raw, Vec<Delivery>)>,
}

/// Interval at which a taker pings the broker.
const PING_INTERVAL: Duration = Duration::from_secs(10);

/// No limit of the rate.
pub const FULL_SPEED: usize = usize::MAX;

impl Taker {
    pub fn start(mut raw: Raw, rate: usize) -> Taker {
        let (rate, stop) = (Arc::new(AtomicUsize::new(rate)), Arc::new(AtomicBool::new(false)));
        let count = Arc::new(AtomicUsize::new(0));
        let taker = (rate.clone(), stop.clone(), count.clone());
        let thread = std::thread::spawn(move || {
            let mut deliveries: Vec<Delivery> = raw.waiting.drain(..).collect();
            let (rate, stop, count) = taker;
            let mut due = 0.0;
            let mut last = Instant::now();
            let mut pinged = Instant::now();
            while !stop.load(Ordering::Relaxed) && !raw.has_ended() {
                let rate = rate.load(Ordering::Relaxed);
                let most = if rate == FULL_SPEED {
                    64 * 1024
                } else {
                    due += last.elapsed().as_secs_f64() * rate as f64;
                    due.min(64.0 * 1024.0) as usize
                };
                last = Instant::now();
                // A client that sends nothing for longer than the broker's timeout is disconnected.
                if pinged.elapsed() > PING_INTERVAL {
                    pinged = last;
                    let _ = raw.stream.write_all(&request::PING);
                }
                if most < 1024 {
                    std::thread::sleep(Duration::from_millis(2));
                    continue;
                }
                let taken = raw.take(most, Duration::from_millis(20));
                due = (due - taken as f64).clamp(0.0, 64.0 * 1024.0);
                while let Some(item) = raw.decode() {
                    if let Item::Delivery(delivery) = item {
                        deliveries.push(delivery);
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
            (raw, deliveries)
        });
        Taker { rate, stop, count, thread }
    }

    pub fn set_rate(&self, rate: usize) {
        self.rate.store(rate, Ordering::Relaxed);
    }

    pub fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Waits until this many deliveries have arrived. Returns false on a timeout.
    pub fn wait_for(&self, count: usize, within: Duration) -> bool {
        let started = Instant::now();
        while self.count() < count {
            if started.elapsed() > within || self.thread.is_finished() {
                return self.count() >= count;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        true
    }

    /// Waits until the broker closes the connection. Returns false on a timeout.
    pub fn wait_for_the_end(&self, within: Duration) -> bool {
        let started = Instant::now();
        while !self.thread.is_finished() && started.elapsed() < within {
            std::thread::sleep(Duration::from_millis(5));
        }
        self.thread.is_finished()
    }

    /// Stops, and returns the client with the deliveries received so far.
    pub fn stop(self) -> (Raw, Vec<Delivery>) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }

    /// Reads everything that was queued before this call as fast as possible. Returns all deliveries.
    pub fn finish(self) -> (Raw, Vec<Delivery>) {
        let (mut raw, mut deliveries) = self.stop();
        assert!(!raw.has_ended(), "a receiver was disconnected");
        deliveries.extend(raw.rest());
        (raw, deliveries)
    }
}

/// Writes on its own thread, for as long as that takes.
pub struct Pump {
    thread: JoinHandle<std::io::Result<()>>,
}

impl Pump {
    pub fn start(stream: &Stream, bytes: Vec<u8>) -> Pump {
        let mut stream = stream.try_clone();
        Pump { thread: std::thread::spawn(move || stream.write_all(&bytes)) }
    }

    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    pub fn join(self) {
        self.thread.join().unwrap().unwrap();
    }
}

/// The results of acknowledged operations, one after the other: their result codes, and the total wait for all that
/// took longer than a loaded machine needs.
#[derive(Debug, Default)]
pub struct Asked {
    pub codes: Vec<u8>,
    pub longest: Duration,
    pub held: Duration,
}

pub fn ask_numbered(
    raw: &mut Raw,
    flags: u8,
    head: &[u8],
    numbers: std::ops::Range<u32>,
    size: usize,
) -> Asked {
    let mut asked = Asked::default();
    for number in numbers {
        let started = Instant::now();
        asked.codes.push(raw.ask(flags, &super::raw::payload(head, number, size)));
        let took = started.elapsed();
        asked.longest = asked.longest.max(took);
        if took > Duration::from_millis(150) {
            asked.held += took;
        }
    }
    asked
}

pub fn numbers(deliveries: &[Delivery]) -> Vec<u32> {
    deliveries.iter().filter(|delivery| delivery.sender() != b".broker").map(Delivery::number).collect()
}

/// Asserts that the numbers increase: nothing arrived twice or out of order.
pub fn assert_rising(numbers: &[u32]) {
    assert!(numbers.is_sorted_by(|a, b| a < b), "out of order");
}
