//! The handlers of an RPC server.

use super::RpcError;
use crate::frame::Frame;
use crate::proto::rpc::Envelope;
use bytes::Bytes;
use std::fmt;
use std::future::Future;
use std::sync::Arc;

/// The handlers of an RPC server. Implement them as `async fn`s. By default, calls are answered with an error, and
/// notifications and frames are ignored.
///
/// ```
/// use busrt::rpc::{Call, Handlers, RpcError};
/// use bytes::Bytes;
///
/// struct Plant;
///
/// impl Handlers for Plant {
///     async fn on_call(&self, call: Call) -> Result<Bytes, RpcError> {
///         match call.method() {
///             "echo" => Ok(call.params_bytes()),
///             _ => Err(RpcError::method_not_found()),
///         }
///     }
/// }
/// ```
///
/// The result of a call may have any type that converts to [`Bytes`], which is the parameter of the trait:
///
/// ```
/// use busrt::rpc::{Call, Handlers, RpcError};
///
/// struct Greeter;
///
/// impl Handlers<String> for Greeter {
///     async fn on_call(&self, call: Call) -> Result<String, RpcError> {
///         Ok(format!("Hello, {}!", call.sender()))
///     }
/// }
/// ```
///
/// A handler may make calls over its own client, also with handling in order: replies do not queue behind frames that
/// are not handled yet. Such a handler should hold a [`Caller`](super::Caller), not the [`Rpc`](super::Rpc): the
/// latter would then never be dropped.
pub trait Handlers<T: Into<Bytes> + Send = Bytes>: Send + Sync + 'static {
    /// Answers a call with a result or an error reply. For a call that asks for no reply ([`Call::wants_reply`]), the
    /// answer is dropped.
    fn on_call(&self, call: Call) -> impl Future<Output = Result<T, RpcError>> + Send {
        let _ = call;
        async { Err(RpcError::method_not_found()) }
    }

    /// Handles a notification. Notifications are handled one after another, in the order received.
    fn on_notification(&self, notification: Notification) -> impl Future<Output = ()> + Send {
        let _ = notification;
        async {}
    }

    /// Handles a publication or a broadcast. These are handled one after another, in the order received.
    fn on_frame(&self, frame: Frame) -> impl Future<Output = ()> + Send {
        let _ = frame;
        async {}
    }
}

/// Handlers for clients that only call and serve nothing.
impl Handlers for () {}

impl<T: Into<Bytes> + Send, H: Handlers<T>> Handlers<T> for Arc<H> {
    fn on_call(&self, call: Call) -> impl Future<Output = Result<T, RpcError>> + Send {
        (**self).on_call(call)
    }

    fn on_notification(&self, notification: Notification) -> impl Future<Output = ()> + Send {
        (**self).on_notification(notification)
    }

    fn on_frame(&self, frame: Frame) -> impl Future<Output = ()> + Send {
        (**self).on_frame(frame)
    }
}

/// A call that a client has made.
#[derive(Clone)]
pub struct Call {
    frame: Frame,
    id: u32,
    method_len: usize,
}

/// Length of the kind byte and the id.
const METHOD_AT: usize = 5;

impl Call {
    /// Returns the call in a message, or an error if its method is not text.
    pub(super) fn new(frame: Frame, id: u32, method: &[u8]) -> Result<Call, Frame> {
        let method_len = method.len();
        if std::str::from_utf8(method).is_err() { Err(frame) } else { Ok(Call { frame, id, method_len }) }
    }

    /// Returns the name of the called method.
    pub fn method(&self) -> &str {
        // The constructor has validated these bytes as UTF-8, so that the fallback is never used.
        std::str::from_utf8(&self.frame.payload()[METHOD_AT..METHOD_AT + self.method_len]).unwrap_or_default()
    }

    /// Returns the parameters: any bytes, a MessagePack map by convention.
    pub fn params(&self) -> &[u8] {
        &self.frame.payload()[METHOD_AT + self.method_len + 1..]
    }

