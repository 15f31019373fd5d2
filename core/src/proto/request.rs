//! Client to broker: a header of nine bytes and a body (docs/protocol.md section 3).
//!
//! ```text
//! 0         4       5         9
//! | op id   | flags | len     | body
//!   u32 LE    1 byte  u32 LE    NAME 00 PAYLOAD, or TOPIC 00 TOPIC ...
//! ```

use super::op::*;
use super::{DecodeError, decoder, find_nul, split_text};

/// The length of a request's header.
pub const HEADER_LEN: usize = 9;
/// A ping: nine zero bytes.
pub const PING: [u8; HEADER_LEN] = [0; HEADER_LEN];
/// A progress report: operation 0 with QoS 1 and a body of one NUL. It tells a broker that this client takes frames
/// although its socket accepts no bytes. A broker that does not know it ignores it and does not acknowledge it.
pub const PROGRESS: [u8; HEADER_LEN + 1] = [0, 0, 0, 0, QoS::Processed.flags(OP_NOP), 1, 0, 0, 0, 0];

/// A request's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The client's own counter, echoed in the acknowledgement.
    pub op_id: u32,
    /// Operation (bits 0-5) and QoS (bits 6-7).
    pub flags: u8,
    /// The length of the body that follows.
    pub len: u32,
}

impl Header {
    /// Returns true if the operation changes subscriptions or exclusions: its body is a list of topics.
    pub const fn changes_topics(&self) -> bool {
        matches!(self.flags & OP_BITS, OP_SUBSCRIBE | OP_UNSUBSCRIBE | OP_EXCLUDE | OP_UNEXCLUDE)
    }

    /// Returns the QoS in the flags.
    pub const fn qos(&self) -> QoS {
        QoS::from_flags(self.flags)
    }

    fn write(&self, out: &mut Vec<u8>) {
        let mut bytes = [0; HEADER_LEN];
        bytes[..4].copy_from_slice(&self.op_id.to_le_bytes());
        bytes[4] = self.flags;
        bytes[5..].copy_from_slice(&self.len.to_le_bytes());
        out.extend_from_slice(&bytes);
    }
}

impl decoder::Header for Header {
    const LEN: usize = HEADER_LEN;

    fn parse(bytes: &[u8]) -> Result<Header, DecodeError> {
        let Some((&[a, b, c, d, flags, e, f, g, h], _)) = bytes.split_first_chunk::<HEADER_LEN>() else {
            return Err(DecodeError::Short("a request's header"));
        };
        // A ping's other bytes have no meaning, and no body follows.
        let len = if flags == OP_NOP { 0 } else { u32::from_le_bytes([e, f, g, h]) };
        Ok(Header { op_id: u32::from_le_bytes([a, b, c, d]), flags, len })
    }

    fn body_len(&self) -> u32 {
        self.len
    }

    fn check(&self) -> Result<(), DecodeError> {
        match self.flags & OP_BITS {
            OP_NOP..=OP_PUBLISH_FOR | OP_MESSAGE | OP_BROADCAST => Ok(()),
            op => Err(DecodeError::UnknownOperation(op)),
        }
    }
}

