//! The blocking client.

use super::events::Events;
use super::frames::Frames;
use super::owner::Owner;
use super::pending::PendingOperation;
use super::poll::wait_for;
use crate::client::{
    self, AsTopics, Config, Event, EventCallback, Payload, Request, Stats, TrySend, Wait, check_plain_thread,
    join_topics,
};
use crate::error::{Error, ErrorKind, Result};
use crate::proto::op::QoS;
use crate::proto::request::{Operation, Topics};
use crate::runtime;
use crate::transport::Socket;
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;

/// A client of a broker; it wraps the async [`crate::Client`]. Clones are handles of the same client. All methods may
/// be called from any number of threads at the same time.
///
/// When the last clone is dropped, the thread waits until everything that was sent has been passed to the kernel, at
/// most for the [`timeout`](Config::timeout).
#[derive(Debug, Clone)]
pub struct Client {
    pub(super) inner: crate::Client,
    pub(super) owner: Owner,
    _flushed: Arc<FlushedInDrop>,
}

/// The state that the clones of a client share. Its drop waits until everything that they sent is written.
#[derive(Debug)]
struct FlushedInDrop(crate::Client);

impl Drop for FlushedInDrop {
    fn drop(&mut self) {
        // A thread that runs the tasks of a runtime must not wait, and a forked child has nothing to write.
        let may_wait = !runtime::is_worker() && check_plain_thread().is_ok();
        if may_wait && self.0.check_process().is_ok() {
            // An error means that the connection has ended; unwritten data is lost.
            let _ = self.0.flush().wait(Wait::at_most(self.0.timeout()));
        }
    }
}

impl From<crate::Client> for Client {
    /// Wraps a client for plain threads. It stays in the runtime in which it was connected.
    fn from(inner: crate::Client) -> Client {
        let flushed = Arc::new(FlushedInDrop(inner.clone()));
        Client { inner, owner: Owner::current(), _flushed: flushed }
    }
}

impl Client {
    /// See [`crate::Client::connect`].
    ///
    /// # Errors
    /// The errors of that method, and [`NotSupported`](ErrorKind::NotSupported) within an async runtime.
    pub fn connect(config: &Config) -> Result<Client> {
        Ok(crate::Client::connect_blocking(config)?.into())
    }

    /// Does the same as [`connect`](Client::connect), but waits at most for the time of `wait`.
    ///
    /// # Errors
    ///
    /// The errors of [`connect`](Client::connect), [`Timeout`](ErrorKind::Timeout) when the time is over, and the
    /// error of the check in `wait`.
    pub fn connect_with(config: &Config, wait: Wait<'_>) -> Result<Client> {
        Ok(crate::Client::connect_blocking_with(config, wait)?.into())
    }

    /// See [`crate::Client::connect_stream`]. A [`Socket`] can only be made within a runtime, which is why `socket`
    /// is a function: it is called there.
    ///
    /// # Errors
    /// The errors of [`connect`](Client::connect), and [`Io`](ErrorKind::Io) when `socket` fails.
    pub fn connect_stream(
        socket: impl FnOnce() -> std::io::Result<Socket> + Send + 'static,
        config: &Config,
    ) -> Result<Client> {
        Client::connect_stream_with(socket, config, Wait::forever())
    }

    /// Does the same as [`connect_stream`](Client::connect_stream), but waits at most for the time of `wait`.
    ///
    /// # Errors
    /// The errors of [`connect_stream`](Client::connect_stream), [`Timeout`](ErrorKind::Timeout) when the time is over,
    /// and the error of the check in `wait`.
    pub fn connect_stream_with(
        socket: impl FnOnce() -> std::io::Result<Socket> + Send + 'static,
        config: &Config,
        wait: Wait<'_>,
    ) -> Result<Client> {
        Ok(crate::Client::connect_stream_blocking_with(socket, config, wait)?.into())
    }

    /// The wrapped async client. Its methods that do not wait, such as [`try_send`](crate::Client::try_send), may be
    /// used together with those of this client.
    pub fn inner(&self) -> &crate::Client {
        &self.inner
    }

