//! Lets a plain thread that waits for an answer poll the socket itself, so that no sleeping core has to be woken for
//! it.
//!
//! Normally the task of the runtime reads: it is registered for the readiness of the socket, and with each answer the
//! kernel wakes a thread of the runtime, which wakes the thread that waits. Waking a core that sleeps costs more than
//! everything else that is done for a small answer. Therefore a thread polls the socket for a short time before it
//! sleeps, with a `sched_yield` between two checks. How long this pays is learned ([`PollPolicy`]).
//!
//! As long as the task is registered, each answer also wakes the runtime needlessly. After several successive waits
//! that ended with an answer that was polled for, and if nothing else is awaited, the task therefore *lends* reading:
//! it gives up its registration. It takes reading back
//! - when a thread goes to sleep, or anything else than a polling thread waits for something that comes over the
//!   connection ([`sleeps`](ReadingLease::sleeps)), immediately;
//! - when the inbox is full, or the stream has ended;
//! - when the connection is closed;
//! - after a few milliseconds without a check of the socket. This bounds the delay of data that arrives between two
//!   waits: pings, frames for which no task waits yet, and the end of the connection.
//!
//! One thread polls at a time; others sleep, and the task reads for them. No lock is held while the socket is read:
//! wakers may run, which are foreign code and may wait for an answer of the same client.

use super::poll_policy::{PollBounds, PollPolicy};
use parking_lot::Mutex;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio::time::timeout;

/// Number of successive waits that must end with a polled-for answer before the task lends reading.
const STREAK: u32 = 4;
/// The task takes reading back after one to two of these intervals without a check of the socket.
const IDLE: Duration = Duration::from_millis(4);

/// The connection from the point of view of a polling thread.
pub(crate) trait Readable: Send + Sync {
    /// Reads once on this thread, without waiting. It runs wakers: the caller must hold no lock.
    fn read_now(&self) -> Look;

    /// Writes the requests that wait to be written together with later ones.
    fn flush(&self);

    /// Returns true if anything that arrives over the connection is awaited, apart from the results for the
    /// completion queue of the id `except`.
    fn is_awaited(&self, except: Option<usize>) -> bool;
}

/// The answer or frame for which a polling thread waits, which must be distinguished from those of other waiters.
pub(crate) trait Awaited {
    /// Returns true if something other than the polling thread waits for data that arrives over the connection.
    fn is_awaited_by_others(&self, connection: &dyn Readable) -> bool;
}

/// A single answer or frame.
pub(crate) struct SingleAnswer;

impl Awaited for SingleAnswer {
    fn is_awaited_by_others(&self, connection: &dyn Readable) -> bool {
        connection.is_awaited(None)
    }
}

/// The result of one check of the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// Data was read and delivered.
    Some,
    /// There was nothing to read, or another thread is reading.
    Nothing,
    /// This thread should not read: the inbox has no room, or the connection has ended.
    Over,
}

/// Reading belongs to the task of the runtime.
const HELD: u8 = 0;
/// The task should lend reading when it runs the next time.
const WANTED: u8 = 1;
/// The task is not registered.
const LENT: u8 = 2;

/// Decides whether the task of the runtime or waiting threads read the socket of a client.
pub(crate) struct ReadingLease {
    /// False if threads never poll.
    is_on: bool,
    connection: Mutex<Option<Weak<dyn Readable>>>,
    policy: Mutex<PollPolicy>,
    state: AtomicU8,
    /// True while a thread polls.
    is_polled: AtomicBool,
    /// The number of successive polls that ended with an answer. Only the polling thread writes.
    streak: AtomicU32,
    /// The number of checks by polling threads. Only the polling thread writes.
    looks: AtomicU64,
    /// True if the client has sent something since it last waited for frames.
    has_sent: AtomicBool,
    taken_back: Notify,
    /// The number of times that the task has lent reading.
    loans: AtomicU64,
}

