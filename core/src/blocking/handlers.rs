//! What a blocking RPC server does with what it receives.

use crate::frame::Frame;
use crate::rpc::{Call, Notification, RpcError};
use bytes::Bytes;
use std::sync::Arc;

/// The handlers of a blocking RPC server; see [`crate::rpc::Handlers`]. They run on threads that the server has for
/// them, each with a stack of 1 MiB, and may wait, for replies to their own calls over the same client too. To call,
/// let them hold a [`Caller`](super::Caller), not the [`Rpc`](super::Rpc), which would keep itself alive that way.
///
/// Each call that is handled has a thread, up to [`max_concurrent`](crate::rpc::Options::max_concurrent) of them;
/// threads are started as they are needed and end when idle. Frames are handled one after another on one thread,
/// notifications on another. With [`in_order`](crate::rpc::Options::in_order) everything is handled on one thread. None
/// of these threads is within an async runtime; [`crate::runtime::handle`] has one.
pub trait Handlers: Send + Sync + 'static {
    /// Answers a call. A panic is answered with -32603.
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

impl<H: Handlers> Handlers for Arc<H> {
    fn on_call(&self, call: Call) -> Result<Bytes, RpcError> {
        (**self).on_call(call)
    }

    fn on_notification(&self, notification: Notification) {
        (**self).on_notification(notification);
    }

    fn on_frame(&self, frame: Frame) {
        (**self).on_frame(frame);
    }
}
