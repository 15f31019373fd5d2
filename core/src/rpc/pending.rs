//! The handle of a call that has been sent.

use super::{Reply, RpcError};
use crate::client::reading_lease::SingleAnswer;
use crate::client::{Client, Failure, Outcome, Slot, Wait};
use crate::error::{Error, Result};
use crate::frame::Frame;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

/// A call that has been sent: a future of its reply, for any executor. On a plain thread, [`wait`](PendingCall::wait)
/// can be repeated with any timeout. Dropping it forgets the call, whose late reply is dropped.
///
/// # Errors
///
/// The errors of [`Caller::call`](super::Caller::call). The call ends at its deadline even if it is not awaited.
#[derive(Debug)]
#[must_use = "a call is forgotten when this is dropped"]
pub struct PendingCall {
    client: Client,
    id: u32,
    slot: Arc<Slot<Outcome>>,
    /// True if the request may have been sent.
    sent: bool,
}

impl PendingCall {
    pub(super) fn new(client: Client, id: u32, slot: Arc<Slot<Outcome>>) -> PendingCall {
        PendingCall { client, id, slot, sent: true }
    }

    /// Notes that no reply can come.
    pub(super) fn was_not_sent(&mut self) {
        self.sent = false;
    }

    /// Returns the id of the call, which the reply carries.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Returns true if awaiting it would return immediately: the reply has arrived, or the call has failed.
    pub fn is_completed(&self) -> bool {
        self.client.check_process().is_err() || self.slot.is_completed()
    }

    /// Returns the reply or the failure, if there is one.
    pub fn result(&self) -> Option<Result<Reply, RpcError>> {
        if let Err(e) = self.client.check_process() {
            return Some(Err(e.into()));
        }
        self.slot.get().map(read)
    }

    /// The message that answers the call, which may be an error reply; `None` as long as there is none, and if the call
    /// has failed otherwise.
    pub fn reply_frame(&self) -> Option<Frame> {
        self.client.check_process().ok()?;
        self.slot.get()?.ok()
    }

    /// Does the same as awaiting it, for futures that are written by hand.
    pub fn poll_result(&self, cx: &mut Context<'_>) -> Poll<Result<Reply, RpcError>> {
        self.client.check_process()?;
        self.poll_slot(cx).map(read)
    }

    pub(super) fn poll_outcome(&self, cx: &mut Context<'_>) -> Poll<Result<Frame>> {
        self.poll_slot(cx).map_err(Failure::of_call)
    }

    fn poll_slot(&self, cx: &mut Context<'_>) -> Poll<Outcome> {
        let outcome = self.slot.poll(cx);
        if outcome.is_pending() {
            self.client.lease().sleeps();
        }
        outcome
    }

    /// Waits on this thread for the reply. Returns `None` when the time of `wait` is over; this does not end the
    /// call.
    ///
    /// # Errors
    ///
    /// The error of the check in `wait`. The inner result is that of the call.
    pub fn wait(&self, wait: Wait<'_>) -> Result<Option<Result<Reply, RpcError>>> {
        if let Err(e) = self.client.check_process() {
            return Ok(Some(Err(e.into())));
        }
        wait.on_answer(self.client.lease(), Some(&SingleAnswer), |cx| self.slot.poll(cx).map(read))
    }

    /// Does the same as [`wait`](PendingCall::wait), but waits at most for `timeout`, without a check.
    pub fn wait_timeout(&self, timeout: Duration) -> Option<Result<Reply, RpcError>> {
        self.wait(Wait::at_most(timeout)).ok().flatten()
    }

    /// Forgets the call. Its late reply is dropped.
    pub fn cancel(self) {
        drop(self);
    }
}

fn read(outcome: Outcome) -> Result<Reply, RpcError> {
    match outcome {
        Ok(frame) => Reply::new(frame),
        Err(failure) => Err(error_of(failure.of_call())),
    }
}

/// Returns the error of a call that failed on the bus.
pub(super) fn error_of(error: Error) -> RpcError {
    error.into()
}

impl Future for PendingCall {
    type Output = Result<Reply, RpcError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.poll_result(cx)
    }
}

impl Drop for PendingCall {
    fn drop(&mut self) {
        if self.client.check_process().is_err() {
            return;
        }
        let calls = &self.client.state().calls;
        if self.sent {
            calls.forget(self.id);
        } else {
            calls.unregister(self.id);
        }
    }
}
