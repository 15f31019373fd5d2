//! Delivers a client's frames to the queues of their receivers. If a queue has no room, the rules for receivers that do
//! not keep up decide (`slow_receiver`).
//!
//! Frames for which there is room are queued by plain function calls. If a frame has to wait for a receiver, or the
//! budget of this poll is used up, the rest is returned as a value, and an async function finishes it.

use super::audience::{Audience, STEP_NODES};
use super::audience_walk::AudienceWalk;
use super::budget::{WorkBudget, price};
use super::core::Core;
use super::frame_batch::{FrameBatch, Receivers, Route, Undelivered};
use super::outbound_frame::{OutboundFrame, Scratch};
use super::outbox::{HeldSender, LatePush, Push};
use super::pending_writes::PendingWrites;
use super::session::Session;
use super::slow_receiver::{Verdict, Wanted};
use crate::error::ErrorKind;
use crate::proto::delivery::Delivery;
use crate::proto::op::{FrameKind, QoS};
use bytes::Bytes;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};

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

    /// Delivers the frames of a batch that were left.
    pub(super) async fn deliver_rest(&mut self, mut rest: Box<Undelivered<'_>>) {
        let wanted = wanted_for(rest.kind);
        for at in 0..rest.untried.len() {
            if self.budget.is_exhausted() {
                self.pause().await;
            }
            if self.session.has_ended() {
                return self.count_lost(rest.frames.lens.len());
            }
            if self.core.registry.generation() != rest.generation {
                rest.full.extend_from_slice(&rest.untried[at..]);
                break;
            }
            self.budget.charge(price::APPEND + price::bytes(rest.frames.bytes.len()));
            let receiver = &rest.untried[at];
            match receiver.outbox.push_together(&mut rest.frames, self.id, false) {
                Push::QueuedFirst => self.pending.touch(receiver),
                Push::Queued | Push::Gone => {}
                Push::Full if !receiver.outbox.is_in_process() && !self.is_waited_for(receiver, wanted) => {
                    if receiver.outbox.push_or_drop(&rest.frames, self.id) {
                        self.pending.touch(receiver);
                    }
                }
                Push::Full => rest.full.push(receiver.clone()),
            }
        }
        let frames = std::mem::take(&mut rest.frames);
        for (at, (frame, encoded)) in frames.frames().enumerate() {
            // The session has ended: a new client may have its name, and frames of the old one must not follow the
            // new one's.
            if self.session.has_ended() {
                self.count_lost(frames.lens.len() - at);
                break;
            }
            if !self.refresh(&mut rest).await {
                break;
            }
            let mut scratch = std::mem::take(&mut self.scratch);
            let outbound = OutboundFrame::encoded(frame, encoded, &mut scratch);
            let _ = self.send_waiting(&rest.full, &outbound, QoS::No).await;
            self.scratch = scratch;
        }
        frames.give();
    }

    /// Looks up the receivers again if registrations or subscriptions have changed, so that a client that has
    /// unsubscribed in between gets nothing more. Returns false when no receiver is left, or the sender is no longer
    /// permitted to send this.
    async fn refresh(&mut self, rest: &mut Undelivered<'_>) -> bool {
        let generation = self.core.registry.generation();
        if generation != rest.generation {
            rest.generation = generation;
            self.budget.charge(price::LOOK_UP + rest.full.len() * price::NODE);
            if rest.kind == FrameKind::Message {
                rest.full = self.core.registry.target(&self.session, rest.key).into_iter().collect();
            } else {
                let now = self.find(rest.kind, rest.key).await.unwrap_or_else(|_| [].into());
                rest.full.retain(|receiver| now.binary_search_by_key(&receiver.id, |other| other.id).is_ok());
            }
        }
        !rest.full.is_empty()
    }

    /// Finds the receivers of a publication or a broadcast in several steps, and yields in between.
    ///
    /// # Errors
    /// Denied.
    pub(super) async fn find(&mut self, kind: FrameKind, key: &str) -> Result<Audience, ErrorKind> {
        let core = self.core.clone();
        let (registry, options) = (&core.registry, &core.options);
        let mut walk: AudienceWalk = match kind {
            FrameKind::Broadcast => AudienceWalk::named(registry, &self.session, key, options)?,
            _ => AudienceWalk::subscribers(registry, &self.session, key, options)?,
        };
        loop {
            if self.budget.is_exhausted() {
                self.pause().await;
            }
            // The nodes of a long search are not in the caches of the processor.
            self.budget.charge(STEP_NODES * price::NODE * 3);
            if let Some(audience) = walk.step(registry, STEP_NODES) {
                return Ok(audience);
            }
        }
    }

    /// Queues a frame for receivers that had no room or were not tried yet. Waits for those that hold the sender back,
    /// for all of them at the same time.
    ///
    /// # Errors
    /// The message was not delivered. Publications and broadcasts succeed whatever became of single deliveries.
    pub(super) async fn send_waiting(
        &mut self,
        receivers: &[Arc<Session>],
        frame: &OutboundFrame<'_>,
        qos: QoS,
    ) -> Result<(), ErrorKind> {
        let mut full: Vec<&Arc<Session>> = vec![];
        let mut result = Ok(());
        for receiver in receivers {
            if self.budget.is_exhausted() {
                self.pause().await;
            }
            self.budget.charge(price::APPEND + price::bytes(frame.wire_len()));
            match receiver.outbox.push(frame, self.id) {
                Push::Queued => {}
                Push::QueuedFirst => self.pending.touch(receiver),
                Push::Gone => result = Err(ErrorKind::NotRegistered),
                Push::Full if self.is_waited_for(receiver, wanted(frame, qos, 0)) => full.push(receiver),
                Push::Full => {
                    receiver.outbox.count_dropped(1, frame.wire_len() as u64);
                    result = Err(ErrorKind::NotDelivered);
                }
            }
        }
        if !full.is_empty() {
            result = self.wait_for(full, frame, qos).await;
        }
        if frame.is_message() { result } else { Ok(()) }
    }

    async fn wait_for(
        &mut self,
        full: Vec<&Arc<Session>>,
        frame: &OutboundFrame<'_>,
        qos: QoS,
    ) -> Result<(), ErrorKind> {
        self.flush_all().await;
        for receiver in &full {
            // This batch flushes the queues it waits for itself: another batch that promised to may be busy.
            self.budget.charge(price::FLUSH + price::written(receiver.outbox.flush()));
        }
        let (core, session) = (&self.core, &self.session);
        let began = core.clock.now();
        let ticket = crate::transport::writer::next_ticket();
        let mut held: Vec<HeldSender<'_>> =
            full.iter().map(|receiver| receiver.outbox.hold_sender(ticket)).collect();
        for receiver in full {
            if receiver.outbox.note_full() {
                core.watch(receiver);
            }
        }
        let mut result = Ok(());
        let poll = |cx: &mut Context<'_>| {
            let waited = core.clock.now().saturating_sub(began);
            let mut at = 0;
            while let Some(receiver) = held.get_mut(at) {
                if session.has_ended() {
                    return Poll::Ready(Err(ErrorKind::NotDelivered));
                }
                match receiver.poll_push(frame, wanted(frame, qos, waited), cx) {
                    Poll::Pending => {
                        at += 1;
                        continue;
                    }
                    Poll::Ready(LatePush::Queued) => {}
                    Poll::Ready(LatePush::Dropped) => result = Err(ErrorKind::NotDelivered),
                    Poll::Ready(LatePush::Gone) => result = Err(ErrorKind::NotRegistered),
                }
                held.swap_remove(at);
            }
            if held.is_empty() { Poll::Ready(result) } else { Poll::Pending }
        };
        let waiting = WaitsForReceiver::new(session);
        let (result, has_waited) = hold_back(core, session, poll).await;
        drop(waiting);
        if !held.is_empty() {
            self.count_lost(1);
        }
        if has_waited {
            self.budget.renew();
        }
        result
    }

    /// Counts frames that are lost because their sender's connection ended while it was held back.
    fn count_lost(&self, frames: usize) {
        self.core.counters.count_lost(frames as u64);
    }

    /// Waits until the acknowledgements queued for this client are within its budget again.
    pub(super) async fn wait_until_read(&mut self) {
        let Distributor { core, session, .. } = self;
        let ticket = crate::transport::writer::next_ticket();
        let mut held = session.outbox.hold_sender(ticket);
        if session.outbox.note_full() {
            core.watch(session);
        }
        let read = |cx: &mut Context<'_>| match session.has_ended() {
            true => Poll::Ready(()),
            false => held.poll_room(None, cx).map(|_| ()),
        };
        let ((), has_waited) = hold_back(core, session, read).await;
        if has_waited {
            self.budget.renew();
        }
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

