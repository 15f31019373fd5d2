//! The allocator of the broker's process, and how it returns memory.
//!
//! Each thread has its own heap. It only notices that another thread has freed memory of this heap when it allocates,
//! so that an idle broker would keep memory that its clients have released.

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

    /// Minimum interval at which a thread returns memory.
    const INTERVAL: Duration = Duration::from_secs(1);

    thread_local! {
        static LAST: Cell<Option<Instant>> = const { Cell::new(None) };
    }

    /// Returns the free memory of this thread's heap, unless that was done just before. It must be called when the
    /// thread is about to sleep.
    pub(crate) fn collect() {
        let now = Instant::now();
        let is_due = LAST.get().is_none_or(|last| now.saturating_duration_since(last) >= INTERVAL);
        if is_due {
            LAST.set(Some(now));
            // SAFETY: the function may be called at any time from any thread; it only accesses the allocator's own
            // state.
            unsafe { libmimalloc_sys::mi_collect(false) };
        }
    }
}
