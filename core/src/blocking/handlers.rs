//! The handlers of a blocking RPC server.

use crate::frame::Frame;
use crate::rpc::{Call, Notification, RpcError};
use bytes::Bytes;
use std::marker::PhantomData;
use std::sync::Arc;

/// The handlers of a blocking RPC server; see [`crate::rpc::Handlers`]. They run on threads of the server, each with
/// a stack of 1 MiB, and may wait, also for replies to their own calls over the same client. A handler that calls
/// should hold a [`Caller`](super::Caller), not the [`Rpc`](super::Rpc): the latter would then never be dropped.
///
/// Each call has its own thread, up to [`max_concurrent`](crate::rpc::Options::max_concurrent) threads; threads are
/// started when they are needed and end when they are idle. Frames are handled one after another on one thread,
/// notifications on another. With [`in_order`](crate::rpc::Options::in_order), everything is handled on one thread.
/// None of these threads belongs to an async runtime; [`crate::runtime::handle`] returns one.
///
/// The result of a call may have any type that converts to [`Bytes`], which is the parameter of the trait: for
/// example, `impl Handlers<String> for Greeter`.
pub trait Handlers<T: Into<Bytes> = Bytes>: Send + Sync + 'static {
    /// Answers a call. A panic is answered with -32603.
    ///
    /// # Errors
    ///
    /// The error reply that is sent to the caller.
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

/// Handlers for clients that only call and serve nothing.
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

/// Handlers whose results are converted to bytes, so that servers need not know the type.
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
