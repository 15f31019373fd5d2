//! One client's operations: looks up the receivers of each, hands frames to the distributor, and notes what to
//! acknowledge.
//!
//! A session's reader owns one [`Dispatcher`] and begins a [`Batch`] with every read. A client in this process begins
//! one with every operation. Nearly every operation is finished by a plain function call. If a receiver has no room, or
//! the budget of this poll is used up, the operation is returned as [`Dispatch::Deferred`]. `dispatcher/resume.rs`
//! finishes it.

mod deferred;
mod resume;

use super::audience::Audience;
use super::budget::price;
use super::core::Core;
use super::distributor::Distributor;
use super::frame_batch::{FrameBatch, Receivers, Route, Undelivered};
use super::registry::{Progress, TopicChange, TopicSet};
use super::route_cache::RouteCache;
use super::session::Session;
use crate::error::ErrorKind;
use crate::proto::DecodeError;
use crate::proto::delivery::Delivery;
use crate::proto::op::{BROKER_NAME, FrameKind, QoS, RESULT_OK};
use crate::proto::request::{Header, Operation, Topics};
use crate::shown::shown;
use bytes::Bytes;
use deferred::{Routed, Step};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

pub(super) use deferred::{Deferred, Detached};

/// The state of one client's operations, kept from batch to batch.
pub(super) struct Dispatcher {
    routes: RouteCache,
    pub(super) distributor: Distributor,
}

/// The operations of one read, on their way to the receivers.
pub(super) struct Batch<'d, 'a> {
    pub(super) dispatcher: &'d mut Dispatcher,
    frames: FrameBatch<'a>,
}

/// The result of starting an operation.
pub(super) enum Dispatch<'a> {
    /// It is done or refused. Its acknowledgement is noted.
    Done,
    /// The connection must end, for this reason.
    Rejected(Rejection),
    /// It must be resumed.
    Deferred(Box<Deferred<'a>>),
}

/// The reason for which a connection must end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rejection {
    /// The bytes are not the protocol.
    Malformed(DecodeError),
    /// A topic, a mask or the number of subscriptions is over its bound, and no acknowledgement could say so.
    OverBound,
}

impl std::fmt::Display for Rejection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Rejection::Malformed(e) => e.fmt(f),
            Rejection::OverBound => f.write_str(
                "an unacknowledged operation has a topic or mask over the bounds, or too many subscriptions",
            ),
        }
    }
}

/// The frame that an operation delivers; `None` if it delivers none.
fn frame_of<'a>(op: &Operation<'a, &'a [u8]>, qos: QoS, sender: &'a str) -> Option<Delivery<'a>> {
    let (kind, topic, payload) = match *op {
        Operation::Message { payload, .. } => (FrameKind::Message, None, payload),
        Operation::Broadcast { payload, .. } => (FrameKind::Broadcast, None, payload),
        Operation::Publish { topic, payload } | Operation::PublishFor { topic, payload, .. } => {
            (FrameKind::Publication, Some(topic), payload)
        }
        _ => return None,
    };
    Some(Delivery { kind, realtime: qos.is_realtime(), sender, topic, payload })
}

impl Dispatcher {
    pub(super) fn new(core: Arc<Core>, session: Arc<Session>) -> Dispatcher {
        Dispatcher { routes: RouteCache::new(), distributor: Distributor::new(core, session) }
    }

    /// Begins a batch. `sender` is the name of this client, `core` the broker that it belongs to.
    pub(super) fn begin<'d, 'a>(&'d mut self, sender: &'a str, core: &'a Core) -> Batch<'d, 'a> {
        Batch { dispatcher: self, frames: FrameBatch::new(sender, &core.options) }
    }

    /// Charges the budget for bytes that were read.
    pub(super) fn charge_read(&mut self, bytes: usize) {
        self.distributor.budget.charge(price::written(bytes));
    }

    /// The session has waited: a new poll has begun.
    pub(super) fn renew_budget(&mut self) {
        self.distributor.budget.renew();
    }

    /// Yields to other tasks if the budget is used up.
    pub(super) async fn yield_if_exhausted(&mut self) {
        if self.distributor.budget.is_exhausted() {
            self.distributor.pause().await;
        }
    }

    /// Returns whether the caches hold enough to be worth releasing while the client is idle.
    pub(super) fn has_caches(&self) -> bool {
        self.routes.is_worth_releasing()
    }

    /// Releases the caches.
    pub(super) fn release_caches(&mut self) {
        self.routes.clear();
    }

    /// Writes what an operation of a client in this process has queued.
    pub(super) fn flush_in_process(&mut self, qos: QoS) {
        self.distributor.flush_in_process(qos);
        self.routes.release();
    }

    /// Waits until the client has read enough of its acknowledgements, if more wait than its budget allows.
    async fn wait_until_read(&mut self) {
        if self.distributor.session.outbox.is_over_budget() {
            Box::pin(self.distributor.wait_until_read()).await;
        }
    }
}

