//! Delivers a client's frames to the queues of their receivers, by plain function calls as long as there is room.
//!
//! If a frame has to wait for a receiver, or the budget of this poll is used up, the rest is returned as a value. The
//! async functions of `distributor/waiting.rs` finish it.

mod waiting;

use super::audience::Audience;
use super::budget::{WorkBudget, price};
use super::core::Core;
use super::frame_batch::{FrameBatch, Receivers, Route, Undelivered};
use super::outbound_frame::{OutboundFrame, Scratch};
use super::outbox::Push;
use super::pending_writes::PendingWrites;
use super::session::Session;
use super::slow_receiver::{Verdict, Wanted};
use crate::error::ErrorKind;
use crate::proto::delivery::Delivery;
use crate::proto::op::{FrameKind, QoS};
use bytes::Bytes;
use std::sync::Arc;

/// Receivers that are served between two checks of the budget.
const PORTION: usize = 64;

/// The result of sending a frame.
pub(super) enum Sent<'a> {
    Done,
    Refused(ErrorKind),
    /// Earlier frames must be delivered first. The frame has not been sent to any receiver.
    AfterEarlier(Box<Undelivered<'a>>),
    /// These receivers do not have the frame yet: their queues are full, or the budget is used up.
    Remaining(Vec<Arc<Session>>),
}

/// One client's way to the queues of other clients.
pub(super) struct Distributor {
    pub(super) core: Arc<Core>,
    pub(super) session: Arc<Session>,
    /// The number under which this distributor promises to flush a queue.
    id: u32,
    pub(super) pending: PendingWrites,
    pub(super) budget: WorkBudget,
    scratch: Scratch,
}

impl Distributor {
    pub(super) fn new(core: Arc<Core>, session: Arc<Session>) -> Distributor {
        let id = core.next_batch_owner();
        let (pending, scratch) = (PendingWrites::default(), Scratch::default());
        Distributor { core, session, id, pending, budget: WorkBudget::new(), scratch }
    }

