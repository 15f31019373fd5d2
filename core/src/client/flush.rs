//! Waits until everything that was sent has been passed to the kernel.

use super::connection::Connection;
use super::shared::lost;
use super::wait::Wait;
use super::{Client, Link};
use crate::error::{Error, ErrorKind, Result};
use crate::transport::writer::next_ticket;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

/// Waits until everything that was sent before has been passed to the kernel, so that it is not lost when the process
/// ends. This does not mean that the broker has read it; an acknowledgement means that.
///
/// It is a future for any executor; a plain thread calls [`wait`](Flush::wait). Data that the socket accepts now is
/// written on the thread that polls first.
///
/// # Errors
///
/// [`ConnectionLost`](ErrorKind::ConnectionLost) if the connection ends before.
#[derive(Debug)]
#[must_use = "it does nothing unless awaited"]
pub struct Flush {
    client: Client,
    ticket: u64,
    /// The connection to which everything was passed, if the client reconnects.
    connection: Option<Arc<Connection>>,
    /// The position in the stream of the connection that must be reached.
    position: Option<u64>,
}

impl Flush {
    pub(super) fn new(client: Client) -> Flush {
        Flush { client, ticket: next_ticket(), connection: None, position: None }
    }

    /// Does the same as awaiting it, for hand-written futures.
    pub fn poll_done(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.client.check_process()?;
        let connection = match &self.client.0.link {
            Link::Wire(connection) => connection,
            Link::Reconnecting(link) => {
                if self.connection.is_none() {
                    self.connection = Some(ready!(link.poll_connection(self.ticket, cx))?);
                }
                match &self.connection {
                    Some(connection) => connection,
                    None => return Poll::Ready(Err(lost())),
                }
            }
            #[cfg(feature = "broker")]
            Link::Local(local) => return local.poll_flushed(self.ticket, cx),
        };
        let position = *self.position.get_or_insert_with(|| connection.begin_flush());
        connection.poll_written(position, self.ticket, cx).map(|written| {
            if written {
                Ok(())
            } else {
                Err(Error::new(ErrorKind::ConnectionLost, "before everything was written"))
            }
        })
    }

    /// Waits on this thread. Returns false when the time of `wait` is over.
    ///
    /// # Errors
    ///
    /// The errors of awaiting it, and the error of the check in `wait`.
    pub fn wait(&mut self, wait: Wait<'_>) -> Result<bool> {
        wait.on(|cx| self.poll_done(cx))?.transpose().map(|done| done.is_some())
    }
}

impl Future for Flush {
    type Output = Result<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.poll_done(cx)
    }
}

impl Drop for Flush {
    fn drop(&mut self) {
        if self.client.check_process().is_err() {
            return;
        }
        self.client.0.link.forget_room(self.ticket);
        if let Some(connection) = &self.connection {
            connection.forget_room(self.ticket);
        }
    }
}
