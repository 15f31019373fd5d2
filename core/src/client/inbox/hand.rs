//! The frames that an RPC server has taken from a lane and not handled yet.

use crate::frame::Frame;
use parking_lot::Mutex;
use std::collections::VecDeque;

/// Frames taken from one lane. They are shared with the inbox, so that a server that takes over gets them.
///
/// Lock order: the inbox first.
#[derive(Debug, Default)]
pub(crate) struct Hand(Mutex<VecDeque<Frame>>);

impl Hand {
    /// Removes the next frame.
    #[inline]
    pub(crate) fn next(&self) -> Option<Frame> {
        self.0.lock().pop_front()
    }

    /// Removes all frames.
    pub(super) fn take(&self) -> VecDeque<Frame> {
        std::mem::take(&mut *self.0.lock())
    }

    /// Lets `fill` add frames.
    pub(super) fn fill(&self, fill: impl FnOnce(&mut VecDeque<Frame>) -> usize) -> usize {
        fill(&mut self.0.lock())
    }

    /// How many frames there are.
    pub(crate) fn len(&self) -> usize {
        self.0.lock().len()
    }
}