/// The kind of a frame whose sender has waited for `waited` milliseconds.
fn wanted(frame: &OutboundFrame<'_>, qos: QoS, waited: u64) -> Wanted {
    match (frame.is_message(), qos.needs_ack()) {
        (false, _) => Wanted::ToMany,
        (true, false) => Wanted::Message,
        (true, true) => Wanted::AcknowledgedMessage { waited },
    }
}

/// The kind of an unacknowledged frame.
fn wanted_for(kind: FrameKind) -> Wanted {
    match kind {
        FrameKind::Message => Wanted::Message,
        _ => Wanted::ToMany,
    }
}

/// Waits for `poll` while nothing is read from the client: its silence does not count during that time. Also returns
/// true if other tasks could run, which is not so if `poll` was ready immediately.
async fn hold_back<R>(
    core: &Core,
    session: &Session,
    mut poll: impl FnMut(&mut Context<'_>) -> Poll<R>,
) -> (R, bool) {
    session.liveness.held_back.store(true, Relaxed);
    let mut has_waited = false;
    let result = poll_fn(|cx| {
        let result = poll(cx);
        has_waited |= result.is_pending();
        result
    })
    .await;
    session.liveness.seen.store(core.clock.now(), Relaxed);
    session.liveness.held_back.store(false, Relaxed);
    (result, has_waited)
}

/// An operation of the session waits for a receiver, until the value is dropped, also with the operation itself.
struct WaitsForReceiver(Arc<Session>);

impl WaitsForReceiver {
    fn new(session: &Arc<Session>) -> WaitsForReceiver {
        session.liveness.waits_for_receivers.fetch_add(1, Relaxed);
        WaitsForReceiver(session.clone())
    }
}

impl Drop for WaitsForReceiver {
    fn drop(&mut self) {
        self.0.liveness.waits_for_receivers.fetch_sub(1, Relaxed);
    }
}
