//! Tells requests that come in a burst from those that come one by one: a task writes the former together, the
//! latter are written at once.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Requests that follow each other faster than this are a burst.
const CLOSE: Duration = Duration::from_micros(5);
/// After a burst of so many,
const LONG: u32 = 32;
/// one that comes within this time is part of it all the same, once: who sends that much gives way to others now
/// and then. Another burst must follow before the next lull is forgiven, or a steady sender would be taken for it.
const LULL: Duration = Duration::from_millis(1);

/// When requests came. Of two at once either may count as the last.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// In ns, of whatever clock the caller has.
    last: AtomicU64,
    /// How many have followed closely so far.
    burst: AtomicU32,
}

impl Pace {
    /// Notes a request that comes `now`, and tells whether it is part of a burst.
    #[inline]
    pub(super) fn is_burst(&self, now: Duration) -> bool {
        let now = now.as_nanos() as u64;
        // A swap would only cost, here and below.
        let last = self.last.load(Relaxed);
        self.last.store(now, Relaxed);
        let gap = Duration::from_nanos(now.saturating_sub(last));
        let burst = self.burst.load(Relaxed);
        let close = gap < CLOSE;
        self.burst.store(if close { burst.saturating_add(1) } else { 0 }, Relaxed);
        close || (burst >= LONG && gap < LULL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a request is taken for that comes so many ns after the one before.
    fn after(pace: &Pace, now: &mut u64, gap: u64) -> bool {
        *now += gap;
        pace.is_burst(Duration::from_nanos(*now))
    }

    #[test]
    fn a_burst_begins_with_the_second() {
        let (pace, mut now) = (Pace::default(), 1_000_000);
        let taken: Vec<bool> =
            [0, 4_999, 4_999, 5_000, 100_000, 1].iter().map(|gap| after(&pace, &mut now, *gap)).collect();
        assert_eq!(taken, [false, true, true, false, false, true]);
    }

    #[test]
    fn only_a_long_burst_outlasts_a_lull_and_only_one() {
        for (count, outlasts) in [(LONG - 1, false), (LONG, true)] {
            let (pace, mut now) = (Pace::default(), 1_000_000);
            assert!(!after(&pace, &mut now, 0));
            for _ in 0..2 {
                assert!((0..count).all(|_| after(&pace, &mut now, 100)));
                assert_eq!(after(&pace, &mut now, 999_999), outlasts);
                assert!(!after(&pace, &mut now, 999_999));
            }
            // A longer one ends it.
            assert!((0..count).all(|_| after(&pace, &mut now, 100)));
            assert!(!after(&pace, &mut now, 1_000_000));
        }
    }
}
