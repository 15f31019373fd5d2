//! The runtime of the process, for clients that a plain thread connects.
//!
//! A program without an async runtime of its own (the blocking client, a binding to another language) needs
//! threads that read sockets and keep time. There is one such runtime for the whole process. It is made when it
//! is first needed and has at most two threads, named `busrt`, which block all signals: a signal is handled by
//! a thread of the program.
//!
//! ```no_run
//! # fn main() -> busrt::Result<()> {
//! use busrt::client::{Client, Config};
//! use busrt::runtime;
//! use std::time::Duration;
//!
//! let client = Client::connect_blocking(&Config::new("/tmp/busrt.sock", "plant.logger"))?;
//! runtime::handle()?.spawn(async move { client.publish("plant/state", "up", busrt::QoS::No).await });
//! // At the end of the program; `exit` and the return from `main` do it too.
//! runtime::shutdown(Duration::from_secs(1));
//! # Ok(()) }
//! ```
//!
//! **Fork.** A child has none of its parent's threads. The first use in a child makes a runtime of its own;
//! clients that the parent connected fail there.
//!
//! **Exit.** When the process exits, by `exit` or by the return from `main`, the clients of this runtime end in
//! order: what they have sent is written and the broker has taken it, for at most [`EXIT_TIMEOUT`].
//! [`shutdown`] does the same earlier. `_exit`, `abort` and a fatal signal do nothing of this.
//!
//! **After the end.** A process that has called [`shutdown`] gets no other runtime: [`handle`] and everything that
//! connects by it fail with [`NotSupported`](ErrorKind::NotSupported). An exit handler of a program (`atexit` of Python)
//! can call it and rely on no thread being started later, when its interpreter is gone. This holds for this process
//! alone: a child made by fork makes a runtime of its own.

use crate::error::{Error, ErrorKind, Result};
use crate::fork::Process;
use crate::proto::op::primary_name;
use once_cell::race::OnceBox;
use parking_lot::Mutex;
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::watch;

/// The longest time that the exit of the process waits for what clients have sent.
pub const EXIT_TIMEOUT: Duration = Duration::from_secs(5);

const MAX_THREADS: usize = 2;
/// The pause between two looks at what is still to be written, at the end.
const SHUTDOWN_POLL: Duration = Duration::from_millis(1);
/// The time that the threads have to end when nothing is left to be written.
const THREADS_TIMEOUT: Duration = Duration::from_millis(100);

/// The runtime of one process. A child made by fork inherits its parent's without the threads, and
/// appends its own. The chain is never locked, so that a fork at any moment does no harm.
struct Instance {
    process: Process,
    handle: Handle,
    /// `None` once it is shut down.
    runtime: Mutex<Option<Runtime>>,
    /// Become true when the connections are to end: first those of secondary clients, which the broker ends with their
    /// primary, whatever they have sent. Each connection holds a receiver until all it sent is written.
    closing: [watch::Sender<bool>; 2],
    child: OnceBox<Instance>,
}

static FIRST: OnceBox<Instance> = OnceBox::new();

/// The number of the process that was told to make no runtime any more. A child has another number.
static SHUT_DOWN: AtomicU64 = AtomicU64::new(u64::MAX);

fn is_shut_down() -> bool {
    SHUT_DOWN.load(Ordering::SeqCst) == Process::current().number()
}

thread_local! {
    /// True if this is a thread of the runtime.
    static IS_WORKER: Cell<bool> = const { Cell::new(false) };
}

/// A handle of the runtime, to start tasks on. The first call starts its threads. May be called from any thread.
///
/// # Errors
/// [`Io`](ErrorKind::Io) when the threads cannot be started, [`NotSupported`](ErrorKind::NotSupported) after
/// [`shutdown`], and while the process exits.
pub fn handle() -> Result<Handle> {
    if is_shut_down() {
        return Err(shut_down());
    }
    let instance = instance()?;
    // A second look: another thread may have shut it down since.
    if is_shut_down() || *instance.closing[0].borrow() {
        return Err(shut_down());
    }
    Ok(instance.handle.clone())
}

fn shut_down() -> Error {
    Error::new(ErrorKind::NotSupported, "the runtime of the bus clients was shut down in this process")
}

/// Ends all clients of the runtime and then its threads. What the clients have sent is written, and the broker has
/// closed their connections or the client's timeout has passed, for at most `timeout` altogether. Returns whether
/// that was done in time. Without a runtime there is nothing to wait for. A runtime is not made any more in this
/// process, whether there was one or not: [`handle`] fails.
///
/// Waits on this thread. From a thread of the runtime, which would wait for itself, it only begins the end and
/// returns false.
pub fn shutdown(timeout: Duration) -> bool {
    SHUT_DOWN.store(Process::current().number(), Ordering::SeqCst);
    let Some(instance) = existing() else { return true };
    let ended = instance.end_connections(timeout);
    if is_worker() {
        return false;
    }
    let runtime = instance.runtime.lock().take();
    if let Some(runtime) = runtime {
        // Within another runtime, it must not be waited for.
        if Handle::try_current().is_ok() {
            runtime.shutdown_background();
        } else {
            runtime.shutdown_timeout(THREADS_TIMEOUT);
        }
    }
    ended
}

