//! Connects from a thread without a runtime. The client then lives in the runtime of the process.

use super::{Client, Config, Wait};
use crate::error::{Error, ErrorKind, Result};
use crate::runtime;
use crate::transport::Socket;
use std::future::Future;
use std::pin::pin;
use tokio::runtime::Handle;

impl Client {
    /// Does the same as [`connect`](Client::connect), but waits on this thread. The client lives in the [`runtime`]
    /// of the process.
    ///
    /// # Errors
    ///
    /// The errors of [`connect`](Client::connect), and [`NotSupported`](ErrorKind::NotSupported) within an async
    /// runtime.
    pub fn connect_blocking(config: &Config) -> Result<Client> {
        Client::connect_blocking_with(config, Wait::forever())
    }

    /// Does the same as [`connect_blocking`](Client::connect_blocking), but waits at most for the time of `wait`, and
    /// runs its check, for example for signals.
    ///
    /// # Errors
    ///
    /// The errors of [`connect_blocking`](Client::connect_blocking), [`Timeout`](ErrorKind::Timeout) when the time of
    /// `wait` is over, and the error of the check in `wait`. After the last two, the client is not connected.
    pub fn connect_blocking_with(config: &Config, wait: Wait<'_>) -> Result<Client> {
        let config = config.clone();
        run(async move { Client::connect(&config).await }, wait)
    }

    /// Does the same as [`connect_stream`](Client::connect_stream), but waits on this thread. A [`Socket`] can only
    /// be made within a runtime, which is why `socket` is a function: it is called there.
    ///
    /// # Errors
    /// The errors of [`connect_blocking`](Client::connect_blocking), and [`Io`](ErrorKind::Io) when `socket` fails.
    pub fn connect_stream_blocking(
        socket: impl FnOnce() -> std::io::Result<Socket> + Send + 'static,
        config: &Config,
    ) -> Result<Client> {
        Client::connect_stream_blocking_with(socket, config, Wait::forever())
    }

    /// Does the same as [`connect_stream_blocking`](Client::connect_stream_blocking), but waits at most for the time
    /// of `wait`, and runs its check for signals.
    ///
    /// # Errors
    /// The errors of [`connect_stream_blocking`](Client::connect_stream_blocking), [`Timeout`](ErrorKind::Timeout)
    /// when the time of `wait` is over, and the error of its check. After the last two, the client is not connected.
    pub fn connect_stream_blocking_with(
        socket: impl FnOnce() -> std::io::Result<Socket> + Send + 'static,
        config: &Config,
        wait: Wait<'_>,
    ) -> Result<Client> {
        let config = config.clone();
        run(async move { Client::connect_stream(socket()?, &config).await }, wait)
    }
}

/// Runs `future` in the runtime of the process and waits for its outcome on this thread. The future is cancelled if
/// this thread stops waiting for it.
///
/// # Errors
///
/// The errors of [`check_plain_thread`], [`Timeout`](ErrorKind::Timeout) when the time of `wait` is over, and the
/// error of its check.
pub(crate) fn run<T: Send + 'static>(
    future: impl Future<Output = Result<T>> + Send + 'static,
    wait: Wait<'_>,
) -> Result<T> {
    check_plain_thread()?;
    let mut task = pin!(runtime::handle()?.spawn(future));
    let ended = wait.on(|cx| task.as_mut().poll(cx));
    match ended {
        Ok(Some(ended)) => {
            let lost = |_| Error::new(ErrorKind::ConnectionLost, "the runtime was shut down");
            ended.map_err(lost)?
        }
        Ok(None) => {
            task.abort();
            Err(Error::new(ErrorKind::Timeout, "the client was not connected in time"))
        }
        Err(e) => {
            task.abort();
            Err(e)
        }
    }
}

/// Checks that this thread may wait.
///
/// # Errors
/// [`NotSupported`](ErrorKind::NotSupported) within an async runtime, where waiting would block other tasks, perhaps
/// the ones it waits for.
pub(crate) fn check_plain_thread() -> Result<()> {
    if Handle::try_current().is_err() {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::NotSupported,
        "the blocking client cannot be used within an async runtime: use busrt::Client there",
    ))
}
