//! Names, topics and masks in bodies that are too long to be read in one step: they are read piece by piece, and
//! other tasks run in between.

use super::budget::price;
use super::dispatcher::{Batch, Dispatch, Rejection};
use crate::error::ErrorKind;
use crate::proto::op::{OP_BITS, OP_BROADCAST, OP_MESSAGE, OP_NOP, OP_PUBLISH, OP_PUBLISH_FOR};
use crate::proto::request::{Header, Operation};
use crate::proto::{DecodeError, find_nul};

/// Number of bytes of text that are read in one step.
pub(super) const PIECE: usize = 256 * 1024;

impl<'a> Batch<'_, 'a> {
    /// Makes sure that the text of a long body can be read in one step. Searches for the end of a name, topic or mask
    /// that exceeds every bound piece by piece, and refuses the operation. Returns the result of the operation if it
    /// is finished.
    pub(super) async fn check_long_text(&mut self, header: &Header, body: &'a [u8]) -> Option<Dispatch<'a>> {
        let texts = match header.flags & OP_BITS {
            OP_PUBLISH_FOR => 2,
            OP_PUBLISH | OP_MESSAGE | OP_BROADCAST | OP_NOP => 1,
            _ => return None,
        };
        let options = &self.dispatcher.distributor.core.options;
        let most = options.max_topic.max(options.max_name);
        let mut rest = body;
        for _ in 0..texts {
            let within = &rest[..rest.len().min(most.saturating_add(1))];
            let Some(nul) = find_nul(within) else {
                return Some(match self.has_nul(&rest[within.len()..]).await {
                    false => Dispatch::Rejected(Rejection::Malformed(DecodeError::MissingNul("text"))),
                    true => self.refuse_over_bound(header),
                });
            };
            rest = &rest[nul + 1..];
        }
        None
    }

    /// Searches for a NUL, piece by piece.
    async fn has_nul(&mut self, bytes: &[u8]) -> bool {
        for piece in bytes.chunks(PIECE) {
            if find_nul(piece).is_some() {
                return true;
            }
            self.charge_text(piece.len()).await;
        }
        false
    }

    async fn charge_text(&mut self, bytes: usize) {
        self.dispatcher.distributor.budget.charge(price::text(bytes));
        if self.is_exhausted() {
            self.pause().await;
        }
    }

    fn refuse_over_bound(&mut self, header: &Header) -> Dispatch<'a> {
        let qos = header.qos();
        match header.flags & OP_BITS {
            OP_NOP => {}
            // A name of this length cannot be registered.
            OP_MESSAGE => self.acknowledge(header.op_id, qos, Err(ErrorKind::NotRegistered)),
            _ if !qos.needs_ack() => return Dispatch::Rejected(Rejection::OverBound),
            _ => self.acknowledge(header.op_id, qos, Err(ErrorKind::Data)),
        }
        Dispatch::Done
    }

    /// Adds or removes subscriptions or exclusions for a long list of topics, which is read piece by piece.
    ///
    /// # Errors
    /// The connection must end.
    pub(super) async fn change_many_topics(
        &mut self,
        header: &Header,
        body: &'a [u8],
    ) -> Result<(), Rejection> {
        let qos = header.qos();
        let mut result = Ok(());
        let mut rest = Some(body);
        let mut subject = Operation::Nop;
        while let Some(topics) = rest {
            let (piece, next, is_over) = self.split_topics(topics).await;
            rest = next;
            if is_over && result.is_ok() {
                result = Err(ErrorKind::Data);
            }
            if is_over && piece.is_empty() {
                continue;
            }
            let op = Operation::parse(header.flags, piece).map_err(Rejection::Malformed)?;
            let changed = match self.submit(qos, op.clone(), None) {
                Ok(None) => Ok(()),
                Ok(Some(deferred)) => self.complete(*deferred, None).await,
                Err(kind) => Err(kind),
            };
            if result != Err(ErrorKind::AccessDenied) && changed.is_err() {
                (result, subject) = (changed, op);
            }
            self.charge_text(piece.len()).await;
        }
        match result {
            Ok(()) => self.acknowledge(header.op_id, qos, Ok(())),
            Err(kind) => {
                if let Dispatch::Rejected(rejection) = self.reject(header.op_id, qos, &subject, kind) {
                    return Err(rejection);
                }
            }
        }
        Ok(())
    }

    /// Takes the first topics out of a list that is longer than a piece. Returns these topics, the rest of the list,
    /// and whether a topic was left out because it is longer than its bound.
    async fn split_topics(&mut self, topics: &'a [u8]) -> (&'a [u8], Option<&'a [u8]>, bool) {
        if topics.len() <= PIECE {
            return (topics, None, false);
        }
        let most = self.dispatcher.distributor.core.options.max_topic;
        let begin = topics[..PIECE].iter().rposition(|byte| *byte == 0).map_or(0, |nul| nul + 1);
        let last = &topics[begin..];
        let within = &last[..last.len().min(most.saturating_add(1))];
        if let Some(nul) = find_nul(within) {
            return (&topics[..begin + nul], Some(&last[nul + 1..]), false);
        }
        if within.len() == last.len() && last.len() <= most {
            return (topics, None, false);
        }
        let mut next = None;
        let mut at = within.len();
        for piece in last[at..].chunks(PIECE) {
            if let Some(nul) = find_nul(piece) {
                next = Some(&last[at + nul + 1..]);
                break;
            }
            at += piece.len();
            self.charge_text(piece.len()).await;
        }
        (&topics[..begin.saturating_sub(1)], next, true)
    }
}
