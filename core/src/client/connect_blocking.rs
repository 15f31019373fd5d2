//! Connecting from a thread without a runtime: the client then lives in that of the process.

use super::{Client, Config};
use crate::error::{Error, ErrorKind, Result};
use crate::runtime;
use crate::transport::Socket;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;
use tokio::runtime::Handle;

/// The time between two checks while a plain thread waits.
const CHECK_INTERVAL: Duration = Duration::from_millis(50);

impl Client {
    /// As [`connect`](Client::connect), waiting on this thread. The client lives in the
    /// [`runtime`] of the process.
    ///
    /// # Errors
    /// As [`connect`](Client::connect), and [`NotSupported`](ErrorKind::NotSupported) within an async runtime.
    pub fn connect_blocking(config: &Config) -> Result<Client> {
        Client::connect_blocking_with(config, CHECK_INTERVAL, || Ok(()))
    }

    /// As [`connect_blocking`](Client::connect_blocking), with a `check` on this thread every `interval`, for a
    /// program that must look for signals.
    ///
    /// # Errors
    /// As [`connect_blocking`](Client::connect_blocking), and whatever `check` fails with: the client is not
    /// connected then.
    pub fn connect_blocking_with(
        config: &Config,
        interval: Duration,
        check: impl FnMut() -> Result<()>,
    ) -> Result<Client> {
        let config = config.clone();
        run(async move { Client::connect(&config).await }, interval, check)
    }

    /// As [`connect_stream`](Client::connect_stream), waiting on this thread. A [`Socket`] can only be made within a
    /// runtime: `socket` is called there.
    ///
    /// # Errors
    /// As [`connect_blocking`](Client::connect_blocking), and [`Io`](ErrorKind::Io) when `socket` fails.
    pub fn connect_stream_blocking(
        socket: impl FnOnce() -> std::io::Result<Socket> + Send + 'static,
        config: &Config,
    ) -> Result<Client> {
        let config = config.clone();
        let connected = async move { Client::connect_stream(socket()?, &config).await };
        run(connected, CHECK_INTERVAL, || Ok(()))
    }
}

/// Runs `future` in the runtime of the process and waits for its outcome on this thread.
///
/// # Errors
/// [`NotSupported`](ErrorKind::NotSupported) within an async runtime, where waiting would hold up other tasks,
/// maybe the very ones it waits for.
pub(crate) fn run<T: Send + 'static>(
    future: impl Future<Output = Result<T>> + Send + 'static,
    interval: Duration,
    mut check: impl FnMut() -> Result<()>,
) -> Result<T> {
    if Handle::try_current().is_ok() {
        return Err(Error::new(
            ErrorKind::NotSupported,
            "the blocking client cannot be used within an async runtime: use busrt::Client there",
        ));
    }
    let mut task = pin!(runtime::handle()?.spawn(future));
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut cx = Context::from_waker(&waker);
    loop {
        if let Poll::Ready(ended) = task.as_mut().poll(&mut cx) {
            let lost = |_| Error::new(ErrorKind::ConnectionLost, "the runtime was shut down");
            return ended.map_err(lost)?;
        }
        std::thread::park_timeout(interval);
        if let Err(e) = check() {
            task.abort();
            return Err(e);
        }
    }
}

struct Unpark(std::thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}
