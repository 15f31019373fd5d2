//! The frames of a client as the program takes them.

use super::inbox::{Inbox, LANE_FRAMES};
use super::lane::{Attached, Lane, Took};
use super::wait::Wait;
use super::wake::WakeUp;
use crate::error::{Error, ErrorKind, Result};
use crate::frame::Frame;
use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

/// The frames that a client receives, in the order received.
///
/// A client has one such value. It may be moved to another thread, and is used by one thread at a time. It needs no
/// runtime, except that [`recv`](Frames::recv) requires that tokio is not shut down before the client.
///
/// It does not keep the connection open: when the last [`Client`](super::Client) is dropped, it yields the frames
/// that have been received, then ends. Frames that arrive after it was dropped are discarded. In a child made by fork
/// it yields nothing.
pub struct Frames {
    // Field order: the held frames must be given back before the consumer is detached.
    lane: Lane<VecDeque<Frame>>,
    _attached: Attached,
}

impl Frames {
    pub(crate) fn attach(inbox: &Arc<Inbox>) -> Result<Frames> {
        let Some(attached) = Attached::first(inbox) else {
            return Err(Error::new(ErrorKind::Busy, "the frames of this client are taken already"));
        };
        Ok(Frames { lane: Lane::new(&attached, LANE_FRAMES, VecDeque::new()), _attached: attached })
    }

    /// Waits for the next frame. Returns `None` when the connection has ended and all received frames have been
    /// taken. Cancel safe: dropping the future never loses a frame. A task that takes frames in a loop yields to
    /// other tasks about once a millisecond, even if many frames are waiting.
    pub async fn recv(&mut self) -> Option<Frame> {
        self.lane.recv().await
    }

    /// Returns the next frame if one is waiting.
    pub fn try_recv(&mut self) -> Option<Frame> {
        self.lane.try_recv()
    }

    /// Does the same as [`recv`](Frames::recv), for hand-written futures and for threads without a runtime. It does
    /// not yield.
    pub fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<Frame>> {
        self.lane.poll_recv(cx)
    }

    /// Appends waiting frames to `frames`: at most `max_frames`, and no more after the frame with which their bodies
    /// reach `max_bytes`. Both bounds count as at least 1. Never waits. Returns the number of appended frames, or
    /// `None` when the connection has ended and all received frames have been taken.
    ///
    /// If fewer frames were waiting than the bounds allow, the [wake-up](Frames::set_wake_up) happens as soon as
    /// there are more. If a bound was reached, call it again before waiting for the wake-up.
    ///
    /// For the broker, a frame is handled when it is taken. A program that works on a batch for longer than the
    /// broker's hold time (750 ms) should take smaller ones, because it would count as a receiver that reads nothing
    /// in that time.
    pub fn take_batch(
        &mut self,
        frames: &mut Vec<Frame>,
        max_frames: usize,
        max_bytes: usize,
    ) -> Option<usize> {
        self.lane.take_batch(collect(frames, max_frames, max_bytes))
    }

    /// Does the same as [`take_batch`](Frames::take_batch), but is pending until there is a frame.
    pub fn poll_batch(
        &mut self,
        cx: &mut Context<'_>,
        frames: &mut Vec<Frame>,
        max_frames: usize,
        max_bytes: usize,
    ) -> Poll<Option<usize>> {
        self.lane.poll_batch(cx, collect(frames, max_frames, max_bytes))
    }

    /// Does the same as [`take_batch`](Frames::take_batch), but waits on this thread for the first frame. Returns
    /// `Some(0)` when the time of `wait` is over.
    ///
    /// # Errors
    ///
    /// The error of the check in `wait`. No frame is taken then.
    pub fn wait_batch(
        &mut self,
        frames: &mut Vec<Frame>,
        max_frames: usize,
        max_bytes: usize,
        wait: Wait<'_>,
    ) -> Result<Option<usize>> {
        self.lane.wait_batch(wait, collect(frames, max_frames, max_bytes))
    }

    /// Waits on this thread for the next frame. Returns `None` when the time of `wait` is over, and `Some(None)` if
    /// there will be no more frames.
    #[cfg(feature = "blocking")]
    pub(crate) fn wait_recv(&mut self, wait: Wait<'_>) -> Result<Option<Option<Frame>>> {
        self.lane.wait_recv(wait)
    }

    /// Sets the wake-up that tells the program that [`take_batch`](Frames::take_batch) has something to take or that
    /// the connection has ended: a waker, or a [`WakeFd`](super::WakeFd) for an event loop. It happens once after
    /// each time that `take_batch` has found no more frames, and once immediately if frames are waiting.
    pub fn set_wake_up(&mut self, wake_up: impl Into<WakeUp>) {
        self.lane.set_wake_up(wake_up.into());
    }
}

/// Returns a function that appends to `frames` within the bounds of a batch.
fn collect(frames: &mut Vec<Frame>, max_frames: usize, max_bytes: usize) -> impl FnMut(Frame) -> Took {
    let (mut count, mut bytes) = (0, 0);
    move |frame| {
        count += 1;
        bytes += frame.body_len();
        frames.push(frame);
        if count >= max_frames || bytes >= max_bytes { Took::Last } else { Took::More }
    }
}

impl Drop for Frames {
    fn drop(&mut self) {
        self.lane.give_back();
    }
}

impl fmt::Debug for Frames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frames").field("batch", &self.lane.held()).finish_non_exhaustive()
    }
}
