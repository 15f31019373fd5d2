//! An operation as a program hands it over.

use super::completions::CompletionQueue;
use super::pending::PendingOperation;
use crate::proto::op::QoS;
use crate::proto::request::Operation;
use crate::transport::LARGE_PAYLOAD;
use bytes::Bytes;
use std::time::{Duration, Instant};

/// A payload that is borrowed until it is copied or written, or shared and then not copied if it is large.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Payload<'a> {
    /// Bytes of the caller. They are copied.
    Borrowed(&'a [u8]),
    /// Shared bytes. From 4 KiB on they are not copied, but held until they are written.
    Shared(&'a Bytes),
}

impl Payload<'_> {
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Payload::Borrowed(bytes) => bytes,
            Payload::Shared(bytes) => bytes,
        }
    }

    /// The same as shared bytes: a copy if they are borrowed.
    pub(crate) fn to_shared(self) -> Bytes {
        match self {
            Payload::Borrowed(bytes) => Bytes::copy_from_slice(bytes),
            Payload::Shared(bytes) => bytes.clone(),
        }
    }
}

impl AsRef<[u8]> for Payload<'_> {
    fn as_ref(&self) -> &[u8] {
        self.bytes()
    }
}

impl<'a> From<&'a [u8]> for Payload<'a> {
    fn from(bytes: &'a [u8]) -> Payload<'a> {
        Payload::Borrowed(bytes)
    }
}

impl<'a, const N: usize> From<&'a [u8; N]> for Payload<'a> {
    fn from(bytes: &'a [u8; N]) -> Payload<'a> {
        Payload::Borrowed(bytes)
    }
}

impl<'a> From<&'a Vec<u8>> for Payload<'a> {
    fn from(bytes: &'a Vec<u8>) -> Payload<'a> {
        Payload::Borrowed(bytes)
    }
}

impl<'a> From<&'a str> for Payload<'a> {
    fn from(text: &'a str) -> Payload<'a> {
        Payload::Borrowed(text.as_bytes())
    }
}

impl<'a> From<&'a Bytes> for Payload<'a> {
    fn from(bytes: &'a Bytes) -> Payload<'a> {
        Payload::Shared(bytes)
    }
}

/// How long an operation or a call waits for its answer, counted from when it is first tried to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Deadline {
    /// The client's [`timeout`](super::Config::timeout).
    #[default]
    Default,
    /// So long. The precision is about a millisecond.
    After(Duration),
    /// Until then. The same precision.
    At(Instant),
    /// Until the answer comes or the connection ends.
    Never,
}

impl Deadline {
    /// The end of a wait that begins `now`; `None`: there is none. `default` is the client's timeout.
    pub(crate) fn after(self, now: tokio::time::Instant, default: Duration) -> Option<tokio::time::Instant> {
        match self {
            Deadline::Default => now.checked_add(default),
            Deadline::After(duration) => now.checked_add(duration),
            Deadline::At(at) => Some(at.into()),
            Deadline::Never => None,
        }
    }

    /// The same deadline as a point in time.
    pub(crate) fn fixed(self, now: tokio::time::Instant, default: Duration) -> Deadline {
        self.after(now, default).map_or(Deadline::Never, |at| Deadline::At(at.into_std()))
    }
}

impl From<Duration> for Deadline {
    fn from(duration: Duration) -> Deadline {
        Deadline::After(duration)
    }
}

/// An operation to be sent: what, over which QoS, and how long its acknowledgement is awaited.
///
/// ```
/// use busrt::{QoS, client::Request};
///
/// let request = Request::publish("plant/state", &b"payload"[..], QoS::Processed).prefix(b"header ");
/// # let _ = request;
/// ```
#[derive(Debug, Clone)]
pub struct Request<'a> {
    pub(crate) operation: Operation<'a, Payload<'a>>,
    /// An RPC envelope, before the prefix.
    pub(crate) envelope: &'a [u8],
    pub(crate) prefix: &'a [u8],
    pub(crate) qos: QoS,
    pub(crate) deadline: Deadline,
}

