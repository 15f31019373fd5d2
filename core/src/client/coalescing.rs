//! What is known of requests that were left to be written together with later ones. `flusher.rs` flushes them.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// The requests of one connection that wait for a flush.
#[derive(Debug, Default)]
pub(super) struct Coalescing {
    /// True while requests wait that the next flush writes.
    waits: AtomicBool,
    /// The number of bursts.
    bursts: AtomicU32,
    /// True if the last burst was flushed by a thread before it waited for answers.
    is_flushed_by_threads: AtomicBool,
    /// True while a task looks again and again, so that none has to be woken.
    is_watched: AtomicBool,
}

impl Coalescing {
    /// Returns true if requests wait for a flush.
    #[inline]
    pub(super) fn waits(&self) -> bool {
        self.waits.load(Ordering::Relaxed)
    }

    /// Notes that requests wait. Returns true if a task has to be woken for them.
    pub(super) fn begin(&self) -> bool {
        // The load costs less than the swap. The lock of the queue orders it: the flag is cleared before the queue is taken.
        if self.waits() || self.waits.swap(true, Ordering::SeqCst) {
            return false;
        }
        self.bursts.fetch_add(1, Ordering::Relaxed);
        !self.is_watched.load(Ordering::SeqCst)
    }

    /// Returns true if requests wait. The caller flushes them now: what is queued later is a new burst.
    pub(super) fn take(&self) -> bool {
        // Ordered after the store of `end_watch`: a burst that has seen the watch is seen here.
        self.waits.load(Ordering::SeqCst) && self.waits.swap(false, Ordering::SeqCst)
    }
}

/// Who flushes.
impl Coalescing {
    /// The number of bursts so far.
    pub(super) fn bursts(&self) -> u32 {
        self.bursts.load(Ordering::Relaxed)
    }

    /// Returns true if the last burst was flushed by a thread before it waited for answers.
    pub(super) fn is_flushed_by_threads(&self) -> bool {
        self.is_flushed_by_threads.load(Ordering::Relaxed)
    }

    /// Notes whether a thread has flushed, or a task.
    pub(super) fn set_flushed_by_threads(&self, by_threads: bool) {
        self.is_flushed_by_threads.store(by_threads, Ordering::Relaxed);
    }

    /// A task looks again and again from now on. Returns false if there is one already.
    pub(super) fn begin_watch(&self) -> bool {
        !self.is_watched.swap(true, Ordering::SeqCst)
    }

    /// The task stops. It has to look once more: a burst may have begun before that was known.
    pub(super) fn end_watch(&self) {
        self.is_watched.store(false, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
