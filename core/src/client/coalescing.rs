//! The state of requests that wait to be written together with later ones. `flusher.rs` flushes them.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// Flushes of the task that follow each other faster than this are in rapid succession.
const FREQUENT_GAP: Duration = Duration::from_millis(1);
/// After so many of them it may pay to watch.
const FREQUENT_FLUSHES: u32 = 8;
/// Time for which streams are not watched after the last part of one has waited for the task.
const SHORT_DISTRUST: Duration = Duration::from_millis(10);
const FIRST_DISTRUST: Duration = Duration::from_millis(100);
const LONGEST_DISTRUST: Duration = Duration::from_secs(10);

/// The requests of one connection that wait for a flush.
#[derive(Debug, Default)]
pub(super) struct Coalescing {
    /// True while requests wait for the next flush.
    waits: AtomicBool,
    /// The number of bursts.
    bursts: AtomicU32,
    /// True if a thread flushed the last burst before it waited for answers.
    is_flushed_by_threads: AtomicBool,
    /// True while a task checks at regular intervals, so that no burst needs to wake it.
    is_watched: AtomicBool,
    /// True if a sender has written a part of its burst itself since the last call of `take_stream`.
    is_stream: AtomicBool,
    /// No stream is watched before this time, in ns since the connection began.
    no_stream_before: AtomicU64,
    /// Time for which streams were not watched after the last mistake, in ns.
    distrust: AtomicU64,
    /// Time of the task's last flush, in ns since the connection began.
    last_flush: AtomicU64,
    /// Number of its flushes in rapid succession.
    flushes: AtomicU32,
}

impl Coalescing {
    /// Returns true if requests wait for a flush.
    #[inline]
    pub(super) fn waits(&self) -> bool {
        self.waits.load(Ordering::Relaxed)
    }

    /// Notes that requests wait. Returns true if the caller must wake a task for them.
    pub(super) fn begin(&self) -> bool {
        // The load costs less than the swap. The lock of the queue orders it: the flag is cleared before the queue is
        // taken.
        if self.waits() || self.waits.swap(true, Ordering::SeqCst) {
            return false;
        }
        self.bursts.fetch_add(1, Ordering::Relaxed);
        !self.is_watched.load(Ordering::SeqCst)
    }

    /// Returns true if requests wait. The caller must flush them now; later requests start a new burst.
    pub(super) fn take(&self) -> bool {
        // Ordered after the store of `end_watch`: a burst that saw the watch is seen here.
        self.waits.load(Ordering::SeqCst) && self.waits.swap(false, Ordering::SeqCst)
    }
}

/// Streams: bursts so long that the sender writes most of them itself.
impl Coalescing {
    /// Notes that the sender has written a part of its burst.
    #[inline]
    pub(super) fn written_by_sender(&self) {
        if self.waits() && !self.is_stream.load(Ordering::Relaxed) {
            self.is_stream.store(true, Ordering::Relaxed);
        }
    }

    /// Returns true if the sender has written a part of its burst since the last call.
    pub(super) fn take_stream(&self) -> bool {
        self.is_stream.swap(false, Ordering::Relaxed)
    }

    /// Notes that the task has flushed `now`. Returns true if it has done so often in a short time that it may pay to watch.
    pub(super) fn is_frequent(&self, now: Duration) -> bool {
        let now = now.as_nanos() as u64;
        let last = self.last_flush.swap(now, Ordering::Relaxed);
        if now.saturating_sub(last) > FREQUENT_GAP.as_nanos() as u64 {
            self.flushes.store(0, Ordering::Relaxed);
            return false;
        }
        self.flushes.fetch_add(1, Ordering::Relaxed) >= FREQUENT_FLUSHES
    }

    /// Returns true if a stream may be watched `now`.
    pub(super) fn may_watch_stream(&self, now: Duration) -> bool {
        now.as_nanos() as u64 >= self.no_stream_before.load(Ordering::Relaxed)
    }

