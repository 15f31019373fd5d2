//! Frames in a row, read together, that go to the same receivers: they are appended to each queue in one piece.
//! Taking a queue's lock is most of what a delivery costs otherwise.

use super::registry::Audience;
use super::session::Session;
use crate::proto::delivery::Delivery;
use crate::transport::queue::LARGE_PAYLOAD;
use std::sync::Arc;

/// What a run may have: enough to spread the cost of a lock, little enough to stay in a core's cache.
const MAX_FRAMES: usize = 256;
const MAX_BYTES: usize = 64 * 1024;

/// Whom a run goes to.
#[derive(Clone, Copy)]
pub(super) enum Receivers<'r> {
    One(&'r Arc<Session>),
    Many(&'r Audience),
}

/// The same, kept.
enum Kept {
    One(Arc<Session>),
    Many(Audience),
}

impl Kept {
    fn are(&self, receivers: Receivers<'_>) -> bool {
        match (self, receivers) {
            (Kept::One(kept), Receivers::One(other)) => Arc::ptr_eq(kept, other),
            (Kept::Many(kept), Receivers::Many(other)) => Arc::ptr_eq(kept, other),
            _ => false,
        }
    }

    fn as_slice(&self) -> &[Arc<Session>] {
        match self {
            Kept::One(one) => std::slice::from_ref(one),
            Kept::Many(many) => many,
        }
    }
}

/// Frames of one client that are not delivered yet, and that nobody waits for.
pub(super) struct Run<'a> {
    sender: &'a str,
    receivers: Option<Kept>,
    frames: Vec<Delivery<'a>>,
    bytes: usize,
}

impl<'a> Run<'a> {
    /// An empty one.
    pub(super) fn new(sender: &'a str) -> Run<'a> {
        Run { sender, receivers: None, frames: Vec::new(), bytes: 0 }
    }

    pub(super) fn sender(&self) -> &'a str {
        self.sender
    }

    /// Whether a frame with that payload is one for runs at all.
    pub(super) fn suits(payload: &[u8]) -> bool {
        payload.len() < LARGE_PAYLOAD
    }

    /// Whether another frame for `receivers` may be added.
    pub(super) fn has_room_for(&self, receivers: Receivers<'_>) -> bool {
        self.receivers.as_ref().is_none_or(|kept| kept.are(receivers))
            && self.frames.len() < MAX_FRAMES
            && self.bytes < MAX_BYTES
    }

    pub(super) fn add(&mut self, frame: &Delivery<'a>, receivers: Receivers<'_>) {
        self.receivers.get_or_insert_with(|| match receivers {
            Receivers::One(one) => Kept::One(one.clone()),
            Receivers::Many(many) => Kept::Many(many.clone()),
        });
        self.bytes += frame.wire_len();
        self.frames.push(*frame);
    }

    /// The receivers and the frames; `None` if there are none.
    pub(super) fn content(&self) -> Option<(&[Arc<Session>], &[Delivery<'a>])> {
        Some((self.receivers.as_ref()?.as_slice(), &self.frames))
    }

    /// Empties it.
    pub(super) fn clear(&mut self) {
        self.receivers = None;
        self.frames.clear();
        self.bytes = 0;
    }

    /// Empties it, and returns the frames.
    pub(super) fn take_frames(&mut self) -> Vec<Delivery<'a>> {
        let frames = std::mem::take(&mut self.frames);
        self.clear();
        frames
    }
}

/// A run as it goes over the wire.
#[derive(Debug, Default)]
pub(super) struct Bundle {
    pub(super) bytes: Vec<u8>,
    /// The length of each frame.
    pub(super) lens: Vec<u64>,
}

impl Bundle {
    /// Encodes `frames` instead of what was in it before.
    pub(super) fn encode(&mut self, frames: &[Delivery<'_>]) {
        self.bytes.clear();
        self.lens.clear();
        for frame in frames {
            frame.encode(&mut self.bytes);
            self.lens.push(frame.wire_len() as u64);
        }
    }

    /// Lets go of what an idle client should not hold.
    pub(super) fn release(&mut self) {
        if self.bytes.capacity() > 1024 {
            *self = Bundle::default();
        }
    }
}
