//! The frames that a client receives.

use super::owner::Owner;
use crate::client::{self, Wait, WakeUp};
use crate::error::{Error, ErrorKind, Result};
use crate::frame::Frame;
use std::time::Duration;

/// The frames that a client receives; see [`crate::client::Frames`]. The value may be moved to another thread. As an
/// iterator, it waits for each frame and ends with the connection.
#[derive(Debug)]
pub struct Frames {
    inner: client::Frames,
    owner: Owner,
}

impl Frames {
    pub(super) fn new(inner: client::Frames, owner: Owner) -> Frames {
        Frames { inner, owner }
    }

    /// Waits for the next frame. Returns `None` when the connection has ended and all received frames have been
    /// taken.
    ///
    /// # Errors
    ///
    /// [`NotSupported`](ErrorKind::NotSupported) where blocking clients cannot be used.
    pub fn recv(&mut self) -> Result<Option<Frame>> {
        self.recv_with(Wait::forever())
    }

    /// Does the same as [`recv`](Frames::recv), but waits no longer than `timeout`.
    ///
    /// # Errors
    /// The errors of [`recv`](Frames::recv), and [`Timeout`](ErrorKind::Timeout) when no frame came.
    pub fn recv_timeout(&mut self, timeout: Duration) -> Result<Option<Frame>> {
        self.recv_with(Wait::at_most(timeout))
    }

    /// Does the same as [`recv`](Frames::recv), but waits at most for the time of `wait`.
    ///
    /// # Errors
    /// The errors of [`recv_timeout`](Frames::recv_timeout), and the error of the check in `wait`.
    pub fn recv_with(&mut self, wait: Wait<'_>) -> Result<Option<Frame>> {
        self.owner.check_may_wait()?;
        let received = self.inner.wait_recv(wait)?;
        received.ok_or_else(|| Error::new(ErrorKind::Timeout, "no frame came"))
    }

    /// Returns the next frame if one is waiting.
    pub fn try_recv(&mut self) -> Option<Frame> {
        self.inner.try_recv()
    }

    /// Waits for frames and appends them to `frames`: at most `max_frames`, and no more after the frame with which
    /// their bodies reach `max_bytes`. Both bounds count as at least 1. Returns the number of appended frames, 0 when
    /// the time of `wait` is over, and `None` when the connection has ended and all received frames have been taken.
    ///
    /// # Errors
    ///
    /// [`NotSupported`](ErrorKind::NotSupported) where blocking clients cannot be used, and the error of the check in
    /// `wait`.
    pub fn wait_batch(
        &mut self,
        frames: &mut Vec<Frame>,
        max_frames: usize,
        max_bytes: usize,
        wait: Wait<'_>,
    ) -> Result<Option<usize>> {
        self.owner.check_may_wait()?;
        self.inner.wait_batch(frames, max_frames, max_bytes, wait)
    }

    /// Does the same as [`wait_batch`](Frames::wait_batch), but never waits: see [`client::Frames::take_batch`].
    pub fn take_batch(
        &mut self,
        frames: &mut Vec<Frame>,
        max_frames: usize,
        max_bytes: usize,
    ) -> Option<usize> {
        self.inner.take_batch(frames, max_frames, max_bytes)
    }

    /// Sets the wake-up that tells an event loop that [`take_batch`](Frames::take_batch) has something to take: see
    /// [`client::Frames::set_wake_up`].
    pub fn set_wake_up(&mut self, wake_up: impl Into<WakeUp>) {
        self.inner.set_wake_up(wake_up);
    }
}

impl Iterator for Frames {
    type Item = Frame;

    fn next(&mut self) -> Option<Frame> {
        match self.recv() {
            Ok(frame) => frame,
            Err(e) => {
                log::error!("no more frames: {e}");
                None
            }
        }
    }
}