impl<'a> Batch<'_, 'a> {
    /// Starts one operation that came over the wire. Its frame may stay in the batch until [`finish`](Batch::finish).
    #[inline]
    pub(super) fn dispatch(&mut self, header: &Header, body: &'a [u8]) -> Dispatch<'a> {
        let distributor = &mut self.dispatcher.distributor;
        distributor.budget.charge(price::FRAME + price::bytes(body.len()));
        if self.frames.add_alike(header.flags, body, distributor.core.registry.generation()) {
            return Dispatch::Done;
        }
        self.dispatch_parsed(header, body, true, None)
    }

    /// Starts one operation whose body is in shared memory. The frames in the batch must be delivered before.
    pub(super) fn dispatch_shared(&mut self, header: &Header, body: &'a Bytes) -> Dispatch<'a> {
        self.dispatcher.distributor.budget.charge(price::FRAME);
        self.dispatch_parsed(header, body, false, Some(body))
    }

    fn dispatch_parsed(
        &mut self,
        header: &Header,
        body: &'a [u8],
        collects: bool,
        owner: Option<&Bytes>,
    ) -> Dispatch<'a> {
        let op = match Operation::parse(header.flags, body) {
            Ok(op) => op,
            Err(e) => return Dispatch::Rejected(Rejection::Malformed(e)),
        };
        let (op_id, qos) = (header.op_id, header.qos());
        // With flags it is a progress report. It is not acknowledged, whatever they say.
        if matches!(op, Operation::Nop) {
            if header.flags != 0 {
                self.dispatcher.distributor.session.outbox.note_report();
            }
            return Dispatch::Done;
        }
        let step = match self.route(qos, &op, collects, owner) {
            Routed::Done => {
                self.acknowledge(op_id, qos, Ok(()));
                return Dispatch::Done;
            }
            // A client that reads the refusal may rely on the delivery of what it sent before.
            Routed::Refused(kind) => match self.deliver_before_answer(qos) {
                None => return self.reject(op_id, qos, &op, kind),
                Some(rest) => Step::Reject(rest, kind),
            },
            Routed::Deferred(step) => step,
        };
        Dispatch::Deferred(Box::new(Deferred { op_id, qos, op, step }))
    }

    /// Starts one operation of a client in this process. `Ok(Some)`: it must be completed by
    /// [`complete`](Batch::complete).
    ///
    /// # Errors
    /// The operation is refused.
    pub(super) fn submit(
        &mut self,
        qos: QoS,
        op: Operation<'a, &'a [u8]>,
        owner: Option<&Bytes>,
    ) -> Result<Option<Box<Deferred<'a>>>, ErrorKind> {
        match self.route(qos, &op, false, owner) {
            Routed::Done => Ok(None),
            Routed::Refused(kind) => {
                self.note_refusal(kind, &op);
                Err(kind)
            }
            Routed::Deferred(step) => Ok(Some(Box::new(Deferred { op_id: 0, qos, op, step }))),
        }
    }

    #[inline]
    pub(super) fn acknowledge(&mut self, op_id: u32, qos: QoS, result: Result<(), ErrorKind>) {
        if qos.needs_ack() {
            let code = result.map_or_else(ErrorKind::code, |()| RESULT_OK);
            self.dispatcher.distributor.pending.acknowledge(op_id, code);
        }
    }

    /// Answers a refused operation, or says that the connection must end.
    pub(super) fn reject(
        &mut self,
        op_id: u32,
        qos: QoS,
        op: &Operation<'a, &'a [u8]>,
        kind: ErrorKind,
    ) -> Dispatch<'a> {
        self.note_refusal(kind, op);
        // `Data` means that a bound is exceeded, which ends the connection of an unacknowledged operation
        // (docs/protocol.md section 3).
        if kind == ErrorKind::Data && !qos.needs_ack() {
            return Dispatch::Rejected(Rejection::OverBound);
        }
        self.acknowledge(op_id, qos, Err(kind));
        Dispatch::Done
    }

    /// Looks up the receivers of an operation and sends its frame to them. If `collects` is set, the frame may be kept
    /// in the batch.
    #[inline]
    fn route(
        &mut self,
        qos: QoS,
        op: &Operation<'a, &'a [u8]>,
        collects: bool,
        owner: Option<&Bytes>,
    ) -> Routed<'a> {
        let Batch { dispatcher, frames } = self;
        let Dispatcher { routes, distributor } = &mut **dispatcher;
        let Distributor { core, session, budget, .. } = distributor;
        let sender = frames.sender();
        let generation = core.registry.generation();
        let flags = Some(qos.flags(op.code()));
        let filtered: Audience;
        let (key, receivers, flags) = match *op {
            Operation::Message { target: BROKER_NAME, .. } => return Routed::Deferred(Step::Broker),
            Operation::Message { target, .. } => match routes.target(&core.registry, session, target) {
                Ok(receiver) => (target, Receivers::One(receiver), flags),
                Err(kind) => return Routed::Refused(kind),
            },
            Operation::Broadcast { mask, .. } => match routes.named(core, session, mask, budget) {
                Ok(audience) => (mask, Receivers::Many(audience), flags),
                Err(miss) => return miss.into(),
            },
            Operation::Publish { topic, .. } => match routes.subscribers(core, session, topic, budget) {
                Ok(audience) => (topic, Receivers::Many(audience), flags),
                Err(miss) => return miss.into(),
            },
            Operation::PublishFor { topic, receiver, .. } => {
                match routes.subscribers(core, session, topic, budget) {
                    Ok(audience) => {
                        budget.charge(audience.len() * price::NODE);
                        let fits = |session: &&Arc<Session>| session.primary() == receiver;
                        filtered = audience.iter().filter(fits).cloned().collect();
                        (topic, Receivers::Many(&filtered), None)
                    }
                    Err(miss) => return miss.into(),
                }
            }
            Operation::Nop => return Routed::Done,
            Operation::Subscribe(topics) => {
                return self.change_topics(TopicChange::Add(TopicSet::Subscriptions), topics, collects);
            }
            Operation::Exclude(topics) => {
                return self.change_topics(TopicChange::Add(TopicSet::Exclusions), topics, collects);
            }
            Operation::Unsubscribe(topics) => {
                return self.change_topics(TopicChange::Remove(TopicSet::Subscriptions), topics, collects);
            }
            Operation::Unexclude(topics) => {
                return self.change_topics(TopicChange::Remove(TopicSet::Exclusions), topics, collects);
            }
        };
        let Some(frame) = frame_of(op, qos, sender) else { return Routed::Done };
        let route = Route { key, generation, receivers, flags };
        distributor.send(&frame, route, qos, collects.then_some(frames), owner).into()
    }

    /// Changes subscriptions or exclusions, after the frames sent before are delivered.
    fn change_topics(&mut self, change: TopicChange, topics: Topics<'a>, collects: bool) -> Routed<'a> {
        let distributor = &mut self.dispatcher.distributor;
        if collects && let Some(rest) = distributor.deliver(&mut self.frames) {
            return Routed::Deferred(Step::AfterEarlier(rest));
        }
        let (core, session) = (&distributor.core, &distributor.session);
        let mut done = 0;
        let mut counted = topics.iter().inspect(|_| done += 1);
        let (progress, result) = core.registry.change_topics(
            session,
            change,
            &mut counted,
            &core.options,
            &mut distributor.budget,
        );
        match (progress, result) {
            (Progress::More, result) => Routed::Deferred(Step::Topics(change, topics, done, result)),
            (Progress::Done, Ok(())) => Routed::Done,
            (Progress::Done, Err(kind)) => Routed::Refused(kind),
        }
    }

    /// Delivers the frames in the batch before an operation is answered. Returns those that are left.
    fn deliver_before_answer(&mut self, qos: QoS) -> Option<Box<Undelivered<'a>>> {
        match qos.needs_ack() {
            true => self.dispatcher.distributor.deliver(&mut self.frames),
            false => None,
        }
    }

    /// Delivers what is in the batch.
    pub(super) async fn deliver(&mut self) {
        if let Some(rest) = self.dispatcher.distributor.deliver(&mut self.frames) {
            Box::pin(self.dispatcher.distributor.deliver_rest(rest)).await;
        }
    }

    /// Returns whether the budget of this poll is used up.
    #[inline]
    pub(super) fn is_exhausted(&self) -> bool {
        self.dispatcher.distributor.budget.is_exhausted()
    }

    /// Delivers and flushes everything so far, and yields to other tasks.
    pub(super) async fn pause(&mut self) {
        self.deliver().await;
        self.dispatcher.distributor.pause().await;
    }

    /// Delivers what is in the batch and flushes all queues. If the client does not read its acknowledgements, waits
    /// until it does. `frames` is the number of frames that were read together.
    pub(super) async fn finish(mut self, frames: u64) {
        self.deliver().await;
        let Dispatcher { routes, distributor } = &mut *self.dispatcher;
        let acknowledged = distributor.pending.has_acks();
        if let Some(poller) = &distributor.core.options.busy_poller {
            distributor.pending.tell(poller, &distributor.session, frames);
        }
        distributor.flush_all().await;
        distributor.release();
        routes.release();
        if acknowledged {
            self.dispatcher.wait_until_read().await;
        }
    }

    fn note_refusal(&self, kind: ErrorKind, op: &Operation<'_, &[u8]>) {
        let session = &self.dispatcher.distributor.session;
        if kind != ErrorKind::AccessDenied || session.denial_logged.swap(true, Relaxed) {
            return;
        }
        let what = match op {
            Operation::Message { .. } => "message",
            Operation::Broadcast { .. } => "broadcast",
            Operation::Publish { .. } | Operation::PublishFor { .. } => "publish",
            _ => "subscribe",
        };
        let subject = op.subject();
        log::warn!(
            "access denied: client={} op={what} subject={} (further denials of this client are not logged)",
            shown(session.name().as_bytes()),
            shown(subject.as_bytes()),
        );
    }
}
