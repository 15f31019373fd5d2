//! The outcome of an operation or a call, before it is turned into an error for the program.

use crate::error::{Error, ErrorKind};
#[cfg(feature = "rpc")]
use crate::frame::Frame;

/// The outcome of an operation.
pub(crate) type Answer = std::result::Result<(), Failure>;

/// The frame of a reply or an error reply, or why there will be none.
#[cfg(feature = "rpc")]
pub(crate) type Outcome = std::result::Result<Frame, Failure>;

/// The reason for which an operation or a call has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The broker has refused it, with that result code.
    Refused(u8),
    /// No answer came before its deadline.
    Timeout,
    /// The connection has ended before the answer came.
    Lost,
}

impl Failure {
    /// Returns the outcome for the code of an acknowledgement.
    pub(super) fn from_ack(code: u8) -> Answer {
        ErrorKind::from_ack(code).map_or(Ok(()), |_| Err(Failure::Refused(code)))
    }

    /// Returns the failure of an operation within the broker's process.
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

    /// The error that an operation returns.
    pub(crate) fn of_operation(self) -> Error {
        match self {
            Failure::Refused(code) => Error::refused(code, ""),
            Failure::Timeout => Error::new(self.kind(), "the broker did not acknowledge in time"),
            Failure::Lost => Error::new(self.kind(), "before the broker acknowledged"),
        }
    }

    /// The error that a call returns.
    #[cfg(feature = "rpc")]
    pub(crate) fn of_call(self) -> Error {
        match self {
            Failure::Refused(code) => Error::refused(code, "the call was refused"),
            Failure::Timeout => Error::new(self.kind(), "no reply in time"),
            Failure::Lost => Error::new(self.kind(), "before the reply came"),
        }
    }
}
