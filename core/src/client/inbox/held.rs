//! Frames that were taken from a lane but not yet passed to the program.

use crate::frame::Frame;
use std::collections::VecDeque;
#[cfg(feature = "rpc")]
use {parking_lot::Mutex, std::sync::Arc};

/// A place for the frames that a taker has taken from its lane but not yet passed on.
pub(crate) trait Held {
    /// Removes the next frame.
    fn next(&mut self) -> Option<Frame>;

    /// Returns true if there are no frames.
    fn is_empty(&self) -> bool;

    /// Lets `fill` add frames, and returns the number of frames that `fill` returns.
    fn fill(&mut self, fill: impl FnOnce(&mut VecDeque<Frame>) -> usize) -> usize;

    /// Leaks all frames, in a child made by fork.
    fn leak(&mut self);
}

impl Held for VecDeque<Frame> {
    #[inline]
    fn next(&mut self) -> Option<Frame> {
        self.pop_front()
    }

    fn is_empty(&self) -> bool {
        VecDeque::is_empty(self)
    }

    fn fill(&mut self, fill: impl FnOnce(&mut VecDeque<Frame>) -> usize) -> usize {
        fill(self)
    }

    fn leak(&mut self) {
        std::mem::forget(std::mem::take(self));
    }
}

/// Held frames that the inbox shares, so that a consumer that takes over gets them.
///
/// Lock order: first the inbox, then this.
#[cfg(feature = "rpc")]
#[derive(Debug, Default)]
pub(crate) struct Hand(Mutex<VecDeque<Frame>>);

#[cfg(feature = "rpc")]
impl Hand {
    /// Removes all frames.
    pub(super) fn take(&self) -> VecDeque<Frame> {
        std::mem::take(&mut *self.0.lock())
    }
}

#[cfg(feature = "rpc")]
impl Held for Arc<Hand> {
    #[inline]
    fn next(&mut self) -> Option<Frame> {
        self.0.lock().pop_front()
    }

    fn is_empty(&self) -> bool {
        self.0.lock().is_empty()
    }

    fn fill(&mut self, fill: impl FnOnce(&mut VecDeque<Frame>) -> usize) -> usize {
        fill(&mut self.0.lock())
    }

    fn leak(&mut self) {
        std::mem::forget(self.clone());
    }
}
