//! Keeps the memory of emptied queues for reuse by the same thread, so that idle connections hold none.

use super::queue::{FLAT_LIMIT, WriteQueue};
use std::cell::RefCell;

/// The bytes that one thread keeps.
const POOL_BYTES: usize = 4 * 1024 * 1024;

#[derive(Default)]
struct Pool {
    // Boxed, because queues are moved between this list, their connection and the writing party.
    #[expect(clippy::vec_box)]
    queues: Vec<Box<WriteQueue>>,
    bytes: usize,
}

thread_local! {
    static POOL: RefCell<Pool> = RefCell::default();
}

/// An empty queue, with buffers if this thread has kept some.
pub(super) fn take() -> Box<WriteQueue> {
    let pooled = POOL.try_with(|pool| {
        let mut pool = pool.borrow_mut();
        let queue = pool.queues.pop()?;
        pool.bytes -= queue.footprint();
        Some(queue)
    });
    pooled.ok().flatten().unwrap_or_default()
}

/// Takes back a queue, to be reused by this thread.
pub(super) fn give(mut queue: Box<WriteQueue>) {
    queue.clear();
    let footprint = queue.footprint();
    // Fails only while the thread ends.
    let _ = POOL.try_with(|pool| {
        let mut pool = pool.borrow_mut();
        if footprint <= 2 * FLAT_LIMIT && pool.bytes + footprint <= POOL_BYTES {
            pool.bytes += footprint;
            pool.queues.push(queue);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn emptied_queues_are_reused() {
        let mut queue = take();
        queue.push(|out| out.extend_from_slice(&[0; 100]));
        give(queue);
        let queue = take();
        assert!(queue.is_empty() && queue.footprint() >= 100);
    }
}