    /// Queues a frame for its receivers, or keeps it in the batch to be queued together with those that follow. A frame
    /// that needs an acknowledgement is not kept. `owner` is the shared memory that holds the payload, if any.
    #[inline]
    pub(super) fn send<'a>(
        &mut self,
        frame: &Delivery<'a>,
        route: Route<'_, 'a>,
        qos: QoS,
        batch: Option<&mut FrameBatch<'a>>,
        owner: Option<&Bytes>,
    ) -> Sent<'a> {
        if u32::try_from(frame.body_len()).is_err() {
            return Sent::Refused(ErrorKind::Data);
        }
        if let Some(batch) = batch {
            let waits = !qos.needs_ack() && FrameBatch::suits(frame.payload);
            if !(waits && batch.has_room_for(route.receivers))
                && let Some(undelivered) = self.deliver(batch)
            {
                return Sent::AfterEarlier(undelivered);
            }
            if waits {
                batch.add(frame, route);
                return Sent::Done;
            }
        }
        // The session may have ended while earlier frames waited, and its name may belong to a new client.
        if self.session.has_ended() {
            return Sent::Refused(ErrorKind::NotDelivered);
        }
        match route.receivers {
            Receivers::One(receiver) => self.send_to_one(receiver, &OutboundFrame::new(*frame, owner), qos),
            Receivers::Many(audience) if audience.is_empty() => Sent::Done,
            Receivers::Many(audience) => {
                let mut scratch = std::mem::take(&mut self.scratch);
                let outbound = OutboundFrame::for_many(*frame, owner, &mut scratch);
                let sent = self.send_to_many(audience, &outbound);
                self.scratch = scratch;
                sent
            }
        }
    }

    fn send_to_one<'a>(&mut self, receiver: &Arc<Session>, frame: &OutboundFrame<'_>, qos: QoS) -> Sent<'a> {
        if qos.needs_ack() && frame.is_message() && receiver.outbox.refuses_acknowledged() {
            receiver.outbox.count_dropped(1, frame.wire_len() as u64);
            return Sent::Refused(ErrorKind::NotDelivered);
        }
        match receiver.outbox.push(frame, self.id) {
            Push::Queued => Sent::Done,
            Push::QueuedFirst => {
                self.pending.touch(receiver);
                Sent::Done
            }
            Push::Gone => Sent::Refused(ErrorKind::NotRegistered),
            Push::Full => Sent::Remaining(vec![receiver.clone()]),
        }
    }

    fn send_to_many<'a>(&mut self, audience: &Audience, frame: &OutboundFrame<'_>) -> Sent<'a> {
        let mut remaining = vec![];
        for (at, receiver) in audience.iter().enumerate() {
            if at % PORTION == PORTION - 1 && self.budget.is_exhausted() {
                remaining.extend_from_slice(&audience[at..]);
                break;
            }
            self.budget.charge(price::APPEND + price::bytes(frame.wire_len()));
            match receiver.outbox.push(frame, self.id) {
                Push::QueuedFirst => self.pending.touch(receiver),
                Push::Queued | Push::Gone => {}
                Push::Full if self.is_waited_for(receiver, Wanted::ToMany) => {
                    remaining.push(receiver.clone())
                }
                Push::Full => receiver.outbox.count_dropped(1, frame.wire_len() as u64),
            }
        }
        if remaining.is_empty() { Sent::Done } else { Sent::Remaining(remaining) }
    }

    /// Returns whether a frame that finds this receiver's queue full waits, or displaces older ones. False: it is
    /// dropped.
    fn is_waited_for(&self, receiver: &Arc<Session>, wanted: Wanted) -> bool {
        if receiver.outbox.note_full() {
            self.core.watch(receiver);
        }
        receiver.outbox.verdict(wanted) != Verdict::Drop
    }

    /// Queues the frames of the batch, in one piece for every receiver that has room for all of them. Returns what is
    /// left to deliver.
    pub(super) fn deliver<'a>(&mut self, batch: &mut FrameBatch<'a>) -> Option<Box<Undelivered<'a>>> {
        let generation = batch.generation();
        let wanted = wanted_for(batch.kind());
        let (receivers, frames) = batch.content()?;
        // Its name may belong to a new client by now, whose frames nothing may follow.
        if self.session.has_ended() {
            let lost = frames.lens.len();
            self.count_lost(lost);
            batch.clear();
            return None;
        }
        let (mut untried, mut full) = (vec![], vec![]);
        if self.core.registry.generation() != generation {
            // Registrations or subscriptions have changed: the receivers of each frame are looked up again.
            full = receivers.to_vec();
        } else {
            let only = receivers.len() == 1;
            let cost = price::APPEND + price::bytes(frames.bytes.len());
            for (at, receiver) in receivers.iter().enumerate() {
                if at % PORTION == PORTION - 1 && self.budget.is_exhausted() {
                    untried = receivers[at..].to_vec();
                    break;
                }
                self.budget.charge(cost);
                match receiver.outbox.push_together(frames, self.id, only) {
                    Push::QueuedFirst => self.pending.touch(receiver),
                    Push::Queued | Push::Gone => {}
                    Push::Full
                        if !receiver.outbox.is_in_process() && !self.is_waited_for(receiver, wanted) =>
                    {
                        if receiver.outbox.push_or_drop(frames, self.id) {
                            self.pending.touch(receiver);
                        }
                    }
                    Push::Full => full.push(receiver.clone()),
                }
            }
        }
        if untried.is_empty() && full.is_empty() {
            batch.clear();
            return None;
        }
        Some(batch.leave(untried, full))
    }

    /// Counts frames that are lost because their sender's connection ended while it was held back.
    fn count_lost(&self, frames: usize) {
        self.core.counters.count_lost(frames as u64);
    }

    /// Queues the acknowledgements noted so far.
    pub(super) fn queue_acks(&mut self) {
        if self.pending.queue_acks(&self.session, self.id) {
            self.pending.touch(&self.session);
        }
    }

    /// Flushes every queue that this batch has appended to, then yields to other tasks.
    pub(super) async fn pause(&mut self) {
        self.flush_all().await;
        tokio::task::yield_now().await;
        self.budget.renew();
    }

    /// Queues the acknowledgements and flushes every queue that this batch has appended to.
    ///
    /// The acknowledgements of a client that answers promptly are flushed first. Else deliveries are flushed first:
    /// their receivers wake up on other cores while the acknowledgement is written, and the sender takes over this
    /// core when the worker goes to sleep (measured: 20 to 40 % more acknowledged operations one by one).
    pub(super) async fn flush_all(&mut self) {
        let mine = self.pending.queue_acks(&self.session, self.id);
        let mine_first = mine && (self.session.replies.is_prompt() || self.pending.touched() > PORTION);
        if mine_first {
            self.flush(&self.session.clone());
        }
        let mut touched = self.pending.take_touched();
        while let Some(receiver) = touched.next() {
            self.flush(receiver);
            if self.budget.is_exhausted() && !touched.is_empty() {
                // Everything that is not flushed yet was appended by this batch alone, or is flushed by others too.
                tokio::task::yield_now().await;
                self.budget.renew();
            }
        }
        self.pending.give_touched(touched);
        if mine && !mine_first {
            self.flush(&self.session.clone());
        }
    }

    #[inline]
    fn flush(&mut self, receiver: &Session) {
        self.budget.charge(price::FLUSH + price::written(receiver.outbox.flush()));
    }

    /// Flushes without waiting, for a client in this process, whose operations come one by one. With `QoS::No` a task
    /// flushes later, so that many frames become one write.
    pub(super) fn flush_in_process(&mut self, qos: QoS) {
        let mut touched = self.pending.take_touched();
        while let Some(receiver) = touched.next() {
            match qos {
                QoS::No => receiver.outbox.flush_soon(),
                _ => _ = receiver.outbox.flush(),
            }
        }
        self.pending.give_touched(touched);
        self.budget.renew();
        self.release();
    }

    /// Releases what an idle client should not hold.
    pub(super) fn release(&mut self) {
        self.pending.release();
        self.scratch.release();
    }
}

/// The kind of an unacknowledged frame.
fn wanted_for(kind: FrameKind) -> Wanted {
    match kind {
        FrameKind::Message => Wanted::Message,
        _ => Wanted::ToMany,
    }
}
