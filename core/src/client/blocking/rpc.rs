//! RPC for programs without an async runtime.

use super::Client;
use super::pool::Pool;
use super::runtime::Owner;
use crate::error::Result;
use crate::frame::Frame;
use crate::proto::op::QoS;
use crate::rpc::{Call, Notification, Options, Reply, RpcError};
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;

/// The handlers of a blocking RPC server; see [`crate::rpc::Handlers`]. They run on threads that the server has for
/// them, each with a stack of 1 MiB, and may wait, for replies to their own calls over the same client too.
///
/// Each call that is handled has a thread, up to [`max_concurrent`](Options::max_concurrent) of them; threads are
/// started as they are needed and end when idle. Frames are handled one after another on one thread, notifications on
/// another. With [`in_order`](Options::in_order) everything is handled on one thread. None of these threads is within
/// an async runtime; [`crate::runtime::handle`] has one.
pub trait Handlers: Send + Sync + 'static {
    /// Answers a call.
    ///
    /// # Errors
    /// Whatever the error reply shall say.
    fn on_call(&self, call: Call) -> Result<Bytes, RpcError> {
        let _ = call;
        Err(RpcError::method_not_found())
    }

    /// Handles a notification.
    fn on_notification(&self, notification: Notification) {
        let _ = notification;
    }

    /// Handles a publication or a broadcast.
    fn on_frame(&self, frame: Frame) {
        let _ = frame;
    }
}

/// For clients that call and serve nothing.
impl Handlers for () {}

/// Blocking handlers as async ones, which run them on threads.
struct OnThreads<H> {
    handlers: Arc<H>,
    calls: Arc<Pool>,
    notifications: Arc<Pool>,
    frames: Arc<Pool>,
}

impl<H> OnThreads<H> {
    fn new(handlers: H, options: &Options) -> OnThreads<H> {
        let one = |name| Arc::new(Pool::new(name, 1));
        let frames = one("busrt-frames");
        let (calls, notifications) = if options.in_order {
            (frames.clone(), frames.clone())
        } else {
            (Arc::new(Pool::new("busrt-calls", options.max_concurrent)), one("busrt-notify"))
        };
        OnThreads { handlers: Arc::new(handlers), calls, notifications, frames }
    }
}

impl<H: Handlers> crate::rpc::Handlers for OnThreads<H> {
    async fn on_call(&self, call: Call) -> Result<Bytes, RpcError> {
        let handlers = self.handlers.clone();
        let result = self.calls.run(move || handlers.on_call(call)).await;
        result.unwrap_or_else(|| Err(RpcError::internal("the server has no thread for this call")))
    }

    async fn on_notification(&self, notification: Notification) {
        let handlers = self.handlers.clone();
        self.notifications.run(move || handlers.on_notification(notification)).await;
    }

    async fn on_frame(&self, frame: Frame) {
        let handlers = self.handlers.clone();
        self.frames.run(move || handlers.on_frame(frame)).await;
    }
}

/// An RPC server and caller; see [`crate::rpc::Rpc`], which it is inside. Clones are the same.
#[derive(Debug, Clone)]
pub struct Rpc {
    inner: crate::rpc::Rpc,
    client: Client,
    owner: Owner,
}

impl Rpc {
    /// See [`crate::rpc::Rpc::new`].
    ///
    /// # Errors
    /// [`NotSupported`](crate::ErrorKind::NotSupported) where blocking clients cannot be used.
    pub fn new(client: Client, handlers: impl Handlers) -> Result<Rpc> {
        Rpc::with_options(client, handlers, Options::default())
    }

    /// See [`crate::rpc::Rpc::with_options`].
    ///
    /// # Errors
    /// [`NotSupported`](crate::ErrorKind::NotSupported) where blocking clients cannot be used.
    pub fn with_options(client: Client, handlers: impl Handlers, options: Options) -> Result<Rpc> {
        let (owner, inner) = (client.owner, client.inner.clone());
        let handlers = OnThreads::new(handlers, &options);
        let inner = owner.wait(async { crate::rpc::Rpc::with_options(inner, handlers, options) })?;
        Ok(Rpc { inner, client, owner })
    }

