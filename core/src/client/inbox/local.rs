//! What the broker needs of the inbox of a client within its process.

use super::state::State;
use super::{End, Inbox};
use crate::client::effects::{DeferredEffects, discard};
use crate::client::events::Event;
use crate::client::policy::Overflow;
use crate::error::ErrorKind;
use crate::frame::Frame;
use crate::proto::op::FrameKind;
use crate::transport::Load;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};

/// A task finishes operations of the client, until the value is dropped. If the client ends in that time, the listeners
/// of events are told when it is dropped.
pub(crate) struct Finishing(Arc<Inbox>);

impl Drop for Finishing {
    fn drop(&mut self) {
        if self.0.finishing.fetch_sub(1, Ordering::SeqCst) == 1 && self.0.has_ended() {
            self.0.tell_end();
        }
    }
}

impl Inbox {
    /// Declares that a task finishes operations.
    pub(crate) fn begin_finishing(self: &Arc<Self>) -> Finishing {
        self.finishing.fetch_add(1, Ordering::SeqCst);
        Finishing(self.clone())
    }

    /// Returns whether a task finishes operations.
    pub(super) fn is_finishing(&self) -> bool {
        self.finishing.load(Ordering::SeqCst) > 0
    }

    /// Completes the call that `frame` answers, or queues it. Runs wakers, event callbacks and loggers: the
    /// caller holds no lock.
    ///
    /// # Errors
    /// The frame itself when there is no room.
    pub(crate) fn push(&self, frame: Frame) -> Result<(), Frame> {
        let mut effects = DeferredEffects::default();
        let result = self.push_deferred(frame, &mut effects);
        effects.settle();
        result
    }

    /// As [`push`](Inbox::push), for a caller that holds a lock. What has to happen after it is added to
    /// `effects`, which may have collected from other inboxes already.
    ///
    /// # Errors
    /// As [`push`](Inbox::push).
    pub(crate) fn push_deferred(&self, frame: Frame, effects: &mut DeferredEffects) -> Result<(), Frame> {
        #[cfg(feature = "rpc")]
        let frame = match self.take_call(frame) {
            Ok((caller, frame)) => {
                self.count_replies(std::iter::once(&frame));
                effects.reply(caller, frame);
                return Ok(());
            }
            Err(frame) => frame,
        };
        let mut state = self.state.lock();
        let lane = state.lane_of(frame.kind(), frame.payload().first().copied());
        if self.overflow == Overflow::Wait
            && let Some(lane) = lane
            && self.is_full(&state, lane)
        {
            return Err(frame);
        }
        let dropped = state.append(frame, self.bounds, self.overflow, effects);
        drop(state);
        effects.tell_dropped(&self.events, dropped);
        Ok(())
    }

    /// Returns whether a frame must wait for room in this lane.
    fn is_full(&self, state: &State, lane: usize) -> bool {
        let (waiting, bound) = (state.lane_bytes(lane), self.bounds.lane);
        waiting >= bound
            && state.holds_back()
            && (waiting >= bound.saturating_add(self.bounds.awaiting) || !self.is_awaited())
    }

    /// Ready with true when [`push`](Inbox::push) would take a frame of that kind whose payload begins with `first`,
    /// with false when the inbox has ended. For one task that waits for many inboxes. Registers the waker until it is
    /// woken, once for each task, which happens when there is room worth telling. The caller takes back the
    /// registration with [`forget_room`](Inbox::forget_room) when it waits no longer, or it costs a wake-up later and
    /// keeps the task's memory until then. Clones and drops wakers: the caller holds no lock.
    pub(crate) fn poll_room(&self, kind: FrameKind, first: Option<u8>, cx: &mut Context<'_>) -> Poll<bool> {
        let must_wait = || {
            if self.overflow != Overflow::Wait {
                return false;
            }
            let mut state = self.state.lock();
            let full = state.lane_of(kind, first).is_some_and(|lane| self.is_full(&state, lane));
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
    pub(crate) fn drop_oldest_where(&self, may_go: impl Fn(&Frame) -> bool) -> bool {
        let frame = self.state.lock().drop_oldest_where(may_go);
        self.count_dropped(frame)
    }

    /// Frees a frame that was dropped, and tells the listeners.
    fn count_dropped(&self, frame: Option<Frame>) -> bool {
        let Some(frame) = frame else { return false };
        discard(frame);
        if self.events.is_heard() {
            self.events.tell(Event::Dropped { frames: 1 });
        }
        true
    }

    /// Ends the inbox, once. Event callbacks run on this thread, wakers too: the caller holds no lock. A panic
    /// in one of them is logged, and the others are told all the same.
    pub(crate) fn close(&self, reason: ErrorKind) {
        self.end(End::new(reason, "the broker ended the connection"));
    }
}
