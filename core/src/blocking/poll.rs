//! Waiting on a plain thread for what has no blocking form of its own.

use crate::client::Wait;
use crate::error::Result;
use std::future::Future;
use std::pin::pin;

/// Waits for a future of the async client that needs no runtime; `None` when the time of `wait` is over. The future is
/// dropped then.
///
/// # Errors
/// That of the check in `wait`.
pub(super) fn wait_for<F: Future>(future: F, wait: Wait<'_>) -> Result<Option<F::Output>> {
    let mut future = pin!(future);
    wait.on(|cx| future.as_mut().poll(cx))
}