/// An operation. Its payload has the type `P`: bytes borrowed from a decoder, or owned bytes to send.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Operation<'a, P> {
    /// A ping, or an operation 0 with QoS bits, which has no effect and is not acknowledged.
    Nop,
    /// A publication to every client with a matching subscription.
    Publish {
        /// Plain text: wildcard characters in it have no meaning.
        topic: &'a str,
        /// The payload: any bytes.
        payload: P,
    },
    /// A publication only for the given receiver.
    PublishFor {
        /// Plain text: wildcard characters in it have no meaning.
        topic: &'a str,
        /// The primary name of the receiver.
        receiver: &'a str,
        /// The payload: any bytes.
        payload: P,
    },
    /// Subscribes to topic masks.
    Subscribe(Topics<'a>),
    /// Ends subscriptions.
    Unsubscribe(Topics<'a>),
    /// Excludes topic masks from what subscriptions match.
    Exclude(Topics<'a>),
    /// Ends exclusions.
    Unexclude(Topics<'a>),
    /// A message to the client whose name is `target`.
    Message {
        /// The receiver's name.
        target: &'a str,
        /// The payload: any bytes.
        payload: P,
    },
    /// A message to every client whose name matches the mask.
    Broadcast {
        /// A name mask.
        mask: &'a str,
        /// The payload: any bytes.
        payload: P,
    },
}

/// One topic mask or many.
#[derive(Debug, Clone, Copy)]
pub enum Topics<'a> {
    /// In the form of a body: separated by NUL, already validated as UTF-8.
    Joined(&'a str),
    /// As a list, the form that a program has.
    List(&'a [&'a str]),
}

impl<'a> Topics<'a> {
    /// Iterates over the topic masks.
    pub fn iter(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        let (joined, list) = match self {
            Topics::Joined(text) => (Some(text.split('\0')), None),
            Topics::List(list) => (None, Some(list.iter().copied())),
        };
        joined.into_iter().flatten().chain(list.into_iter().flatten())
    }
}

impl PartialEq for Topics<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for Topics<'_> {}

impl<'a> Operation<'a, &'a [u8]> {
    /// Parses the body of a request.
    ///
    /// # Errors
    ///
    /// The operation does not exist, a separator is missing, or text is not UTF-8.
    pub fn parse(flags: u8, body: &'a [u8]) -> Result<Self, DecodeError> {
        let topics = || {
            let text = std::str::from_utf8(body).map_err(|_| DecodeError::NotUtf8("topic"))?;
            Ok(Topics::Joined(text))
        };
        Ok(match flags & OP_BITS {
            OP_NOP if flags == OP_NOP => Operation::Nop,
            OP_NOP => {
                find_nul(body).ok_or(DecodeError::MissingNul("operation 0 with QoS bits"))?;
                Operation::Nop
            }
            OP_PUBLISH => {
                let (topic, payload) = split_text(body, "topic")?;
                Operation::Publish { topic, payload }
            }
            OP_PUBLISH_FOR => {
                let (topic, rest) = split_text(body, "topic")?;
                let (receiver, payload) = split_text(rest, "receiver")?;
                Operation::PublishFor { topic, receiver, payload }
            }
            OP_MESSAGE => {
                let (target, payload) = split_text(body, "target")?;
                Operation::Message { target, payload }
            }
            OP_BROADCAST => {
                let (mask, payload) = split_text(body, "mask")?;
                Operation::Broadcast { mask, payload }
            }
            OP_SUBSCRIBE => Operation::Subscribe(topics()?),
            OP_UNSUBSCRIBE => Operation::Unsubscribe(topics()?),
            OP_EXCLUDE => Operation::Exclude(topics()?),
            OP_UNEXCLUDE => Operation::Unexclude(topics()?),
            op => return Err(DecodeError::UnknownOperation(op)),
        })
    }
}

impl<P: AsRef<[u8]>> Operation<'_, P> {
    /// Appends the request's header and the body without the payload, which the caller appends itself or keeps as
    /// shared bytes.
    ///
    /// # Errors
    ///
    /// A name or topic contains a NUL, or the body is longer than `u32::MAX`.
    pub fn encode_head(&self, op_id: u32, qos: QoS, out: &mut Vec<u8>) -> crate::Result<()> {
        self.encode_head_for(self.payload().map_or(0, <[u8]>::len), op_id, qos, out)
    }

    /// Returns the payload, if this operation has one.
    pub fn payload(&self) -> Option<&[u8]> {
        self.payload_ref().map(P::as_ref)
    }

    /// Returns the length of the body, in bytes.
    pub fn body_len(&self) -> usize {
        let texts: usize = self.texts().map(|text| text.len() + 1).sum();
        match self.payload() {
            Some(payload) => texts + payload.len(),
            // No NUL follows the last topic.
            None => texts.saturating_sub(1),
        }
    }
}

