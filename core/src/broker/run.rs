//! Frames in a row, read together, that go to the same receivers: they are appended to each queue in one piece.
//! Taking a queue's lock is most of what a delivery costs otherwise.

use super::registry::{Audience, Registry};
use super::session::Session;
use crate::proto::delivery::Delivery;
use crate::proto::op::FrameKind;
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
    /// What the frames are addressed to: a name, a mask or a topic.
    key: &'a str,
    /// Of when it was looked up.
    generation: u64,
    receivers: Option<Kept>,
    frames: Vec<Delivery<'a>>,
    bytes: usize,
}

impl<'a> Run<'a> {
    /// An empty one.
    pub(super) fn new(sender: &'a str) -> Run<'a> {
        Run { sender, key: "", generation: 0, receivers: None, frames: Vec::new(), bytes: 0 }
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

    /// Adds a frame that is addressed to `key`, which at `generation` stood for `receivers`.
    pub(super) fn add(
        &mut self,
        frame: &Delivery<'a>,
        key: &'a str,
        generation: u64,
        receivers: Receivers<'_>,
    ) {
        if self.receivers.is_none() {
            (self.key, self.generation) = (key, generation);
            self.receivers = Some(match receivers {
                Receivers::One(one) => Kept::One(one.clone()),
                Receivers::Many(many) => Kept::Many(many.clone()),
            });
        }
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

    /// Of when the receivers were looked up.
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// Empties it: what is left for those who did not get it.
    pub(super) fn leave(&mut self, receivers: Vec<Arc<Session>>) -> Rest<'a> {
        let frames = std::mem::take(&mut self.frames);
        let rest = Rest { key: self.key, generation: self.generation, receivers, frames };
        self.clear();
        rest
    }
}

/// Frames of a run that go one by one.
pub(super) struct Rest<'a> {
    pub(super) key: &'a str,
    pub(super) generation: u64,
    pub(super) receivers: Vec<Arc<Session>>,
    pub(super) frames: Vec<Delivery<'a>>,
}

impl Rest<'_> {
    /// Looks up the receivers anew if anything has changed: nobody gets what it has ended meanwhile. False when
    /// there is nobody left, or the sender may not send this any more.
    pub(super) fn refresh(&mut self, registry: &Registry, session: &Session) -> bool {
        let generation = registry.generation();
        if generation != self.generation {
            self.generation = generation;
            match self.frames.first().map(|frame| frame.kind) {
                Some(FrameKind::Message) => {
                    self.receivers = registry.target(session, self.key).into_iter().collect();
                }
                kind => {
                    let now = match kind {
                        Some(FrameKind::Broadcast) => registry.matching_names(session, self.key),
                        _ => registry.subscribers(Some(session), self.key),
                    };
                    let now = now.unwrap_or_else(|_| [].into());
                    self.receivers.retain(|one| now.iter().any(|other| Arc::ptr_eq(one, other)));
                }
            }
        }
        !self.receivers.is_empty()
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
