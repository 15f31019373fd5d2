//! The state of requests that wait to be written together with later ones. `flusher.rs` flushes them.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

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