    /// The name that this client has registered.
    pub fn name(&self) -> &str {
        self.inner.name()
    }

    /// See [`crate::Client::send`].
    ///
    /// # Errors
    /// The errors of that method.
    pub fn send(&self, target: &str, payload: impl Into<Bytes>, qos: QoS) -> Result<()> {
        let payload = payload.into();
        self.run(&Request::message(target, &payload, qos))
    }

    /// See [`crate::Client::broadcast`].
    ///
    /// # Errors
    /// The errors of that method.
    pub fn broadcast(&self, mask: &str, payload: impl Into<Bytes>, qos: QoS) -> Result<()> {
        let payload = payload.into();
        self.run(&Request::broadcast(mask, &payload, qos))
    }

    /// See [`crate::Client::publish`].
    ///
    /// # Errors
    /// The errors of that method.
    pub fn publish(&self, topic: &str, payload: impl Into<Bytes>, qos: QoS) -> Result<()> {
        let payload = payload.into();
        self.run(&Request::publish(topic, &payload, qos))
    }

    /// See [`crate::Client::publish_for`].
    ///
    /// # Errors
    /// The errors of that method.
    pub fn publish_for(
        &self,
        topic: &str,
        receiver: &str,
        payload: impl Into<Bytes>,
        qos: QoS,
    ) -> Result<()> {
        let payload = payload.into();
        self.run(&Request::publish_for(topic, receiver, &payload, qos))
    }

    /// See [`crate::Client::subscribe`].
    ///
    /// # Errors
    /// The errors of that method.
    pub fn subscribe(&self, topics: impl AsTopics, qos: QoS) -> Result<()> {
        let Some(joined) = join_topics(&topics)? else { return Ok(()) };
        self.run(&Request::new(Operation::Subscribe(Topics::Joined(&joined)), qos))
    }

    /// See [`crate::Client::unsubscribe`].
    ///
    /// # Errors
    /// The errors of that method.
    pub fn unsubscribe(&self, topics: impl AsTopics, qos: QoS) -> Result<()> {
        let Some(joined) = join_topics(&topics)? else { return Ok(()) };
        self.run(&Request::new(Operation::Unsubscribe(Topics::Joined(&joined)), qos))
    }

    /// See [`crate::Client::exclude`].
    ///
    /// # Errors
    /// The errors of that method.
    pub fn exclude(&self, topics: impl AsTopics, qos: QoS) -> Result<()> {
        let Some(joined) = join_topics(&topics)? else { return Ok(()) };
        self.run(&Request::new(Operation::Exclude(Topics::Joined(&joined)), qos))
    }

    /// See [`crate::Client::unexclude`].
    ///
    /// # Errors
    /// The errors of that method.
    pub fn unexclude(&self, topics: impl AsTopics, qos: QoS) -> Result<()> {
        let Some(joined) = join_topics(&topics)? else { return Ok(()) };
        self.run(&Request::new(Operation::Unexclude(Topics::Joined(&joined)), qos))
    }

    /// Sends any operation. If its QoS asks for an acknowledgement, waits for it until the request's
    /// [`deadline`](Request::deadline), or for the client's timeout if it has none.
    ///
    /// # Errors
    ///
    /// The errors of [`crate::Client::send`].
    pub fn run(&self, request: &Request<'_>) -> Result<()> {
        self.run_with(request, Wait::forever())
    }

    /// Does the same as [`run`](Client::run), but waits at most for the time of `wait` if that ends before the
    /// deadline.
    ///
    /// # Errors
    ///
    /// The errors of [`run`](Client::run), [`Timeout`](ErrorKind::Timeout) when the time is over, and the error of
    /// the check in `wait`. In the last two cases the operation may have been sent.
    pub fn run_with(&self, request: &Request<'_>, mut wait: Wait<'_>) -> Result<()> {
        let pending = self.start(request, wait.by_ref())?;
        if !request.qos.needs_ack() {
            return Ok(());
        }
        let late = || Err(Error::new(ErrorKind::Timeout, "no acknowledgement in the time of the wait"));
        let outcome = pending.wait(wait)?.unwrap_or_else(late);
        outcome.map_err(|e| e.with_subject(request.operation.subject()))
    }

