//! Operations that are not finished by the call that began them, and what is left of them to do.

use crate::broker::audience::Miss;
use crate::broker::distributor::Sent;
use crate::broker::frame_batch::Undelivered;
use crate::broker::registry::TopicChange;
use crate::broker::session::Session;
use crate::error::ErrorKind;
use crate::proto::op::QoS;
use crate::proto::request::{Operation, Topics};
use std::sync::Arc;

/// An operation that is not done yet.
pub(crate) struct Deferred<'a> {
    pub(crate) op_id: u32,
    pub(crate) qos: QoS,
    pub(super) op: Operation<'a, &'a [u8]>,
    pub(super) step: Step<'a>,
}

/// The part of a deferred operation that is left to do.
pub(super) enum Step<'a> {
    /// Earlier frames must be delivered first. The operation has not begun.
    AfterEarlier(Box<Undelivered<'a>>),
    /// It is refused. The refusal is acknowledged after earlier frames are delivered.
    Reject(Box<Undelivered<'a>>, ErrorKind),
    /// Its frame must be delivered to these.
    Receivers(Vec<Arc<Session>>),
    /// The search for its receivers takes several steps.
    Search,
    /// Topics of the frame are left: the change, all topics, how many are done, and the result so far.
    Topics(TopicChange, Topics<'a>, usize, Result<(), ErrorKind>),
    /// It is for the broker's own client.
    Broker,
}

/// [`Deferred`] without the operation, to outlive the call that began it.
pub(crate) struct Detached {
    qos: QoS,
    step: DetachedStep,
}

enum DetachedStep {
    Receivers(Vec<Arc<Session>>),
    Search,
    Topics(TopicChange, usize, Result<(), ErrorKind>),
    Broker,
}

impl<'a> Deferred<'a> {
    /// Separates what is left to do from the operation. `None` if earlier frames of the batch are left, which is
    /// never so for an operation of a client in this process.
    pub(crate) fn detach(self) -> Option<Detached> {
        let step = match self.step {
            Step::AfterEarlier(_) | Step::Reject(..) => return None,
            Step::Receivers(receivers) => DetachedStep::Receivers(receivers),
            Step::Search => DetachedStep::Search,
            Step::Topics(change, _, done, result) => DetachedStep::Topics(change, done, result),
            Step::Broker => DetachedStep::Broker,
        };
        Some(Detached { qos: self.qos, step })
    }

    /// Puts together what [`detach`](Deferred::detach) has separated. `op` is the same operation.
    pub(crate) fn attach(detached: Detached, op: Operation<'a, &'a [u8]>) -> Deferred<'a> {
        let step = match (detached.step, op.topics()) {
            (DetachedStep::Receivers(receivers), _) => Step::Receivers(receivers),
            (DetachedStep::Topics(change, done, result), Some(topics)) => {
                Step::Topics(change, topics, done, result)
            }
            (DetachedStep::Broker, _) => Step::Broker,
            (DetachedStep::Search | DetachedStep::Topics(..), _) => Step::Search,
        };
        Deferred { op_id: 0, qos: detached.qos, op, step }
    }
}

/// The result of routing an operation.
pub(super) enum Routed<'a> {
    Done,
    Refused(ErrorKind),
    Deferred(Step<'a>),
}

impl<'a> From<Sent<'a>> for Routed<'a> {
    #[inline]
    fn from(sent: Sent<'a>) -> Routed<'a> {
        match sent {
            Sent::Done => Routed::Done,
            Sent::Refused(kind) => Routed::Refused(kind),
            Sent::AfterEarlier(rest) => Routed::Deferred(Step::AfterEarlier(rest)),
            Sent::Remaining(receivers) => Routed::Deferred(Step::Receivers(receivers)),
        }
    }
}

impl<'a> From<Miss> for Routed<'a> {
    fn from(miss: Miss) -> Routed<'a> {
        match miss {
            Miss::Refused(kind) => Routed::Refused(kind),
            Miss::OverBudget => Routed::Deferred(Step::Search),
        }
    }
}