impl<'a> Request<'a> {
    /// Any operation. [`Nop`](Operation::Nop) is sent as a ping.
    pub fn new(operation: Operation<'a, Payload<'a>>, qos: QoS) -> Request<'a> {
        Request { operation, envelope: &[], prefix: &[], qos, deadline: Deadline::Default }
    }

    /// A message to the client of exactly the name `target`.
    pub fn message(target: &'a str, payload: impl Into<Payload<'a>>, qos: QoS) -> Request<'a> {
        Request::new(Operation::Message { target, payload: payload.into() }, qos)
    }

    /// A message to every client whose name matches `mask`.
    pub fn broadcast(mask: &'a str, payload: impl Into<Payload<'a>>, qos: QoS) -> Request<'a> {
        Request::new(Operation::Broadcast { mask, payload: payload.into() }, qos)
    }

    /// A publication to every client with a subscription that matches `topic`.
    pub fn publish(topic: &'a str, payload: impl Into<Payload<'a>>, qos: QoS) -> Request<'a> {
        Request::new(Operation::Publish { topic, payload: payload.into() }, qos)
    }

    /// A publication for `receiver` and its secondaries only.
    pub fn publish_for(
        topic: &'a str,
        receiver: &'a str,
        payload: impl Into<Payload<'a>>,
        qos: QoS,
    ) -> Request<'a> {
        Request::new(Operation::PublishFor { topic, receiver, payload: payload.into() }, qos)
    }

    /// The beginning of the payload, so that a header need not be joined with what follows it. An operation
    /// without a payload has no prefix.
    pub fn prefix(mut self, prefix: &'a [u8]) -> Request<'a> {
        self.prefix = prefix;
        self
    }

    /// How long the acknowledgement is awaited; the client's timeout unless set. Without a QoS that asks for an
    /// acknowledgement it means nothing.
    pub fn deadline(mut self, deadline: impl Into<Deadline>) -> Request<'a> {
        self.deadline = deadline.into();
        self
    }

    #[cfg(feature = "rpc")]
    pub(crate) fn envelope(mut self, envelope: &'a [u8]) -> Request<'a> {
        self.envelope = envelope;
        self
    }

    /// Returns true if the payload is copied to memory of its own.
    pub(crate) fn is_copied(&self) -> bool {
        matches!(self.operation.payload_ref(), Some(Payload::Borrowed(bytes)) if bytes.len() >= LARGE_PAYLOAD)
    }

    /// The length of the payload with everything before it.
    pub(crate) fn payload_len(&self) -> usize {
        let payload = self.operation.payload_ref().map_or(0, |payload| payload.bytes().len());
        payload.saturating_add(self.prefix.len()).saturating_add(self.envelope.len())
    }
}

/// The result of trying to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "without room nothing is sent"]
pub enum TrySend<T> {
    /// It is sent: written, or queued to be written without a further call.
    Sent(T),
    /// It is not sent, because the client has no room for more or is about to connect again.
    /// [`Client::room`](super::Client::room) tells when it is worth to try again.
    NoRoom,
}

impl<T> TrySend<T> {
    /// Converts the value.
    pub fn map<U>(self, map: impl FnOnce(T) -> U) -> TrySend<U> {
        match self {
            TrySend::Sent(value) => TrySend::Sent(map(value)),
            TrySend::NoRoom => TrySend::NoRoom,
        }
    }

    /// The value, if it is sent.
    pub fn sent(self) -> Option<T> {
        match self {
            TrySend::Sent(value) => Some(value),
            TrySend::NoRoom => None,
        }
    }

    /// Returns true if it is sent.
    pub fn is_sent(&self) -> bool {
        matches!(self, TrySend::Sent(_))
    }
}

/// The target of the answer to an operation.
#[derive(Debug, Clone, Copy)]
pub(crate) enum AnswerTo<'a> {
    /// The holder of the [`PendingOperation`] that is returned.
    Handle,
    /// A queue, with a token.
    Queue(&'a CompletionQueue, u64),
    /// The call of that id: a refusal ends it.
    #[cfg(feature = "rpc")]
    Call(u32),
    /// The log, if it is a refusal.
    #[cfg(feature = "rpc")]
    Log,
    /// Nowhere.
    Nothing,
}

impl AnswerTo<'_> {
    /// Returns true if a reply is awaited besides: the request must not be sent after the call has ended.
    pub(crate) fn is_call(self) -> bool {
        #[cfg(feature = "rpc")]
        return matches!(self, AnswerTo::Call(_));
        #[cfg(not(feature = "rpc"))]
        false
    }
}

/// Says if the bound of the queue applies to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bound {
    /// It does.
    Bounded,
    /// It does not.
    Unbounded,
}

/// The result of trying to send for the program.
pub(crate) type Submitted = TrySend<PendingOperation>;