    /// Sends an operation and returns the handle of its outcome, so that many can be in progress. Otherwise the same
    /// as [`submit_request`](Client::submit_request).
    ///
    /// # Errors
    ///
    /// The errors of that method.
    pub fn submit(&self, operation: Operation<'_, Bytes>, qos: QoS) -> Result<PendingOperation> {
        let request = Request::new(operation.by_ref().map_payload(Payload::Shared), qos);
        self.submit_request(&request, Wait::forever())
    }

    /// Sends an operation and returns the handle of its outcome. Waits only for room to send, at most for the
    /// client's timeout and for the time of `wait`; see [`crate::Client::submit_request`].
    ///
    /// # Errors
    ///
    /// The errors of that method, and the error of the check in `wait`. After an error, nothing is sent, now or
    /// later.
    pub fn submit_request(&self, request: &Request<'_>, wait: Wait<'_>) -> Result<PendingOperation> {
        Ok(PendingOperation::new(self.start(request, wait)?, self.owner))
    }

    #[inline]
    fn start(&self, request: &Request<'_>, wait: Wait<'_>) -> Result<client::PendingOperation> {
        self.owner.check_may_wait()?;
        match self.inner.try_send(request)? {
            TrySend::Sent(pending) => Ok(pending),
            TrySend::NoRoom => wait_for(self.inner.submit_request(request), wait)?
                .unwrap_or_else(|| Err(Error::new(ErrorKind::Timeout, "no room to send"))),
        }
    }

    /// See [`crate::Client::frames`].
    ///
    /// # Errors
    /// The errors of that method.
    pub fn frames(&self) -> Result<Frames> {
        self.owner.check()?;
        Ok(Frames::new(self.inner.frames()?, self.owner))
    }

    /// See [`crate::Client::ping`].
    ///
    /// # Errors
    /// The errors of that method.
    pub fn ping(&self) -> Result<()> {
        self.run(&Request::new(Operation::Nop, QoS::No))
    }

    /// See [`crate::Client::secondary`].
    ///
    /// # Errors
    /// The errors of that method.
    pub fn secondary(&self) -> Result<Client> {
        self.secondary_with(Wait::forever())
    }

    /// Does the same as [`secondary`](Client::secondary), but waits at most for the time of `wait`.
    ///
    /// # Errors
    /// The errors of [`secondary`](Client::secondary), [`Timeout`](ErrorKind::Timeout) when the time is over, and the
    /// error of the check in `wait`.
    pub fn secondary_with(&self, wait: Wait<'_>) -> Result<Client> {
        self.owner.check()?;
        let inner = self.inner.clone();
        Ok(client::run(async move { inner.secondary().await }, wait)?.into())
    }

    /// See [`crate::Client::secondary_named`].
    ///
    /// # Errors
    /// The errors of that method.
    pub fn secondary_named(&self, suffix: &str) -> Result<Client> {
        self.secondary_named_with(suffix, Wait::forever())
    }

    /// Does the same as [`secondary_named`](Client::secondary_named), but waits at most for the time of `wait`.
    ///
    /// # Errors
    /// The errors of [`secondary_named`](Client::secondary_named), [`Timeout`](ErrorKind::Timeout) when the time is
    /// over, and the error of the check in `wait`.
    pub fn secondary_named_with(&self, suffix: &str, wait: Wait<'_>) -> Result<Client> {
        self.owner.check()?;
        let (inner, suffix) = (self.inner.clone(), suffix.to_owned());
        Ok(client::run(async move { inner.secondary_named(&suffix).await }, wait)?.into())
    }

