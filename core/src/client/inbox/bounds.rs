//! The bounds of an inbox.

use crate::client::config::Config;
use crate::frame::Frame;

/// Receiving continues when this fraction of a bound is free, or [`MOST_ROOM`] if that is less. If it continued with
/// the first free byte, it would receive only a few frames each time.
const ROOM_SHARE: usize = 16;
/// Maximum free room at which receiving continues, in bytes.
const MOST_ROOM: usize = 32 * 1024;

/// A number of frames, and the bytes that they hold in memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Amount {
    pub(crate) frames: usize,
    pub(crate) bytes: usize,
}

impl Amount {
    pub(super) fn of(frame: &Frame) -> Amount {
        Amount { frames: 1, bytes: frame.body_len() + size_of::<Frame>() }
    }

    pub(super) fn add(&mut self, other: Amount) {
        self.frames += other.frames;
        self.bytes += other.bytes;
    }

    pub(super) fn sub(&mut self, other: Amount) {
        self.frames -= other.frames;
        self.bytes -= other.bytes;
    }
}

/// The bounds of an inbox, in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// A lane is full when it holds this much.
    pub(super) lane: usize,
    /// Number of additional bytes that may wait while the program awaits something that arrives after these frames.
    pub(super) awaiting: usize,
}

impl Bounds {
    pub(super) fn new(config: &Config) -> Bounds {
        Bounds { lane: config.inbox_bytes, awaiting: config.inbox_awaiting_bytes }
    }

    /// Returns the number of free bytes at which receiving continues.
    pub(super) fn room(self) -> usize {
        (self.lane / ROOM_SHARE).clamp(1, MOST_ROOM)
    }
}
