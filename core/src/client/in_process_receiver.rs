//! The receiving side of a client within the broker's process, to which the broker passes frames.

use super::client_state::ClientState;
use super::effects::DeferredEffects;
use super::events::Event;
use super::inbox::End;
use crate::error::ErrorKind;
use crate::frame::Frame;
use crate::proto::op::FrameKind;
use std::task::{Context, Poll};

impl ClientState {
    /// Completes the call that `frame` answers, or queues the frame. It runs wakers, event callbacks and loggers: the
    /// caller must hold no lock.
    ///
    /// # Errors
    ///
    /// The frame itself if there is no room.
    pub(crate) fn push(&self, frame: Frame) -> Result<(), Frame> {
        let mut effects = DeferredEffects::default();
        let result = self.push_deferred(frame, &mut effects);
        effects.settle();
        result
    }

    /// Does the same as [`push`](ClientState::push), but adds effects that must happen without a lock to `effects`.
    ///
    /// # Errors
    ///
    /// The errors of [`push`](ClientState::push).
    pub(super) fn push_deferred(&self, frame: Frame, effects: &mut DeferredEffects) -> Result<(), Frame> {
        #[cfg(feature = "rpc")]
        let frame = match self.calls.take(frame) {
            Ok(reply) => {
                self.inbox.count_replies(std::iter::once(&reply.1));
                effects.reply(reply);
                return Ok(());
            }
            Err(frame) => frame,
        };
        let dropped = self.inbox.push(frame, || self.awaits_reply(), effects)?;
        effects.tell_dropped(&self.events, dropped);
        Ok(())
    }

    /// Does the same as [`Inbox::poll_room`](super::inbox::Inbox::poll_room).
    pub(crate) fn poll_room(&self, kind: FrameKind, first: Option<u8>, cx: &mut Context<'_>) -> Poll<bool> {
        self.inbox.poll_room(kind, first, || self.awaits_reply(), cx)
    }

    /// Drops the oldest publication or broadcast for which `may_go` returns true, and reports it to the listeners of
    /// events. Returns false if there is none. Messages are never dropped.
    ///
    /// `may_go` runs under the lock of the inbox.
    pub(crate) fn drop_oldest_where(&self, may_go: impl Fn(&Frame) -> bool) -> bool {
        let dropped = self.inbox.drop_oldest_where(may_go);
        if dropped && self.events.is_heard() {
            self.events.tell(Event::Dropped { frames: 1 });
        }
        dropped
    }

    /// Ends the client; further calls do nothing. Event callbacks and wakers run on this thread: the caller must hold
    /// no lock. A panic in one of them is logged, and does not affect the others.
    pub(crate) fn close(&self, reason: ErrorKind) {
        self.end(End::new(reason, "the broker ended the connection"));
    }
}
