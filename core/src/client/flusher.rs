//! The flush of requests that were left to be written together with later ones.
//!
//! Normally a task of the runtime flushes: a burst wakes it with its first request. A thread that sends a burst and then
//! waits for the answers flushes itself before it waits, and waking the task would cost more than the burst. So once
//! threads have flushed before the task came, the task is not woken by each burst. It looks every millisecond, for as long
//! as there are bursts, and flushes what no thread has.

use super::shared::Shared;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{MissedTickBehavior, interval};

/// Requests of a burst wait for about so long at most.
const LONGEST_WAIT: Duration = Duration::from_millis(1);

impl Shared {
    /// Lets the requests in the queue be flushed within about a millisecond.
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

    /// Flushes on this thread, which is about to wait for answers, what would be flushed soon.
    pub(super) fn flush_before_waiting(&self) {
        if self.flush_waiting() {
            self.coalescing.set_flushed_by_threads(true);
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

    /// Looks every millisecond until there are no more bursts, or until only these looks have flushed.
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
                // After a pause, threads are trusted again; a burst that one has not flushed needs the task.
                coalescing.set_flushed_by_threads(!flushed);
                break;
            }
        }
        coalescing.end_watch();
        self.flush_waiting();
    }
}