    /// The client it works over.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// See [`crate::rpc::Caller::call`].
    ///
    /// # Errors
    /// As there.
    pub fn call(
        &self,
        target: &str,
        method: &str,
        params: impl Into<Bytes>,
        qos: QoS,
    ) -> Result<Reply, RpcError> {
        self.owner.wait(self.inner.call(target, method, params, qos))?
    }

    /// See [`crate::rpc::Caller::call_with_deadline`].
    ///
    /// # Errors
    /// As there.
    pub fn call_with_deadline(
        &self,
        target: &str,
        method: &str,
        params: impl Into<Bytes>,
        qos: QoS,
        deadline: Duration,
    ) -> Result<Reply, RpcError> {
        self.owner.wait(self.inner.call_with_deadline(target, method, params, qos, deadline))?
    }

    /// See [`crate::rpc::Caller::submit`].
    ///
    /// # Errors
    /// As there.
    pub fn submit(
        &self,
        target: &str,
        method: &str,
        params: impl Into<Bytes>,
        qos: QoS,
    ) -> Result<PendingCall, RpcError> {
        let inner = self.owner.wait(self.inner.submit(target, method, params, qos))??;
        Ok(PendingCall { inner, owner: self.owner })
    }

    /// See [`crate::rpc::Caller::call0`].
    ///
    /// # Errors
    /// As there.
    pub fn call0(&self, target: &str, method: &str, params: impl Into<Bytes>, qos: QoS) -> Result<()> {
        self.owner.wait(self.inner.call0(target, method, params, qos))?
    }

    /// See [`crate::rpc::Caller::notify`].
    ///
    /// # Errors
    /// As there.
    pub fn notify(&self, target: &str, payload: impl Into<Bytes>, qos: QoS) -> Result<()> {
        self.owner.wait(self.inner.notify(target, payload, qos))?
    }

    /// See [`crate::rpc::Caller::cursor`].
    ///
    /// # Errors
    /// As there.
    #[cfg(feature = "cursors")]
    pub fn cursor(
        &self,
        target: &str,
        method: &str,
        params: impl Into<Bytes>,
    ) -> Result<CursorStream, RpcError> {
        let inner = self.owner.wait(self.inner.cursor(target, method, params))??;
        Ok(CursorStream { inner, owner: self.owner })
    }
}

/// A call that has been sent; see [`crate::rpc::PendingCall`].
#[derive(Debug)]
#[must_use = "a call is forgotten when this is dropped"]
pub struct PendingCall {
    inner: crate::rpc::PendingCall,
    owner: Owner,
}

impl PendingCall {
    /// Waits for the reply.
    ///
    /// # Errors
    /// As [`crate::rpc::Caller::call`].
    pub fn wait(self) -> Result<Reply, RpcError> {
        self.owner.wait(self.inner)?
    }
}

/// The items of a long result; see [`crate::cursor::CursorStream`].
#[cfg(feature = "cursors")]
#[derive(Debug)]
pub struct CursorStream {
    inner: crate::cursor::CursorStream,
    owner: Owner,
}

#[cfg(feature = "cursors")]
impl CursorStream {
    /// See [`crate::cursor::CursorStream::bulk`].
    pub fn bulk(mut self, n: usize) -> CursorStream {
        self.inner = self.inner.bulk(n);
        self
    }

    /// See [`crate::cursor::CursorStream::next_bulk`].
    ///
    /// # Errors
    /// As there.
    pub fn next_bulk(&mut self, n: usize) -> Result<Vec<Bytes>, RpcError> {
        self.owner.wait(self.inner.next_bulk(n))?
    }
}

#[cfg(feature = "cursors")]
impl Iterator for CursorStream {
    type Item = Result<Bytes, RpcError>;

    fn next(&mut self) -> Option<Result<Bytes, RpcError>> {
        self.owner.wait(self.inner.next()).map_err(RpcError::from).and_then(|item| item).transpose()
    }
}
