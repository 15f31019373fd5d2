//! Measures how long a broker makes others wait: a client that sends itself messages and records the longest round
//! trip.

use super::PATIENCE;
use super::raw::{MESSAGE, REALTIME, Raw, payload};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub struct Probe {
    longest: Arc<AtomicU64>,
    sent: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Probe {
    pub fn start(address: &str) -> Probe {
        let mut raw = Raw::register(address, "probe");
        let (longest, sent) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let stop = Arc::new(AtomicBool::new(false));
        let shared = (longest.clone(), sent.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            let (longest, sent, stop) = shared;
            while !stop.load(Ordering::Relaxed) {
                let started = Instant::now();
                raw.send(MESSAGE | REALTIME, &payload(b"probe\0", 1, 8));
                while raw.delivery(PATIENCE).expect("the probe is alive").sender() != b"probe" {}
                longest.fetch_max(started.elapsed().as_micros() as u64, Ordering::Relaxed);
                sent.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        Probe { longest, sent, stop, thread: Some(thread) }
    }

    /// Returns the longest round trip that ended since the last call, including one that began before it.
    pub fn longest(&self) -> Duration {
        let sent = self.sent.load(Ordering::Relaxed);
        let started = Instant::now();
        while self.sent.load(Ordering::Relaxed) < sent + 2 {
            assert!(started.elapsed() < PATIENCE, "the probe is not answered");
            std::thread::sleep(Duration::from_millis(1));
        }
        Duration::from_micros(self.longest.swap(0, Ordering::Relaxed))
    }

    /// Returns the bound for a round trip during heavy work: far more than it takes on a loaded machine without that
    /// work.
    pub fn bar(&self) -> Duration {
        self.longest();
        std::thread::sleep(Duration::from_millis(500));
        (self.longest() * 10).max(Duration::from_millis(250))
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // An error means that the probe has failed, which has already been reported.
            let _ = thread.join();
        }
    }
}
