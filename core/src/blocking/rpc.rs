//! RPC for programs without an async runtime.

use super::client::Client;
use super::handlers::{Handlers, ToBytes};
use super::owner::Owner;
use super::poll::wait_for;
use super::server::Server;
use crate::client::{self, Deadline, TrySend, Wait};
use crate::error::{Error, ErrorKind, Result};
use crate::proto::op::QoS;
use crate::rpc::{self, CallRequest, Options, Reply, RpcError};
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;

/// Makes RPC calls over a client, and serves nothing; it wraps [`crate::rpc::Caller`]. Clones are handles of the same
/// caller. Any number of threads may call at the same time.
#[derive(Debug, Clone)]
pub struct Caller {
    inner: rpc::Caller,
    client: Client,
}

/// An RPC server and caller; see [`crate::rpc::Rpc`]. Clones are handles of the same server. When the last one is
/// dropped, no more requests are handled, and the connection ends if nothing else holds the client.
#[derive(Debug, Clone)]
pub struct Rpc {
    caller: Caller,
    _server: Arc<Serving>,
}

/// Ends the server when dropped.
#[derive(Debug)]
struct Serving {
    server: Server,
    owner: Owner,
}

impl Drop for Serving {
    fn drop(&mut self) {
        if self.owner.is_current() {
            self.server.close();
        } else {
            self.server.leak();
        }
    }
}

impl Rpc {
    /// Serves `handlers` over `client`, whose frames it takes over from their current consumer: see
    /// [`crate::rpc::Rpc::new`].
    ///
    /// # Errors
    /// [`NotSupported`](ErrorKind::NotSupported) where blocking clients cannot be used.
    pub fn new<T: Into<Bytes> + 'static>(client: Client, handlers: impl Handlers<T>) -> Result<Rpc> {
        Rpc::with_options(client, handlers, Options::default())
    }

    /// Does the same as [`new`](Rpc::new), with `options`.
    ///
    /// # Errors
    /// [`NotSupported`](ErrorKind::NotSupported) where blocking clients cannot be used.
    pub fn with_options<T: Into<Bytes> + 'static>(
        client: Client,
        handlers: impl Handlers<T>,
        options: Options,
    ) -> Result<Rpc> {
        let owner = client.owner;
        owner.check_may_wait()?;
        let server = Server::start(&client.inner, Arc::new(ToBytes::new(handlers)), &options);
        Ok(Rpc { caller: Caller::new(client), _server: Arc::new(Serving { server, owner }) })
    }

    /// The client over which it serves and calls.
    pub fn client(&self) -> &Client {
        self.caller.client()
    }

    /// The calling side alone. A handler that calls should hold this: it keeps the client connected but not the
    /// server running.
    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    /// See [`Caller::call`].
    ///
    /// # Errors
    /// The errors of that method.
    pub fn call(
        &self,
        target: &str,
        method: &str,
        params: impl Into<Bytes>,
        qos: QoS,
    ) -> Result<Reply, RpcError> {
        self.caller.call(target, method, params, qos)
    }

    /// See [`Caller::call_with_deadline`].
    ///
    /// # Errors
    /// The errors of that method.
    pub fn call_with_deadline(
        &self,
        target: &str,
        method: &str,
        params: impl Into<Bytes>,
        qos: QoS,
        deadline: impl Into<Deadline>,
    ) -> Result<Reply, RpcError> {
        self.caller.call_with_deadline(target, method, params, qos, deadline)
    }

    /// See [`Caller::submit`].
    ///
    /// # Errors
    /// The errors of that method.
    pub fn submit(
        &self,
        target: &str,
        method: &str,
        params: impl Into<Bytes>,
        qos: QoS,
    ) -> Result<PendingCall, RpcError> {
        self.caller.submit(target, method, params, qos)
    }

    /// See [`Caller::call0`].
    ///
    /// # Errors
    /// The errors of that method.
    pub fn call0(&self, target: &str, method: &str, params: impl Into<Bytes>, qos: QoS) -> Result<()> {
        self.caller.call0(target, method, params, qos)
    }

    /// See [`Caller::notify`].
    ///
    /// # Errors
    /// The errors of that method.
    pub fn notify(&self, target: &str, payload: impl Into<Bytes>, qos: QoS) -> Result<()> {
        self.caller.notify(target, payload, qos)
    }
}

