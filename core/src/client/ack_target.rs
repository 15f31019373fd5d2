//! The destination of the answer to an operation.

use super::completions::{CompletionQueue, Raw};
use super::outcome::Answer;
use super::slot::Slot;
use super::waker_set::WakerSet;
use std::sync::Arc;

/// The destination of the answer to an operation.
#[derive(Debug)]
pub(super) enum AckTarget {
    /// The slot of a handle.
    Slot(Arc<Slot<Answer>>),
    /// A completion queue, and the token of the result.
    Queue(CompletionQueue, u64),
}

impl AckTarget {
    /// Delivers the answer. Returns the wakers of the tasks that wait for it, which the caller must wake without
    /// holding a lock. The value must be dropped without a lock too: it may be the last handle of the queue.
    pub(super) fn tell(&self, answer: Answer) -> WakerSet {
        match self {
            AckTarget::Slot(slot) => slot.complete(answer),
            AckTarget::Queue(queue, token) => queue.push(*token, Raw::Operation(answer)),
        }
    }
}
