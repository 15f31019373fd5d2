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
    /// Queues a frame. What has to happen without a lock is added to `effects`, which may have collected from other
    /// inboxes already. Returns how many frames were dropped. `awaited` returns whether the program awaits an answer.
    ///
    /// # Errors
    /// The frame itself when there is no room.
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

    /// Ready with true when [`push`](Inbox::push) would take a frame of that kind whose payload begins with `first`,
    /// with false when the inbox has ended. For one task that waits for many inboxes. Registers the waker until it is
    /// woken, once for each task, which happens when there is room worth telling. The caller takes back the
    /// registration with [`forget_room`](Inbox::forget_room) when it waits no longer, or it costs a wake-up later and
    /// keeps the task's memory until then. Clones and drops wakers: the caller holds no lock.
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
        // The second look sees what has changed before the waker was registered.
        if must_wait() {
            self.room.register(cx.waker());
            if must_wait() {
                return Poll::Pending;
            }
        }
        Poll::Ready(!self.has_ended())
    }

    /// Takes back the registration of [`poll_room`](Inbox::poll_room).
    pub(crate) fn forget_room(&self, waker: &Waker) {
        self.room.forget(waker);
    }

    /// Wakes everything that waits for room: what it waits for may have changed.
    pub(crate) fn wake_room(&self) {
        self.room.tell();
    }

    /// The bound of a lane. The number of frames is not bounded.
    pub(crate) fn budget(&self) -> Load {
        Load { frames: usize::MAX, bytes: self.bounds.lane }
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

    /// Drops the oldest publication or broadcast that `may_go`; `false` when there is none. Messages stay.
    ///
    /// `may_go` runs under the lock of this inbox.
    pub(in crate::client) fn drop_oldest_where(&self, may_go: impl Fn(&Frame) -> bool) -> bool {
        let frame = self.state.lock().drop_oldest_where(may_go);
        frame.map(discard).is_some()
    }
}
