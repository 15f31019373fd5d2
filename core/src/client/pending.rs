//! The handle of an operation that has been sent.

use super::outcome::{Answer, Failure};
use super::reading_lease::{ReadingLease, SingleAnswer};
use super::slot::Slot;
use super::wait::Wait;
use crate::error::Result;
use crate::fork::Process;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

/// The outcome of an operation that has been sent, to be awaited now or later. With it, a program can have many
/// operations in progress. It may be awaited on any executor. A plain thread calls [`wait`](PendingOperation::wait),
/// which can be repeated. Dropping the handle does not cancel the operation.
///
/// # Errors
///
/// The error that the broker has answered, [`Timeout`](crate::ErrorKind::Timeout) when no answer came before the
/// operation's [`Deadline`](super::Deadline), or [`ConnectionLost`](crate::ErrorKind::ConnectionLost).
#[derive(Debug)]
#[must_use = "the operation's outcome is only reported here; drop it if that does not matter"]
pub struct PendingOperation(State);

#[derive(Debug)]
enum State {
    Done(Answer),
    Waiting(Arc<Slot<Answer>>, Arc<ReadingLease>, Process),
}

impl PendingOperation {
    pub(crate) fn done(answer: Answer) -> PendingOperation {
        PendingOperation(State::Done(answer))
    }

    pub(super) fn waiting(lease: &Arc<ReadingLease>) -> (Arc<Slot<Answer>>, PendingOperation) {
        let slot = Slot::new();
        (slot.clone(), PendingOperation(State::Waiting(slot, lease.clone(), Process::current())))
    }

    /// Returns true if awaiting it would return immediately: the broker has answered, the operation has failed, or
    /// its QoS asked for no answer.
    pub fn is_completed(&self) -> bool {
        match &self.0 {
            State::Done(_) => true,
            State::Waiting(slot, _, process) => !process.is_current() || slot.is_completed(),
        }
    }

    /// Returns true if the operation has succeeded as far as is known: the broker has acknowledged it, or its QoS
    /// asked for no answer.
    pub fn is_acknowledged(&self) -> bool {
        self.answer() == Some(Ok(()))
    }

    /// Returns the outcome, if there is one.
    pub fn result(&self) -> Option<Result<()>> {
        if let Err(e) = self.check_process() {
            return Some(Err(e));
        }
        self.answer().map(|answer| answer.map_err(Failure::of_operation))
    }

    /// Returns an error in a child of the process that sent the operation.
    fn check_process(&self) -> Result<()> {
        match &self.0 {
            State::Done(_) => Ok(()),
            State::Waiting(.., process) => process.check(),
        }
    }

    fn answer(&self) -> Option<Answer> {
        match &self.0 {
            State::Done(answer) => Some(*answer),
            State::Waiting(slot, _, process) => process.is_current().then(|| slot.get()).flatten(),
        }
    }

    /// Does the same as awaiting it, for hand-written futures.
    pub fn poll_result(&self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.check_process()?;
        self.poll_answer(cx).map_err(Failure::of_operation)
    }

    pub(crate) fn poll_answer(&self, cx: &mut Context<'_>) -> Poll<Answer> {
        match &self.0 {
            State::Done(answer) => Poll::Ready(*answer),
            State::Waiting(slot, lease, _) => {
                let answer = slot.poll(cx);
                if answer.is_pending() {
                    lease.sleeps();
                }
                answer
            }
        }
    }

    /// Waits for the outcome on this thread. Returns `None` when the time of `wait` is over; it can be waited for
    /// again.
    ///
    /// # Errors
    ///
    /// The error of the check in `wait`. The inner result is the outcome.
    pub fn wait(&self, wait: Wait<'_>) -> Result<Option<Result<()>>> {
        if let Some(result) = self.result() {
            return Ok(Some(result));
        }
        let State::Waiting(slot, lease, _) = &self.0 else { return Ok(None) };
        wait.on_answer(lease, Some(&SingleAnswer), |cx| slot.poll(cx).map_err(Failure::of_operation))
    }

    /// Discards the outcome, like dropping the handle. The operation itself is not cancelled.
    pub fn cancel(self) {
        drop(self);
    }

    /// Does the same as [`wait`](PendingOperation::wait), but waits at most for `timeout`, without a check.
    pub fn wait_timeout(&self, timeout: Duration) -> Option<Result<()>> {
        self.wait(Wait::at_most(timeout)).ok().flatten()
    }
}

impl Future for PendingOperation {
    type Output = Result<()>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.poll_result(cx)
    }
}