    /// Notes that there is a stream indeed.
    pub(super) fn trust(&self) {
        self.distrust.store(0, Ordering::Relaxed);
    }

    /// Forbids watching a stream for a while, which is twice as long after each further time. If nothing has come over the
    /// connection, the sender has probably not waited for an answer: then it is only a short while.
    pub(super) fn distrust(&self, now: Duration, has_heard: bool) {
        let mut distrust = SHORT_DISTRUST;
        if has_heard {
            let former = Duration::from_nanos(self.distrust.load(Ordering::Relaxed));
            distrust = (former * 2).clamp(FIRST_DISTRUST, LONGEST_DISTRUST);
            self.distrust.store(distrust.as_nanos() as u64, Ordering::Relaxed);
        }
        self.no_stream_before.store((now + distrust).as_nanos() as u64, Ordering::Relaxed);
    }
}

/// The decision whether threads or the task flush.
impl Coalescing {
    /// The number of bursts so far.
    pub(super) fn bursts(&self) -> u32 {
        self.bursts.load(Ordering::Relaxed)
    }

    /// Returns true if the last burst was flushed by a thread before it waited for answers.
    pub(super) fn is_flushed_by_threads(&self) -> bool {
        self.is_flushed_by_threads.load(Ordering::Relaxed)
    }

    /// Sets whether the last flush was by a thread or by a task.
    pub(super) fn set_flushed_by_threads(&self, by_threads: bool) {
        self.is_flushed_by_threads.store(by_threads, Ordering::Relaxed);
    }

    /// Begins a watch, in which the task checks at regular intervals. Returns false if there already is one.
    pub(super) fn begin_watch(&self) -> bool {
        !self.is_watched.swap(true, Ordering::SeqCst)
    }

    /// Ends the watch. The caller must check once more, because a burst may have begun before the watch ended.
    pub(super) fn end_watch(&self) {
        self.is_watched.store(false, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_a_burst_that_its_sender_writes() {
        let coalescing = Coalescing::default();
        coalescing.written_by_sender();
        assert!(!coalescing.take_stream());
        coalescing.begin();
        coalescing.written_by_sender();
        assert!(coalescing.take_stream() && !coalescing.take_stream());
        let start = Duration::from_secs(1);
        assert!(coalescing.may_watch_stream(start));
        let heard = [(true, FIRST_DISTRUST), (false, SHORT_DISTRUST), (true, FIRST_DISTRUST * 2)];
        for (has_heard, distrust) in heard {
            coalescing.distrust(start, has_heard);
            assert!(coalescing.may_watch_stream(start + distrust));
            assert!(!coalescing.may_watch_stream(start + distrust / 2));
        }
        coalescing.trust();
        coalescing.distrust(start, true);
        assert!(coalescing.may_watch_stream(start + FIRST_DISTRUST));
    }

    #[test]
    fn flushes_in_rapid_succession_are_counted() {
        let coalescing = Coalescing::default();
        let mut now = Duration::from_secs(1);
        assert!(!coalescing.is_frequent(now));
        for _ in 0..FREQUENT_FLUSHES {
            now += FREQUENT_GAP / 2;
            assert!(!coalescing.is_frequent(now));
        }
        now += FREQUENT_GAP / 2;
        assert!(coalescing.is_frequent(now));
        assert!(!coalescing.is_frequent(now + FREQUENT_GAP * 2));
    }

    #[test]
    fn the_first_request_of_a_burst_wakes_the_task() {
        let coalescing = Coalescing::default();
        assert!(!coalescing.take());
        assert!(coalescing.begin() && !coalescing.begin());
        assert!(coalescing.take() && !coalescing.take());
        assert!(coalescing.begin() && coalescing.take());
        assert!(coalescing.begin_watch() && !coalescing.begin_watch());
        assert!(!coalescing.begin() && coalescing.waits());
        coalescing.end_watch();
        assert!(coalescing.take() && coalescing.begin());
    }
}
