//! The runtime of the process, for clients that a plain thread connects.
//!
//! A program without an async runtime of its own (the blocking client, a binding to another language) needs threads
//! that read sockets and keep time. There is one such runtime for the whole process. It is made when it is first
//! needed and has at most two threads, named `busrt`, which block all signals: a signal is handled by a thread of the
//! program.
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
//! **Fork.** A child has none of its parent's threads. The first use in a child creates its own runtime; clients that
//! the parent connected fail there.
//!
//! **Exit.** When the process exits, by `exit` or by the return from `main`, the clients of this runtime end in
//! order: the process waits until everything that they sent is written and read by the broker, at most for
//! [`EXIT_TIMEOUT`]. [`shutdown`] does the same earlier. `_exit`, `abort` and a fatal signal do not.
//!
//! **After the end.** A process that has called [`shutdown`] gets no other runtime: [`handle`] and all connects that
//! need it fail with [`NotSupported`](ErrorKind::NotSupported). An exit handler of a program (`atexit` of Python) can
//! call it and rely on no thread being started later, when its interpreter is gone. This holds for this process
//! alone: a child made by fork creates its own runtime.

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

/// Maximum time that the exit of the process waits for the unwritten data of clients.
pub const EXIT_TIMEOUT: Duration = Duration::from_secs(5);

const MAX_THREADS: usize = 2;
/// Interval between two checks for unwritten data, at the end.
const SHUTDOWN_POLL: Duration = Duration::from_millis(1);
/// Maximum time for the threads to end after everything is written.
const THREADS_TIMEOUT: Duration = Duration::from_millis(100);

/// The runtime of one process. A child made by fork inherits its parent's instance without the threads, and appends
/// its own. The list is never locked, so that a fork at any moment is harmless.
struct Instance {
    process: Process,
    handle: Handle,
    /// `None` after it is shut down.
    runtime: Mutex<Option<Runtime>>,
    /// Become true when the connections must end: first those of secondary clients, because the broker disconnects
    /// secondaries together with their primary, even if they have unwritten data. Each connection holds a receiver
    /// until all its data is written.
    closing: [watch::Sender<bool>; 2],
    child: OnceBox<Instance>,
}

static FIRST: OnceBox<Instance> = OnceBox::new();

/// The number of the process that must not create a runtime any more. A child has another number.
static SHUT_DOWN: AtomicU64 = AtomicU64::new(u64::MAX);

fn is_shut_down() -> bool {
    SHUT_DOWN.load(Ordering::SeqCst) == Process::current().number()
}

thread_local! {
    /// True if this is a thread of the runtime.
    static IS_WORKER: Cell<bool> = const { Cell::new(false) };
}

/// Returns a handle of the runtime, with which tasks can be started. The first call starts its threads. May be called
/// from any thread.
///
/// # Errors
///
/// [`Io`](ErrorKind::Io) if the threads cannot be started, [`NotSupported`](ErrorKind::NotSupported) after
/// [`shutdown`], and while the process exits.
pub fn handle() -> Result<Handle> {
    if is_shut_down() {
        return Err(shut_down());
    }
    let instance = instance()?;
    // Checked again, because another thread may have shut it down since.
    if is_shut_down() || *instance.closing[0].borrow() {
        return Err(shut_down());
    }
    Ok(instance.handle.clone())
}

fn shut_down() -> Error {
    Error::new(ErrorKind::NotSupported, "the runtime of the bus clients was shut down in this process")
}

/// Ends all clients of the runtime and then its threads. Waits until everything that the clients sent is written and
/// the broker has closed their connections, at most for the timeout of each client, and at most for `timeout`
/// altogether. Returns whether this was done in time. Without a runtime, it returns immediately. In both cases, this
/// process creates no runtime any more: [`handle`] fails.
///
/// It waits on this thread. On a thread of the runtime, which would wait for itself, it only begins the shutdown and
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
        // Within another runtime, the thread must not wait.
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
    // An error means that the thread is about to end.
    IS_WORKER.try_with(Cell::get).unwrap_or(false)
}

/// A token that a connection's task holds while it may have unwritten data. [`shutdown`] waits until it is dropped.
#[derive(Debug)]
pub(crate) struct Alive(Option<watch::Receiver<bool>>);

impl Alive {
    /// Creates the token for the client of that name. It must be called within the client's runtime. In a runtime
    /// other than this one, the token is empty.
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
        // There is no sender, or it was dropped, which never happens.
        std::future::pending().await
    }

    /// Returns true if the runtime is about to be shut down.
    pub(crate) fn is_closing(&self) -> bool {
        self.0.as_ref().is_some_and(|closing| *closing.borrow())
    }
}

/// Returns the number of tasks for which [`shutdown`] would wait.
#[cfg(test)]
pub(crate) fn tasks_alive() -> usize {
    existing().map_or(0, |instance| instance.closing.iter().map(watch::Sender::receiver_count).sum())
}

/// Returns the runtime of this process, if there is one.
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
    /// Begins to close every connection and waits for it, unless this is a thread of the runtime. It uses no
    /// thread-local variables and no runtime, so that it works while the process exits.
    fn end_connections(&self, timeout: Duration) -> bool {
        let started = Instant::now();
        let wait_while = |is_open: &dyn Fn() -> bool, bound: Duration| {
            while is_open() && !is_worker() && started.elapsed() < bound {
                std::thread::sleep(SHUTDOWN_POLL);
            }
        };
        let [secondaries, primaries] = &self.closing;
        secondaries.send_replace(true);
        // A secondary that does not end leaves half of the time for the others.
        wait_while(&|| secondaries.receiver_count() > 0, timeout / 2);
        primaries.send_replace(true);
        let is_open = || self.closing.iter().any(|closing| closing.receiver_count() > 0);
        wait_while(&is_open, timeout);
        !is_open()
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        // Two threads created a runtime at the same time, perhaps within other runtimes, and this one is not used.
        if let Some(runtime) = self.runtime.get_mut().take() {
            runtime.shutdown_background();
        }
    }
}

/// Blocks all signals on this thread, so that other threads handle them.
fn block_signals() {
    #[cfg(unix)]
    {
        let mut signals = std::mem::MaybeUninit::uninit();
        // SAFETY: `signals` is valid for writes, and filled before it is read; the former mask is not requested.
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

    /// Registers [`exiting`], which the C library calls when the process exits. A child inherits this.
    pub(super) fn install() {
        static INSTALLED: AtomicBool = AtomicBool::new(false);
        if !INSTALLED.swap(true, Ordering::Relaxed) {
            // SAFETY: the handler is a function with static lifetime and does not unwind. `atexit` fails only without
            // memory: the exit does not wait then.
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
