//! Broker to client: a header of six bytes and a body (docs/protocol.md section 4).
//!
//! ```text
//! 0      1                5                     6
//! | kind | len or op id   | realtime or result  | body
//!   1      u32 LE           1 byte                SENDER 00 [TOPIC 00] PAYLOAD
//! ```

use super::op::*;
use super::{DecodeError, decoder, split_text};

/// The length of a delivery's header.
pub const HEADER_LEN: usize = 6;
/// A ping: six zero bytes.
pub const PING: [u8; HEADER_LEN] = [0; HEADER_LEN];

/// A delivery's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Header {
    /// A ping.
    Nop,
    /// The answer to an operation.
    Ack {
        /// The operation's own id.
        op_id: u32,
        /// The result code.
        code: u8,
    },
    /// A frame, whose body follows.
    Frame {
        /// Publication, message or broadcast.
        kind: FrameKind,
        /// True if its sender asked for it to be flushed immediately.
        realtime: bool,
        /// The length of the body.
        len: u32,
    },
}

impl decoder::Header for Header {
    const LEN: usize = HEADER_LEN;

    fn parse(bytes: &[u8]) -> Result<Header, DecodeError> {
        let Some((&[kind, a, b, c, d, last], _)) = bytes.split_first_chunk::<HEADER_LEN>() else {
            return Err(DecodeError::Short("a delivery's header"));
        };
        let number = u32::from_le_bytes([a, b, c, d]);
        match kind {
            OP_NOP => Ok(Header::Nop),
            OP_ACK => Ok(Header::Ack { op_id: number, code: last }),
            _ => match FrameKind::from_byte(kind) {
                Some(kind) => Ok(Header::Frame { kind, realtime: last != 0, len: number }),
                None => Err(DecodeError::UnknownOperation(kind)),
            },
        }
    }

    fn body_len(&self) -> u32 {
        match self {
            Header::Frame { len, .. } => *len,
            _ => 0,
        }
    }

    fn check(&self) -> Result<(), DecodeError> {
        Ok(())
    }
}

/// Returns the six bytes of an acknowledgement.
pub fn ack(op_id: u32, code: u8) -> [u8; HEADER_LEN] {
    let [a, b, c, d] = op_id.to_le_bytes();
    [OP_ACK, a, b, c, d, code]
}

/// A frame that is sent to its receivers. Its content does not depend on the receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delivery<'a> {
    /// Publication, message or broadcast.
    pub kind: FrameKind,
    /// True if the frame is flushed immediately.
    pub realtime: bool,
    /// The full name of its sender.
    pub sender: &'a str,
    /// The topic of a publication, otherwise `None`.
    pub topic: Option<&'a str>,
    /// The payload: any bytes.
    pub payload: &'a [u8],
}

impl<'a> Delivery<'a> {
    /// Parses a complete frame.
    ///
    /// # Errors
    ///
    /// The bytes are not a valid frame, or not a complete one.
    #[cfg(any(feature = "broker", test))]
    pub(crate) fn parse(frame: &'a [u8]) -> Result<Delivery<'a>, DecodeError> {
        use decoder::Header as _;
        match Header::parse(frame)? {
            Header::Frame { kind, realtime, len } if frame.len() - HEADER_LEN == len as usize => {
                parse_body(kind, realtime, &frame[HEADER_LEN..])
            }
            _ => Err(DecodeError::Short("a frame")),
        }
    }
}

impl Delivery<'_> {
    /// Returns the length of the body: sender, topic and payload with their separators.
    pub fn body_len(&self) -> usize {
        self.wire_len() - HEADER_LEN
    }

    /// Returns the length of everything before the payload, including the header.
    pub fn head_len(&self) -> usize {
        HEADER_LEN + self.sender.len() + 1 + self.topic.map_or(0, |t| t.len() + 1)
    }

    /// Returns the length of the whole frame.
    pub fn wire_len(&self) -> usize {
        self.head_len() + self.payload.len()
    }

