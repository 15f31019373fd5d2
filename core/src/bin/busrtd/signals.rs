//! The signals that end the broker. A separate thread receives them, so that they work in every state of the other
//! threads.

use crate::logging;
use std::io;
use std::process::exit;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// Time that the main thread has to react to a second signal before the process is ended without it.
const SECOND_SIGNAL_PATIENCE: Duration = Duration::from_millis(500);

/// The received signals.
pub(crate) struct Signals(UnboundedReceiver<&'static str>);

impl Signals {
    /// Begins to receive. Until the thread runs, signals wait in a queue of the kernel.
    pub(crate) fn start() -> io::Result<Signals> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        let entered = runtime.enter();
        let sources = Sources::new()?;
        drop(entered);
        let (sender, receiver) = unbounded_channel();
        let thread = std::thread::Builder::new().name("signals".into());
        thread.spawn(move || {
            forward(&runtime, sources, |name| {
                // An error means that the main thread has already ended.
                let _ = sender.send(name);
            })
        })?;
        Ok(Signals(receiver))
    }

    /// The name of the next signal.
    pub(crate) async fn next(&mut self) -> &'static str {
        match self.0.recv().await {
            Some(name) => name,
            None => std::future::pending().await,
        }
    }
}

fn forward(runtime: &Runtime, mut sources: Sources, send: impl Fn(&'static str)) {
    send(runtime.block_on(sources.next()));
    let second = runtime.block_on(sources.next());
    send(second);
    std::thread::sleep(SECOND_SIGNAL_PATIENCE);
    log::error!("second {second}: the broker does not react, exiting immediately");
    logging::flush();
    exit(1);
}

#[cfg(unix)]
struct Sources {
    term: tokio::signal::unix::Signal,
    int: tokio::signal::unix::Signal,
    /// `None`: the signal was ignored when the process started, for example by `nohup`, and remains ignored.
    hup: Option<tokio::signal::unix::Signal>,
}

#[cfg(unix)]
impl Sources {
    fn new() -> io::Result<Sources> {
        use tokio::signal::unix::{SignalKind, signal};
        let hup = if is_ignored(libc::SIGHUP) { None } else { Some(signal(SignalKind::hangup())?) };
        Ok(Sources { term: signal(SignalKind::terminate())?, int: signal(SignalKind::interrupt())?, hup })
    }

    async fn next(&mut self) -> &'static str {
        let hup = async {
            match &mut self.hup {
                Some(hup) => hup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.term.recv() => "SIGTERM",
            _ = self.int.recv() => "SIGINT",
            _ = hup => "SIGHUP",
        }
    }
}

#[cfg(unix)]
fn is_ignored(signal: libc::c_int) -> bool {
    let mut action = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: without a new action, the call changes nothing; it writes the present action to `action`, which is
    // large enough and lives until the call returns.
    let result = unsafe { libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr()) };
    // SAFETY: all bytes are zero or were written by the call; every field is valid with zeroes.
    let action = unsafe { action.assume_init() };
    result == 0 && action.sa_sigaction == libc::SIG_IGN
}

#[cfg(not(unix))]
struct Sources;

#[cfg(not(unix))]
impl Sources {
    fn new() -> io::Result<Sources> {
        Ok(Sources)
    }

    async fn next(&mut self) -> &'static str {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
        "Ctrl-C"
    }
}