impl Caller {
    /// Creates a caller over `client`. There may be any number of callers.
    pub fn new(client: Client) -> Caller {
        Caller { inner: rpc::Caller::new(client.inner.clone()), client }
    }

    /// The client over which it calls.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The wrapped async caller. Its methods that do not wait, such as [`try_call`](rpc::Caller::try_call), may be
    /// used together with those of this one.
    pub fn inner(&self) -> &rpc::Caller {
        &self.inner
    }

    /// Calls `method` of the client `target` and waits for its reply, at most for the client's timeout; see
    /// [`crate::rpc::Caller::call`].
    ///
    /// # Errors
    /// The errors of that method.
    pub fn call(
        &self,
        target: &str,
        method: &str,
        params: impl Into<Bytes>,
        qos: QoS,
    ) -> Result<Reply, RpcError> {
        self.call_with_deadline(target, method, params, qos, Deadline::Default)
    }

    /// Does the same as [`call`](Caller::call), with its own deadline or none ([`Deadline::Never`]). The deadline
    /// counts from the beginning of this method.
    ///
    /// # Errors
    ///
    /// The errors of [`call`](Caller::call).
    pub fn call_with_deadline(
        &self,
        target: &str,
        method: &str,
        params: impl Into<Bytes>,
        qos: QoS,
        deadline: impl Into<Deadline>,
    ) -> Result<Reply, RpcError> {
        let params = params.into();
        let call = CallRequest::new(target, method, &params, qos).deadline(deadline);
        self.call_with(&call, Wait::forever())
    }

    /// Makes a call and waits for its reply, at most until the call's [`deadline`](CallRequest::deadline) and for the
    /// time of `wait`.
    ///
    /// # Errors
    ///
    /// The errors of [`call`](Caller::call), -32120 when the time is over, and the error of the check in `wait`.
    /// After the last two, the call is forgotten, but its request may have been sent.
    pub fn call_with(&self, call: &CallRequest<'_>, mut wait: Wait<'_>) -> Result<Reply, RpcError> {
        let pending = self.start(call, wait.by_ref())?;
        let late = || Err(Error::new(ErrorKind::Timeout, "no reply in the time of the wait").into());
        pending.wait_with(wait)?.unwrap_or_else(late)
    }

    /// Sends a call and returns the handle of its outcome, so that many can be in progress; see
    /// [`crate::rpc::Caller::submit`].
    ///
    /// # Errors
    ///
    /// The errors of that method.
    pub fn submit(
        &self,
        target: &str,
        method: &str,
        params: impl Into<Bytes>,
        qos: QoS,
    ) -> Result<PendingCall, RpcError> {
        let params = params.into();
        self.start(&CallRequest::new(target, method, &params, qos), Wait::forever())
    }

    /// Sends a call and returns the handle of its outcome. Waits only for room to send, at most until the call's
    /// deadline and for the time of `wait`.
    ///
    /// # Errors
    ///
    /// The errors of [`submit`](Caller::submit), -32120 when the time is over, and the error of the check in `wait`.
    /// After an error, the request is not sent, now or later.
    pub fn start(&self, call: &CallRequest<'_>, wait: Wait<'_>) -> Result<PendingCall, RpcError> {
        let owner = self.client.owner;
        owner.check_may_wait()?;
        let inner = match self.inner.try_call(call)? {
            TrySend::Sent(pending) => pending,
            TrySend::NoRoom => wait_for(self.inner.start(call), wait)?
                .unwrap_or_else(|| Err(Error::new(ErrorKind::Timeout, "no room to send").into()))?,
        };
        Ok(PendingCall { inner, owner })
    }

    /// Calls a method without asking for a reply; see [`crate::rpc::Caller::call0`].
    ///
    /// # Errors
    ///
    /// The errors of that method.
    pub fn call0(&self, target: &str, method: &str, params: impl Into<Bytes>, qos: QoS) -> Result<()> {
        self.call0_with(target, method, params, qos, Wait::forever())
    }

