//! The RPC envelope in the payload of a one-to-one message (docs/protocol.md section 8).
//!
//! ```text
//! 00 PAYLOAD                     notification
//! 01 id:4 METHOD 00 PARAMS       request; id 0 wants no reply
//! 11 id:4 RESULT                 reply
//! 12 id:4 code:2 DATA            error reply
//! ```

use super::{DecodeError, find_nul};

/// First byte of a notification.
pub const NOTIFICATION: u8 = 0x00;
/// First byte of a request.
pub const REQUEST: u8 = 0x01;
/// First byte of a reply.
pub const REPLY: u8 = 0x11;
/// First byte of an error reply.
pub const ERROR_REPLY: u8 = 0x12;

/// The payload or the parameters cannot be parsed.
pub const CODE_PARSE: i16 = -32700;
/// The message is not a valid request.
pub const CODE_INVALID_REQUEST: i16 = -32600;
/// There is no such method.
pub const CODE_METHOD_NOT_FOUND: i16 = -32601;
/// The parameters are invalid for the method.
pub const CODE_INVALID_PARAMS: i16 = -32602;
/// The method failed.
pub const CODE_INTERNAL: i16 = -32603;
/// The method or the object does not exist.
pub const CODE_NOT_FOUND: i16 = -32001;

/// An RPC frame, borrowed from a message's payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Envelope<'a> {
    /// A notification: it asks for no answer and names no method.
    Notification {
        /// The payload: any bytes.
        payload: &'a [u8],
    },
    /// A request: a call of a method.
    Request {
        /// The caller's own counter; 0 asks for no reply.
        id: u32,
        /// The method's name; text by convention.
        method: &'a [u8],
        /// The parameters: any bytes; a MessagePack map by convention.
        params: &'a [u8],
    },
    /// A reply: the result of a call.
    Reply {
        /// The id of the request.
        id: u32,
        /// The result: any bytes.
        result: &'a [u8],
    },
    /// An error reply: the failure of a call.
    ErrorReply {
        /// The id of the request.
        id: u32,
        /// The number of the error.
        code: i16,
        /// A description; text by convention.
        data: &'a [u8],
    },
}

impl<'a> Envelope<'a> {
    /// Parses the payload of a message.
    ///
    /// # Errors
    ///
    /// The payload is empty, starts with a byte that is not an RPC frame, or ends too early.
    pub fn parse(payload: &'a [u8]) -> Result<Self, DecodeError> {
        let (&kind, rest) = payload.split_first().ok_or(DecodeError::Short("an RPC frame"))?;
        if kind == NOTIFICATION {
            return Ok(Envelope::Notification { payload: rest });
        }
        if !matches!(kind, REQUEST | REPLY | ERROR_REPLY) {
            return Err(DecodeError::UnknownOperation(kind));
        }
        let (&id, rest) = rest.split_first_chunk::<4>().ok_or(DecodeError::Short("an RPC id"))?;
        let id = u32::from_le_bytes(id);
        match kind {
            REQUEST => {
                let nul = find_nul(rest).ok_or(DecodeError::MissingNul("method"))?;
                Ok(Envelope::Request { id, method: &rest[..nul], params: &rest[nul + 1..] })
            }
            REPLY => Ok(Envelope::Reply { id, result: rest }),
            _ => {
                let (&code, data) =
                    rest.split_first_chunk::<2>().ok_or(DecodeError::Short("an RPC error code"))?;
                Ok(Envelope::ErrorReply { id, code: i16::from_le_bytes(code), data })
            }
        }
    }
}

/// Returns the bytes before the parameters of a request. `method` must not contain a NUL.
pub fn request_header(id: u32, method: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(6 + method.len());
    put_request_header(id, method, &mut out);
    out
}

/// Appends the bytes that [`request_header`] returns.
pub fn put_request_header(id: u32, method: &str, out: &mut Vec<u8>) {
    out.push(REQUEST);
    out.extend_from_slice(&id.to_le_bytes());
    out.extend_from_slice(method.as_bytes());
    out.push(0);
}

/// Returns the bytes before the result in a reply.
pub fn reply_header(id: u32) -> [u8; 5] {
    let [a, b, c, d] = id.to_le_bytes();
    [REPLY, a, b, c, d]
}

/// Returns the bytes before the data in an error reply.
pub fn error_header(id: u32, code: i16) -> [u8; 7] {
    let ([a, b, c, d], [e, f]) = (id.to_le_bytes(), code.to_le_bytes());
    [ERROR_REPLY, a, b, c, d, e, f]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decodes_its_own_encoding() {
        let request = [&request_header(7, "get")[..], b"params"].concat();
        assert_eq!(request, b"\x01\x07\0\0\0get\0params");
        assert_eq!(
            Envelope::parse(&request),
            Ok(Envelope::Request { id: 7, method: b"get", params: b"params" })
        );
        let reply = [&reply_header(7)[..], b"x"].concat();
        assert_eq!(Envelope::parse(&reply), Ok(Envelope::Reply { id: 7, result: b"x" }));
        let error = [&error_header(7, CODE_INTERNAL)[..], b"why"].concat();
        assert_eq!(Envelope::parse(&error), Ok(Envelope::ErrorReply { id: 7, code: -32603, data: b"why" }));
        assert_eq!(Envelope::parse(b"\0abc"), Ok(Envelope::Notification { payload: b"abc" }));
    }

    #[test]
    fn invalid_rpc_frames() {
        for (bytes, error) in [
            (&b""[..], DecodeError::Short("an RPC frame")),
            (b"\x02abcdef", DecodeError::UnknownOperation(2)),
            (b"\x01\0\0\0", DecodeError::Short("an RPC id")),
            (b"\x01\0\0\0\0get", DecodeError::MissingNul("method")),
            (b"\x12\0\0\0\0\x01", DecodeError::Short("an RPC error code")),
        ] {
            assert_eq!(Envelope::parse(bytes), Err(error));
        }
    }
}
