//! The error of a call.

use crate::error::{Error, ErrorKind};
use crate::proto::rpc::{
    CODE_INTERNAL, CODE_INVALID_PARAMS, CODE_INVALID_REQUEST, CODE_METHOD_NOT_FOUND, CODE_NOT_FOUND,
    CODE_PARSE,
};
use bytes::Bytes;
use std::fmt;
use std::sync::Arc;

/// The failure of a call: a code (docs/protocol.md section 8), and data that is text by convention. A handler returns
/// it to send an error reply. A caller receives it for an error reply, and for errors of the bus itself.
///
/// A method may answer with a code of the bus. [`origin`](RpcError::origin) distinguishes that from an error of the
/// bus. Two errors are equal if code, data and origin are.
#[derive(Clone)]
pub struct RpcError {
    code: i16,
    data: Bytes,
    bus: Option<Arc<Error>>,
}

/// The origin of a call's failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Origin {
    /// The method: the peer has sent an error reply. Errors that a handler creates also have this origin.
    Method,
    /// The broker has refused the call, so that the method has not received it. [`Error::code`] returns the raw
    /// result code.
    Broker,
    /// This client: no reply came by the deadline, the connection was lost, or the call could not be sent. The
    /// method may have run.
    Client,
}

impl RpcError {
    /// Creates an error with any code.
    pub fn new(code: i16, data: impl Into<Bytes>) -> RpcError {
        RpcError { code, data: data.into(), bus: None }
    }

    /// -32700: the payload or the parameters cannot be parsed.
    pub fn parse(data: impl Into<Bytes>) -> RpcError {
        RpcError::new(CODE_PARSE, data)
    }

    /// -32600: the message is not a valid request.
    pub fn invalid_request(data: impl Into<Bytes>) -> RpcError {
        RpcError::new(CODE_INVALID_REQUEST, data)
    }

    /// -32601: there is no such method.
    pub fn method_not_found() -> RpcError {
        RpcError::new(CODE_METHOD_NOT_FOUND, "method not found")
    }

    /// -32602: the parameters are invalid for the method.
    pub fn invalid_params(data: impl Into<Bytes>) -> RpcError {
        RpcError::new(CODE_INVALID_PARAMS, data)
    }

    /// -32603: the method failed.
    pub fn internal(data: impl Into<Bytes>) -> RpcError {
        RpcError::new(CODE_INTERNAL, data)
    }

    /// -32001: the method or the object does not exist.
    pub fn not_found(data: impl Into<Bytes>) -> RpcError {
        RpcError::new(CODE_NOT_FOUND, data)
    }

    /// Returns the error's code.
    pub fn code(&self) -> i16 {
        self.code
    }

    /// Returns the data of the error reply, text by convention.
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// Returns the data as shared bytes.
    pub fn data_bytes(&self) -> Bytes {
        self.data.clone()
    }

    /// Returns the kind of the code, if it is a code of the bus; [`origin`](RpcError::origin) says which side reports
    /// it. A lost connection is [`Io`](ErrorKind::Io) here, because both share a code:
    /// [`bus_error`](RpcError::bus_error) is exact.
    pub fn kind(&self) -> Option<ErrorKind> {
        ErrorKind::from_rpc_code(self.code)
    }

    /// Returns the origin of the failure.
    pub fn origin(&self) -> Origin {
        match &self.bus {
            None => Origin::Method,
            Some(e) if e.is_refusal() => Origin::Broker,
            Some(_) => Origin::Client,
        }
    }

    /// Returns the error of the bus from which this was made; `None` for an error of the method.
    pub fn bus_error(&self) -> Option<&Error> {
        self.bus.as_deref()
    }
}

impl PartialEq for RpcError {
    fn eq(&self, other: &RpcError) -> bool {
        self.code == other.code && self.data == other.data && self.origin() == other.origin()
    }
}

impl Eq for RpcError {}

impl From<ErrorKind> for RpcError {
    fn from(kind: ErrorKind) -> RpcError {
        RpcError::from(Error::from(kind))
    }
}

impl From<Error> for RpcError {
    fn from(e: Error) -> RpcError {
        let error = RpcError::new(e.kind().rpc_code(), e.to_string());
        RpcError { bus: Some(Arc::new(e)), ..error }
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

impl std::error::Error for RpcError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        // The data repeats the text of the error itself, so that only its source is returned.
        self.bus.as_deref()?.source()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_shows_text_and_code() {
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

    #[test]
    fn a_bus_code_from_a_method_has_the_methods_origin() {
        let method = RpcError::new(-32120, "timed out");
        let own = RpcError::from(ErrorKind::Timeout);
        let broker = RpcError::from(Error::refused(0x78, ""));
        assert_eq!([method.kind(), own.kind(), broker.kind()], [Some(ErrorKind::Timeout); 3]);
        assert_eq!(
            [method.origin(), own.origin(), broker.origin()],
            [Origin::Method, Origin::Client, Origin::Broker]
        );
        assert_ne!(method, own);
        assert!(method.bus_error().is_none());
        assert_eq!(own.bus_error().unwrap().kind(), ErrorKind::Timeout);
        let lost = RpcError::from(ErrorKind::ConnectionLost);
        assert_eq!(
            (lost.kind(), lost.bus_error().unwrap().kind()),
            (Some(ErrorKind::Io), ErrorKind::ConnectionLost)
        );
    }
}
