//! One connection to a broker over a socket. It consists of the write path (`submit.rs`), the task that reads
//! (`reader.rs`) and the heartbeat (`heartbeat.rs`), which share the state in `shared.rs`.
//!
//! Requests are encoded and written on the caller's thread. Small ones that come in a burst are written together, by
//! a task or by the caller. The reader completes acknowledgements and replies itself and puts frames into the inbox.
//!
//! The tasks hold [`Shared`], never the [`Connection`]. Dropping the connection closes it in order: the queued data
//! is written, the outgoing direction is shut down, and incoming bytes are read until the broker closes too, all
//! within the timeout. (If a socket is closed with unread bytes, TCP discards the data in transit.)

use super::alive::Alive;
use super::client_state::ClientState;
use super::config::Config;
use super::heartbeat::Heartbeat;
use super::inbox::End;
use super::reader::Reader;
use super::request::{AnswerTo, Bound, Request, Submitted, TrySend};
use super::shared::{Shared, lost};
use crate::error::{Error, ErrorKind, Result};
use crate::fork::Process;
use crate::transport::writer::next_ticket;
use crate::transport::{Socket, Writer};
use std::future::poll_fn;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};
use tokio::time::timeout;

/// The handle of a connection that the client owns.
#[derive(Debug)]
pub(crate) struct Connection {
    shared: Arc<Shared>,
    /// Detects a fork: a child that inherited the connection must not close the parent's.
    process: Process,
}

impl Connection {
    /// Starts the tasks of a registered connection. `leftover` are the bytes that came after the registration.
    pub(crate) fn start(
        socket: Socket,
        writer: Arc<Writer>,
        leftover: &[u8],
        client: Arc<ClientState>,
        config: &Config,
    ) -> Connection {
        let reader_socket = socket;
        let socket = reader_socket.unregistered();
        let shared = Arc::new(Shared::new(socket, writer, leftover, client, config));
        let readable: Weak<Shared> = Arc::downgrade(&shared);
        shared.client.inbox.lease().attach(readable);
        tokio::spawn(Reader::new(shared.clone(), reader_socket).run());
        // The exit of the process waits for this connection from here on, not only from the first run of the task.
        let alive = Alive::current(&config.name);
        tokio::spawn(Heartbeat::new(shared.clone()).run(alive));
        Connection { shared, process: Process::current() }
    }

    /// Sends a request if there is room.
    #[inline]
    pub(super) fn try_submit(
        &self,
        request: &Request<'_>,
        to: AnswerTo<'_>,
        bound: Bound,
    ) -> Result<Submitted> {
        self.shared.try_submit(request, to, bound)
    }

    /// Returns ready with true if there is room for a request, and with false if nothing can be sent any more.
    /// Otherwise the waker is registered under the ticket; see [`forget_room`](Connection::forget_room).
    pub(super) fn poll_room(&self, ticket: u64, cx: &mut Context<'_>) -> Poll<bool> {
        let below = self.shared.room();
        let mut room = self.shared.writer.poll_below(ticket, below, cx);
        if room.is_pending() && self.shared.flush_waiting() {
            // The task that flushes may not run now, or may only check every millisecond.
            room = self.shared.writer.poll_below(ticket, below, cx);
        }
        // The second check sees an end that began before the waker was registered.
        if self.is_connected() { room } else { Poll::Ready(false) }
    }

    /// Sends a request for which the program does not wait. Waits for room within the timeout.
    pub(super) async fn send(&self, request: &Request<'_>) -> Result<()> {
        let ticket = next_ticket();
        let sent = poll_fn(|cx| {
            loop {
                match self.try_submit(request, AnswerTo::Nothing, Bound::Bounded) {
                    Ok(TrySend::Sent(_)) => return Poll::Ready(Ok(())),
                    // If the connection has ended, the next attempt returns the reason.
                    Ok(TrySend::NoRoom) => _ = ready!(self.poll_room(ticket, cx)),
                    Err(e) => return Poll::Ready(Err(e)),
                }
            }
        });
        let sent = timeout(self.shared.config.timeout, sent).await;
        self.forget_room(ticket);
        sent.unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::Timeout, "the broker takes no more from this client"))
        })
    }

    /// Removes the registration of [`poll_room`](Connection::poll_room) or
    /// [`poll_written`](Connection::poll_written).
    pub(super) fn forget_room(&self, ticket: u64) {
        self.shared.writer.forget_waiter(ticket);
    }

    /// Writes as much as possible now. Returns the position in the stream that is reached when everything sent so far
    /// has been passed to the kernel.
    pub(super) fn begin_flush(&self) -> u64 {
        self.shared.writer.flush();
        self.shared.writer.position()
    }

    /// Returns ready with true when everything before the position has been passed to the kernel, and with false when
    /// it never will be.
    pub(super) fn poll_written(&self, position: u64, ticket: u64, cx: &mut Context<'_>) -> Poll<bool> {
        self.shared.writer.poll_written(ticket, position, cx)
    }

    /// Sends a ping.
    pub(crate) fn ping(&self) -> Result<()> {
        if !self.is_connected() {
            return Err(lost());
        }
        self.shared.ping();
        Ok(())
    }

    /// Reads once on this thread. Returns whether bytes were read.
    #[cfg(test)]
    pub(super) fn read_now(&self) -> bool {
        use super::reading_lease::{Look, Readable};
        self.shared.read_now() == Look::Some
    }

    /// Returns true if a thread holds the lock of the input.
    #[cfg(test)]
    pub(super) fn is_reading(&self) -> bool {
        self.shared.input.is_locked()
    }

    /// Returns true if requests can be sent.
    pub(crate) fn is_connected(&self) -> bool {
        !self.shared.is_closing()
    }

    /// Returns the number of requests sent, and the bytes of their bodies.
    pub(crate) fn sent(&self) -> (u64, u64) {
        self.shared.client.sent()
    }

    /// Begins to close the connection: see [`disconnect`](Connection::disconnect), which waits for it.
    pub(super) fn begin_close(&self, why: &'static str) {
        self.shared.begin_close(why);
    }

    /// Begins to close the connection, and fails everything that waits for an answer.
    pub(super) fn close(&self, why: &'static str) {
        self.fail_operations();
        self.shared.begin_close(why);
    }

    /// Fails the operations that wait for an answer, and all later ones.
    pub(super) fn fail_operations(&self) {
        self.shared.stop_sending();
        self.shared.acks.end();
    }

    /// Waits until the connection has ended. Returns the reason.
    pub(super) async fn ended(&self) -> End {
        self.shared.wait_ended().await
    }

    /// Closes the connection after everything sent is written, within the timeout.
    pub(crate) async fn disconnect(&self) {
        self.shared.begin_close("disconnected by this client");
        self.shared.wait_ended().await;
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if self.process.is_current() {
            self.shared.begin_close("the client was dropped");
        }
        self.process.leak_if_inherited(&self.shared);
    }
}
