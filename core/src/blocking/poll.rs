//! Waits on a plain thread for futures that have no blocking form.

use crate::client::Wait;
use crate::error::Result;
use std::future::Future;
use std::pin::pin;

/// Waits for a future of the async client that needs no runtime. Returns `None` when the time of `wait` is over; the
/// future is then dropped.
///
/// # Errors
/// The error of the check in `wait`.
pub(super) fn wait_for<F: Future>(future: F, wait: Wait<'_>) -> Result<Option<F::Output>> {
    let mut future = pin!(future);
    wait.on(|cx| future.as_mut().poll(cx))
}
