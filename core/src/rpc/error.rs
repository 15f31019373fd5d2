//! What a call fails with.

use crate::error::{Error, ErrorKind};
use crate::proto::rpc::{
    CODE_INTERNAL, CODE_INVALID_PARAMS, CODE_INVALID_REQUEST, CODE_METHOD_NOT_FOUND, CODE_NOT_FOUND,
    CODE_PARSE,
};
use bytes::Bytes;
use std::fmt;

/// The failure of a call: a code (PROTOCOL.md section 8) and data, text by convention. A handler returns
/// it to send an error reply; a caller gets it for that, and for what the bus itself refused.
#[derive(Clone, PartialEq, Eq)]
pub struct RpcError {
    code: i16,
    data: Bytes,
}

impl RpcError {
    /// An error of any code.
    pub fn new(code: i16, data: impl Into<Bytes>) -> RpcError {
        RpcError { code, data: data.into() }
    }

    /// -32700: the payload or the parameters cannot be read.
    pub fn parse(data: impl Into<Bytes>) -> RpcError {
        RpcError::new(CODE_PARSE, data)
    }

    /// -32600: the request is none.
    pub fn invalid_request(data: impl Into<Bytes>) -> RpcError {
        RpcError::new(CODE_INVALID_REQUEST, data)
    }

    /// -32601: there is no such method.
    pub fn method_not_found() -> RpcError {
        RpcError::new(CODE_METHOD_NOT_FOUND, "method not found")
    }

    /// -32602: the method does not take these parameters.
    pub fn invalid_params(data: impl Into<Bytes>) -> RpcError {
        RpcError::new(CODE_INVALID_PARAMS, data)
    }

    /// -32603: the method failed.
    pub fn internal(data: impl Into<Bytes>) -> RpcError {
        RpcError::new(CODE_INTERNAL, data)
    }

    /// -32001: what was asked for does not exist.
    pub fn not_found(data: impl Into<Bytes>) -> RpcError {
        RpcError::new(CODE_NOT_FOUND, data)
    }

    /// The error's number.
    pub fn code(&self) -> i16 {
        self.code
    }

    /// What came with it, text by convention.
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// The same as shared bytes.
    pub fn data_bytes(&self) -> Bytes {
        self.data.clone()
    }

    /// The kind of error if the bus itself failed, not the method. A lost connection is
    /// [`Io`](ErrorKind::Io) here: they share a code.
    pub fn kind(&self) -> Option<ErrorKind> {
        ErrorKind::from_rpc_code(self.code)
    }
}

impl From<ErrorKind> for RpcError {
    fn from(kind: ErrorKind) -> RpcError {
        RpcError::new(kind.rpc_code(), kind.to_string())
    }
}

impl From<Error> for RpcError {
    fn from(e: Error) -> RpcError {
        RpcError::new(e.kind().rpc_code(), e.to_string())
    }
}

impl fmt::Display for RpcError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match std::str::from_utf8(&self.data) {
            Ok("") => write!(f, "RPC error (code: {})", self.code),
            Ok(text) => write!(f, "{text} (code: {})", self.code),
            Err(_) => write!(f, "{} (code: {})", self.data.escape_ascii(), self.code),
        }
    }
}

impl fmt::Debug for RpcError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RpcError({self})")
    }
}

impl std::error::Error for RpcError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_and_which() {
        assert_eq!(RpcError::method_not_found().to_string(), "method not found (code: -32601)");
        assert_eq!(RpcError::new(5, "").to_string(), "RPC error (code: 5)");
        assert_eq!(RpcError::new(5, &b"\xff"[..]).to_string(), "\\xff (code: 5)");
    }

    #[test]
    fn errors_of_the_bus() {
        let e = RpcError::from(Error::new(ErrorKind::NotRegistered, "x"));
        assert_eq!((e.code(), e.kind()), (-32113, Some(ErrorKind::NotRegistered)));
        assert_eq!(RpcError::from(ErrorKind::ConnectionLost).code(), -32115);
        assert_eq!(RpcError::internal("x").kind(), None);
    }
}
