//! The pending writes of a batch: acknowledgements for its own client, and the queues of its receivers.

use super::busy_poller::BusyPoller;
use super::session::Session;
use crate::proto::delivery;
use std::sync::Arc;

/// A client is in conversation if at most this many frames were read together and they had at most this many
/// receivers.
const FEW: u64 = 2;

/// Receivers to flush and acknowledgements to send.
#[derive(Default)]
pub(super) struct PendingWrites {
    touched: Vec<Arc<Session>>,
    /// Acknowledgements, encoded.
    acks: Vec<u8>,
}

/// Receivers that must be flushed, in the order in which they were touched. If the value is dropped early, tasks
/// flush the remaining ones: an operation of a client in this process may be cancelled at any time.
pub(super) struct Touched {
    receivers: Vec<Arc<Session>>,
    next: usize,
}

impl Touched {
    /// Returns the next receiver, which the caller must flush.
    #[inline]
    pub(super) fn next(&mut self) -> Option<&Arc<Session>> {
        let receiver = self.receivers.get(self.next);
        self.next += usize::from(receiver.is_some());
        receiver
    }

    pub(super) fn is_empty(&self) -> bool {
        self.next == self.receivers.len()
    }
}

impl Drop for Touched {
    fn drop(&mut self) {
        while let Some(receiver) = self.next() {
            receiver.outbox.flush_soon();
        }
    }
}

impl Drop for PendingWrites {
    fn drop(&mut self) {
        drop(self.take_touched());
    }
}

impl PendingWrites {
    /// Notes that a receiver must be flushed.
    #[inline]
    pub(super) fn touch(&mut self, receiver: &Arc<Session>) {
        self.touched.push(receiver.clone());
    }

    /// Returns the number of receivers that must be flushed.
    pub(super) fn touched(&self) -> usize {
        self.touched.len()
    }

    /// Takes out the receivers that must be flushed.
    pub(super) fn take_touched(&mut self) -> Touched {
        Touched { receivers: std::mem::take(&mut self.touched), next: 0 }
    }

    /// Gives the list back, so that its memory is reused.
    pub(super) fn give_touched(&mut self, mut touched: Touched) {
        if self.touched.is_empty() && touched.is_empty() {
            self.touched = std::mem::take(&mut touched.receivers);
            self.touched.clear();
        }
    }

    #[inline]
    pub(super) fn acknowledge(&mut self, op_id: u32, code: u8) {
        self.acks.extend_from_slice(&delivery::ack(op_id, code));
    }

    pub(super) fn has_acks(&self) -> bool {
        !self.acks.is_empty()
    }

    /// Puts the acknowledgements into the client's queue. Returns whether the caller must flush it.
    pub(super) fn queue_acks(&mut self, session: &Session, owner: u32) -> bool {
        if self.acks.is_empty() {
            return false;
        }
        let frames = (self.acks.len() / delivery::HEADER_LEN) as u64;
        let first = session.outbox.push_raw(&self.acks, frames, owner);
        self.acks.clear();
        first
    }

    /// Releases memory that an idle client should not hold.
    pub(super) fn release(&mut self) {
        if self.acks.capacity() > 256 {
            self.acks = Vec::new();
        }
        if self.touched.capacity() > 64 {
            self.touched = Vec::new();
        }
    }

    /// Tells the busy poller which clients are in conversation: a client that awaits any number of acknowledgements,
    /// and clients that exchange few frames at a time. A stream of unacknowledged frames is not a conversation.
    /// `frames` is the number of frames that were read together.
    pub(super) fn tell(&self, poller: &BusyPoller, session: &Session, frames: u64) {
        let few = frames <= FEW && self.touched.len() as u64 <= FEW;
        if !few && !self.has_acks() {
            session.replies.forget();
        } else if frames > 0 {
            let receivers = if few { &self.touched[..] } else { &[] };
            let answered = self.has_acks().then_some(&session.replies);
            let receivers = receivers.iter().map(|receiver| &receiver.replies);
            poller.exchanged(&session.replies, receivers.chain(answered));
        }
    }
}
