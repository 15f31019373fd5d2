//! Flushes requests that wait to be written together with later ones.
//!
//! Normally a task of the runtime flushes; the first request of a burst wakes it. A thread that sends a burst and
//! then waits for the answers flushes the burst itself before it waits, and waking the task would cost more than the
//! burst. Therefore, once threads have flushed before the task ran, bursts no longer wake the task. Instead it checks
//! every millisecond, for as long as there are bursts, and flushes the requests that no thread has flushed.
//!
//! The same holds for a stream. Its sender writes a part of the burst whenever enough bytes have gathered, so that only
//! the last part needs the task. If the task finds that the sender has paused before the last part was written, bursts
//! wake the task again for a while, because the sender may be waiting for an answer to that part. A stream is recognized
//! by a sender that has written before the task ran, or by flushes in rapid succession.

use super::shared::Shared;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::time::{MissedTickBehavior, interval};

/// Maximum time for which requests of a burst wait (approximately).
const LONGEST_WAIT: Duration = Duration::from_millis(1);
/// A sender that has not written for this long has paused.
const PAUSE: Duration = Duration::from_micros(250);

impl Shared {
    /// Makes sure that the requests in the queue are flushed within about a millisecond.
    pub(super) fn flush_soon(self: &Arc<Self>) {
        if self.coalescing.begin() {
            let shared = self.clone();
            // From a task of a runtime, no core has to be woken: the flush runs when the sender yields.
            let is_sent_by_task = Handle::try_current().is_ok();
            self.writer.runtime().spawn(async move {
                let is_stream = shared.coalescing.take_stream();
                if shared.flush_waiting() {
                    shared.coalescing.set_flushed_by_threads(false);
                    let now = shared.now();
                    let may_be_stream = shared.coalescing.is_frequent(now) || is_stream;
                    if may_be_stream && !is_sent_by_task && shared.coalescing.may_watch_stream(now) {
                        shared.watch().await;
                    }
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

    /// Flushes waiting requests on this thread. Returns true if there were any.
    pub(super) fn flush_waiting(&self) -> bool {
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
        let began = self.now();
        let mut bursts = coalescing.bursts();
        loop {
            coalescing.set_flushed_by_threads(false);
            ticks.tick().await;
            let former = std::mem::replace(&mut bursts, coalescing.bursts());
            let findings = Findings {
                has_bursts: bursts != former,
                is_stream: coalescing.take_stream(),
                has_paused: self.now().saturating_sub(self.burst.last()) > PAUSE,
                by_threads: coalescing.is_flushed_by_threads(),
                flushed: self.flush_waiting(),
            };
            match findings.next() {
                Next::Check => {
                    if findings.is_stream {
                        coalescing.trust();
                    }
                    continue;
                }
                Next::Stop => {}
                Next::StopAndDistrust => coalescing.distrust(self.now(), self.has_heard_since(began)),
            }
            // After a pause, threads are expected to flush again; a burst that no thread has flushed needs the
            // task.
            coalescing.set_flushed_by_threads(!findings.flushed);
            break;
        }
        coalescing.end_watch();
        self.flush_waiting();
    }
}

/// The findings of one check.
#[derive(Debug, Clone, Copy)]
struct Findings {
    /// True if bursts have begun since the last check.
    has_bursts: bool,
    /// True if the sender has written a part of a burst itself since the last check.
    is_stream: bool,
    /// True if the sender has not written for a while.
    has_paused: bool,
    /// True if a thread has flushed before it waited, since the last check.
    by_threads: bool,
    /// True if this check had something to flush.
    flushed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Check,
    Stop,
    /// A burst, or the last part of a stream, has waited for this check in vain: its sender is not a stream, or had paused.
    StopAndDistrust,
}

impl Findings {
    fn next(self) -> Next {
        if self.is_stream {
            return if self.flushed && self.has_paused { Next::StopAndDistrust } else { Next::Check };
        }
        match (self.has_bursts, self.flushed, self.by_threads) {
            (_, true, false) => Next::StopAndDistrust,
            (false, ..) => Next::Stop,
            _ => Next::Check,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_task_checks_as_long_as_senders_and_threads_flush() {
        let quiet = Findings {
            has_bursts: false,
            is_stream: false,
            has_paused: true,
            by_threads: false,
            flushed: false,
        };
        assert_eq!(quiet.next(), Next::Stop);
        let thread = Findings { has_bursts: true, by_threads: true, ..quiet };
        assert_eq!(thread.next(), Next::Check);
        assert_eq!(Findings { flushed: true, ..thread }.next(), Next::Check);
        let late = Findings { flushed: true, by_threads: false, ..thread };
        assert_eq!(late.next(), Next::StopAndDistrust);
        let stream = Findings { is_stream: true, flushed: true, has_paused: false, ..quiet };
        assert_eq!(stream.next(), Next::Check);
        assert_eq!(Findings { has_paused: true, ..stream }.next(), Next::StopAndDistrust);
        assert_eq!(Findings { has_paused: true, flushed: false, ..stream }.next(), Next::Check);
    }
}
