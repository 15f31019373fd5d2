//! A sender that waits for room in the queue of one receiver.

use super::outbound_frame::OutboundFrame;
use super::outbox::{NO_BATCH, Outbox, Push, Sink};
use super::slow_receiver::{Verdict, Wanted};
use crate::transport::Load;
use std::task::{Context, Poll, Waker};

/// Held senders are read again when this many bytes are free, or a sixteenth of the budget if that is less.
const RESUME_BYTES: usize = 64 * 1024;
const RESUME_PART: usize = 16;

/// The result for a frame that found the queue full and then waited or was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LatePush {
    Queued,
    Dropped,
    Gone,
}

/// A sender that waits for room in an outbox.
pub(super) struct HeldSender<'a> {
    outbox: &'a Outbox,
    ticket: u64,
    /// The waker that is registered with the inbox of a client in this process.
    waker: Option<Waker>,
}

impl HeldSender<'_> {
    /// Counts a sender that waits for room in `outbox`, until the value is dropped. Senders with earlier tickets are
    /// woken first.
    pub(super) fn new(outbox: &Outbox, ticket: u64) -> HeldSender<'_> {
        outbox.add_held_sender();
        HeldSender { outbox, ticket, waker: None }
    }

    /// Queues a frame that found the queue full, or drops and counts it, or registers the waker and waits.
    pub(super) fn poll_push(
        &mut self,
        frame: &OutboundFrame<'_>,
        wanted: Wanted,
        cx: &mut Context<'_>,
    ) -> Poll<LatePush> {
        let outbox = self.outbox;
        loop {
            match outbox.push(frame, NO_BATCH) {
                Push::Queued | Push::QueuedFirst => {
                    outbox.flush();
                    return Poll::Ready(LatePush::Queued);
                }
                Push::Gone => return Poll::Ready(LatePush::Gone),
                Push::Full => {}
            }
            match outbox.verdict(wanted) {
                Verdict::Wait => {}
                Verdict::DropOldest if outbox.push_over_oldest(frame) => {
                    return Poll::Ready(LatePush::Queued);
                }
                Verdict::Drop | Verdict::DropOldest => {
                    outbox.count_dropped(1, frame.wire_len() as u64);
                    return Poll::Ready(LatePush::Dropped);
                }
            }
            // Ready means that there may be room now.
            match self.poll_room(Some(frame), cx) {
                Poll::Ready(true) => {}
                Poll::Ready(false) => return Poll::Ready(LatePush::Gone),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Ready with true when there is room for `frame` and a little more, and with false when the client has left. Else
    /// the waker is woken when there may be room.
    pub(super) fn poll_room(
        &mut self,
        frame: Option<&OutboundFrame<'_>>,
        cx: &mut Context<'_>,
    ) -> Poll<bool> {
        match self.outbox.sink() {
            Sink::Socket(writer) => {
                let budget = self.outbox.budget();
                let frames = budget.frames - budget.frames / RESUME_PART;
                let len = frame.map_or(0, OutboundFrame::wire_len);
                let spare = RESUME_BYTES.min(budget.bytes / RESUME_PART).max(len);
                let bytes = budget.bytes.saturating_sub(spare);
                writer.poll_below(self.ticket, Load { frames: frames.max(1), bytes: bytes.max(1) }, cx)
            }
            Sink::InProcess(client) => {
                let Some(frame) = frame else { return Poll::Ready(true) };
                if !self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                    self.forget();
                    self.waker = Some(cx.waker().clone());
                }
                let (kind, first) = frame.lane_key();
                client.poll_room(kind, first, cx)
            }
            Sink::Broker => Poll::Ready(true),
        }
    }

    fn forget(&mut self) {
        match (self.outbox.sink(), self.waker.take()) {
            (Sink::Socket(writer), _) => writer.forget_waiter(self.ticket),
            (Sink::InProcess(client), Some(waker)) => client.inbox.forget_room(&waker),
            _ => {}
        }
    }
}

impl Drop for HeldSender<'_> {
    fn drop(&mut self) {
        self.outbox.remove_held_sender();
        self.forget();
    }
}
