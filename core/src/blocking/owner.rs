//! Checks of the thread on which a blocking client is used.

use crate::client::check_plain_thread;
use crate::error::Result;
use crate::fork::Process;

/// The process to which a client belongs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Owner(Process);

impl Owner {
    pub(super) fn current() -> Owner {
        Owner(Process::current())
    }

    pub(super) fn is_current(self) -> bool {
        self.0.is_current()
    }

    /// Checks that this process is the owner.
    ///
    /// # Errors
    ///
    /// [`NotSupported`](crate::ErrorKind::NotSupported) in a child made by fork.
    pub(super) fn check(self) -> Result<()> {
        self.0.check()
    }

    /// Checks that this process is the owner and that this thread may wait.
    ///
    /// # Errors
    ///
    /// [`NotSupported`](crate::ErrorKind::NotSupported) in a child made by fork, and within an async runtime.
    pub(super) fn check_may_wait(self) -> Result<()> {
        self.check()?;
        check_plain_thread()
    }
}

#[cfg(test)]
impl Owner {
    pub(super) fn of_another() -> Owner {
        Owner(Process::of_another())
    }
}
