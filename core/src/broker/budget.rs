//! The amount of work that a session does before it yields.
//!
//! While a session works without an await, its worker thread serves nothing else: no other sessions, no sockets that
//! became readable, no timers. Every operation therefore has a price, and every poll of a session's task a budget.

use std::time::{Duration, Instant};

/// The maximum cost of one poll: about three milliseconds of work if all memory is in the processor's caches.
const POLL_BUDGET: usize = 3_000_000;

/// The maximum duration of one poll. The prices assume warm caches: work on memory that was not touched before, such
/// as the long queues of many receivers, takes several times as long.
const POLL_TIME: Duration = Duration::from_millis(3);

/// The clock is read after each piece of work with this total price.
const STRETCH: usize = 50_000;

/// The prices, in units of about a nanosecond.
pub(super) mod price {
    /// Decoding and routing one frame.
    pub(in crate::broker) const FRAME: usize = 40;
    /// Looking up the receivers of a frame that is not in the caches.
    pub(in crate::broker) const LOOK_UP: usize = 100;
    /// Visiting a node of a trie, or gathering a subscriber.
    pub(in crate::broker) const NODE: usize = 40;
    /// Appending to a receiver's queue.
    pub(in crate::broker) const APPEND: usize = 60;
    /// Writing a receiver's queue to its socket, without the bytes.
    pub(in crate::broker) const FLUSH: usize = 1_000;
    /// Adding a topic mask or removing it, without its levels.
    pub(in crate::broker) const MASK: usize = 2_500;
    /// One level of a topic mask.
    pub(in crate::broker) const LEVEL: usize = 350;

    /// Copying this many bytes within memory.
    #[inline]
    pub(in crate::broker) fn bytes(count: usize) -> usize {
        count / 16
    }

    /// Searching this many bytes for the end of a text, or checking that they are UTF-8.
    #[inline]
    pub(in crate::broker) fn text(count: usize) -> usize {
        count / 2
    }

    /// Reading this many bytes from a socket, or writing them to one.
    #[inline]
    pub(in crate::broker) fn written(count: usize) -> usize {
        count / 4
    }
}

/// The remaining budget of a poll.
#[derive(Debug)]
pub(super) struct WorkBudget {
    left: usize,
    /// The clock is read when less than this is left.
    checkpoint: usize,
    /// The time of the first reading of the clock. Most polls end before that.
    began: Option<Instant>,
}

impl WorkBudget {
    /// The budget of one poll.
    pub(super) fn new() -> WorkBudget {
        WorkBudget { left: POLL_BUDGET, checkpoint: POLL_BUDGET - STRETCH, began: None }
    }

    /// Subtracts the price of work.
    #[inline]
    pub(super) fn charge(&mut self, cost: usize) {
        self.left = self.left.saturating_sub(cost);
        if self.left < self.checkpoint {
            self.read_clock();
        }
    }

    #[cold]
    fn read_clock(&mut self) {
        self.checkpoint = self.left.saturating_sub(STRETCH);
        if self.began.get_or_insert_with(Instant::now).elapsed() >= POLL_TIME {
            self.left = 0;
        }
    }

    /// Returns whether the session must flush and yield.
    #[inline]
    pub(super) fn is_exhausted(&self) -> bool {
        self.left == 0
    }

    /// Returns the remaining budget.
    pub(super) fn left(&self) -> usize {
        self.left
    }

    /// Begins a new poll's budget, after the session has yielded.
    pub(super) fn renew(&mut self) {
        *self = WorkBudget::new();
    }
}
