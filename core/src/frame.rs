//! A received frame: shared bytes, and the positions of sender, topic and payload in them.

use crate::proto::DecodeError;
use crate::proto::delivery;
use crate::proto::op::{FrameKind, primary_name};
use bytes::Bytes;
use std::fmt;

/// A frame that a client received. Clones share the bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct Frame {
    kind: FrameKind,
    realtime: bool,
    sender_len: u32,
    /// Position of the payload in `body`.
    payload_at: u32,
    /// `SENDER 00 [TOPIC 00] PAYLOAD` as on the wire, without the payload if that is detached.
    body: Bytes,
    /// The payload of a frame that was never on a wire: the sender's own bytes.
    detached: Option<Bytes>,
}

impl Frame {
    /// Creates a frame from the body of a delivery, without copying.
    ///
    /// # Errors
    ///
    /// A separator is missing, or a name is not UTF-8.
    pub fn parse(kind: FrameKind, realtime: bool, body: Bytes) -> Result<Frame, DecodeError> {
        let delivery = delivery::parse_body(kind, realtime, &body)?;
        let sender_len = delivery.sender.len() as u32;
        let payload_at = (body.len() - delivery.payload.len()) as u32;
        Ok(Frame { kind, realtime, sender_len, payload_at, body, detached: None })
    }

    /// Returns the kind: publication, message or broadcast.
    pub fn kind(&self) -> FrameKind {
        self.kind
    }

    /// Returns true if the sender asked for the frame to be flushed immediately on every hop.
    pub fn is_realtime(&self) -> bool {
        self.realtime
    }

    /// Returns the full name of the sender.
    pub fn sender(&self) -> &str {
        self.text(0, self.sender_len as usize)
    }

    /// Returns the sender's name up to `%%`.
    pub fn primary_sender(&self) -> &str {
        primary_name(self.sender())
    }

    /// Returns the topic of a publication, otherwise `None`.
    pub fn topic(&self) -> Option<&str> {
        let start = self.sender_len as usize + 1;
        (self.kind == FrameKind::Publication).then(|| self.text(start, self.payload_at as usize - 1))
    }

    /// Returns the payload.
    pub fn payload(&self) -> &[u8] {
        match &self.detached {
            Some(payload) => payload,
            None => &self.body[self.payload_at as usize..],
        }
    }

    /// Returns the payload as shared bytes, without copying.
    pub fn payload_bytes(&self) -> Bytes {
        match &self.detached {
            Some(payload) => payload.clone(),
            None => self.body.slice(self.payload_at as usize..),
        }
    }

    /// Returns the length of the body on the wire, in bytes: names, separators and payload.
    pub fn body_len(&self) -> usize {
        self.body.len() + self.detached.as_ref().map_or(0, Bytes::len)
    }

    fn text(&self, start: usize, end: usize) -> &str {
        // All constructors have validated these bytes as UTF-8, so that the fallback is never used.
        std::str::from_utf8(&self.body[start..end]).unwrap_or_default()
    }
}

/// Frames that never were on a wire.
#[cfg(any(feature = "broker", test))]
impl Frame {
    /// Creates a frame that is passed on within the process: a copy of `delivery`, in one allocation.
    pub(crate) fn copied(delivery: &delivery::Delivery<'_>) -> Frame {
        Frame::of_names(delivery, delivery.payload, None)
    }

    /// Creates a frame that is passed on within the process, with its payload as shared bytes.
    pub(crate) fn detached(delivery: &delivery::Delivery<'_>, payload: Bytes) -> Frame {
        Frame::of_names(delivery, &[], Some(payload))
    }

    fn of_names(delivery: &delivery::Delivery<'_>, attached: &[u8], detached: Option<Bytes>) -> Frame {
        let payload_at = delivery.head_len() - delivery::HEADER_LEN;
        // The capacity is exact, because `Bytes` would otherwise need a second allocation.
        let mut body = Vec::with_capacity(payload_at + attached.len());
        delivery.encode_names(&mut body);
        body.extend_from_slice(attached);
        Frame {
            kind: delivery.kind,
            realtime: delivery.realtime,
            sender_len: delivery.sender.len() as u32,
            payload_at: payload_at as u32,
            body: body.into(),
            detached,
        }
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frame")
            .field("kind", &self.kind)
            .field("realtime", &self.realtime)
            .field("sender", &self.sender())
            .field("topic", &self.topic())
            .field("payload_len", &self.payload().len())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::delivery::Delivery;

    #[test]
    fn from_the_wire_and_within_the_process_look_the_same() {
        for topic in [None, Some("a/b")] {
            let kind = if topic.is_some() { FrameKind::Publication } else { FrameKind::Message };
            let d = Delivery { kind, realtime: true, sender: "p%%1", topic, payload: b"xy" };
            let mut body = vec![];
            d.encode_names(&mut body);
            body.extend_from_slice(d.payload);
            let wire = Frame::parse(kind, true, body.into()).unwrap();
            let detached = Frame::detached(&d, Bytes::from_static(b"xy"));
            for frame in [wire, Frame::copied(&d), detached] {
                assert_eq!((frame.sender(), frame.primary_sender()), ("p%%1", "p"));
                assert_eq!((frame.topic(), frame.payload()), (topic, &b"xy"[..]));
                assert_eq!(frame.payload_bytes(), d.payload);
                assert_eq!((frame.kind(), frame.is_realtime(), frame.body_len()), (kind, true, d.body_len()));
            }
        }
    }
}
