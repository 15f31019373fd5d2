//! What the broker needs of the inbox of a client within its process.

use super::state::Consumer;
use super::{End, Inbox};
use crate::client::effects::{DeferredEffects, discard};
use crate::client::events::Event;
use crate::client::policy::Overflow;
use crate::error::ErrorKind;
use crate::frame::Frame;
use crate::transport::Load;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};

impl Inbox {
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
                effects.reply(caller, frame);
                return Ok(());
            }
            Err(frame) => frame,
        };
        let mut state = self.state.lock();
        let full = state.is_full(self.budget)
            && self.overflow == Overflow::Wait
            && state.consumer == Consumer::Present
            && !state.sealed
            && state.end.is_none();
        if full && (state.waiting.bytes >= self.overrun_bytes || !self.is_awaited()) {
            return Err(frame);
        }
        let dropped = state.append(frame, self.budget, self.overflow, effects);
        drop(state);
        effects.tell_dropped(&self.events, dropped);
        Ok(())
    }

    /// Whether [`push`](Inbox::push) would take a frame: ready as soon as a sixteenth of the budget is free; false
    /// when the inbox has ended. For one task that waits for many inboxes. Registers the waker until it is woken,
    /// once for each task. The caller takes back the registration with
    /// [`forget_room`](Inbox::forget_room) when it waits no longer, or it costs a wake-up later and keeps the
    /// task's memory until then. Clones and drops wakers: the caller holds no lock.
    pub(crate) fn poll_room(&self, cx: &mut Context<'_>) -> Poll<bool> {
        let must_wait = || self.must_wait(|| false);
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

    /// What may wait before there is no room.
    pub(crate) fn budget(&self) -> Load {
        Load { frames: self.budget.frames, bytes: self.budget.bytes }
    }

    /// How many frames the program has taken since the beginning, and the bytes that they held in the queue,
    /// in the measure of [`load`](Inbox::load).
    pub(crate) fn taken(&self) -> (u64, u64) {
        self.taken.iter().fold((0, 0), |(frames, bytes), lane| {
            (frames + lane.frames.load(Ordering::Relaxed), bytes + lane.bytes.load(Ordering::Relaxed))
        })
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