impl<P> Operation<'_, P> {
    /// Does the same as [`encode_head`](Operation::encode_head), for a payload of `payload_len` bytes.
    ///
    /// # Errors
    ///
    /// The errors of [`encode_head`](Operation::encode_head).
    pub fn encode_head_for(
        &self,
        payload_len: usize,
        op_id: u32,
        qos: QoS,
        out: &mut Vec<u8>,
    ) -> crate::Result<()> {
        let start = out.len();
        let op = self.code();
        Header { op_id, flags: qos.flags(op), len: 0 }.write(out);
        let written = match self {
            Operation::Nop => Ok(()),
            Operation::Publish { topic, .. } => put_text(out, topic, "topic"),
            Operation::PublishFor { topic, receiver, .. } => {
                put_text(out, topic, "topic").and_then(|()| put_text(out, receiver, "receiver"))
            }
            Operation::Message { target, .. } => put_text(out, target, "target"),
            Operation::Broadcast { mask, .. } => put_text(out, mask, "mask"),
            Operation::Subscribe(topics)
            | Operation::Unsubscribe(topics)
            | Operation::Exclude(topics)
            | Operation::Unexclude(topics) => put_topics(out, topics),
        };
        let len = (out.len() - start - HEADER_LEN).saturating_add(payload_len);
        let checked = written.and_then(|()| {
            u32::try_from(len).map_err(|_| {
                crate::Error::new(crate::ErrorKind::Data, format!("a body of {len} bytes is over 4 GiB"))
            })
        });
        match checked {
            Ok(len) => {
                out[start + 5..start + HEADER_LEN].copy_from_slice(&len.to_le_bytes());
                Ok(())
            }
            Err(e) => {
                out.truncate(start);
                Err(e)
            }
        }
    }
}

