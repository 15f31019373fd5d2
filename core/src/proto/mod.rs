//! The wire protocol, version 1: encodes and decodes bytes. It uses no sockets, no runtime and no clock.
//!
//! | module | content | docs/protocol.md |
//! | --- | --- | --- |
//! | [`op`] | the constants of the protocol | 2-5 |
//! | [`handshake`] | greeting and registration | 2 |
//! | [`request`] | operations, client to broker | 3 |
//! | [`delivery`] | frames and acknowledgements, broker to client | 4 |
//! | [`decoder`] | complete frames from a byte stream, in either direction | 3, 4 |
//! | [`rpc`] | the RPC envelope in the payload of a message | 8 |
//!
//! ```text
//! client -> broker   | op id: 4 | flags: 1 | len: 4 | body: len |     all integers little-endian
//! broker -> client   | kind: 1  | len or op id: 4   | realtime or result: 1 | body |
//! ```

pub mod decoder;
pub mod delivery;
pub mod handshake;
pub mod op;
pub mod request;
pub mod rpc;

use std::fmt;

/// Bytes that violate the protocol. The rest of the stream cannot be interpreted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum DecodeError {
    /// The greeting's first byte is not `EB`.
    Magic(u8),
    /// A protocol version that is not supported.
    Version(u16),
    /// An operation or a delivery kind that does not exist.
    UnknownOperation(u8),
    /// A separator is missing after this field.
    MissingNul(&'static str),
    /// This field is not UTF-8.
    NotUtf8(&'static str),
    /// The declared length of a body is over the limit.
    TooLarge {
        /// The length in the header.
        declared: u32,
        /// The limit.
        limit: u32,
    },
    /// There are fewer bytes than this structure needs.
    Short(&'static str),
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DecodeError::Magic(b) => write!(f, "greeting starts with {b:02X}, not EB"),
            DecodeError::Version(v) => write!(f, "protocol version {v} is not supported"),
            DecodeError::UnknownOperation(b) => write!(f, "unknown operation {b:02X}"),
            DecodeError::MissingNul(what) => write!(f, "no NUL after the {what}"),
            DecodeError::NotUtf8(what) => write!(f, "the {what} is not UTF-8"),
            DecodeError::TooLarge { declared, limit } => {
                write!(f, "a body of {declared} bytes is over the limit of {limit}")
            }
            DecodeError::Short(what) => write!(f, "too few bytes for {what}"),
        }
    }
}

impl std::error::Error for DecodeError {}

/// Splits `body` at its first NUL into the text before it and the bytes after it.
fn split_text<'a>(body: &'a [u8], what: &'static str) -> Result<(&'a str, &'a [u8]), DecodeError> {
    let nul = find_nul(body).ok_or(DecodeError::MissingNul(what))?;
    let text = std::str::from_utf8(&body[..nul]).map_err(|_| DecodeError::NotUtf8(what))?;
    Ok((text, &body[nul + 1..]))
}

/// Returns the position of the first NUL.
#[inline]
pub(crate) fn find_nul(bytes: &[u8]) -> Option<usize> {
    memchr::memchr(0, bytes)
}
