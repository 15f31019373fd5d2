//! The error type of the whole crate: a kind to match on, a text for people, and the cause.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;

/// The result of an operation on the bus.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The kind of an error, as the protocol defines it.
///
/// Each result code of the protocol (docs/protocol.md section 5) corresponds to one kind. The kind
/// [`ConnectionLost`](ErrorKind::ConnectionLost) exists only on the client's side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// No client on the bus has that name (`71`).
    NotRegistered,
    /// Invalid bytes, or an invalid name or payload (`72`).
    Data,
    /// The operating system refused or failed (`73`).
    Io,
    /// Any error without its own kind (`74`).
    Other,
    /// The peer does not speak this protocol version or operation (`75`).
    NotSupported,
    /// The name is taken (`76`).
    Busy,
    /// The receiver's queue is full and its policy refuses the frame (`77`).
    NotDelivered,
    /// No answer or data came in time (`78`).
    Timeout,
    /// The access list forbids it (`79`).
    AccessDenied,
    /// The connection ended before the operation was answered (`FF`, never sent).
    ConnectionLost,
}

impl ErrorKind {
    /// Every kind, in the order of the codes.
    pub const ALL: [ErrorKind; 10] = [
        ErrorKind::NotRegistered,
        ErrorKind::Data,
        ErrorKind::Io,
        ErrorKind::Other,
        ErrorKind::NotSupported,
        ErrorKind::Busy,
        ErrorKind::NotDelivered,
        ErrorKind::Timeout,
        ErrorKind::AccessDenied,
        ErrorKind::ConnectionLost,
    ];

    /// Returns the result code of this kind.
    ///
    /// ```
    /// assert_eq!(busrt::ErrorKind::Busy.code(), 0x76);
    /// ```
    pub const fn code(self) -> u8 {
        match self {
            ErrorKind::NotRegistered => 0x71,
            ErrorKind::Data => 0x72,
            ErrorKind::Io => 0x73,
            ErrorKind::Other => 0x74,
            ErrorKind::NotSupported => 0x75,
            ErrorKind::Busy => 0x76,
            ErrorKind::NotDelivered => 0x77,
            ErrorKind::Timeout => 0x78,
            ErrorKind::AccessDenied => 0x79,
            ErrorKind::ConnectionLost => 0xff,
        }
    }

    /// Returns the kind of a result code. An unknown code is [`Other`](ErrorKind::Other).
    pub const fn from_code(code: u8) -> ErrorKind {
        match code {
            0x71 => ErrorKind::NotRegistered,
            0x72 => ErrorKind::Data,
            0x73 => ErrorKind::Io,
            0x75 => ErrorKind::NotSupported,
            0x76 => ErrorKind::Busy,
            0x77 => ErrorKind::NotDelivered,
            0x78 => ErrorKind::Timeout,
            0x79 => ErrorKind::AccessDenied,
            0xff => ErrorKind::ConnectionLost,
            _ => ErrorKind::Other,
        }
    }

    /// Returns the kind of the result code in an acknowledgement, `None` for success.
    ///
    /// Existing brokers sometimes send `FF` in acknowledgements: it means not delivered.
    pub const fn from_ack(code: u8) -> Option<ErrorKind> {
        match code {
            crate::proto::op::RESULT_OK => None,
            0xff => Some(ErrorKind::NotDelivered),
            code => Some(ErrorKind::from_code(code)),
        }
    }

    /// Returns the code of this kind in RPC error replies: -32000 minus the result code. A lost connection has the
    /// code of an I/O error (docs/protocol.md section 8).
    pub const fn rpc_code(self) -> i16 {
        let code = match self {
            ErrorKind::ConnectionLost => ErrorKind::Io.code(),
            kind => kind.code(),
        };
        -32000 - code as i16
    }

    /// Returns the kind of an RPC error code, if it is a code of the bus.
    pub const fn from_rpc_code(code: i16) -> Option<ErrorKind> {
        match -32000 - code as i32 {
            n @ 0x71..=0x79 => Some(ErrorKind::from_code(n as u8)),
            _ => None,
        }
    }