impl<'a, P> Operation<'a, P> {
    /// Returns the same operation with another payload.
    pub fn map_payload<Q>(self, map: impl FnOnce(P) -> Q) -> Operation<'a, Q> {
        match self {
            Operation::Nop => Operation::Nop,
            Operation::Publish { topic, payload } => Operation::Publish { topic, payload: map(payload) },
            Operation::PublishFor { topic, receiver, payload } => {
                Operation::PublishFor { topic, receiver, payload: map(payload) }
            }
            Operation::Subscribe(topics) => Operation::Subscribe(topics),
            Operation::Unsubscribe(topics) => Operation::Unsubscribe(topics),
            Operation::Exclude(topics) => Operation::Exclude(topics),
            Operation::Unexclude(topics) => Operation::Unexclude(topics),
            Operation::Message { target, payload } => Operation::Message { target, payload: map(payload) },
            Operation::Broadcast { mask, payload } => Operation::Broadcast { mask, payload: map(payload) },
        }
    }

    /// Returns the same operation with its payload borrowed.
    pub fn by_ref(&self) -> Operation<'a, &P> {
        match self {
            Operation::Nop => Operation::Nop,
            Operation::Publish { topic, payload } => Operation::Publish { topic, payload },
            Operation::PublishFor { topic, receiver, payload } => {
                Operation::PublishFor { topic, receiver, payload }
            }
            Operation::Subscribe(topics) => Operation::Subscribe(*topics),
            Operation::Unsubscribe(topics) => Operation::Unsubscribe(*topics),
            Operation::Exclude(topics) => Operation::Exclude(*topics),
            Operation::Unexclude(topics) => Operation::Unexclude(*topics),
            Operation::Message { target, payload } => Operation::Message { target, payload },
            Operation::Broadcast { mask, payload } => Operation::Broadcast { mask, payload },
        }
    }

    /// Returns a reference to the payload, if this operation has one.
    pub fn payload_ref(&self) -> Option<&P> {
        match self {
            Operation::Publish { payload, .. }
            | Operation::PublishFor { payload, .. }
            | Operation::Message { payload, .. }
            | Operation::Broadcast { payload, .. } => Some(payload),
            _ => None,
        }
    }

    /// Returns the topics, if the operation changes subscriptions or exclusions.
    pub const fn topics(&self) -> Option<Topics<'a>> {
        match self {
            Operation::Subscribe(topics)
            | Operation::Unsubscribe(topics)
            | Operation::Exclude(topics)
            | Operation::Unexclude(topics) => Some(*topics),
            _ => None,
        }
    }

    /// Returns the texts of the operation in the order of its body: a receiver, a mask, or topics.
    pub fn texts(&self) -> impl Iterator<Item = &'a str> + use<'a, P> {
        let (first, second) = match self {
            Operation::Publish { topic, .. } => (Some(*topic), None),
            Operation::PublishFor { topic, receiver, .. } => (Some(*topic), Some(*receiver)),
            Operation::Message { target, .. } => (Some(*target), None),
            Operation::Broadcast { mask, .. } => (Some(*mask), None),
            _ => (None, None),
        };
        let topics = self.topics().into_iter().flat_map(|topics| topics.iter());
        first.into_iter().chain(second).chain(topics)
    }

    /// Returns the subject of the operation: the receiver, the mask, or the (first) topic.
    pub fn subject(&self) -> &'a str {
        self.texts().next().unwrap_or_default()
    }

    /// Puts an operation together from its code, its [`texts`](Operation::texts) joined by NUL, and its payload, which
    /// is dropped if the operation has none. Returns `None` if there is no such operation, or a text is missing.
    pub fn from_texts(code: u8, texts: &'a str, payload: P) -> Option<Operation<'a, P>> {
        Some(match code {
            OP_PUBLISH => Operation::Publish { topic: texts, payload },
            OP_PUBLISH_FOR => {
                let (topic, receiver) = texts.split_once('\0')?;
                Operation::PublishFor { topic, receiver, payload }
            }
            OP_SUBSCRIBE => Operation::Subscribe(Topics::Joined(texts)),
            OP_UNSUBSCRIBE => Operation::Unsubscribe(Topics::Joined(texts)),
            OP_EXCLUDE => Operation::Exclude(Topics::Joined(texts)),
            OP_UNEXCLUDE => Operation::Unexclude(Topics::Joined(texts)),
            OP_MESSAGE => Operation::Message { target: texts, payload },
            OP_BROADCAST => Operation::Broadcast { mask: texts, payload },
            _ => return None,
        })
    }

    /// Returns the operation's code on the wire.
    pub const fn code(&self) -> u8 {
        match self {
            Operation::Nop => OP_NOP,
            Operation::Publish { .. } => OP_PUBLISH,
            Operation::PublishFor { .. } => OP_PUBLISH_FOR,
            Operation::Subscribe(_) => OP_SUBSCRIBE,
            Operation::Unsubscribe(_) => OP_UNSUBSCRIBE,
            Operation::Exclude(_) => OP_EXCLUDE,
            Operation::Unexclude(_) => OP_UNEXCLUDE,
            Operation::Message { .. } => OP_MESSAGE,
            Operation::Broadcast { .. } => OP_BROADCAST,
        }
    }
}

fn put_text(out: &mut Vec<u8>, text: &str, what: &str) -> crate::Result<()> {
    no_nul(text, what)?;
    out.extend_from_slice(text.as_bytes());
    out.push(0);
    Ok(())
}

fn put_topics(out: &mut Vec<u8>, topics: &Topics<'_>) -> crate::Result<()> {
    for (i, topic) in topics.iter().enumerate() {
        no_nul(topic, "topic")?;
        if i > 0 {
            out.push(0);
        }
        out.extend_from_slice(topic.as_bytes());
    }
    Ok(())
}

