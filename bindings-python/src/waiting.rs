//! Waiting without the interpreter.
//!
//! A thread that waits in Rust returns to the interpreter when its wait is over. While the interpreter ends, that
//! would end the thread in the middle of Rust code, which is undefined behaviour. Therefore a thread that returns
//! from a wait at that time blocks for ever: only daemon threads are left then, and they end with the process.

use busrt::client::Wait;
use busrt::{Error, ErrorKind};
use pyo3::prelude::*;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// True if the interpreter is about to end.
static IS_ENDING: AtomicBool = AtomicBool::new(false);
/// The thread that ends the interpreter.
static ENDING_THREAD: AtomicU64 = AtomicU64::new(0);
/// Number of threads that are returning to the interpreter.
static RETURNING: AtomicUsize = AtomicUsize::new(0);

/// Maximum time for which the end waits for threads that return to the interpreter.
const RETURN_TIMEOUT: Duration = Duration::from_secs(1);
const RETURN_POLL: Duration = Duration::from_micros(200);
/// Interval between two checks for signals.
const SIGNAL_SLICE: Duration = Duration::from_millis(25);
/// Maximum time for which the end of a process waits for unwritten data.
const EXIT_TIMEOUT: Duration = Duration::from_secs(5);

/// Runs `work` without the interpreter.
pub(crate) fn detached<T: Send>(py: Python<'_>, work: impl FnOnce() -> T + Send) -> T {
    let result = py.detach(|| {
        let result = work();
        begin_return();
        result
    });
    end_return();
    result
}

fn begin_return() {
    RETURNING.fetch_add(1, Ordering::SeqCst);
    if IS_ENDING.load(Ordering::SeqCst) && ENDING_THREAD.load(Ordering::SeqCst) != thread_id() {
        RETURNING.fetch_sub(1, Ordering::SeqCst);
        loop {
            std::thread::park();
        }
    }
}

fn end_return() {
    RETURNING.fetch_sub(1, Ordering::SeqCst);
}

/// Waits on this thread until `poll` is ready, at most `timeout`. Returns `None` when the time is over. The main
/// thread checks for signals at intervals.
///
/// # Errors
/// The exception that the handler of a signal raises.
pub(crate) fn wait<T: Send>(
    py: Python<'_>,
    timeout: Option<Duration>,
    poll: impl FnMut(&mut Context<'_>) -> Poll<T> + Send,
) -> PyResult<Option<T>> {
    wait_with(py, timeout, |wait| wait.on(poll))
}

/// Does the same as [`wait`] for `run`, which waits as it is told.
///
/// # Errors
/// The exception that the handler of a signal raises.
pub(crate) fn wait_with<T: Send>(
    py: Python<'_>,
    timeout: Option<Duration>,
    run: impl FnOnce(Wait<'_>) -> busrt::Result<Option<T>> + Send,
) -> PyResult<Option<T>> {
    let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    let mut raised = None;
    let is_main = is_main_thread();
    let raised_here = &mut raised;
    let ended = detached(py, move || {
        let mut check = || look_at_signals(raised_here);
        let wait = Wait::until(deadline);
        run(if is_main { wait.slice(SIGNAL_SLICE).check(&mut check) } else { wait })
    });
    match (ended, raised) {
        (_, Some(e)) => Err(e),
        (Ok(ended), None) => Ok(ended),
        (Err(e), None) => Err(crate::errors::of(py, &e)),
    }
}

fn look_at_signals(raised: &mut Option<PyErr>) -> busrt::Result<()> {
    begin_return();
    let looked = Python::attach(|py| py.check_signals());
    end_return();
    looked.map_err(|e| {
        *raised = Some(e);
        Error::new(ErrorKind::Other, "interrupted")
    })
}

/// Converts a time in seconds as programs give it: `None` and infinity mean no limit, negative times mean zero.
pub(crate) fn seconds(seconds: Option<f64>) -> Option<Duration> {
    let seconds = seconds?;
    if seconds > 0.0 { Duration::try_from_secs_f64(seconds).ok() } else { Some(Duration::ZERO) }
}

#[cfg(target_os = "linux")]
fn thread_id() -> u64 {
    // SAFETY: the call has no arguments and cannot fail.
    unsafe { libc::gettid() as u64 }
}

#[cfg(not(target_os = "linux"))]
fn thread_id() -> u64 {
    // SAFETY: the call has no arguments and cannot fail.
    unsafe { libc::pthread_self() as usize as u64 }
}

/// Returns true if Python may run the handlers of signals on this thread.
fn is_main_thread() -> bool {
    #[cfg(target_os = "linux")]
    return thread_id() == u64::from(std::process::id());
    #[cfg(not(target_os = "linux"))]
    true
}

/// Prepares for the end of the interpreter. It must be called before the end, on the thread that ends the
/// interpreter.
#[pyfunction]
fn _begin_exit(py: Python<'_>) {
    ENDING_THREAD.store(thread_id(), Ordering::SeqCst);
    IS_ENDING.store(true, Ordering::SeqCst);
    py.detach(|| {
        let until = Instant::now() + RETURN_TIMEOUT;
        while RETURNING.load(Ordering::SeqCst) > 0 && Instant::now() < until {
            std::thread::sleep(RETURN_POLL);
        }
    });
}

/// Resets the state in a child made by fork, which has only the thread that forked.
#[pyfunction]
fn _after_fork() {
    RETURNING.store(0, Ordering::SeqCst);
    IS_ENDING.store(false, Ordering::SeqCst);
}

/// Writes unwritten data before the end of a process that runs no exit handlers.
#[pyfunction]
fn _shutdown(py: Python<'_>) {
    py.detach(|| busrt::runtime::shutdown(EXIT_TIMEOUT));
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(_begin_exit, module)?)?;
    module.add_function(wrap_pyfunction!(_after_fork, module)?)?;
    module.add_function(wrap_pyfunction!(_shutdown, module)?)
}
