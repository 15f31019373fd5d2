//! The one runtime behind all blocking clients of a process.

use crate::error::{Error, ErrorKind, Result};
use crate::fork::Process;
use once_cell::race::OnceBox;
use std::cell::Cell;
use std::future::Future;
use tokio::runtime::{Builder, Handle, Runtime};

/// A process and its runtime. A child made by fork finds its parent's, whose threads it has not got, and
/// appends its own; nothing here is ever locked, so that a fork at any moment does no harm.
struct Instance {
    process: Process,
    runtime: Runtime,
    child: OnceBox<Instance>,
}

static FIRST: OnceBox<Instance> = OnceBox::new();

fn instance() -> Result<&'static Instance> {
    let process = Process::current();
    let mut slot = &FIRST;
    loop {
        let instance = slot.get_or_try_init(|| start(process).map(Box::new))?;
        if instance.process == process {
            return Ok(instance);
        }
        slot = &instance.child;
    }
}

fn start(process: Process) -> Result<Instance> {
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get().min(2));
    let runtime = Builder::new_multi_thread()
        .worker_threads(threads)
        .thread_name("busrt")
        .enable_all()
        .build()
        .map_err(|e| Error::new(ErrorKind::Io, "the threads of the blocking client").with_source(e))?;
    Ok(Instance { process, runtime, child: OnceBox::new() })
}

thread_local! {
    /// Whether this thread runs a blocking handler, where waiting does no harm.
    static IN_HANDLER: Cell<bool> = const { Cell::new(false) };
}

/// Waits for `future` on this thread.
///
/// # Errors
/// [`NotSupported`](ErrorKind::NotSupported) within an async runtime, where waiting would hold up others'
/// tasks, maybe the very ones it waits for.
pub(super) fn wait<F: Future>(future: F) -> Result<F::Output> {
    if Handle::try_current().is_ok() && !IN_HANDLER.get() {
        return Err(Error::new(
            ErrorKind::NotSupported,
            "the blocking client cannot be used within an async runtime: use busrt::Client there",
        ));
    }
    Ok(instance()?.runtime.block_on(future))
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

/// Runs a blocking handler apart from the tasks.
#[cfg(feature = "rpc")]
pub(super) async fn handle<T: Send + 'static>(handler: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    struct InHandler;

    impl Drop for InHandler {
        fn drop(&mut self) {
            IN_HANDLER.set(false);
        }
    }

    let handled = tokio::task::spawn_blocking(move || {
        IN_HANDLER.set(true);
        let _in_handler = InHandler;
        handler()
    });
    match handled.await {
        Ok(output) => Some(output),
        // The server knows what to do with a panic.
        Err(e) if e.is_panic() => std::panic::resume_unwind(e.into_panic()),
        Err(_) => None,
    }
}

#[cfg(test)]
impl Owner {
    pub(super) fn of_another() -> Owner {
        Owner(Process::of_another())
    }
}