impl ReadingLease {
    /// Creates a lease with which threads poll at most for `most`; zero: not at all.
    pub(super) fn new(most: Duration) -> Arc<ReadingLease> {
        let policy = PollPolicy::new(most);
        Arc::new(ReadingLease {
            is_on: !policy.is_off(),
            connection: Mutex::new(None),
            policy: Mutex::new(policy),
            state: AtomicU8::new(HELD),
            is_polled: AtomicBool::new(false),
            streak: AtomicU32::new(0),
            looks: AtomicU64::new(0),
            has_sent: AtomicBool::new(false),
            taken_back: Notify::new(),
            loans: AtomicU64::new(0),
        })
    }

    /// Sets the connection that is polled from now on.
    pub(super) fn attach(&self, connection: Weak<dyn Readable>) {
        if self.is_on {
            let former = self.connection.lock().replace(connection);
            drop(former);
        }
    }

    /// Notes that something was sent: an answer may come as a frame.
    #[inline]
    pub(super) fn note_sent(&self) {
        // The flag is usually set already: not writing it keeps the cache line shared.
        if !self.has_sent.load(Ordering::Relaxed) {
            self.has_sent.store(true, Ordering::Relaxed);
        }
    }

    /// Returns what a thread polls for while it waits for the next frame: if something was sent since the last call,
    /// the frame may be an answer.
    pub(super) fn awaited_frame(&self) -> Option<&'static dyn Awaited> {
        let has_sent = self.has_sent.load(Ordering::Relaxed) && self.has_sent.swap(false, Ordering::Relaxed);
        has_sent.then_some(&SingleAnswer)
    }

    /// Notes that something waits for incoming data without polling, so that the task must read. It must be called
    /// after the waker is registered; a thread calls it before it sleeps.
    #[inline]
    pub(crate) fn sleeps(&self) {
        if self.state.load(Ordering::SeqCst) != HELD {
            self.take_back();
        }
    }

    /// Returns true if the task reads and is not asked to lend.
    #[inline]
    pub(super) fn is_held(&self) -> bool {
        self.state.load(Ordering::SeqCst) == HELD
    }

    #[cold]
    fn take_back(&self) {
        if self.state.swap(HELD, Ordering::SeqCst) == LENT {
            self.taken_back.notify_one();
        }
    }

    /// Writes the coalesced requests on this thread, because their answers are awaited.
    pub(super) fn flush(&self) {
        if let Some(connection) = self.connection() {
            connection.flush();
        }
    }

    fn connection(&self) -> Option<Arc<dyn Readable>> {
        if self.is_on { self.connection.lock().as_ref().and_then(Weak::upgrade) } else { None }
    }

    /// Flushes, then polls on this thread until `is_woken` returns true, or until polling no longer pays, at the
    /// latest at `until`. If it returns false, the caller may sleep: the task reads.
    pub(super) fn poll(
        &self,
        awaited: &dyn Awaited,
        until: Option<Instant>,
        is_woken: impl Fn() -> bool,
    ) -> bool {
        let woken = self.connection().is_some_and(|connection| {
            connection.flush();
            self.begin(awaited, &*connection).is_some_and(|polling| polling.run(until, is_woken))
        });
        if !woken {
            self.sleeps();
        }
        woken
    }

    /// Notes that an answer has come for which a thread has waited.
    pub(super) fn answered(&self) {
        if self.is_on {
            self.policy.lock().answered(1);
        }
    }

    fn begin<'a>(&'a self, awaited: &'a dyn Awaited, connection: &'a dyn Readable) -> Option<Polling<'a>> {
        let is_free = !self.is_polled.swap(true, Ordering::Acquire);
        // From here on, the drop of the value ends the poll.
        is_free.then(|| Polling { lease: self, awaited, connection, succeeded: false })
    }
}

/// The side of the task.
impl ReadingLease {
    /// Returns true if the task should give up its registration now. It must then wait for
    /// [`returned`](ReadingLease::returned).
    pub(super) fn lend(&self) -> bool {
        let lent = self.state.load(Ordering::Relaxed) == WANTED
            && self.state.compare_exchange(WANTED, LENT, Ordering::SeqCst, Ordering::Relaxed).is_ok();
        if lent {
            self.loans.fetch_add(1, Ordering::Relaxed);
        }
        lent
    }