    /// Does the same as [`call0`](Caller::call0), but waits at most for the time of `wait`.
    ///
    /// # Errors
    /// The errors of [`call0`](Caller::call0), [`Timeout`](ErrorKind::Timeout) when the time is over, and the error
    /// of the check in `wait`. The request may have been sent then.
    pub fn call0_with(
        &self,
        target: &str,
        method: &str,
        params: impl Into<Bytes>,
        qos: QoS,
        wait: Wait<'_>,
    ) -> Result<()> {
        self.client.owner.check_may_wait()?;
        let params = params.into();
        match self.inner.try_call0(&CallRequest::new(target, method, &params, qos))? {
            TrySend::Sent(pending) => acknowledged(&pending, target, wait),
            TrySend::NoRoom => {
                wait_for(self.inner.call0(target, method, params, qos), wait)?.unwrap_or_else(not_sent)
            }
        }
    }

    /// Sends a notification; see [`crate::rpc::Caller::notify`].
    ///
    /// # Errors
    /// The errors of that method.
    pub fn notify(&self, target: &str, payload: impl Into<Bytes>, qos: QoS) -> Result<()> {
        self.notify_with(target, payload, qos, Wait::forever())
    }

    /// Does the same as [`notify`](Caller::notify), but waits at most for the time of `wait`.
    ///
    /// # Errors
    /// The errors of [`notify`](Caller::notify), [`Timeout`](ErrorKind::Timeout) when the time is over, and the error
    /// of the check in `wait`. The notification may have been sent then.
    pub fn notify_with(
        &self,
        target: &str,
        payload: impl Into<Bytes>,
        qos: QoS,
        wait: Wait<'_>,
    ) -> Result<()> {
        self.client.owner.check_may_wait()?;
        let payload = payload.into();
        match self.inner.try_notify(target, &payload, qos)? {
            TrySend::Sent(pending) => acknowledged(&pending, target, wait),
            TrySend::NoRoom => {
                wait_for(self.inner.notify(target, payload, qos), wait)?.unwrap_or_else(not_sent)
            }
        }
    }
}

fn not_sent() -> Result<()> {
    Err(Error::new(ErrorKind::Timeout, "no room to send, or no acknowledgement, in the time of the wait"))
}

/// Waits for the acknowledgement of a message to `target`.
fn acknowledged(pending: &client::PendingOperation, target: &str, wait: Wait<'_>) -> Result<()> {
    pending.wait(wait)?.unwrap_or_else(not_sent).map_err(|e| e.with_subject(target))
}

/// A call that has been sent; see [`crate::rpc::PendingCall`]. It can be waited for repeatedly. Dropping it forgets
/// the call.
#[derive(Debug)]
#[must_use = "a call is forgotten when this is dropped"]
pub struct PendingCall {
    inner: rpc::PendingCall,
    owner: Owner,
}

impl PendingCall {
    /// The id of the call, which the reply carries.
    pub fn id(&self) -> u32 {
        self.inner.id()
    }

    /// Returns true if [`wait`](PendingCall::wait) would not wait.
    pub fn is_completed(&self) -> bool {
        self.inner.is_completed()
    }

    /// Returns the reply or the failure, if there is one.
    pub fn result(&self) -> Option<Result<Reply, RpcError>> {
        self.inner.result()
    }

    /// Waits for the reply, at most until the call's deadline.
    ///
    /// # Errors
    ///
    /// The errors of [`Caller::call`].
    pub fn wait(&self) -> Result<Reply, RpcError> {
        let late = || Err(Error::new(ErrorKind::Timeout, "no reply").into());
        self.wait_with(Wait::forever())?.unwrap_or_else(late)
    }

    /// Does the same as [`wait`](PendingCall::wait), but waits at most for `timeout`. Returns `None` when the time is
    /// over; the call continues.
    pub fn wait_timeout(&self, timeout: Duration) -> Option<Result<Reply, RpcError>> {
        self.wait_with(Wait::at_most(timeout)).unwrap_or_else(|e| Some(Err(e.into())))
    }

    /// Does the same as [`wait`](PendingCall::wait), but waits at most for the time of `wait`. Returns `None` when
    /// that time is over; the call continues.
    ///
    /// # Errors
    ///
    /// The error of the check in `wait`, and [`NotSupported`](ErrorKind::NotSupported) where blocking clients cannot
    /// be used. The inner result is that of the call.
    pub fn wait_with(&self, wait: Wait<'_>) -> Result<Option<Result<Reply, RpcError>>> {
        self.owner.check_may_wait()?;
        self.inner.wait(wait)
    }

    /// Forgets the call. Its late reply is dropped.
    pub fn cancel(self) {
        drop(self);
    }
}
