//! Busy polling: a worker thread polls the sockets for a short time while a client's next frame is expected.
//!
//! Clients that talk to each other, or to the broker, one frame at a time pay for two wake-ups with every frame: that
//! of the receiver, and that of the worker, which went to sleep in between. Waking a core that sleeps costs more than
//! everything the broker does with a small frame. So the broker notes which clients are *prompt*: they sent their
//! last frame shortly after they had received one (an acknowledgement, a message). After such a client has received
//! another frame, a worker with nothing to do polls the sockets until the answer has arrived, or until the time in
//! which it was expected has passed. The broker does not poll for clients that only send, only receive, or answer
//! slowly. It also polls for the rest of a large frame when a large piece of it has arrived.
//!
//! The time for which a worker polls, up to the bound of the poller, is learned for each client: see `poll_tuner.rs`.
//!
//! Between two polls, the worker yields the core to other programs. Only one worker polls at a time. Polling pauses
//! when other programs use the cores; the cores do not sleep then anyway.

use super::reply_tracker::{ReplyTracker, nanoseconds};
use crate::transport::{ReadinessSet, Socket};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// A poll that takes this long was interrupted: another program wants the core.
const INTERRUPTED: Duration = Duration::from_micros(300);
const LONGEST: Duration = Duration::from_millis(1);
/// Polling pauses this long after an interruption.
const PAUSE: Duration = Duration::from_millis(100);

/// Keeps a worker of a runtime awake for a moment while a client in conversation is about to answer. The runtime must
/// call [`before_park`](BusyPoller::before_park), and the broker must have it in its options
/// ([`Options::busy_poller`](super::Options::busy_poller)):
///
/// ```no_run
/// # fn run() -> std::io::Result<()> {
/// use busrt::broker::{Broker, BusyPoller, Options};
/// use std::time::Duration;
///
/// let busy_poller = BusyPoller::new(Duration::from_micros(500))?;
/// let runtime = tokio::runtime::Builder::new_multi_thread()
///     .on_thread_park({
///         let busy_poller = busy_poller.clone();
///         move || busy_poller.before_park()
///     })
///     .enable_all()
///     .build()?;
/// runtime.block_on(async {
///     let broker = Broker::new(Options::default().busy_poller(busy_poller));
///     // …
/// });
/// # Ok(()) }
/// ```
///
/// Cloning gives another handle to the same one.
#[derive(Debug, Clone)]
pub struct BusyPoller {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    bound: Duration,
    started: Instant,
    /// Every client's socket.
    watch: ReadinessSet,
    /// Deadline (nanoseconds since the start) until which a reply is expected; 0: none is expected.
    expected: AtomicU64,
    /// End of the pause in polling (nanoseconds since the start).
    paused: AtomicU64,
    /// True while a worker is polling.
    busy: AtomicBool,
}

impl BusyPoller {
    /// Creates a poller that waits for an answer up to `bound`, but at most 1 ms, because timers may be late by as
    /// much.
    ///
    /// # Errors
    ///
    /// [`Unsupported`](io::ErrorKind::Unsupported) on systems other than Linux; otherwise no more descriptors are
    /// available.
    pub fn new(bound: Duration) -> io::Result<BusyPoller> {
        let inner = Inner {
            bound: bound.min(LONGEST),
            started: Instant::now(),
            watch: ReadinessSet::new()?,
            expected: AtomicU64::new(0),
            paused: AtomicU64::new(0),
            busy: AtomicBool::new(false),
        };
        Ok(BusyPoller { inner: Arc::new(inner) })
    }

    /// Returns when there is work to do or no answer is expected any more; in most cases immediately. The runtime
    /// must call it through [`Builder::on_thread_park`](tokio::runtime::Builder::on_thread_park).
    pub fn before_park(&self) {
        let inner = &*self.inner;
        let until = inner.expected.load(Relaxed);
        if until == 0 || inner.busy.swap(true, Relaxed) {
            return;
        }
        let now = inner.now();
        if now < until && now >= inner.paused.load(Relaxed) {
            inner.poll(now, until);
        }
        inner.busy.store(false, Relaxed);
    }

    /// Adds a client's socket to those that are polled.
    pub(super) fn watch(&self, socket: &Socket) {
        // After a failure, frames of this client do not end a poll.
        if let Err(e) = self.inner.watch.add(socket) {
            log::debug!("cannot poll a connection: {e}");
        }
    }

    /// Notes that a piece of a large frame has arrived. Its sender is probably writing the rest.
    pub(super) fn rest_is_due(&self) {
        let inner = &*self.inner;
        inner.expected.store(inner.now().saturating_add(nanoseconds(inner.bound)), Relaxed);
    }

    /// Notes that a frame of `sender` has been routed, and that `receivers` are about to receive something.
    pub(super) fn exchanged<'a>(
        &self,
        sender: &ReplyTracker,
        receivers: impl Iterator<Item = &'a ReplyTracker>,
    ) {
        let inner = &*self.inner;
        let now = inner.now();
        sender.spoke(now, inner.bound);
        let mut expected = 0;
        for receiver in receivers {
            receiver.given(now, inner.bound);
            match receiver.limit() {
                0 => {}
                limit => expected = expected.max(now.saturating_add(limit)),
            }
        }
        inner.expected.store(expected, Relaxed);
    }
}

impl Inner {
    /// Returns the nanoseconds since the start; never 0.
    fn now(&self) -> u64 {
        nanoseconds(self.started.elapsed()).max(1)
    }

    fn poll(&self, began: u64, until: u64) {
        let mut last = began;
        while !self.watch.has_news() {
            let now = self.now();
            if now - last > nanoseconds(INTERRUPTED) {
                self.paused.store(now + nanoseconds(PAUSE), Relaxed);
                return;
            }
            if now >= until {
                return;
            }
            last = now;
            std::thread::yield_now();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(all(target_os = "linux", not(busrt_portable)))]
    #[tokio::test]
    async fn a_poll_ends_with_news_or_in_time() {
        use std::io::Write;
        let busy_poller = BusyPoller::new(LONGEST).unwrap();
        let (ours, mut theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let socket = Socket::from_unix(ours).unwrap();
        busy_poller.watch(&socket);
        // Nothing is expected.
        busy_poller.before_park();
        busy_poller.inner.expected.store(u64::MAX, Relaxed);
        theirs.write_all(b"1").unwrap();
        busy_poller.before_park();
        // The peer writes.
        busy_poller.rest_is_due();
        assert!(busy_poller.inner.expected.load(Relaxed) > busy_poller.inner.now());
        theirs.write_all(b"2").unwrap();
        busy_poller.before_park();
        // Deadlines that have just passed, or pass soon.
        for until in [1, busy_poller.inner.now() + 100_000] {
            busy_poller.inner.expected.store(until, Relaxed);
            busy_poller.before_park();
        }
        assert!(!busy_poller.inner.busy.load(Relaxed));
    }
}