    /// Returns when the task must read again. If the future is dropped, reading stays lent.
    pub(super) async fn returned(&self) {
        loop {
            let looks = self.looks.load(Ordering::Relaxed);
            let is_idle = timeout(IDLE, self.taken_back.notified()).await.is_err()
                && self.looks.load(Ordering::Relaxed) == looks;
            // A notification may be left over from before.
            if is_idle || self.state.load(Ordering::SeqCst) != LENT {
                return;
            }
        }
    }

    /// Notes that the task reads again.
    pub(super) fn hold(&self) {
        self.state.store(HELD, Ordering::SeqCst);
    }
}

#[cfg(test)]
impl ReadingLease {
    /// Makes threads poll this long in every wait.
    pub(super) fn poll_always(&self, limit: Duration) {
        *self.policy.lock() = PollPolicy::fixed(limit);
    }

    /// Returns the number of times that the task has lent reading, and the number of checks of the socket by threads.
    pub(super) fn counts(&self) -> (u64, u64) {
        (self.loans.load(Ordering::SeqCst), self.looks.load(Ordering::SeqCst))
    }

    pub(super) fn is_on(&self) -> bool {
        self.is_on
    }

    pub(super) fn is_lent(&self) -> bool {
        self.state.load(Ordering::SeqCst) == LENT
    }
}

/// Declares that a thread polls, until the value is dropped.
struct Polling<'a> {
    lease: &'a ReadingLease,
    awaited: &'a dyn Awaited,
    connection: &'a dyn Readable,
    succeeded: bool,
}

impl Polling<'_> {
    fn run(mut self, until: Option<Instant>, is_woken: impl Fn() -> bool) -> bool {
        let Some(bounds) = self.lease.policy.lock().begin() else { return false };
        self.succeeded = self.look_until(bounds, until, is_woken);
        if self.succeeded {
            self.lease.policy.lock().succeeded();
        }
        self.succeeded
    }

    fn look_until(&self, bounds: PollBounds, until: Option<Instant>, is_woken: impl Fn() -> bool) -> bool {
        let lease = self.lease;
        let began = Instant::now();
        let end = until.map_or(began + bounds.limit, |until| until.min(began + bounds.limit));
        let mut last = began;
        loop {
            let look = self.connection.read_now();
            lease.looks.store(lease.looks.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
            if is_woken() {
                return true;
            }
            match look {
                Look::Over => {
                    lease.policy.lock().failed();
                    return false;
                }
                // Delivering the data may have taken some time.
                Look::Some => last = Instant::now(),
                Look::Nothing => {}
            }
            std::thread::yield_now();
            let now = Instant::now();
            if now - last > bounds.interruption {
                lease.policy.lock().interrupted(now - last);
                return is_woken();
            }
            if now >= end {
                lease.policy.lock().failed();
                return is_woken();
            }
            last = now;
        }
    }
}

impl Drop for Polling<'_> {
    fn drop(&mut self) {
        let lease = self.lease;
        let streak = if self.succeeded { lease.streak.load(Ordering::Relaxed).saturating_add(1) } else { 0 };
        lease.streak.store(streak, Ordering::Relaxed);
        if streak >= STREAK {
            let _ = lease.state.compare_exchange(HELD, WANTED, Ordering::SeqCst, Ordering::Relaxed);
        }
        // This is checked after the state has changed: everything that begins to wait later sees the new state.
        let others_wait = || self.awaited.is_awaited_by_others(self.connection);
        if self.succeeded && others_wait() {
            lease.streak.store(0, Ordering::Relaxed);
            lease.sleeps();
        }
        lease.is_polled.store(false, Ordering::Release);
    }
}

impl fmt::Debug for ReadingLease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadingLease").field("state", &self.state).finish_non_exhaustive()
    }
}
