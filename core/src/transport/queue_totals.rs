//! The total load of all queues of a broker.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Queues are counted in steps of this many bytes, so that small ones never touch the shared counters.
pub(super) const STEP_BYTES: usize = 64 * 1024;

/// The total bytes of all queues that hold at least 64 KiB, and the number of these queues.
#[derive(Debug, Default)]
pub struct QueueTotals {
    bytes: AtomicUsize,
    queues: AtomicUsize,
}

impl QueueTotals {
    /// Returns the bound for one queue while all together are over `total` bytes: the average for each queue. Returns
    /// `None` while they are not over it.
    #[inline]
    pub fn share(&self, total: usize) -> Option<usize> {
        let bytes = self.bytes.load(Relaxed);
        (bytes > total).then(|| total / self.queues.load(Relaxed).max(1))
    }

    /// Replaces the counted size `counted` of one queue by its present size. Does nothing for small changes.
    #[inline]
    pub(super) fn update(&self, counted: &mut usize, now: usize) {
        if now.abs_diff(*counted) < STEP_BYTES && (now > 0 || *counted == 0) {
            return;
        }
        self.replace(counted, if now < STEP_BYTES { 0 } else { now });
    }

    #[cold]
    fn replace(&self, counted: &mut usize, now: usize) {
        match (*counted, now) {
            (0, 0) => return,
            (0, _) => _ = self.queues.fetch_add(1, Relaxed),
            (_, 0) => _ = self.queues.fetch_sub(1, Relaxed),
            _ => {}
        }
        // Wrapping: adding the difference works in both directions.
        self.bytes.fetch_add(now.wrapping_sub(*counted), Relaxed);
        *counted = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_queues_are_counted_and_small_ones_are_not() {
        let totals = QueueTotals::default();
        let (mut a, mut b, mut small) = (0, 0, 0);
        totals.update(&mut small, STEP_BYTES - 1);
        totals.update(&mut a, 10 * STEP_BYTES);
        totals.update(&mut b, 2 * STEP_BYTES);
        assert_eq!((small, totals.share(12 * STEP_BYTES)), (0, None));
        assert_eq!(totals.share(10 * STEP_BYTES), Some(5 * STEP_BYTES));
        totals.update(&mut a, 10 * STEP_BYTES + 1);
        assert_eq!(a, 10 * STEP_BYTES);
        totals.update(&mut a, 0);
        totals.update(&mut b, STEP_BYTES / 2);
        assert_eq!((a, b, totals.bytes.load(Relaxed), totals.queues.load(Relaxed)), (0, 0, 0, 0));
    }
}
