//! Counts work in tests, so that they can bound the work of one call without measuring time.

#[cfg(test)]
thread_local! {
    static DONE: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// Counts items that were moved, zeroed or visited. Does nothing outside of tests.
#[inline]
pub(super) fn add(items: usize) {
    #[cfg(test)]
    DONE.with(|done| done.set(done.get() + items));
    #[cfg(not(test))]
    let _ = items;
}

/// Returns the work that this thread has counted since the last call.
#[cfg(test)]
pub(super) fn take() -> usize {
    DONE.with(|done| done.replace(0))
}
