//! The handle of an operation that has been sent.

use super::owner::Owner;
use crate::client::{self, Wait};
use crate::error::Result;
use std::time::Duration;

/// The outcome of an operation that has been sent; see [`crate::client::PendingOperation`]. Any number of threads may
/// wait for it, repeatedly. Dropping the handle does not cancel the operation.
///
/// Its errors are the broker's answer, [`Timeout`](crate::ErrorKind::Timeout) when no answer came before the
/// operation's [`Deadline`](client::Deadline), [`ConnectionLost`](crate::ErrorKind::ConnectionLost), and
/// [`NotSupported`](crate::ErrorKind::NotSupported) where blocking clients cannot be used.
#[derive(Debug)]
#[must_use = "the operation's outcome is only reported here; drop it if that does not matter"]
pub struct PendingOperation {
    inner: client::PendingOperation,
    owner: Owner,
}

impl PendingOperation {
    pub(super) fn new(inner: client::PendingOperation, owner: Owner) -> PendingOperation {
        PendingOperation { inner, owner }
    }

    /// Returns true if [`wait`](PendingOperation::wait) would not wait.
    pub fn is_completed(&self) -> bool {
        self.inner.is_completed()
    }

    /// Returns true if the operation has succeeded as far as is known: see
    /// [`client::PendingOperation::is_acknowledged`].
    pub fn is_acknowledged(&self) -> bool {
        self.inner.is_acknowledged()
    }

    /// Returns the outcome, if there is one.
    pub fn result(&self) -> Option<Result<()>> {
        self.inner.result()
    }

    /// Waits for the outcome, which is known by the operation's deadline at the latest.
    ///
    /// # Errors
    ///
    /// The errors of the operation.
    pub fn wait(&self) -> Result<()> {
        self.wait_with(Wait::forever())?.unwrap_or(Ok(()))
    }

    /// Does the same as [`wait`](PendingOperation::wait), but waits at most for `timeout`. Returns `None` when the
    /// time is over; the operation continues.
    pub fn wait_timeout(&self, timeout: Duration) -> Option<Result<()>> {
        self.wait_with(Wait::at_most(timeout)).unwrap_or_else(|e| Some(Err(e)))
    }

    /// Does the same as [`wait`](PendingOperation::wait), but waits at most for the time of `wait`. Returns `None`
    /// when that time is over; the operation continues.
    ///
    /// # Errors
    ///
    /// The error of the check in `wait`, and [`NotSupported`](crate::ErrorKind::NotSupported) where blocking clients
    /// cannot be used. The inner result is the outcome.
    pub fn wait_with(&self, wait: Wait<'_>) -> Result<Option<Result<()>>> {
        self.owner.check_may_wait()?;
        self.inner.wait(wait)
    }

    /// Returns the wrapped async handle.
    pub fn into_inner(self) -> client::PendingOperation {
        self.inner
    }
}
