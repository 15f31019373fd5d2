//! The process in which a value was made.
//!
//! A child made by `fork` inherits the memory of its parent, but none of its threads. The runtime does not run there,
//! a lock may be held for ever, and the sockets are those of the parent. A client therefore works only in the process
//! that made it. [`Process`] checks this without a system call: a handler that the C library runs in each child
//! increments a counter.
//!
//! A child that is made without the C library's `fork`, by a raw system call, is not noticed.

use crate::error::{Error, ErrorKind, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// The number of forks between the first process and this one.
static GENERATION: AtomicU32 = AtomicU32::new(0);

/// Returns the number of forks between the first process and this one, counted from the first call of this function.
#[inline]
pub(crate) fn generation() -> u32 {
    #[cfg(unix)]
    handler::install();
    GENERATION.load(Ordering::Relaxed)
}

/// The process to which a value belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Process(u32);

impl Process {
    /// Returns this process.
    #[inline]
    pub(crate) fn current() -> Process {
        Process(generation())
    }

    /// Returns a number that differs between a process and all its ancestors and descendants.
    #[cfg(feature = "runtime")]
    pub(crate) fn number(self) -> u64 {
        self.0.into()
    }

    /// Returns true if the value belongs to this process. Costs one load.
    #[inline]
    pub(crate) fn is_current(self) -> bool {
        // `current` has installed the handler.
        self.0 == GENERATION.load(Ordering::Relaxed)
    }

    /// Returns an error in a child of the process to which the value belongs.
    ///
    /// # Errors
    ///
    /// [`NotSupported`](ErrorKind::NotSupported).
    #[inline]
    pub(crate) fn check(self) -> Result<()> {
        if self.is_current() { Ok(()) } else { Err(inherited()) }
    }

    /// Leaks `value` in a child, where dropping it would affect resources that the parent uses.
    #[inline]
    pub(crate) fn leak_if_inherited<T: ?Sized>(self, value: &Arc<T>) {
        if !self.is_current() {
            std::mem::forget(value.clone());
        }
    }
}

#[cfg(test)]
impl Process {
    /// Returns a process that is not this one.
    pub(crate) fn of_another() -> Process {
        Process(u32::MAX)
    }
}

/// Returns the error for every use of a client in a child of the process that connected it.
#[cold]
pub(crate) fn inherited() -> Error {
    Error::new(
        ErrorKind::NotSupported,
        "this client was connected before the process forked: connect a new one in the child",
    )
}

#[cfg(unix)]
mod handler {
    use super::{GENERATION, Ordering};
    use std::sync::atomic::AtomicBool;

    static INSTALLED: AtomicBool = AtomicBool::new(false);

    #[inline]
    pub(super) fn install() {
        if !INSTALLED.load(Ordering::Acquire) {
            install_now();
        }
    }

    /// Two threads may both install the handler. A child then adds two to the counter, which has the same effect. A
    /// `Once` would be worse, since a child could inherit it half initialized.
    #[cold]
    fn install_now() {
        // SAFETY: the handler is a function with static lifetime, and it only does what a child may do before `exec`:
        // it changes an atomic number.
        let result = unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
        // This fails only if there is no memory. The next call tries again.
        INSTALLED.store(result == 0, Ordering::Release);
    }

    extern "C" fn in_child() {
        GENERATION.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn a_child_is_another_process() {
        let process = Process::current();
        assert!(process.is_current());
        // SAFETY: `fork` takes no arguments; the child only compares numbers and exits.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            let grandchild_differs = || {
                let child = Process::current();
                // SAFETY: as above.
                match unsafe { libc::fork() } {
                    0 => {
                        let differs = !child.is_current() && !process.is_current();
                        // SAFETY: `_exit` ends the process.
                        unsafe { libc::_exit(i32::from(!differs)) }
                    }
                    grandchild => child.is_current() && exit_status(grandchild) == 0,
                }
            };
            let right = !process.is_current() && grandchild_differs();
            // SAFETY: `_exit` ends the process.
            unsafe { libc::_exit(i32::from(!right)) };
        }
        assert_eq!(exit_status(pid), 0);
        assert!(process.check().is_ok());
    }

    fn exit_status(pid: i32) -> i32 {
        let mut status = -1;
        // SAFETY: `status` is valid for writes while the call lasts.
        unsafe { libc::waitpid(pid, &raw mut status, 0) };
        status
    }

    #[test]
    fn inherited_values_return_an_error() {
        let process = Process::of_another();
        let error = process.check().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotSupported);
        assert!(error.to_string().contains("fork"), "{error}");
        let value = Arc::new(());
        process.leak_if_inherited(&value);
        assert_eq!(Arc::strong_count(&value), 2);
    }
}
