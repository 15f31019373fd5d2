//! Distinguishes bursts of requests from single requests: the requests of a burst are written together, a single
//! request is written before the call returns.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Requests that follow each other faster than this form a burst.
const BURST_GAP: Duration = Duration::from_micros(5);
/// Requests that follow each other faster than this form a burst if their sender does not wait for answers. This
/// covers a steady sender that needs 6 us for a message. With longer gaps, a separate write costs less than waking a
/// task.
const STEADY_GAP: Duration = Duration::from_micros(10);
/// Number of requests after which a burst tolerates one longer gap.
const LONG_BURST: u32 = 32;
/// After a burst of [`LONG_BURST`] requests, one gap of up to this is tolerated unless an answer came in it, because
/// a sender of that many requests yields to others now and then. Only one gap is tolerated until the next such burst,
/// so that a steady sender is not taken for a burst.
const TOLERATED_GAP: Duration = Duration::from_millis(1);

/// The times of a sender's requests. If two requests come at the same time, either may count as the last one.
#[derive(Debug, Default)]
pub(super) struct BurstDetector {
    /// The time at which the last request had been queued or written, in ns of the caller's clock.
    last: AtomicU64,
    /// The number of requests so far that have followed each other closely.
    burst: AtomicU32,
}

impl BurstDetector {
    /// Notes a request that comes at `now`, and returns whether it is part of a burst. `awaits_answers` returns
    /// whether an answer may have come since the given time: in that case the program sends its requests one by one.
    #[inline]
    pub(super) fn is_burst(&self, now: Duration, awaits_answers: impl FnOnce(Duration) -> bool) -> bool {
        let last = Duration::from_nanos(self.last.load(Relaxed));
        // Plain loads and stores are enough here and below: a swap would cost more.
        self.last.store(now.as_nanos() as u64, Relaxed);
        let gap = now.saturating_sub(last);
        let burst = self.burst.load(Relaxed);
        let is_close = gap < STEADY_GAP;
        let may_be = is_close || (burst >= LONG_BURST && gap < TOLERATED_GAP);
        let is_burst = gap < BURST_GAP || (may_be && !awaits_answers(last));
        self.burst.store(if is_burst && is_close { burst.saturating_add(1) } else { 0 }, Relaxed);
        is_burst
    }

    /// Notes a request that joins others that are waiting to be written.
    #[inline]
    pub(super) fn continues(&self) {
        self.burst.store(self.burst.load(Relaxed).saturating_add(1), Relaxed);
    }

    /// Returns the time of the last request, or of the end of the write that followed it.
    pub(super) fn last(&self) -> Duration {
        Duration::from_nanos(self.last.load(Relaxed))
    }

    /// Notes that requests have been written, because the duration of the write does not count as a gap between
    /// requests.
    #[inline]
    pub(super) fn wrote(&self, now: Duration) {
        self.last.store(now.as_nanos() as u64, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sender with a clock in ns.
    struct Sender {
        detector: BurstDetector,
        now: u64,
    }

    impl Sender {
        fn new() -> Sender {
            Sender { detector: BurstDetector::default(), now: 1_000_000 }
        }

        /// Returns whether a request that comes `gap` ns after the one before is part of a burst.
        fn after(&mut self, gap: u64, answered: bool) -> bool {
            self.now += gap;
            self.detector.is_burst(Duration::from_nanos(self.now), |_| answered)
        }
    }

    #[test]
    fn a_burst_begins_with_the_second() {
        let mut sender = Sender::new();
        let gaps = [0, 4_999, 9_999, 10_000, 100_000, 1];
        let taken = gaps.map(|gap| sender.after(gap, false));
        assert_eq!(taken, [false, true, true, false, false, true]);
    }

    #[test]
    fn requests_that_wait_for_answers_are_no_burst() {
        let mut sender = Sender::new();
        assert!(!(0..100).any(|_| sender.after(6_000, true)));
        assert!((0..100).all(|_| sender.after(6_000, false)));
        assert!(!sender.after(900_000, true));
    }

    #[test]
    fn the_time_of_a_write_is_not_a_gap() {
        let mut sender = Sender::new();
        for _ in 0..100 {
            sender.after(3_000, false);
            sender.now += 40_000;
            sender.detector.wrote(Duration::from_nanos(sender.now));
            assert!(sender.after(6_000, false));
        }
    }

    #[test]
    fn only_a_long_burst_outlasts_a_gap_and_only_one() {
        for (count, outlasts) in [(LONG_BURST - 1, false), (LONG_BURST, true)] {
            let mut sender = Sender::new();
            assert!(!sender.after(0, false));
            for _ in 0..2 {
                assert!((0..count).all(|_| sender.after(100, false)));
                assert_eq!(sender.after(999_999, false), outlasts);
                assert!(!sender.after(999_999, false));
            }
            assert!((0..count).all(|_| sender.after(100, false)));
            assert!(!sender.after(1_000_000, false), "a longer gap ends the burst");
        }
    }
}
