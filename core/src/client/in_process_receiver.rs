//! A client within the broker's process, as the broker sees it: the place where it puts frames.

use super::client_state::ClientState;
use super::effects::DeferredEffects;
use super::events::Event;
use super::inbox::End;
use crate::error::ErrorKind;
use crate::frame::Frame;
use crate::proto::op::FrameKind;
use std::task::{Context, Poll};

impl ClientState {
    /// Completes the call that `frame` answers, or queues it. Runs wakers, event callbacks and loggers: the caller
    /// holds no lock.
    ///
    /// # Errors
    /// The frame itself when there is no room.
    pub(crate) fn push(&self, frame: Frame) -> Result<(), Frame> {
        let mut effects = DeferredEffects::default();
        let result = self.push_deferred(frame, &mut effects);
        effects.settle();
        result
    }

    /// Does the same as [`push`](ClientState::push). What has to happen without a lock is added to `effects`.
    ///
    /// # Errors
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

    /// Drops the oldest publication or broadcast that `may_go`, and tells the listeners of events; false when there is
    /// none. Messages stay.
    ///
    /// `may_go` runs under the lock of the inbox.
    pub(crate) fn drop_oldest_where(&self, may_go: impl Fn(&Frame) -> bool) -> bool {
        let dropped = self.inbox.drop_oldest_where(may_go);
        if dropped && self.events.is_heard() {
            self.events.tell(Event::Dropped { frames: 1 });
        }
        dropped
    }

    /// Ends the client, once. Event callbacks run on this thread, wakers too: the caller holds no lock. A panic in one
    /// of them is logged, and the others are told all the same.
    pub(crate) fn close(&self, reason: ErrorKind) {
        self.end(End::new(reason, "the broker ended the connection"));
    }
}
