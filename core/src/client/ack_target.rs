//! The place where the program gets the answer to an operation.

use super::completions::{CompletionQueue, Raw};
use super::outcome::Answer;
use super::slot::Slot;
use super::waker_set::WakerSet;
use std::sync::Arc;

/// The place where the program gets the answer to an operation.
#[derive(Debug)]
pub(super) enum AckTarget {
    /// A handle.
    Slot(Arc<Slot<Answer>>),
    /// A queue, with a token.
    Queue(CompletionQueue, u64),
}

impl AckTarget {
    /// Tells the answer. Returns the wakers of those who wait for it, to be woken when no lock is held. The value is
    /// dropped without a lock too: it may be the last handle of the queue.
    pub(super) fn tell(&self, answer: Answer) -> WakerSet {
        match self {
            AckTarget::Slot(slot) => slot.complete(answer),
            AckTarget::Queue(queue, token) => queue.push(*token, Raw::Operation(answer)),
        }
    }
}
