//! What the broker needs of the inbox of a client within its process.

use super::state::{Aftermath, Consumer};
use super::{End, Inbox};
use crate::client::events::Event;
use crate::client::policy::Overflow;
use crate::error::ErrorKind;
use crate::frame::Frame;
use std::sync::atomic::Ordering;

impl Inbox {
    /// Completes the call that `frame` answers, or queues it.
    ///
    /// # Errors
    /// The frame itself when there is no room.
    pub(crate) fn push(&self, frame: Frame) -> Result<(), Frame> {
        let Some(frame) = self.complete(frame) else { return Ok(()) };
        let mut after = Aftermath::default();
        let mut state = self.state.lock();
        let full = state.is_full(self.budget)
            && self.overflow == Overflow::Wait
            && state.consumer == Consumer::Present
            && !state.sealed
            && state.end.is_none();
        if full && (state.waiting.bytes >= self.overrun_bytes || !self.is_awaited()) {
            return Err(frame);
        }
        state.append(frame, self.budget, self.overflow, &mut after);
        drop(state);
        after.settle(&self.events);
        Ok(())
    }

    /// Waits until [`push`](Inbox::push) would take a frame; `false` when the inbox has ended.
    pub(crate) async fn wait_room(&self) -> bool {
        self.wait_room_unless(|| false).await
    }

    /// How many frames the program has taken since the beginning.
    pub(crate) fn progress(&self) -> u64 {
        self.taken.iter().map(|taken| taken.load(Ordering::Relaxed)).sum()
    }

    /// Frames received so far and the bytes of their bodies.
    pub(crate) fn received(&self) -> (u64, u64) {
        self.state.lock().received
    }

    /// Frames that wait and the bytes they hold.
    pub(crate) fn load(&self) -> (usize, usize) {
        let waiting = self.state.lock().waiting;
        (waiting.frames, waiting.bytes)
    }

    /// Drops the oldest frame of the longest lane; `false` when there is none.
    pub(crate) fn drop_oldest(&self) -> bool {
        let mut state = self.state.lock();
        let Some(frame) = state.drop_oldest() else { return false };
        drop(state);
        drop(frame);
        if self.events.is_heard() {
            self.events.tell(Event::Dropped { frames: 1 });
        }
        true
    }

    /// Ends the inbox, once.
    pub(crate) fn close(&self, reason: ErrorKind) {
        self.end(End::new(reason, "the broker ended the connection"));
    }
}
