//! Clients with full inboxes that flood each other: the broker holds back each of them for the other, so that it does
//! not read a client's reports while the other client is slow.
#![cfg(all(unix, feature = "broker", feature = "ipc"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod common;

use busrt::QoS;
use busrt::broker::Options;
use busrt::client::{Client, Config, Event, Events, Frames};
use common::Bus;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const HOLD: Duration = Duration::from_millis(200);
const STALL: Duration = Duration::from_millis(800);
/// A full inbox is read again when 32 KiB of it are free.
const INBOX: usize = 512 * 1024;

/// One of two clients that flood each other.
struct Flooder {
    client: Client,
    events: Events,
    /// Frames that its program has taken.
    taken: Arc<AtomicU64>,
    tasks: [tokio::task::JoinHandle<()>; 2],
}

impl Flooder {
    async fn start(bus: &Bus, name: &str, peer: &'static str, size: usize, handler: Duration) -> Flooder {
        let config: Config = bus.config(name).inbox_bytes(INBOX).inbox_awaiting_bytes(INBOX / 8);
        let client = Client::connect(&config).await.unwrap();
        let (frames, events) = (client.frames().unwrap(), client.events());
        let taken = Arc::new(AtomicU64::new(0));
        let tasks = [
            tokio::spawn(take(frames, taken.clone(), handler)),
            tokio::spawn(flood(client.clone(), peer, size)),
        ];
        Flooder { client, events, taken, tasks }
    }

    /// Fails if the connection has ended, or if the program has taken nothing since `before`. Returns the number of
    /// frames taken.
    fn check(&mut self, before: u64, at: Instant) -> u64 {
        while let Some(event) = self.events.try_recv() {
            assert_eq!(event, Event::Connected, "after {:?}", at.elapsed());
        }
        assert!(self.client.is_connected(), "after {:?}", at.elapsed());
        let taken = self.taken.load(Ordering::SeqCst);
        assert!(taken > before, "nothing is taken any more after {:?}", at.elapsed());
        taken
    }
}

/// A program that works for some time on each frame.
async fn take(mut frames: Frames, taken: Arc<AtomicU64>, handler: Duration) {
    while frames.recv().await.is_some() {
        tokio::time::sleep(handler).await;
        taken.fetch_add(1, Ordering::SeqCst);
    }
}

async fn flood(client: Client, peer: &'static str, size: usize) {
    // It waits without a time limit if there is no room.
    while client.send(peer, vec![0; size], QoS::No).await.is_ok() {}
}

/// Lets two programs, which work for `handler` on each frame, flood each other.
async fn flood_each_other(size: usize, handler: Duration) {
    let bus = Bus::start(Options::new().hold(HOLD).stall(STALL)).await;
    let mut flooders = [
        Flooder::start(&bus, "a", "b", size, handler).await,
        Flooder::start(&bus, "b", "a", size, handler).await,
    ];
    let started = Instant::now();
    let mut before = [0; 2];
    while started.elapsed() < 5 * STALL {
        tokio::time::sleep(STALL).await;
        for (flooder, before) in flooders.iter_mut().zip(&mut before) {
            *before = flooder.check(*before, started);
        }
    }
    for flooder in &flooders {
        flooder.tasks.iter().for_each(|task| task.abort());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_programs_with_full_inboxes_survive() {
    flood_each_other(100, Duration::from_millis(20)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slower_programs_with_many_small_frames_survive() {
    flood_each_other(10, Duration::from_millis(50)).await;
}
