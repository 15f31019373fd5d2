//! The allocator of the broker's process, and how it gives memory back.
//!
//! Each thread has a heap of its own. What another thread has freed of it, it notices only when it allocates, so that
//! a broker at rest would hold on to memory that its clients have released.

#[cfg(not(feature = "std-alloc"))]
pub(crate) use mimalloc_heap::collect;

#[cfg(feature = "std-alloc")]
pub(crate) fn collect() {}

#[cfg(not(feature = "std-alloc"))]
mod mimalloc_heap {
    use std::cell::Cell;
    use std::time::{Duration, Instant};

    #[global_allocator]
    static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

    /// A thread gives memory back at most this often.
    const INTERVAL: Duration = Duration::from_secs(1);

    thread_local! {
        static LAST: Cell<Option<Instant>> = const { Cell::new(None) };
    }

    /// Gives back what is free in this thread's heap, unless that was done just now. To be called when the thread is
    /// about to sleep.
    pub(crate) fn collect() {
        let now = Instant::now();
        let is_due = LAST.get().is_none_or(|last| now.saturating_duration_since(last) >= INTERVAL);
        if is_due {
            LAST.set(Some(now));
            // SAFETY: the function may be called at any time from any thread; it touches the allocator's own state.
            unsafe { libmimalloc_sys::mi_collect(false) };
        }
    }
}
