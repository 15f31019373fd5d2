//! Many clients that read or do not read, and stay connected in both cases.

use crate::net::{Conn, Poller};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::*};
use std::time::{Duration, Instant};

/// Shorter than the broker's timeout for silent clients, by default 5 s.
const PING_INTERVAL: Duration = Duration::from_millis(1500);
const PING: [u8; 9] = [0; 9];

/// Connections that a separate thread serves.
pub struct Crowd {
    received: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Crowd {
    /// Clients that read and discard everything.
    pub fn reading(conns: Vec<Conn>) -> Crowd {
        Crowd::start(conns, true)
    }

    /// Clients that send pings and read nothing.
    pub fn deaf(conns: Vec<Conn>) -> Crowd {
        Crowd::start(conns, false)
    }

    fn start(mut conns: Vec<Conn>, reads: bool) -> Crowd {
        let crowd = Crowd { received: Arc::default(), stop: Arc::default() };
        let (received, stop) = (crowd.received.clone(), crowd.stop.clone());
        let mut poller = Poller::new();
        for (token, conn) in conns.iter_mut().enumerate() {
            conn.nonblocking();
            if reads {
                poller.add(conn.fd, token);
            }
        }
        std::thread::spawn(move || {
            let mut buffer = vec![0; 1 << 18];
            let mut pinged = Instant::now();
            while !stop.load(Acquire) {
                for token in poller.wait(50) {
                    match conns[token].read(&mut buffer) {
                        // The end of the stream stays readable, so that it must not be polled again.
                        Some(0) => poller.remove(conns[token].fd),
                        Some(n) => drop(received.fetch_add(n as u64, AcqRel)),
                        None => {}
                    }
                }
                if pinged.elapsed() > PING_INTERVAL {
                    pinged = Instant::now();
                    for conn in &mut conns {
                        let _ = conn.write(&PING);
                    }
                }
            }
        });
        crowd
    }

    /// Returns the number of bytes read by all clients.
    pub fn received(&self) -> u64 {
        self.received.load(Acquire)
    }

    /// Waits until all clients have read `bytes` more than `before`, or nothing more has arrived for 300 ms.
    pub fn wait(&self, before: u64, bytes: u64) {
        let mut last = (self.received(), Instant::now());
        while self.received() - before < bytes && last.1.elapsed() < Duration::from_millis(300) {
            std::thread::sleep(Duration::from_millis(2));
            let received = self.received();
            if received != last.0 {
                last = (received, Instant::now());
            }
        }
    }
}

impl Drop for Crowd {
    /// All connections are closed shortly after.
    fn drop(&mut self) {
        self.stop.store(true, Release);
    }
}