fn no_nul(text: &str, what: &str) -> crate::Result<()> {
    match find_nul(text.as_bytes()) {
        None => Ok(()),
        Some(at) => Err(crate::Error::new(
            crate::ErrorKind::Data,
            format!("the {what} {text:?} has a NUL at byte {at}"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::decoder::Header as _;
    use super::*;

    fn bytes(op: Operation<'_, &[u8]>, op_id: u32, qos: QoS) -> Vec<u8> {
        let mut out = vec![];
        op.encode_head(op_id, qos, &mut out).unwrap();
        out.extend_from_slice(op.payload().unwrap_or_default());
        out
    }

    #[test]
    fn exact_bytes() {
        let message = Operation::Message { target: "b", payload: &b"hi"[..] };
        assert_eq!(bytes(message, 7, QoS::Processed), b"\x07\0\0\0\x52\x04\0\0\0b\0hi");
        let publish = Operation::Publish { topic: "a/b", payload: &b"x"[..] };
        assert_eq!(bytes(publish, 0x0102_0304, QoS::No), b"\x04\x03\x02\x01\x01\x05\0\0\0a/b\0x");
        let publish_for = Operation::PublishFor { topic: "t", receiver: "r", payload: &b""[..] };
        assert_eq!(bytes(publish_for, 1, QoS::Realtime), b"\x01\0\0\0\x86\x04\0\0\0t\0r\0");
        let subscribe = Operation::Subscribe(Topics::List(&["a", "b/#"]));
        assert_eq!(bytes(subscribe, 2, QoS::RealtimeProcessed), b"\x02\0\0\0\xc2\x05\0\0\0a\0b/#");
        assert_eq!(bytes(Operation::Nop, 0, QoS::No), PING);
    }

    #[test]
    fn decodes_its_own_encoding() {
        let payload = &b"\0\xffpayload"[..];
        let ops = [
            Operation::Publish { topic: "", payload },
            Operation::PublishFor { topic: "t", receiver: "r", payload },
            Operation::Message { target: "t.a", payload },
            Operation::Broadcast { mask: "t.*", payload },
            Operation::Subscribe(Topics::List(&["a", "", "#"])),
            Operation::Unsubscribe(Topics::List(&["a"])),
            Operation::Exclude(Topics::List(&["a"])),
            Operation::Unexclude(Topics::List(&[""])),
        ];
        for op in ops {
            let all = bytes(op.clone(), 9, QoS::Processed);
            let header = Header::parse(&all).unwrap();
            assert_eq!(
                (header.op_id, header.qos(), header.len as usize),
                (9, QoS::Processed, all.len() - HEADER_LEN)
            );
            assert_eq!(Operation::parse(header.flags, &all[HEADER_LEN..]).unwrap(), op);
            assert_eq!(op.body_len(), all.len() - HEADER_LEN);
            let texts = op.texts().collect::<Vec<_>>().join("\0");
            assert_eq!(Operation::from_texts(op.code(), &texts, payload), Some(op));
        }
    }

    #[test]
    fn refuses_invalid_bodies() {
        assert_eq!(Operation::parse(0x12, b"no separator"), Err(DecodeError::MissingNul("target")));
        assert_eq!(Operation::parse(0x06, b"t\0r"), Err(DecodeError::MissingNul("receiver")));
        assert_eq!(Operation::parse(0x01, b"\xff\0"), Err(DecodeError::NotUtf8("topic")));
        assert_eq!(Operation::parse(0x02, b"\xff"), Err(DecodeError::NotUtf8("topic")));
        assert_eq!(Operation::parse(0x07, b""), Err(DecodeError::UnknownOperation(7)));
        assert_eq!(
            Operation::parse(0x40, b"body"),
            Err(DecodeError::MissingNul("operation 0 with QoS bits"))
        );
        assert_eq!(Operation::parse(0x40, b"\0"), Ok(Operation::Nop));
    }

    #[test]
    fn an_empty_body_names_one_empty_topic() {
        let Ok(Operation::Subscribe(topics)) = Operation::parse(0x02, b"") else { panic!("not a subscribe") };
        assert_eq!(topics.iter().collect::<Vec<_>>(), [""]);
    }

    #[test]
    fn a_ping_has_no_body_whatever_it_declares() {
        let header = Header::parse(b"\xff\xff\xff\xff\x00\xff\xff\xff\xff").unwrap();
        assert_eq!(header.len, 0);
    }

    #[test]
    fn a_nul_in_a_name_is_refused_and_leaves_nothing() {
        let mut out = b"before".to_vec();
        let op = Operation::Message { target: "a\0b", payload: &b""[..] };
        let e = op.encode_head(1, QoS::No, &mut out).unwrap_err();
        assert_eq!(e.kind(), crate::ErrorKind::Data);
        assert_eq!(out, b"before");
    }
}
