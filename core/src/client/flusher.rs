//! Flushes requests that wait to be written together with later ones.
//!
//! Normally a task of the runtime flushes; the first request of a burst wakes it. A thread that sends a burst and
//! then waits for the answers flushes the burst itself before it waits, and waking the task would cost more than the
//! burst. Therefore, once threads have flushed before the task ran, bursts no longer wake the task. Instead it checks
//! every millisecond, for as long as there are bursts, and flushes the requests that no thread has flushed.

use super::shared::Shared;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{MissedTickBehavior, interval};

/// Maximum time for which requests of a burst wait (approximately).
const LONGEST_WAIT: Duration = Duration::from_millis(1);

impl Shared {
    /// Makes sure that the requests in the queue are flushed within about a millisecond.
    pub(super) fn flush_soon(self: &Arc<Self>) {
        if self.coalescing.begin() {
            let shared = self.clone();
            self.writer.runtime().spawn(async move {
                if shared.flush_waiting() {
                    shared.coalescing.set_flushed_by_threads(false);
                } else if shared.coalescing.is_flushed_by_threads() {
                    shared.watch().await;
                }
            });
        }
    }

    /// Flushes waiting requests on this thread, which is about to wait for answers.
    pub(super) fn flush_before_waiting(&self) {
        if self.flush_waiting() {
            self.coalescing.set_flushed_by_threads(true);
        }
    }

    fn flush_waiting(&self) -> bool {
        // The flag is cleared before the flush, so that requests that are queued later start a new burst.
        let waits = self.coalescing.take();
        if waits {
            self.writer.flush();
            self.burst.wrote(self.now());
        }
        waits
    }

    /// Checks every millisecond until there are no more bursts, or until only these checks have flushed.
    async fn watch(&self) {
        let coalescing = &self.coalescing;
        if !coalescing.begin_watch() {
            return;
        }
        let mut ticks = interval(LONGEST_WAIT);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.tick().await;
        let mut bursts = coalescing.bursts();
        loop {
            coalescing.set_flushed_by_threads(false);
            ticks.tick().await;
            let former = std::mem::replace(&mut bursts, coalescing.bursts());
            let by_threads = coalescing.is_flushed_by_threads();
            let flushed = self.flush_waiting();
            if bursts == former || (flushed && !by_threads) {
                // After a pause, threads are expected to flush again; a burst that no thread has flushed needs the
                // task.
                coalescing.set_flushed_by_threads(!flushed);
                break;
            }
        }
        coalescing.end_watch();
        self.flush_waiting();
    }
}
