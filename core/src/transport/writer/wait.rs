//! The ways to wait for a writer: for room in its queue, or until something is written.

use super::waiters::{Condition, next_ticket};
use super::{Writer, wake};
use crate::transport::load::Load;
use std::future::poll_fn;
use std::task::{Context, Poll};

impl Writer {
    /// Ready with true when less than `below` waits, and with false once closed. Else the waker is woken when one of
    /// these may be so, and by [`wake_waiters`](Writer::wake_waiters). A caller that no longer waits must call
    /// [`forget_waiter`](Writer::forget_waiter).
    pub fn poll_below(&self, ticket: u64, below: Load, cx: &mut Context<'_>) -> Poll<bool> {
        self.poll_condition(ticket, Condition::Below(below), cx)
    }

    /// The position in the stream, in bytes since the connection began, at which everything appended so far ends. Means
    /// nothing if frames are dropped from the queue.
    pub fn position(&self) -> u64 {
        let state = self.state.lock();
        state.progress.bytes + state.load().bytes as u64
    }

    /// Ready with true when everything before that position is written, and with false if the connection was closed
    /// before that. Otherwise does the same as [`poll_below`](Writer::poll_below).
    pub fn poll_written(&self, ticket: u64, position: u64, cx: &mut Context<'_>) -> Poll<bool> {
        self.poll_condition(ticket, Condition::Written(position), cx)
    }

    fn poll_condition(&self, ticket: u64, condition: Condition, cx: &mut Context<'_>) -> Poll<bool> {
        // Cloning a waker and dropping a replaced one run the executor's code: both are done without the lock.
        let waker = cx.waker().clone();
        let mut state = self.state.lock();
        let is_open = state.socket.is_some();
        // A closed queue is empty, but not because there is room.
        let holds = condition.holds(state.load(), state.progress.bytes);
        if !is_open || holds {
            return Poll::Ready(holds && (is_open || matches!(condition, Condition::Written(_))));
        }
        let replaced = state.waiters.insert(ticket, condition, waker);
        drop(state);
        drop(replaced);
        Poll::Pending
    }

    /// Forgets the waiter with that ticket, if it waits.
    pub fn forget_waiter(&self, ticket: u64) {
        let mut state = self.state.lock();
        let removed = state.waiters.remove(ticket);
        drop(state);
        drop(removed);
    }

    /// Wakes all waiters, because the condition that they wait for may have changed.
    pub fn wake_waiters(&self) {
        let waiters = std::mem::take(&mut self.state.lock().waiters);
        wake(waiters.into_wakers());
    }

    /// Waits until fewer than `frames` frames and fewer than `bytes` bytes wait; `false` when closed.
    pub async fn wait_below(&self, frames: usize, bytes: usize) -> bool {
        let waiting = Waiting { writer: self, ticket: next_ticket() };
        poll_fn(|cx| self.poll_below(waiting.ticket, Load { frames, bytes }, cx)).await
    }

    /// Waits until everything is written, or the connection has ended.
    pub async fn drained(&self) {
        self.wait_below(1, 1).await;
    }
}

/// A waiter that is forgotten when the value is dropped.
struct Waiting<'a> {
    writer: &'a Writer,
    ticket: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.writer.forget_waiter(self.ticket);
    }
}
