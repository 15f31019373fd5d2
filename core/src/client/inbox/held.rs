//! Frames that were taken from a lane and not handed to the program yet.

use crate::frame::Frame;
use std::collections::VecDeque;
#[cfg(feature = "rpc")]
use {parking_lot::Mutex, std::sync::Arc};

/// The place of the frames that a taker has taken from its lane and not handed out yet.
pub(crate) trait Held {
    /// Removes the next frame.
    fn next(&mut self) -> Option<Frame>;

    /// Returns whether there is none.
    fn is_empty(&self) -> bool;

    /// Lets `fill` add frames. Returns what it returns: how many.
    fn fill(&mut self, fill: impl FnOnce(&mut VecDeque<Frame>) -> usize) -> usize;

    /// Keeps everything from being freed, in a child made by fork.
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
/// Lock order: the inbox first.
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
