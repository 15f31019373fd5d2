//! The ways to send: immediately, in order without waiting, or when there is room.

use super::flush::Flush;
#[cfg(feature = "broker")]
use super::link::Link;
#[cfg(feature = "broker")]
use super::local::LocalSubmit;
use super::pending::PendingOperation;
#[cfg(feature = "broker")]
use super::request::Deadline;
use super::request::{AnswerTo, Bound, Request, Submitted, TrySend};
use super::room::{Room, Sending};
use super::{Client, CompletionQueue};
use crate::error::Result;
use crate::proto::request::Operation;
use std::future::poll_fn;
use std::time::Duration;

impl Client {
    /// Sends an operation immediately, on the caller's thread, if there is room. Needs no runtime and never waits;
    /// may be called from any thread.
    ///
    /// The returned handle reports the acknowledgement, if the QoS asks for one. Small operations of a burst are
    /// written together ([`Config::write_through`](super::Config::write_through)).
    ///
    /// # Errors
    ///
    /// [`ConnectionLost`](crate::ErrorKind::ConnectionLost); [`Data`](crate::ErrorKind::Data) for a name or topic
    /// with a NUL or a body over 4 GiB. After an error, nothing is sent, now or later.
    pub fn try_send(&self, request: &Request<'_>) -> Result<TrySend<PendingOperation>> {
        self.attempt(request, AnswerTo::Handle, Bound::Bounded)
    }

    /// Does the same as [`try_send`](Client::try_send), but puts the acknowledgement into `completions` with `token`.
    /// If the QoS asks for no acknowledgement, nothing is put there.
    ///
    /// # Errors
    ///
    /// The errors of [`try_send`](Client::try_send). After an error, nothing is put into `completions`.
    pub fn try_send_to(
        &self,
        request: &Request<'_>,
        completions: &CompletionQueue,
        token: u64,
    ) -> Result<TrySend<()>> {
        let sent = self.attempt(request, AnswerTo::Queue(completions, token), Bound::Bounded)?;
        Ok(sent.map(drop))
    }

    /// Does the same as [`try_send`](Client::try_send), but accepts the operation even if there is no room, in the
    /// order of the calls. It is for programs that cannot wait. They should await [`room`](Client::room) before they
    /// send more, because the unwritten data stays in memory.
    ///
    /// [`NoRoom`](TrySend::NoRoom) is only returned while a client that reconnects has no connection, if its policy
    /// is to wait for one ([`WhileDown`](super::WhileDown)).
    ///
    /// # Errors
    ///
    /// The errors of [`try_send`](Client::try_send).
    pub fn send_in_order(&self, request: &Request<'_>) -> Result<TrySend<PendingOperation>> {
        self.attempt(request, AnswerTo::Handle, Bound::Unbounded)
    }

    /// Does the same as [`send_in_order`](Client::send_in_order), but puts the acknowledgement into `completions`
    /// with `token`.
    ///
    /// # Errors
    ///
    /// The errors of [`try_send`](Client::try_send).
    pub fn send_in_order_to(
        &self,
        request: &Request<'_>,
        completions: &CompletionQueue,
        token: u64,
    ) -> Result<TrySend<()>> {
        let sent = self.attempt(request, AnswerTo::Queue(completions, token), Bound::Unbounded)?;
        Ok(sent.map(drop))
    }

    /// Returns a future that waits for room, for use after [`TrySend::NoRoom`].
    pub fn room(&self) -> Room {
        Room::new(self.clone())
    }

    /// Sends an operation when there is room, and returns the handle of its outcome.
    ///
    /// Waits for room at most for the client's timeout, or until the request's deadline if it has one and its QoS
    /// asks for an acknowledgement. The future may be polled by any executor, and within none. Dropping it before it
    /// is ready means that nothing is sent; a publication or broadcast within the broker's process, which waits for
    /// one of its receivers, has been delivered to those that had room.
    ///
    /// # Errors
    /// The errors of [`try_send`](Client::try_send), and [`Timeout`](crate::ErrorKind::Timeout) when the broker
    /// accepts no more data from this client. After an error, nothing is sent, now or later.
    pub async fn submit_request(&self, request: &Request<'_>) -> Result<PendingOperation> {
        self.submit_to(request, AnswerTo::Handle).await
    }

