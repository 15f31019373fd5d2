//! The deliveries that wait: for receivers whose queues are full, for another poll of the session's task, or for a search
//! that takes several steps. The rules for receivers that do not keep up decide which frames wait (`slow_receiver`).

use super::{Distributor, wanted_for};
use crate::broker::audience::{Audience, STEP_NODES};
use crate::broker::audience_walk::AudienceWalk;
use crate::broker::budget::price;
use crate::broker::frame_batch::Undelivered;
use crate::broker::held_sender::{HeldSender, LatePush};
use crate::broker::hold_back::{WaitsForReceiver, hold_back};
use crate::broker::outbound_frame::OutboundFrame;
use crate::broker::outbox::Push;
use crate::broker::session::Session;
use crate::broker::slow_receiver::Wanted;
use crate::error::ErrorKind;
use crate::proto::op::{FrameKind, QoS};
use crate::transport::writer::next_ticket;
use std::sync::Arc;
use std::task::{Context, Poll};

impl Distributor {
    /// Delivers the frames of a batch that were left.
    pub(crate) async fn deliver_rest(&mut self, mut rest: Box<Undelivered<'_>>) {
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
    pub(crate) async fn find(&mut self, kind: FrameKind, key: &str) -> Result<Audience, ErrorKind> {
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
    pub(crate) async fn send_waiting(
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
        let ticket = next_ticket();
        let mut held: Vec<HeldSender<'_>> =
            full.iter().map(|receiver| HeldSender::new(&receiver.outbox, ticket)).collect();
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

    /// Waits until the acknowledgements queued for this client are within its budget again.
    pub(crate) async fn wait_until_read(&mut self) {
        let Distributor { core, session, .. } = self;
        let ticket = next_ticket();
        let mut held = HeldSender::new(&session.outbox, ticket);
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
}

/// The kind of a frame whose sender has waited for `waited` milliseconds.
fn wanted(frame: &OutboundFrame<'_>, qos: QoS, waited: u64) -> Wanted {
    match (frame.is_message(), qos.needs_ack()) {
        (false, _) => Wanted::ToMany,
        (true, false) => Wanted::Message,
        (true, true) => Wanted::AcknowledgedMessage { waited },
    }
}
