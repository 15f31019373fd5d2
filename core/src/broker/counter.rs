//! A counter that costs no locked instruction.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A counter to which only one thread at a time adds, so that no locked instruction is needed.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Only the thread that owns the counter may call it, or one that holds the lock that guards it.
    pub(super) fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}