    /// Returns a future that waits until everything that was sent has been passed to the kernel.
    pub fn flush(&self) -> Flush {
        Flush::new(self.clone())
    }

    /// Sets the interval between two pings, from the next ping on, for the client and its future connections; see
    /// [`Config::ping_interval`](super::Config::ping_interval). Minimum: 1 ms. A client within the broker's process
    /// sends no pings.
    pub fn set_ping_interval(&self, ping_interval: Duration) {
        if self.check_process().is_ok() {
            self.0.state.set_ping_interval(ping_interval);
        }
    }

    /// Closes the connection for all clones without waiting: operations and calls in progress, and everything that
    /// waits for room or for frames, fail immediately with [`ConnectionLost`](crate::ErrorKind::ConnectionLost). Data
    /// that was sent is still written, in the background if the socket does not accept it now; call
    /// [`flush`](Client::flush) first to wait for that. May be called from any thread, without a runtime.
    pub fn close(&self) {
        const WHY: &str = "closed by this client";
        if self.check_process().is_err() {
            return;
        }
        self.0.link.close(WHY);
    }

    /// Sends an operation when there is room.
    #[inline]
    pub(crate) async fn submit_to(
        &self,
        request: &Request<'_>,
        to: AnswerTo<'_>,
    ) -> Result<PendingOperation> {
        // The task yields before it sends, not after, because a pending future must not have sent anything.
        tokio::task::coop::consume_budget().await;
        match self.attempt_patiently(request, to).await? {
            TrySend::Sent(pending) => Ok(pending),
            TrySend::NoRoom => Box::pin(self.submit_when_there_is_room(request, to)).await,
        }
    }

    async fn submit_when_there_is_room(
        &self,
        request: &Request<'_>,
        to: AnswerTo<'_>,
    ) -> Result<PendingOperation> {
        let mut sending = Sending::new(self, request, to);
        poll_fn(|cx| sending.poll(cx)).await
    }

    /// Does the same as [`attempt`](Client::attempt), but within the broker's process, the caller waits until the
    /// receivers have accepted the operation.
    #[inline]
    async fn attempt_patiently<'a>(&'a self, request: &Request<'a>, to: AnswerTo<'a>) -> Result<Submitted> {
        #[cfg(feature = "broker")]
        if let Link::Local(local) = &self.0.link
            && self.check_process().is_ok()
            && request.deadline == Deadline::Default
            && !matches!(request.operation, Operation::Nop)
        {
            return match local.submit(request, to)? {
                LocalSubmit::Done(submitted) => Ok(submitted),
                LocalSubmit::Waits(rest) => rest.await,
            };
        }
        self.attempt(request, to, Bound::Bounded)
    }

    /// Tries to send once.
    #[inline]
    pub(crate) fn attempt(&self, request: &Request<'_>, to: AnswerTo<'_>, bound: Bound) -> Result<Submitted> {
        self.check_process()?;
        if let Operation::Nop = request.operation {
            return self.0.link.ping().map(|()| TrySend::Sent(PendingOperation::done(Ok(()))));
        }
        let submitted = self.0.link.try_submit(request, to, bound)?;
        #[cfg(feature = "rpc")]
        if let (TrySend::NoRoom, AnswerTo::Call(id)) = (&submitted, to) {
            self.0.state.calls.set_unsent(id, true);
        }
        Ok(submitted)
    }

    /// Tries to send a request for which there was no room before.
    pub(super) fn retry(&self, request: &Request<'_>, to: AnswerTo<'_>) -> Result<Submitted> {
        #[cfg(feature = "rpc")]
        if let AnswerTo::Call(id) = to
            && !self.0.state.calls.set_unsent(id, false)
        {
            // The outcome of the call has already been delivered: the request must not be sent any more.
            return Err(super::shared::lost());
        }
        self.attempt(request, to, Bound::Bounded)
    }
}