    /// Waits until everything that was sent has been passed to the kernel, at most for the client's timeout; see
    /// [`crate::Client::flush`].
    ///
    /// # Errors
    ///
    /// The errors of that method, and [`Timeout`](ErrorKind::Timeout).
    pub fn flush(&self) -> Result<()> {
        if self.flush_with(Wait::at_most(self.inner.timeout()))? {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Timeout, "the broker takes no more from this client"))
    }

    /// Does the same as [`flush`](Client::flush), but waits at most for the time of `wait`. Returns false when that
    /// time is over.
    ///
    /// # Errors
    ///
    /// The errors of [`crate::Client::flush`], and the error of the check in `wait`.
    pub fn flush_with(&self, wait: Wait<'_>) -> Result<bool> {
        self.owner.check_may_wait()?;
        self.inner.flush().wait(wait)
    }

    /// See [`crate::Client::disconnect`]. Waits at most about the client's timeout.
    ///
    /// # Errors
    /// [`NotSupported`](ErrorKind::NotSupported) where blocking clients cannot be used.
    pub fn disconnect(&self) -> Result<()> {
        self.disconnect_with(Wait::forever()).map(drop)
    }

    /// Does the same as [`disconnect`](Client::disconnect), but waits at most for the time of `wait`. Returns false
    /// when that time is over; the connection is being closed nevertheless.
    ///
    /// # Errors
    ///
    /// The errors of [`disconnect`](Client::disconnect), and the error of the check in `wait`.
    pub fn disconnect_with(&self, wait: Wait<'_>) -> Result<bool> {
        self.owner.check_may_wait()?;
        Ok(wait_for(self.inner.disconnect(), wait)?.is_some())
    }

    /// See [`crate::Client::close`]: ends the connection without waiting.
    pub fn close(&self) {
        self.inner.close();
    }

    /// See [`crate::Client::drain`].
    ///
    /// # Errors
    /// [`NotSupported`](ErrorKind::NotSupported) where blocking clients cannot be used.
    pub fn drain(&self, bound: Duration) -> Result<bool> {
        self.drain_with(Wait::at_most(bound))
    }

    /// Does the same as [`drain`](Client::drain), but waits at most for the time of `wait`.
    ///
    /// # Errors
    ///
    /// The errors of [`drain`](Client::drain), and the error of the check in `wait`. After that error, the connection
    /// is being closed.
    pub fn drain_with(&self, wait: Wait<'_>) -> Result<bool> {
        self.owner.check_may_wait()?;
        let drained = wait_for(self.inner.drain_unbounded(), wait);
        if !matches!(drained, Ok(Some(()))) {
            self.inner.give_up_drain();
        }
        Ok(drained?.is_some())
    }

    /// See [`crate::Client::events`].
    ///
    /// # Errors
    /// [`NotSupported`](ErrorKind::NotSupported) in a child made by fork.
    pub fn events(&self) -> Result<Events> {
        self.owner.check()?;
        Ok(Events::new(self.inner.events(), self.owner))
    }

    /// See [`crate::Client::on_event`]. The callback must not wait; therefore it cannot use blocking clients.
    pub fn on_event(&self, callback: impl Fn(&Event) + Send + Sync + 'static) -> EventCallback {
        self.inner.on_event(callback)
    }

    /// Returns true if the client is connected, so that it can send.
    pub fn is_connected(&self) -> bool {
        self.owner.is_current() && self.inner.is_connected()
    }

    /// See [`crate::Client::closed`]. Waits without a time limit.
    ///
    /// # Errors
    ///
    /// [`NotSupported`](ErrorKind::NotSupported) where blocking clients cannot be used.
    pub fn closed(&self) -> Result<Error> {
        let ended = self.closed_with(Wait::forever())?;
        ended.ok_or_else(|| Error::new(ErrorKind::Timeout, "the client has not ended"))
    }

    /// Does the same as [`closed`](Client::closed), but waits at most for the time of `wait`. Returns `None` when
    /// that time is over.
    ///
    /// # Errors
    ///
    /// The errors of [`closed`](Client::closed), and the error of the check in `wait`.
    pub fn closed_with(&self, wait: Wait<'_>) -> Result<Option<Error>> {
        self.owner.check_may_wait()?;
        wait_for(self.inner.closed(), wait)
    }

    /// The client's counters.
    pub fn stats(&self) -> Stats {
        self.inner.stats()
    }
}