    /// Appends the whole frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        self.encode_head(out);
        out.extend_from_slice(self.payload);
    }

    /// Appends header, sender and topic; the caller must append the payload or share it. The body cannot be longer
    /// than `u32::MAX` here: either it was received with a longer header, or the sender checked it.
    pub fn encode_head(&self, out: &mut Vec<u8>) {
        out.reserve(self.head_len());
        let [a, b, c, d] = (self.body_len() as u32).to_le_bytes();
        out.extend_from_slice(&[self.kind as u8, a, b, c, d, u8::from(self.realtime)]);
        self.encode_names(out);
    }

    /// Appends sender and topic, each with its separator: the part of the body before the payload.
    pub fn encode_names(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.sender.as_bytes());
        out.push(0);
        if let Some(topic) = self.topic {
            out.extend_from_slice(topic.as_bytes());
            out.push(0);
        }
    }
}

/// Parses the body of a delivery.
///
/// # Errors
///
/// A separator is missing, or text is not UTF-8.
pub fn parse_body<'a>(kind: FrameKind, realtime: bool, body: &'a [u8]) -> Result<Delivery<'a>, DecodeError> {
    let (sender, mut payload) = split_text(body, "sender")?;
    let mut topic = None;
    if kind == FrameKind::Publication {
        let (text, rest) = split_text(payload, "topic")?;
        (topic, payload) = (Some(text), rest);
    }
    Ok(Delivery { kind, realtime, sender, topic, payload })
}

#[cfg(test)]
mod tests {
    use super::decoder::Header as _;
    use super::*;

    #[test]
    fn exact_bytes() {
        let d = Delivery {
            kind: FrameKind::Publication,
            realtime: true,
            sender: "me",
            topic: Some("a/b"),
            payload: b"xyz",
        };
        let mut out = vec![];
        d.encode_head(&mut out);
        assert_eq!(out, b"\x01\x0a\0\0\0\x01me\0a/b\0");
        assert_eq!(out.len(), d.head_len());
        out.extend_from_slice(d.payload);
        assert_eq!(out.len(), HEADER_LEN + d.body_len());
        assert_eq!(parse_body(FrameKind::Publication, true, &out[HEADER_LEN..]), Ok(d));
        assert_eq!(ack(0x0403_0201, 0x77), *b"\xfe\x01\x02\x03\x04\x77");
    }

    #[test]
    fn headers() {
        assert_eq!(Header::parse(&PING), Ok(Header::Nop));
        assert_eq!(Header::parse(&ack(9, 1)), Ok(Header::Ack { op_id: 9, code: 1 }));
        let message = Header::Frame { kind: FrameKind::Message, realtime: false, len: 5 };
        assert_eq!(Header::parse(b"\x12\x05\0\0\0\0"), Ok(message));
        assert_eq!(Header::parse(b"\x14\x05\0\0\0\0"), Err(DecodeError::UnknownOperation(0x14)));
        assert_eq!(Header::parse(b"\x12\x05"), Err(DecodeError::Short("a delivery's header")));
    }

    #[test]
    fn bodies_that_cannot_be_read() {
        assert_eq!(parse_body(FrameKind::Message, false, b"abc"), Err(DecodeError::MissingNul("sender")));
        assert_eq!(parse_body(FrameKind::Publication, false, b"a\0b"), Err(DecodeError::MissingNul("topic")));
        assert_eq!(parse_body(FrameKind::Message, false, b"\xc0\0"), Err(DecodeError::NotUtf8("sender")));
    }

    #[test]
    fn a_whole_frame_is_read_back() {
        for (kind, topic) in [(FrameKind::Message, None), (FrameKind::Publication, Some("a/b"))] {
            let frame = Delivery { kind, realtime: true, sender: "me", topic, payload: b"x\0y" };
            let mut bytes = vec![];
            frame.encode(&mut bytes);
            assert_eq!(Delivery::parse(&bytes), Ok(frame));
            assert!(Delivery::parse(&bytes[..bytes.len() - 1]).is_err());
            bytes.push(0);
            assert!(Delivery::parse(&bytes).is_err());
        }
        for bytes in [&PING[..], &ack(7, 1), &[0x12, 0, 0], b""] {
            assert!(Delivery::parse(bytes).is_err(), "{bytes:?}");
        }
    }
}
