//! The flush of requests that were left to be written together with later ones.
//!
//! Normally a task of the runtime flushes: a burst wakes it with its first request. A thread that sends a burst and then
//! waits for the answers flushes itself before it waits, and waking the task would cost more than the burst. So once
//! threads have flushed before the task came, the task is not woken by each burst. It looks every millisecond, for as long
//! as there are bursts, and flushes what no thread has.

use super::shared::Shared;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;
use tokio::time::{MissedTickBehavior, interval};

/// Requests of a burst wait for about so long at most.
const LONGEST_WAIT: Duration = Duration::from_millis(1);

/// The requests of one connection that wait for a flush.
#[derive(Debug, Default)]
pub(super) struct Coalescing {
    /// True while requests wait that the next flush writes.
    waits: AtomicBool,
    /// The number of bursts.
    bursts: AtomicU32,
    /// True if the last burst was flushed by the thread that sent it.
    is_flushed_by_threads: AtomicBool,
    /// True while the task looks every millisecond.
    is_watched: AtomicBool,
}

impl Coalescing {
    /// Returns true if requests wait for a flush.
    #[inline]
    pub(super) fn waits(&self) -> bool {
        self.waits.load(Ordering::Relaxed)
    }

    /// Notes that requests wait. Returns true if a task has to be woken for them.
    fn begin(&self) -> bool {
        // The load costs less than the swap. The lock of the queue orders it: the flag is cleared before the queue is taken.
        if self.waits() || self.waits.swap(true, Ordering::SeqCst) {
            return false;
        }
        self.bursts.fetch_add(1, Ordering::Relaxed);
        !self.is_watched.load(Ordering::SeqCst)
    }

    /// Returns true if requests wait, which the caller flushes now.
    fn take(&self) -> bool {
        self.waits() && self.waits.swap(false, Ordering::SeqCst)
    }
}

impl Shared {
    /// Lets the requests in the queue be flushed within about a millisecond.
    pub(super) fn flush_soon(self: &Arc<Self>) {
        if self.coalescing.begin() {
            let shared = self.clone();
            self.writer.runtime().spawn(async move {
                if shared.flush_waiting() {
                    shared.coalescing.is_flushed_by_threads.store(false, Ordering::Relaxed);
                } else if shared.coalescing.is_flushed_by_threads.load(Ordering::Relaxed) {
                    shared.watch().await;
                }
            });
        }
    }

    /// Flushes on this thread, which is about to wait for answers, what would be flushed soon.
    pub(super) fn flush_before_waiting(&self) {
        if self.flush_waiting() {
            self.coalescing.is_flushed_by_threads.store(true, Ordering::Relaxed);
        }
    }

    fn flush_waiting(&self) -> bool {
        // Cleared before the flush: what is queued after it is a new burst.
        let waits = self.coalescing.take();
        if waits {
            self.writer.flush();
            self.burst.wrote(self.now());
        }
        waits
    }

    /// Looks every millisecond until a burst was not flushed by the thread that sent it, or until there are no more
    /// bursts.
    async fn watch(&self) {
        let coalescing = &self.coalescing;
        coalescing.is_watched.store(true, Ordering::SeqCst);
        let mut ticks = interval(LONGEST_WAIT);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut bursts = coalescing.bursts.load(Ordering::Relaxed).wrapping_sub(1);
        loop {
            ticks.tick().await;
            let former = std::mem::replace(&mut bursts, coalescing.bursts.load(Ordering::Relaxed));
            let flushed = self.flush_waiting();
            if bursts == former {
                // A burst that has waited since the last look was forgotten by its thread.
                if flushed {
                    coalescing.is_flushed_by_threads.store(false, Ordering::Relaxed);
                }
                break;
            }
        }
        coalescing.is_watched.store(false, Ordering::SeqCst);
        // A burst may have begun before it could see that.
        self.flush_waiting();
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
        coalescing.is_watched.store(true, Ordering::SeqCst);
        assert!(!coalescing.begin() && coalescing.waits());
    }
}
