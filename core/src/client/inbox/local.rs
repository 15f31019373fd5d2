//! The parts of an inbox that the broker uses for a client within its process.

use super::Inbox;
use super::state::State;
use crate::client::effects::{DeferredEffects, discard};
use crate::client::policy::Overflow;
use crate::frame::Frame;
use crate::proto::op::FrameKind;
use crate::transport::Load;
use std::task::{Context, Poll, Waker};

impl Inbox {
    /// Queues a frame. Effects that must happen without a lock are added to `effects`, which may already hold those
    /// of other inboxes. Returns the number of dropped frames. `awaited` returns whether the program awaits an
    /// answer.
    ///
    /// # Errors
    ///
    /// The frame itself if there is no room.
    pub(in crate::client) fn push(
        &self,
        frame: Frame,
        awaited: impl FnOnce() -> bool,
        effects: &mut DeferredEffects,
    ) -> Result<u64, Frame> {
        let mut state = self.state.lock();
        let lane = state.lane_of(frame.kind(), frame.payload().first().copied());
        if self.overflow == Overflow::Wait
            && let Some(lane) = lane
            && self.is_full(&state, lane, awaited)
        {
            return Err(frame);
        }
        Ok(state.append(frame, self.bounds, self.overflow, effects))
    }

    /// Returns whether a frame must wait for room in this lane.
    fn is_full(&self, state: &State, lane: usize, awaited: impl FnOnce() -> bool) -> bool {
        let (waiting, bound) = (state.lane_bytes(lane), self.bounds.lane);
        waiting >= bound
            && state.holds_back()
            && (waiting >= bound.saturating_add(self.bounds.awaiting) || !(self.is_blocked() || awaited()))
    }

    /// Returns ready with true if [`push`](Inbox::push) would accept a frame of that kind whose payload begins with
    /// `first`, and with false if the inbox has ended. It is for one task that waits for many inboxes. Otherwise it
    /// registers the waker, once for each task, until the waker is woken, which happens when there is enough room. If
    /// the caller stops waiting, it must remove the registration with [`forget_room`](Inbox::forget_room); otherwise
    /// the registration causes a needless wake-up later and keeps the task's memory until then. It clones and drops
    /// wakers: the caller must hold no lock.
    pub(in crate::client) fn poll_room(
        &self,
        kind: FrameKind,
        first: Option<u8>,
        awaited: impl Fn() -> bool,
        cx: &mut Context<'_>,
    ) -> Poll<bool> {
        let must_wait = || {
            if self.overflow != Overflow::Wait {
                return false;
            }
            let mut state = self.state.lock();
            let full = state.lane_of(kind, first).is_some_and(|lane| self.is_full(&state, lane, &awaited));
            state.starved |= full;
            full
        };
        // The second check sees changes that happened before the waker was registered.
        if must_wait() {
            self.room.register(cx.waker());
            if must_wait() {
                return Poll::Pending;
            }
        }
        Poll::Ready(!self.has_ended())
    }

    /// Removes the registration of [`poll_room`](Inbox::poll_room).
    pub(crate) fn forget_room(&self, waker: &Waker) {
        self.room.forget(waker);
    }

    /// Wakes everything that waits for room, because the condition may have changed.
    pub(crate) fn wake_room(&self) {
        self.room.tell();
    }

    /// Returns the bound of a lane. The number of frames is not bounded.
    pub(crate) fn budget(&self) -> Load {
        Load { frames: usize::MAX, bytes: self.bounds.lane }
    }

    /// Returns the number of frames received so far, and the bytes of their bodies.
    pub(crate) fn received(&self) -> (u64, u64) {
        self.state.lock().received
    }

    /// Returns the number of waiting frames, and the bytes that they hold.
    pub(crate) fn load(&self) -> (usize, usize) {
        let waiting = self.state.lock().waiting;
        (waiting.frames, waiting.bytes)
    }

    /// Drops the oldest publication or broadcast for which `may_go` returns true. Returns false if there is none.
    /// Messages are never dropped.
    ///
    /// `may_go` runs under the lock of this inbox.
    pub(in crate::client) fn drop_oldest_where(&self, may_go: impl Fn(&Frame) -> bool) -> bool {
        let frame = self.state.lock().drop_oldest_where(may_go);
        frame.map(discard).is_some()
    }
}
