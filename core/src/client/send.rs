//! The ways to send: now, in order without waiting, or when there is room.

use super::flush::Flush;
#[cfg(feature = "broker")]
use super::local::LocalSubmit;
use super::pending::PendingOperation;
#[cfg(feature = "broker")]
use super::request::Deadline;
use super::request::{AnswerTo, Bound, Request, Submitted, TrySend};
use super::room::{Room, Sending};
use super::{Client, CompletionQueue, Link};
use crate::error::Result;
use crate::proto::request::Operation;
use std::future::poll_fn;
use std::time::Duration;

impl Client {
    /// Sends an operation now, on the caller's thread, if there is room. Needs no runtime and never waits; may be called
    /// from any thread.
    ///
    /// The handle tells the acknowledgement, if the QoS asks for one. Small operations of a burst are written together
    /// ([`Config::write_through`](super::Config::write_through)).
    ///
    /// # Errors
    /// [`ConnectionLost`](crate::ErrorKind::ConnectionLost), [`Data`](crate::ErrorKind::Data) for a name or topic with
    /// a NUL or a body over 4 GiB. Nothing is sent then, now or later.
    pub fn try_send(&self, request: &Request<'_>) -> Result<TrySend<PendingOperation>> {
        self.attempt(request, AnswerTo::Handle, Bound::Bounded)
    }

    /// Does the same as [`try_send`](Client::try_send); the acknowledgement goes to `completions` with `token`. Without
    /// a QoS that asks for one, nothing goes there.
    ///
    /// # Errors
    /// The errors of [`try_send`](Client::try_send). Nothing goes to `completions` then.
    pub fn try_send_to(
        &self,
        request: &Request<'_>,
        completions: &CompletionQueue,
        token: u64,
    ) -> Result<TrySend<()>> {
        let sent = self.attempt(request, AnswerTo::Queue(completions, token), Bound::Bounded)?;
        Ok(sent.map(drop))
    }

    /// Does the same as [`try_send`](Client::try_send), but accepts the operation though there is no room, in the order
    /// of the calls: for programs that cannot wait. They hold themselves back by awaiting [`room`](Client::room); what
    /// waits to be written is in memory.
    ///
    /// [`NoRoom`](TrySend::NoRoom) is only returned while a client that reconnects has no connection, if its policy is
    /// to wait for one ([`WhileDown`](super::WhileDown)).
    ///
    /// # Errors
    /// The errors of [`try_send`](Client::try_send).
    pub fn send_in_order(&self, request: &Request<'_>) -> Result<TrySend<PendingOperation>> {
        self.attempt(request, AnswerTo::Handle, Bound::Unbounded)
    }

    /// Does the same as [`send_in_order`](Client::send_in_order); the acknowledgement goes to `completions` with
    /// `token`.
    ///
    /// # Errors
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
    /// Waits for room within the client's timeout, or within the request's deadline if its QoS asks for an
    /// acknowledgement and it has one. The future may be polled by any executor, and within none. Dropping it before it
    /// is ready means that nothing is sent; a publication or broadcast within the broker's process, which waits for one
    /// of its receivers, has been delivered to those that had room.
    ///
    /// # Errors
    /// The errors of [`try_send`](Client::try_send), and [`Timeout`](crate::ErrorKind::Timeout) when the broker takes
    /// nothing more from this client. Nothing is sent then, now or later.
    pub async fn submit_request(&self, request: &Request<'_>) -> Result<PendingOperation> {
        self.submit_to(request, AnswerTo::Handle).await
    }

    /// Waits until what was sent is with the kernel.
    pub fn flush(&self) -> Flush {
        Flush::new(self.clone())
    }

    /// Sets the time between two pings, at least 1 ms, from the next ping on, for the client and its further connections;
    /// see [`Config::ping_interval`](super::Config::ping_interval). A client within the broker's process sends no pings.
    pub fn set_ping_interval(&self, ping_interval: Duration) {
        if self.check_process().is_ok() {
            self.0.state.set_ping_interval(ping_interval);
        }
    }

    /// Ends the connection for all clones without waiting: operations and calls under way, and everything that waits
    /// for room or for frames, end now with [`ConnectionLost`](crate::ErrorKind::ConnectionLost). What was sent is
    /// still written, in the background if the socket does not take it now; [`flush`](Client::flush) before waits for
    /// it. May be called from any thread, without a runtime.
    pub fn close(&self) {
        const WHY: &str = "closed by this client";
        if self.check_process().is_err() {
            return;
        }
        match &self.0.link {
            Link::Wire(connection) => connection.close(WHY),
            Link::Reconnecting(link) => link.close(WHY),
            #[cfg(feature = "broker")]
            Link::Local(local) => local.disconnect(),
        }
    }

    /// Sends an operation when there is room.
    #[inline]
    pub(crate) async fn submit_to(
        &self,
        request: &Request<'_>,
        to: AnswerTo<'_>,
    ) -> Result<PendingOperation> {
        // Others run before, not after: a future that is pending has sent nothing.
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

    /// Does the same as [`attempt`](Client::attempt). Within the broker's process, the caller waits until the receivers
    /// have taken the operation.
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

    /// Tries to send.
    #[inline]
    pub(crate) fn attempt(&self, request: &Request<'_>, to: AnswerTo<'_>, bound: Bound) -> Result<Submitted> {
        self.check_process()?;
        if let Operation::Nop = request.operation {
            return self.try_ping().map(|()| TrySend::Sent(PendingOperation::done(Ok(()))));
        }
        let submitted = match &self.0.link {
            Link::Wire(connection) => connection.try_submit(request, to, bound),
            Link::Reconnecting(link) => link.try_submit(request, to, bound),
            #[cfg(feature = "broker")]
            Link::Local(local) => local.try_submit(request, to, bound),
        }?;
        #[cfg(feature = "rpc")]
        if let (TrySend::NoRoom, AnswerTo::Call(id)) = (&submitted, to) {
            self.0.state.calls.set_unsent(id, true);
        }
        Ok(submitted)
    }

    /// Tries to send what had no room before.
    pub(super) fn retry(&self, request: &Request<'_>, to: AnswerTo<'_>) -> Result<Submitted> {
        #[cfg(feature = "rpc")]
        if let AnswerTo::Call(id) = to
            && !self.0.state.calls.set_unsent(id, false)
        {
            // Its outcome is told already: nothing may be sent any more.
            return Err(super::shared::lost());
        }
        self.attempt(request, to, Bound::Bounded)
    }

    fn try_ping(&self) -> Result<()> {
        match &self.0.link {
            Link::Wire(connection) => connection.ping(),
            Link::Reconnecting(link) => link.ping(),
            #[cfg(feature = "broker")]
            Link::Local(local) => local.ping(),
        }
    }
}
