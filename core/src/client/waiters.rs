//! The wakers of the tasks that wait for a condition, each under its own ticket.

use super::contain::wake_all;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Waker;

/// Wakers by ticket (`transport::writer::next_ticket`).
#[derive(Debug, Default)]
pub(super) struct Waiters {
    wakers: Mutex<BTreeMap<u64, Waker>>,
    /// The number of wakers. Reading it costs less than taking the lock.
    count: AtomicUsize,
}

impl Waiters {
    /// Registers a waker. The caller must check the condition once more after this.
    pub(super) fn register(&self, ticket: u64, waker: &Waker) {
        // The waker must be cloned and dropped without the lock.
        let waker = waker.clone();
        let mut wakers = self.wakers.lock();
        let former = wakers.insert(ticket, waker);
        self.count.store(wakers.len(), Ordering::SeqCst);
        drop(wakers);
        drop(former);
    }

    /// Takes back a registration.
    pub(super) fn forget(&self, ticket: u64) {
        if self.count.load(Ordering::SeqCst) == 0 {
            return;
        }
        let mut wakers = self.wakers.lock();
        let former = wakers.remove(&ticket);
        self.count.store(wakers.len(), Ordering::SeqCst);
        drop(wakers);
        drop(former);
    }

    /// Wakes all of them, earlier tickets first. The caller must hold no lock.
    pub(super) fn wake_all(&self) {
        if self.count.load(Ordering::SeqCst) == 0 {
            return;
        }
        let mut registered = self.wakers.lock();
        let wakers = std::mem::take(&mut *registered);
        self.count.store(0, Ordering::SeqCst);
        drop(registered);
        wake_all(wakers.into_values());
    }
}

#[cfg(test)]
mod tests {
    use super::super::register::CountingWaker;
    use super::*;

    #[test]
    fn each_ticket_is_woken_once() {
        let (count, waker) = CountingWaker::new();
        let waiters = Waiters::default();
        for ticket in [1, 2, 1, 3] {
            waiters.register(ticket, &waker);
        }
        waiters.forget(3);
        waiters.forget(4);
        waiters.wake_all();
        waiters.wake_all();
        assert_eq!(count.count(), 2);
    }
}
