//! The callers that wait for a queue: for room in it, or until something in it is written.

use crate::transport::load::Load;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::Waker;

/// A place in the order in which waiters are woken: earlier tickets first.
pub fn next_ticket() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Relaxed)
}

/// The condition that a caller waits for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Condition {
    /// The queue is below a bound.
    Below(Load),
    /// So many bytes have been written since the connection began.
    Written(u64),
}

impl Condition {
    /// Returns whether the condition holds when `load` waits and `written` bytes have been written.
    pub(super) fn holds(self, load: Load, written: u64) -> bool {
        match self {
            Condition::Below(bound) => load.is_below(bound),
            Condition::Written(position) => written >= position,
        }
    }
}

#[derive(Debug)]
struct Waiter {
    ticket: u64,
    condition: Condition,
    waker: Waker,
}

/// The waiters of one queue, in the order of their tickets.
#[derive(Debug, Default)]
pub(super) struct Waiters(Vec<Waiter>);

impl Waiters {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds a waiter, in place of an earlier one with the same ticket. Returns the waker of the earlier one, to be
    /// dropped without a lock.
    pub(super) fn insert(&mut self, ticket: u64, condition: Condition, waker: Waker) -> Option<Waker> {
        let waiter = Waiter { ticket, condition, waker };
        match self.find(ticket) {
            Ok(at) => Some(std::mem::replace(&mut self.0[at], waiter).waker),
            Err(at) => {
                self.0.insert(at, waiter);
                None
            }
        }
    }

    /// Removes the waiter with that ticket. Returns its waker, to be dropped without a lock.
    pub(super) fn remove(&mut self, ticket: u64) -> Option<Waker> {
        let at = self.find(ticket).ok()?;
        Some(self.0.remove(at).waker)
    }

    fn find(&self, ticket: u64) -> Result<usize, usize> {
        self.0.binary_search_by_key(&ticket, |waiter| waiter.ticket)
    }

    /// Removes the waiters whose condition holds, and returns their wakers. The one with the earliest ticket comes
    /// last: a task that is woken last runs first on the worker that wakes it.
    pub(super) fn take_due(&mut self, load: Load, written: u64) -> Vec<Waker> {
        let due = self.0.extract_if(.., |waiter| waiter.condition.holds(load, written));
        let mut due: Vec<Waker> = due.map(|waiter| waiter.waker).collect();
        if due.len() > 1 {
            due.rotate_left(1);
        }
        due
    }

    /// The wakers of all waiters, in the order of their tickets.
    pub(super) fn into_wakers(self) -> impl Iterator<Item = Waker> {
        self.0.into_iter().map(|waiter| waiter.waker)
    }
}