/// Returns true if this is a thread of the runtime, which must not wait.
pub(crate) fn is_worker() -> bool {
    // An error: the thread is about to end.
    IS_WORKER.try_with(Cell::get).unwrap_or(false)
}

/// The token that a connection's task holds while there may be something to write. [`shutdown`] waits for its drop.
#[derive(Debug)]
pub(crate) struct Alive(Option<watch::Receiver<bool>>);

impl Alive {
    /// For the client of that name, to be called within its runtime. In another runtime than this there is nothing to
    /// hold.
    pub(crate) fn current(name: &str) -> Alive {
        let group = usize::from(primary_name(name) == name);
        let is_current = |instance: &&Instance| {
            Handle::try_current().is_ok_and(|current| current.id() == instance.handle.id())
        };
        Alive(existing().filter(is_current).map(|instance| instance.closing[group].subscribe()))
    }

    /// Returns when the runtime is about to be shut down.
    pub(crate) async fn closing(&mut self) {
        if let Some(closing) = &mut self.0
            && closing.wait_for(|closing| *closing).await.is_ok()
        {
            return;
        }
        // There is none, or its sender is gone, which it never is.
        std::future::pending().await
    }

    /// Returns true if the runtime is about to be shut down.
    pub(crate) fn is_closing(&self) -> bool {
        self.0.as_ref().is_some_and(|closing| *closing.borrow())
    }
}

/// The number of tasks that [`shutdown`] would wait for.
#[cfg(test)]
pub(crate) fn tasks_alive() -> usize {
    existing().map_or(0, |instance| instance.closing.iter().map(watch::Sender::receiver_count).sum())
}

/// The runtime of this process, if there is one.
fn existing() -> Option<&'static Instance> {
    let process = Process::current();
    let mut instance = FIRST.get()?;
    while instance.process != process {
        instance = instance.child.get()?;
    }
    Some(instance)
}

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
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get().min(MAX_THREADS));
    let runtime = Builder::new_multi_thread()
        .worker_threads(threads)
        .thread_name("busrt")
        .on_thread_start(|| {
            IS_WORKER.set(true);
            block_signals();
        })
        .enable_all()
        .build()
        .map_err(|e| Error::new(ErrorKind::Io, "the threads of the bus clients").with_source(e))?;
    #[cfg(unix)]
    at_exit::install();
    Ok(Instance {
        process,
        handle: runtime.handle().clone(),
        runtime: Mutex::new(Some(runtime)),
        closing: [watch::Sender::new(false), watch::Sender::new(false)],
        child: OnceBox::new(),
    })
}

impl Instance {
    /// Begins the end of every connection and waits for it, unless this is a thread of the runtime. Uses no
    /// variables of the thread and no runtime, so that it works while the process exits.
    fn end_connections(&self, timeout: Duration) -> bool {
        let started = Instant::now();
        let wait_while = |is_open: &dyn Fn() -> bool, bound: Duration| {
            while is_open() && !is_worker() && started.elapsed() < bound {
                std::thread::sleep(SHUTDOWN_POLL);
            }
        };
        let [secondaries, primaries] = &self.closing;
        secondaries.send_replace(true);
        // A secondary that does not end leaves half of the time to the others.
        wait_while(&|| secondaries.receiver_count() > 0, timeout / 2);
        primaries.send_replace(true);
        let is_open = || self.closing.iter().any(|closing| closing.receiver_count() > 0);
        wait_while(&is_open, timeout);
        !is_open()
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        // Two threads made one at the same time, maybe within other runtimes, and this one is not used.
        if let Some(runtime) = self.runtime.get_mut().take() {
            runtime.shutdown_background();
        }
    }
}

/// Leaves all signals to other threads.
fn block_signals() {
    #[cfg(unix)]
    {
        let mut signals = std::mem::MaybeUninit::uninit();
        // SAFETY: `signals` is valid for writes, and filled before it is read; no former mask is asked for.
        unsafe {
            libc::sigfillset(signals.as_mut_ptr());
            libc::pthread_sigmask(libc::SIG_BLOCK, signals.as_ptr(), std::ptr::null_mut());
        }
    }
}

#[cfg(unix)]
mod at_exit {
    use super::{EXIT_TIMEOUT, Ordering, Process, SHUT_DOWN, existing};
    use std::sync::atomic::AtomicBool;

    /// Has the C library call [`exiting`] when the process exits. A child inherits this.
    pub(super) fn install() {
        static INSTALLED: AtomicBool = AtomicBool::new(false);
        if !INSTALLED.swap(true, Ordering::Relaxed) {
            // SAFETY: the handler is a function that lives for ever and does not unwind. It fails only without
            // memory: then the exit does not wait.
            unsafe { libc::atexit(exiting) };
        }
    }

    extern "C" fn exiting() {
        // A panic must not reach the C library.
        let _ = std::panic::catch_unwind(|| {
            SHUT_DOWN.store(Process::current().number(), Ordering::SeqCst);
            if let Some(instance) = existing() {
                instance.end_connections(EXIT_TIMEOUT);
            }
        });
    }
}