    const fn text(self) -> &'static str {
        match self {
            ErrorKind::NotRegistered => "client not registered",
            ErrorKind::Data => "data error",
            ErrorKind::Io => "I/O error",
            ErrorKind::Other => "error",
            ErrorKind::NotSupported => "not supported",
            ErrorKind::Busy => "name taken",
            ErrorKind::NotDelivered => "not delivered",
            ErrorKind::Timeout => "timed out",
            ErrorKind::AccessDenied => "access denied",
            ErrorKind::ConnectionLost => "connection lost",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

/// An error of the bus. [`kind`](Error::kind) is for programs to match on, [`Display`](fmt::Display) shows a text,
/// and [`source`](StdError::source) returns the cause.
///
/// A refusal by the broker has a [`code`](Error::code). An error without a code arose in this process: a timeout, a
/// lost connection, a name that cannot be sent.
pub struct Error {
    kind: ErrorKind,
    code: Option<u8>,
    context: Cow<'static, str>,
    subject: Option<Box<str>>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// Creates an error of `kind`. `context` says what failed and where.
    pub fn new(kind: ErrorKind, context: impl Into<Cow<'static, str>>) -> Error {
        Error { kind, code: None, context: context.into(), subject: None, source: None }
    }

    /// Creates the error for a refusal by the broker, with the result code that it answered.
    pub fn refused(code: u8, context: impl Into<Cow<'static, str>>) -> Error {
        let kind = ErrorKind::from_ack(code).unwrap_or(ErrorKind::Other);
        Error { code: Some(code), ..Error::new(kind, context) }
    }

    /// Adds the cause.
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Error {
        self.source = Some(source.into());
        self
    }

    /// Adds the subject: an address, a name, a mask or a topic.
    pub fn with_subject(mut self, subject: impl Into<Box<str>>) -> Error {
        self.subject = Some(subject.into());
        self
    }

    /// Returns the kind, for programs to match on.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Returns a description without the kind; it may be empty.
    pub fn context(&self) -> &str {
        &self.context
    }

    /// Returns the result code of the broker (docs/protocol.md section 5), if this is a refusal by the broker. An
    /// unknown code is kept unchanged; its kind is [`Other`](ErrorKind::Other).
    pub fn code(&self) -> Option<u8> {
        self.code
    }

    /// Returns true if the broker has refused the operation or the registration.
    pub fn is_refusal(&self) -> bool {
        self.code.is_some()
    }

    /// Returns the subject of the error, if it is known: the address of a connection, or the receiver, mask or
    /// (first) topic of an operation.
    pub fn subject(&self) -> Option<&str> {
        self.subject.as_deref()
    }

    /// Returns the error of the operating system that caused this one, if there is one.
    pub fn io_error(&self) -> Option<&std::io::Error> {
        self.source.as_ref()?.downcast_ref::<std::io::Error>()
    }

    /// Returns the kind of the operating system's error that caused this one, if there is one.
    pub fn io_kind(&self) -> Option<std::io::ErrorKind> {
        self.io_error().map(std::io::Error::kind)
    }

    /// Returns the number (`errno`) of the operating system's error that caused this one, if there is one.
    pub fn os_error(&self) -> Option<i32> {
        self.io_error()?.raw_os_error()
    }
}

impl From<ErrorKind> for Error {
    fn from(kind: ErrorKind) -> Error {
        Error::new(kind, "")
    }
}

impl From<std::io::Error> for Error {
    fn from(e: std::io::Error) -> Error {
        Error::from(ErrorKind::Io).with_source(e)
    }
}

impl From<crate::proto::DecodeError> for Error {
    fn from(e: crate::proto::DecodeError) -> Error {
        Error::from(ErrorKind::Data).with_source(e)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.text())?;
        if !self.context.is_empty() {
            write!(f, ": {}", crate::shown::sentence(&self.context))?;
        } else if let Some(subject) = &self.subject {
            write!(f, ": {subject:?}")?;
        }
        if let Some(source) = &self.source {
            write!(f, ": {source}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}({self})", self.kind)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|e| e as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_one_code_and_back() {
        for kind in ErrorKind::ALL {
            assert_eq!(ErrorKind::from_code(kind.code()), kind);
        }
        assert_eq!(ErrorKind::from_code(0x42), ErrorKind::Other);
    }

    #[test]
    fn acknowledgement_codes() {
        assert_eq!(ErrorKind::from_ack(1), None);
        assert_eq!(ErrorKind::from_ack(0x71), Some(ErrorKind::NotRegistered));
        assert_eq!(ErrorKind::from_ack(0xff), Some(ErrorKind::NotDelivered));
    }

    #[test]
    fn rpc_codes() {
        assert_eq!(ErrorKind::NotRegistered.rpc_code(), -32113);
        assert_eq!(ErrorKind::Timeout.rpc_code(), -32120);
        assert_eq!(ErrorKind::ConnectionLost.rpc_code(), -32115);
        assert_eq!(ErrorKind::from_rpc_code(-32118), Some(ErrorKind::Busy));
        assert_eq!(ErrorKind::from_rpc_code(-32601), None);
        assert_eq!(ErrorKind::from_rpc_code(i16::MIN), None);
    }

    #[test]
    fn a_refusal_has_its_code() {
        let e = Error::refused(0x79, "").with_subject("plant/#");
        assert_eq!((e.kind(), e.code(), e.subject()), (ErrorKind::AccessDenied, Some(0x79), Some("plant/#")));
        assert_eq!(e.to_string(), "access denied: \"plant/#\"");
        let e = Error::refused(0x42, "refused");
        assert_eq!((e.kind(), e.code(), e.is_refusal()), (ErrorKind::Other, Some(0x42), true));
        let e = Error::from(std::io::Error::from_raw_os_error(13));
        assert_eq!((e.code(), e.is_refusal(), e.os_error()), (None, false, Some(13)));
        assert_eq!(e.io_kind(), Some(std::io::ErrorKind::PermissionDenied));
    }

    #[test]
    fn display_shows_kind_context_and_source() {
        let e =
            Error::new(ErrorKind::Io, "/run/bus.sock").with_source(std::io::Error::other("no such thing"));
        assert_eq!(e.to_string(), "I/O error: /run/bus.sock: no such thing");
        assert_eq!(e.io_kind(), Some(std::io::ErrorKind::Other));
    }
}
