//! A received frame: shared bytes, and where in them sender, topic and payload are.

use crate::proto::DecodeError;
use crate::proto::delivery;
use crate::proto::op::{FrameKind, primary_name};
use bytes::Bytes;
use std::fmt;

/// A frame a client received. Cloning it shares its bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct Frame {
    kind: FrameKind,
    realtime: bool,
    sender_len: u32,
    /// Where the payload starts in `body`.
    payload_at: u32,
    /// `SENDER 00 [TOPIC 00] PAYLOAD`, as over the wire; without the payload if that is detached.
    body: Bytes,
    /// The payload of a frame that never was on a wire: the sender's own bytes.
    detached: Option<Bytes>,
}

impl Frame {
    /// The frame in the body of a delivery. Nothing is copied.
    ///
    /// # Errors
    /// A body without its separators, or a name that is not UTF-8.
    pub fn parse(kind: FrameKind, realtime: bool, body: Bytes) -> Result<Frame, DecodeError> {
        let delivery = delivery::parse_body(kind, realtime, &body)?;
        let sender_len = delivery.sender.len() as u32;
        let payload_at = (body.len() - delivery.payload.len()) as u32;
        Ok(Frame { kind, realtime, sender_len, payload_at, body, detached: None })
    }

    /// Publication, message or broadcast.
    pub fn kind(&self) -> FrameKind {
        self.kind
    }

    /// Returns true if the sender asked for it to be flushed immediately on every hop.
    pub fn is_realtime(&self) -> bool {
        self.realtime
    }

    /// The full name of the sender.
    pub fn sender(&self) -> &str {
        self.text(0, self.sender_len as usize)
    }

    /// The sender's name up to `%%`.
    pub fn primary_sender(&self) -> &str {
        primary_name(self.sender())
    }

    /// The topic of a publication, else `None`.
    pub fn topic(&self) -> Option<&str> {
        let start = self.sender_len as usize + 1;
        (self.kind == FrameKind::Publication).then(|| self.text(start, self.payload_at as usize - 1))
    }

    /// The payload.
    pub fn payload(&self) -> &[u8] {
        match &self.detached {
            Some(payload) => payload,
            None => &self.body[self.payload_at as usize..],
        }
    }

    /// The payload as shared bytes: nothing is copied.
    pub fn payload_bytes(&self) -> Bytes {
        match &self.detached {
            Some(payload) => payload.clone(),
            None => self.body.slice(self.payload_at as usize..),
        }
    }

    /// The length of the body on the wire: names, separators and payload.
    pub fn body_len(&self) -> usize {
        self.body.len() + self.detached.as_ref().map_or(0, Bytes::len)
    }

    fn text(&self, start: usize, end: usize) -> &str {
        // All constructors have seen these bytes as a str: the fallback is never taken.
        std::str::from_utf8(&self.body[start..end]).unwrap_or_default()
    }
}

/// Frames that never were on a wire.
#[cfg(any(feature = "broker", test))]
impl Frame {
    /// A frame that is handed over within the process: a copy of `delivery`, in one piece of memory.
    pub(crate) fn copied(delivery: &delivery::Delivery<'_>) -> Frame {
        Frame::of_names(delivery, delivery.payload, None)
    }

    /// A frame that is handed over within the process, with its payload as shared bytes.
    pub(crate) fn detached(delivery: &delivery::Delivery<'_>, payload: Bytes) -> Frame {
        Frame::of_names(delivery, &[], Some(payload))
    }

    fn of_names(delivery: &delivery::Delivery<'_>, attached: &[u8], detached: Option<Bytes>) -> Frame {
        let payload_at = delivery.head_len() - delivery::HEADER_LEN;
        // Exactly as much as is used: `Bytes` would need a second piece of memory otherwise.
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