    /// Returns the parameters as shared bytes, without copying.
    pub fn params_bytes(&self) -> Bytes {
        self.frame.payload_bytes().slice(METHOD_AT + self.method_len + 1..)
    }

    /// Returns the full name of the caller.
    pub fn sender(&self) -> &str {
        self.frame.sender()
    }

    /// Returns the caller's name up to `%%`.
    pub fn primary_sender(&self) -> &str {
        self.frame.primary_sender()
    }

    /// Returns the caller's number of this call; 0 if it asks for no reply.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Returns true if the caller waits for a reply.
    pub fn wants_reply(&self) -> bool {
        self.id != 0
    }

    /// Returns true if the call is flushed immediately on every hop. Its reply will be too.
    pub fn is_realtime(&self) -> bool {
        self.frame.is_realtime()
    }

    /// Returns the message that holds the call.
    pub fn frame(&self) -> &Frame {
        &self.frame
    }
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("sender", &self.sender())
            .field("id", &self.id)
            .field("method", &self.method())
            .field("params_len", &self.params().len())
            .finish()
    }
}

/// A message that asks for no answer and names no method.
#[derive(Clone)]
pub struct Notification {
    frame: Frame,
}

impl Notification {
    pub(super) fn new(frame: Frame) -> Notification {
        Notification { frame }
    }

    /// Returns the payload.
    pub fn payload(&self) -> &[u8] {
        self.frame.payload().get(1..).unwrap_or_default()
    }

    /// Returns the payload as shared bytes, without copying.
    pub fn payload_bytes(&self) -> Bytes {
        self.frame.payload_bytes().slice(1..)
    }

    /// Returns the full name of the sender.
    pub fn sender(&self) -> &str {
        self.frame.sender()
    }

    /// Returns the sender's name up to `%%`.
    pub fn primary_sender(&self) -> &str {
        self.frame.primary_sender()
    }

    /// Returns the message that holds the notification.
    pub fn frame(&self) -> &Frame {
        &self.frame
    }
}

impl fmt::Debug for Notification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Notification")
            .field("sender", &self.sender())
            .field("payload_len", &self.payload().len())
            .finish()
    }
}

/// The result of a call.
#[derive(Clone)]
pub struct Reply {
    frame: Frame,
}

/// Length of the kind byte and the id.
const RESULT_AT: usize = 5;

impl Reply {
    /// Decodes the message that answers a call, which a [completion](crate::client::Completed::Call) holds.
    ///
    /// # Errors
    ///
    /// The error reply of the method, or -32700 if the message is not a reply.
    pub fn new(frame: Frame) -> Result<Reply, RpcError> {
        let all = frame.payload_bytes();
        match Envelope::parse(&all) {
            Ok(Envelope::Reply { .. }) => Ok(Reply { frame }),
            Ok(Envelope::ErrorReply { code, data, .. }) => Err(RpcError::new(code, all.slice_ref(data))),
            _ => Err(RpcError::parse("the message is not a valid reply")),
        }
    }

    /// Returns the result: any bytes, MessagePack by convention.
    pub fn payload(&self) -> &[u8] {
        self.frame.payload().get(RESULT_AT..).unwrap_or_default()
    }

    /// Returns the result as shared bytes, without copying.
    pub fn payload_bytes(&self) -> Bytes {
        self.frame.payload_bytes().slice(RESULT_AT..)
    }

    /// Returns the message that holds the reply.
    pub fn frame(&self) -> &Frame {
        &self.frame
    }
}

impl AsRef<[u8]> for Reply {
    fn as_ref(&self) -> &[u8] {
        self.payload()
    }
}

impl From<Reply> for Bytes {
    fn from(reply: Reply) -> Bytes {
        reply.payload_bytes()
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply")
            .field("sender", &self.frame.sender())
            .field("payload_len", &self.payload().len())
            .finish()
    }
}
