//! The handlers of a blocking RPC server.

use crate::frame::Frame;
use crate::rpc::{Call, Notification, RpcError};
use bytes::Bytes;
use std::marker::PhantomData;
use std::sync::Arc;

/// The handlers of a blocking RPC server; see [`crate::rpc::Handlers`]. They run on threads that the server has for
/// them, each with a stack of 1 MiB, and may wait, for replies to their own calls over the same client too. To call,
/// let them hold a [`Caller`](super::Caller), not the [`Rpc`](super::Rpc), which would keep itself alive that way.
///
/// Each call that is handled has a thread, up to [`max_concurrent`](crate::rpc::Options::max_concurrent) of them;
/// threads are started as they are needed and end when idle. Frames are handled one after another on one thread,
/// notifications on another. With [`in_order`](crate::rpc::Options::in_order) everything is handled on one thread. None
/// of these threads is within an async runtime; [`crate::runtime::handle`] has one.
///
/// The result of a call may be of any type that becomes [`Bytes`], which is the parameter of the trait: for example,
/// `impl Handlers<String> for Greeter`.
pub trait Handlers<T: Into<Bytes> = Bytes>: Send + Sync + 'static {
    /// Answers a call. A panic is answered with -32603.
    ///
    /// # Errors
    /// The error reply that the handler wants.
    fn on_call(&self, call: Call) -> Result<T, RpcError> {
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

impl<T: Into<Bytes>, H: Handlers<T>> Handlers<T> for Arc<H> {
    fn on_call(&self, call: Call) -> Result<T, RpcError> {
        (**self).on_call(call)
    }

    fn on_notification(&self, notification: Notification) {
        (**self).on_notification(notification);
    }

    fn on_frame(&self, frame: Frame) {
        (**self).on_frame(frame);
    }
}

/// Handlers whose results have been turned into bytes, so that servers need not know their type.
pub(super) struct ToBytes<H, T>(H, PhantomData<fn() -> T>);

impl<H, T> ToBytes<H, T> {
    pub(super) fn new(handlers: H) -> ToBytes<H, T> {
        ToBytes(handlers, PhantomData)
    }
}

impl<T: Into<Bytes> + 'static, H: Handlers<T>> Handlers for ToBytes<H, T> {
    fn on_call(&self, call: Call) -> Result<Bytes, RpcError> {
        self.0.on_call(call).map(Into::into)
    }

    fn on_notification(&self, notification: Notification) {
        self.0.on_notification(notification);
    }

    fn on_frame(&self, frame: Frame) {
        self.0.on_frame(frame);
    }
}
