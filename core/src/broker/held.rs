//! Operations that are not done at once: what holds them, and what is left to do.

use super::backpressure::Full;
use super::run::Rest;
use crate::error::ErrorKind;
use crate::proto::DecodeError;
use crate::proto::op::QoS;
use crate::proto::request::Operation;

/// An operation that is not simply done.
pub(super) enum Held<'a> {
    /// It is none.
    Unreadable(DecodeError),
    /// It must be gone on with.
    Operation { op_id: u32, qos: QoS, op: Operation<'a, &'a [u8]>, why: Why<'a> },
}

pub(super) enum Why<'a> {
    /// Earlier frames must be delivered first, to those who had no room for all of them at once. The operation
    /// is not begun.
    Earlier(Box<Rest<'a>>),
    /// These receivers of its own frame are full; all others have it.
    Full(Vec<Full>),
    /// It is for the broker's own client.
    Broker,
}

/// Why an operation is not done.
pub(super) enum Stop<'a> {
    /// It is refused.
    Refused(ErrorKind),
    /// It must be gone on with.
    Unfinished(Box<Why<'a>>),
}

impl<'a> From<Box<Rest<'a>>> for Stop<'a> {
    fn from(rest: Box<Rest<'a>>) -> Stop<'a> {
        Stop::Unfinished(Box::new(Why::Earlier(rest)))
    }
}

/// Nearly every operation is done at once, or refused. What is returned for each of them is as small as can be.
pub(super) type Outcome<'a> = Result<(), Stop<'a>>;
