//! An operation as the program passes it to the client.

use super::completions::CompletionQueue;
use super::pending::PendingOperation;
use crate::proto::op::QoS;
use crate::proto::request::Operation;
use crate::transport::LARGE_PAYLOAD;
use bytes::Bytes;
use std::time::{Duration, Instant};

/// A payload. Borrowed bytes are copied or written; large shared bytes are not copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Payload<'a> {
    /// Bytes of the caller, which are copied.
    Borrowed(&'a [u8]),
    /// Shared bytes. If there are 4 KiB or more, they are not copied, but held until they are written.
    Shared(&'a Bytes),
}

impl Payload<'_> {
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Payload::Borrowed(bytes) => bytes,
            Payload::Shared(bytes) => bytes,
        }
    }

    /// Returns the payload as shared bytes, which are a copy if it is borrowed.
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

/// The time for which an operation or a call waits for its answer, counted from the first attempt to send it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Deadline {
    /// The client's [`timeout`](super::Config::timeout).
    #[default]
    Default,
    /// A duration. The precision is about a millisecond.
    After(Duration),
    /// A point in time. The precision is about a millisecond.
    At(Instant),
    /// No deadline: wait until the answer comes or the connection ends.
    Never,
}

impl Deadline {
    /// Returns the end of a wait that begins at `now`, or `None` if there is no end. `default` is the client's
    /// timeout.
    pub(crate) fn after(self, now: tokio::time::Instant, default: Duration) -> Option<tokio::time::Instant> {
        match self {
            Deadline::Default => now.checked_add(default),
            Deadline::After(duration) => now.checked_add(duration),
            Deadline::At(at) => Some(at.into()),
            Deadline::Never => None,
        }
    }

    /// Returns the same deadline as a point in time.
    pub(crate) fn fixed(self, now: tokio::time::Instant, default: Duration) -> Deadline {
        self.after(now, default).map_or(Deadline::Never, |at| Deadline::At(at.into_std()))
    }
}

impl From<Duration> for Deadline {
    fn from(duration: Duration) -> Deadline {
        Deadline::After(duration)
    }
}

/// An operation to be sent, with its QoS and the deadline of its acknowledgement.
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
    /// An RPC envelope, which precedes the prefix.
    pub(crate) envelope: &'a [u8],
    pub(crate) prefix: &'a [u8],
    pub(crate) qos: QoS,
    pub(crate) deadline: Deadline,
}

impl<'a> Request<'a> {
    /// Creates a request for any operation. [`Nop`](Operation::Nop) is sent as a ping.
    pub fn new(operation: Operation<'a, Payload<'a>>, qos: QoS) -> Request<'a> {
        Request { operation, envelope: &[], prefix: &[], qos, deadline: Deadline::Default }
    }

    /// Creates a request whose payload is shared.
    pub(super) fn shared(operation: &'a Operation<'a, Bytes>, qos: QoS) -> Request<'a> {
        Request::new(operation.by_ref().map_payload(Payload::Shared), qos)
    }

    /// Creates a message to the client whose name is `target`.
    pub fn message(target: &'a str, payload: impl Into<Payload<'a>>, qos: QoS) -> Request<'a> {
        Request::new(Operation::Message { target, payload: payload.into() }, qos)
    }

    /// Creates a message to every client whose name matches `mask`.
    pub fn broadcast(mask: &'a str, payload: impl Into<Payload<'a>>, qos: QoS) -> Request<'a> {
        Request::new(Operation::Broadcast { mask, payload: payload.into() }, qos)
    }

    /// Creates a publication to every client with a subscription that matches `topic`.
    pub fn publish(topic: &'a str, payload: impl Into<Payload<'a>>, qos: QoS) -> Request<'a> {
        Request::new(Operation::Publish { topic, payload: payload.into() }, qos)
    }

    /// Creates a publication for `receiver` and its secondaries only.
    pub fn publish_for(
        topic: &'a str,
        receiver: &'a str,
        payload: impl Into<Payload<'a>>,
        qos: QoS,
    ) -> Request<'a> {
        Request::new(Operation::PublishFor { topic, receiver, payload: payload.into() }, qos)
    }

    /// Sets bytes that precede the payload, so that a header need not be joined with the data that follows it. An
    /// operation without a payload ignores the prefix.
    pub fn prefix(mut self, prefix: &'a [u8]) -> Request<'a> {
        self.prefix = prefix;
        self
    }

    /// Sets how long the acknowledgement is awaited. It is ignored if the QoS asks for no acknowledgement. Default:
    /// the client's timeout.
    pub fn deadline(mut self, deadline: impl Into<Deadline>) -> Request<'a> {
        self.deadline = deadline.into();
        self
    }

    #[cfg(feature = "rpc")]
    pub(crate) fn envelope(mut self, envelope: &'a [u8]) -> Request<'a> {
        self.envelope = envelope;
        self
    }

    /// Returns true if the payload is copied.
    pub(crate) fn is_copied(&self) -> bool {
        matches!(self.operation.payload_ref(), Some(Payload::Borrowed(bytes)) if bytes.len() >= LARGE_PAYLOAD)
    }

    /// Returns the length of the payload, with everything that precedes it.
    pub(crate) fn payload_len(&self) -> usize {
        let payload = self.operation.payload_ref().map_or(0, |payload| payload.bytes().len());
        payload.saturating_add(self.prefix.len()).saturating_add(self.envelope.len())
    }
}

/// The result of an attempt to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "nothing is sent if there is no room"]
pub enum TrySend<T> {
    /// It was sent: written, or queued to be written without a further call.
    Sent(T),
    /// It was not sent, because the client has no room for more or is reconnecting.
    /// [`Client::room`](super::Client::room) tells when another attempt may succeed.
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

    /// Returns the value if it was sent.
    pub fn sent(self) -> Option<T> {
        match self {
            TrySend::Sent(value) => Some(value),
            TrySend::NoRoom => None,
        }
    }

    /// Returns true if it was sent.
    pub fn is_sent(&self) -> bool {
        matches!(self, TrySend::Sent(_))
    }
}

/// The destination of the answer to an operation.
#[derive(Debug, Clone, Copy)]
pub(crate) enum AnswerTo<'a> {
    /// The holder of the [`PendingOperation`] that is returned.
    Handle,
    /// A completion queue, with the token of the result.
    Queue(&'a CompletionQueue, u64),
    /// The call of that id, which a refusal ends.
    #[cfg(feature = "rpc")]
    Call(u32),
    /// The log: only a refusal is logged.
    #[cfg(feature = "rpc")]
    Log,
    /// No destination.
    Nothing,
}

impl AnswerTo<'_> {
    /// Returns true if the answer belongs to a call, whose request must not be sent after the call has ended.
    pub(crate) fn is_call(self) -> bool {
        #[cfg(feature = "rpc")]
        return matches!(self, AnswerTo::Call(_));
        #[cfg(not(feature = "rpc"))]
        false
    }
}

/// Determines whether the bound of the queue applies to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bound {
    /// The bound applies.
    Bounded,
    /// The bound does not apply.
    Unbounded,
}

/// The result of an attempt to send for the program.
pub(crate) type Submitted = TrySend<PendingOperation>;
