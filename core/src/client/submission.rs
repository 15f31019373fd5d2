//! An operation on its way out: mostly it is sent at once, without a future of its own.

use super::acks::Confirmation;
use crate::error::Result;
use crate::proto::op::QoS;
use crate::proto::request::Operation;
use bytes::Bytes;
use std::future::Future;
use std::pin::Pin;

/// Who is told the answer to an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tell {
    /// The program.
    Program,
    /// Nobody: a refusal is logged.
    #[cfg(feature = "rpc")]
    Log,
}

/// An operation that is to be sent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request<'o> {
    pub(crate) operation: &'o Operation<'o, Bytes>,
    /// What comes before the operation's own payload.
    pub(crate) prefix: &'o [u8],
    pub(crate) qos: QoS,
    pub(crate) tell: Tell,
}

impl<'o> Request<'o> {
    /// One whose answer the program is told, if it asks for one.
    pub(crate) fn new(operation: &'o Operation<'o, Bytes>, prefix: &'o [u8], qos: QoS) -> Request<'o> {
        Request { operation, prefix, qos, tell: Tell::Program }
    }
}

/// What became of an operation so far.
#[must_use = "an operation that waits is sent by nobody else"]
pub(crate) enum Submission<'o> {
    /// It is sent.
    Sent(Confirmation),
    /// It is sent when there is room, or a connection.
    Waits(Pin<Box<dyn Future<Output = Result<Confirmation>> + Send + 'o>>),
}

impl Submission<'_> {
    /// Waits until it is sent.
    #[inline]
    pub(crate) async fn sent(self) -> Result<Confirmation> {
        let confirmation = match self {
            Submission::Sent(confirmation) => confirmation,
            Submission::Waits(rest) => rest.await?,
        };
        let_others_run().await;
        Ok(confirmation)
    }
}

/// A program that sends in a loop must let others run now and then, the task that writes for it among them.
#[inline]
pub(super) fn let_others_run() -> impl Future<Output = ()> {
    tokio::task::coop::consume_budget()
}
