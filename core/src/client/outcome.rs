//! The outcome of an operation or a call, before it is converted to an error for the program.

use crate::error::{Error, ErrorKind};
#[cfg(feature = "rpc")]
use crate::frame::Frame;

/// The outcome of an operation.
pub(crate) type Answer = std::result::Result<(), Failure>;

/// The frame of a reply or an error reply, or the reason why there will be none.
#[cfg(feature = "rpc")]
pub(crate) type Outcome = std::result::Result<Frame, Failure>;

/// The reason why an operation or a call has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The broker has refused it with this result code.
    Refused(u8),
    /// No answer came before the deadline.
    Timeout,
    /// The connection ended before the answer came.
    Lost,
}

impl Failure {
    /// Converts the code of an acknowledgement.
    pub(super) fn from_ack(code: u8) -> Answer {
        ErrorKind::from_ack(code).map_or(Ok(()), |_| Err(Failure::Refused(code)))
    }

    /// Converts the error of an operation within the broker's process.
    #[cfg(feature = "broker")]
    pub(super) fn of_kind(kind: ErrorKind) -> Failure {
        match kind {
            ErrorKind::ConnectionLost => Failure::Lost,
            kind => Failure::Refused(kind.code()),
        }
    }

    pub(crate) fn kind(self) -> ErrorKind {
        match self {
            Failure::Refused(code) => ErrorKind::from_ack(code).unwrap_or(ErrorKind::Other),
            Failure::Timeout => ErrorKind::Timeout,
            Failure::Lost => ErrorKind::ConnectionLost,
        }
    }

    /// Returns the error for an operation.
    pub(crate) fn of_operation(self) -> Error {
        match self {
            Failure::Refused(code) => Error::refused(code, ""),
            Failure::Timeout => Error::new(self.kind(), "the broker did not acknowledge in time"),
            Failure::Lost => Error::new(self.kind(), "before the broker acknowledged"),
        }
    }

    /// Returns the error for a call.
    #[cfg(feature = "rpc")]
    pub(crate) fn of_call(self) -> Error {
        match self {
            Failure::Refused(code) => Error::refused(code, "the call was refused"),
            Failure::Timeout => Error::new(self.kind(), "no reply in time"),
            Failure::Lost => Error::new(self.kind(), "before the reply came"),
        }
    }
}
