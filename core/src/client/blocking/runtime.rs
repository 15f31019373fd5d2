//! Waiting for the async client on a plain thread.

use crate::error::{Error, ErrorKind, Result};
use crate::fork::Process;
use std::future::Future;
use tokio::runtime::Handle;

/// Waits for `future` on this thread.
///
/// # Errors
/// [`NotSupported`](ErrorKind::NotSupported) within an async runtime, where waiting would hold up others'
/// tasks, maybe the very ones it waits for.
pub(super) fn wait<F: Future>(future: F) -> Result<F::Output> {
    if Handle::try_current().is_ok() {
        return Err(Error::new(
            ErrorKind::NotSupported,
            "the blocking client cannot be used within an async runtime: use busrt::Client there",
        ));
    }
    Ok(crate::runtime::handle()?.block_on(future))
}

/// The process something belongs to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Owner(Process);

impl Owner {
    pub(super) fn current() -> Owner {
        Owner(Process::current())
    }

    pub(super) fn is_current(self) -> bool {
        self.0.is_current()
    }

    /// As [`wait`], for what must not be used in another process than its own.
    pub(super) fn wait<F: Future>(self, future: F) -> Result<F::Output> {
        self.check()?;
        wait(future)
    }

    pub(super) fn check(self) -> Result<()> {
        self.0.check()
    }
}

#[cfg(test)]
impl Owner {
    pub(super) fn of_another() -> Owner {
        Owner(Process::of_another())
    }
}
