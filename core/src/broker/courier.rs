//! One client's way into the bus: looks up where its operations go, hands frames to the receivers'
//! queues, and remembers whom to flush and what to acknowledge. A session's reader owns one, and all
//! of it runs on the reader's task.
//!
//! What need not wait for anything does not: operations are plain function calls. One that cannot be finished
//! so, because a receiver has no room, comes back as [`Held`], and is gone on with apart.

use super::Core;
use super::admin;
use super::backpressure::{self, insist};
use super::batch::Batch;
use super::held::{Held, Outcome, Stop, Why};
use super::outbox::{Parcel, Scratch};
use super::outgoing::{Origin, Outgoing, Route, distribute};
use super::registry::{Audience, TopicSet};
use super::routes::Routes;
use super::run::{Receivers, Rest, Run};
use super::session::Session;
use crate::error::ErrorKind;
use crate::proto::DecodeError;
use crate::proto::delivery::Delivery;
use crate::proto::op::{BROKER_NAME, FrameKind, QoS, RESULT_OK};
use crate::proto::request::{Header, Operation};
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// The frame of an operation that makes one.
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

pub(super) struct Courier {
    core: Arc<Core>,
    session: Arc<Session>,
    routes: Routes,
    batch: Batch,
    scratch: Scratch,
}

impl Courier {
    pub(super) fn new(core: Arc<Core>, session: Arc<Session>) -> Courier {
        let (batch, scratch) = (Batch::default(), Scratch::default());
        Courier { core, session, routes: Routes::new(), batch, scratch }
    }

    /// Does one operation that came over the wire, and notes its acknowledgement if it wants one. Its frame may
    /// stay in the run until [`deliver`](Courier::deliver).
    ///
    /// # Errors
    /// What must be gone on with, once the run is delivered.
    #[inline]
    pub(super) fn handle<'a>(
        &mut self,
        header: &Header,
        body: &'a [u8],
        origin: &mut Origin<'_, 'a>,
    ) -> Result<(), Box<Held<'a>>> {
        if let Origin::Batch(run) = origin
            && run.add_alike(header.flags, body, self.core.registry.generation())
        {
            return Ok(());
        }
        let op = match Operation::parse(header.flags, body) {
            Ok(op) => op,
            Err(e) => return Err(Box::new(Held::Unreadable(e))),
        };
        let (op_id, qos) = (header.op_id, header.qos());
        let why = match &op {
            Operation::Nop => return Ok(()),
            Operation::Message { target: BROKER_NAME, .. } => Why::Broker,
            _ => match self.route(qos, &op, origin) {
                Ok(()) => {
                    self.acknowledge(op_id, qos, Ok(()));
                    return Ok(());
                }
                // Whoever hears of it may rely on what it sent before.
                Err(Stop::Refused(kind)) => match self.deliver_before_answer(qos, origin) {
                    None => {
                        let result = Err(self.refuse(kind, &op));
                        self.acknowledge(op_id, qos, result);
                        return Ok(());
                    }
                    Some(rest) => Why::Earlier(rest),
                },
                Err(Stop::Unfinished(why)) => *why,
            },
        };
        Err(Box::new(Held::Operation { op_id, qos, op, why }))
    }

    /// Finishes an operation, in the time that its receivers need.
    ///
    /// # Errors
    /// A body that is none.
    pub(super) async fn go_on(
        &mut self,
        held: Box<Held<'_>>,
        owner: Option<&Bytes>,
    ) -> Result<(), DecodeError> {
        let (op_id, qos, op, why) = match *held {
            Held::Unreadable(e) => return Err(e),
            Held::Operation { op_id, qos, op, why } => (op_id, qos, op, why),
        };
        if let (Why::Broker, Operation::Message { payload, .. }) = (&why, &op) {
            let result = self.core.registry.permit_message(&self.session, BROKER_NAME);
            self.acknowledge(op_id, qos, result);
            // The acknowledgement goes before the answer.
            match result {
                Ok(()) => self.ask_broker(qos, payload).await,
                Err(_) => self.log_denial(&op),
            }
        } else {
            let result = self.finish(why, qos, &op, owner).await;
            self.acknowledge(op_id, qos, result);
        }
        Ok(())
    }

    fn acknowledge(&mut self, op_id: u32, qos: QoS, result: Result<(), ErrorKind>) {
        if qos.needs_ack() {
            self.batch.acknowledge(op_id, result.map_or_else(ErrorKind::code, |()| RESULT_OK));
        }
    }

    /// Begins an operation of a client in this process.
    ///
    /// # Errors
    /// What is left to [`finish`](Courier::finish).
    pub(super) fn begin<'a>(
        &mut self,
        qos: QoS,
        op: &Operation<'a, &'a [u8]>,
        sender: &'a str,
        owner: Option<&Bytes>,
    ) -> Result<(), Stop<'a>> {
        match op {
            Operation::Message { target: BROKER_NAME, .. } => Err(Stop::Unfinished(Box::new(Why::Broker))),
            _ => self.route(qos, op, &mut Origin::Apart(sender, owner)),
        }
    }

    #[inline]
    fn route<'a>(
        &mut self,
        qos: QoS,
        op: &Operation<'a, &'a [u8]>,
        origin: &mut Origin<'_, 'a>,
    ) -> Outcome<'a> {
        let Courier { core, session, routes, batch, scratch } = self;
        let registry = &core.registry;
        let generation = registry.generation();
        let mut outgoing = Outgoing { core, session, batch, scratch };
        let flags = Some(qos.flags(op.code()));
        let frame = |kind, topic, payload| Delivery {
            kind,
            realtime: qos.is_realtime(),
            sender: origin.sender(),
            topic,
            payload,
        };
        match *op {
            Operation::Message { target, payload } => {
                let receiver = routes.target(registry, session, target).map_err(Stop::Refused)?;
                let frame = frame(FrameKind::Message, None, payload);
                outgoing.send(
                    &frame,
                    Route { key: target, generation, to: Receivers::One(receiver), flags },
                    qos,
                    origin,
                )
            }
            Operation::Broadcast { mask, payload } => {
                let audience = routes.named(registry, session, mask).map_err(Stop::Refused)?;
                let frame = frame(FrameKind::Broadcast, None, payload);
                outgoing.send(
                    &frame,
                    Route { key: mask, generation, to: Receivers::Many(audience), flags },
                    qos,
                    origin,
                )
            }
            Operation::Publish { topic, payload } => {
                let audience = routes.subscribers(registry, session, topic).map_err(Stop::Refused)?;
                let frame = frame(FrameKind::Publication, Some(topic), payload);
                outgoing.send(
                    &frame,
                    Route { key: topic, generation, to: Receivers::Many(audience), flags },
                    qos,
                    origin,
                )
            }
            Operation::PublishFor { topic, receiver, payload } => {
                let all = routes.subscribers(registry, session, topic).map_err(Stop::Refused)?;
                let only: Audience =
                    all.iter().filter(|session| session.primary() == receiver).cloned().collect();
                let frame = frame(FrameKind::Publication, Some(topic), payload);
                outgoing.send(
                    &frame,
                    Route { key: topic, generation, to: Receivers::Many(&only), flags: None },
                    qos,
                    origin,
                )
            }
            Operation::Nop => Ok(()),
            Operation::Subscribe(topics) => {
                outgoing.deliver_earlier(origin)?;
                registry.add_topics(session, TopicSet::Subscriptions, topics).map_err(Stop::Refused)
            }
            Operation::Exclude(topics) => {
                outgoing.deliver_earlier(origin)?;
                registry.add_topics(session, TopicSet::Exclusions, topics).map_err(Stop::Refused)
            }
            Operation::Unsubscribe(topics) => {
                outgoing.deliver_earlier(origin)?;
                registry.remove_topics(session, TopicSet::Subscriptions, topics);
                Ok(())
            }
            Operation::Unexclude(topics) => {
                outgoing.deliver_earlier(origin)?;
                registry.remove_topics(session, TopicSet::Exclusions, topics);
                Ok(())
            }
        }
    }

    /// Waits for those who were full, and does what could not be done before them.
    ///
    /// # Errors
    /// What the operation's acknowledgement says.
    pub(super) async fn finish<'a>(
        &mut self,
        mut why: Why<'a>,
        qos: QoS,
        op: &Operation<'a, &'a [u8]>,
        owner: Option<&Bytes>,
    ) -> Result<(), ErrorKind> {
        let myself = self.session.clone();
        loop {
            match why {
                Why::Broker => {
                    if let Operation::Message { payload, .. } = op {
                        self.ask_broker(qos, payload).await;
                    }
                    return Ok(());
                }
                Why::Earlier(rest) => {
                    self.deliver_one_by_one(rest).await;
                    match self.route(qos, op, &mut Origin::Apart(myself.name(), owner)) {
                        Ok(()) => return Ok(()),
                        Err(Stop::Refused(kind)) => return Err(self.refuse(kind, op)),
                        Err(Stop::Unfinished(next)) => why = *next,
                    }
                }
                Why::Full(full) => {
                    let Courier { core, session, batch, scratch, .. } = self;
                    let Some(frame) = frame_of(op, qos, myself.name()) else { return Ok(()) };
                    let to_one = frame.kind == FrameKind::Message;
                    let parcel = match to_one {
                        true => Parcel::new(frame, owner),
                        false => Parcel::for_many(frame, owner, scratch),
                    };
                    let mut result = Ok(());
                    for each in full {
                        result = insist(core, session, batch, each, &parcel).await;
                    }
                    // What became of a single delivery is not a publisher's business.
                    return if to_one { result } else { Ok(()) };
                }
            }
        }
    }

    /// What an operation that is refused is answered.
    pub(super) fn refuse(&self, kind: ErrorKind, op: &Operation<'_, &[u8]>) -> ErrorKind {
        if kind == ErrorKind::AccessDenied {
            self.log_denial(op);
        }
        kind
    }

    /// Hands out what waits in a run.
    pub(super) async fn deliver(&mut self, run: &mut Run<'_>) {
        let Courier { core, session, batch, scratch, .. } = self;
        if let Err(rest) = (Outgoing { core, session, batch, scratch }).deliver(run) {
            Box::pin(self.deliver_one_by_one(rest)).await;
        }
    }

    /// Hands out what waits in the run before an operation is answered; those who have no room for it.
    fn deliver_before_answer<'a>(&mut self, qos: QoS, origin: &mut Origin<'_, 'a>) -> Option<Box<Rest<'a>>> {
        let Courier { core, session, batch, scratch, .. } = self;
        match origin {
            Origin::Batch(run) if qos.needs_ack() => {
                (Outgoing { core, session, batch, scratch }).deliver(run).err()
            }
            _ => None,
        }
    }

    async fn deliver_one_by_one(&mut self, mut rest: Box<Rest<'_>>) {
        let Courier { core, session, batch, scratch, .. } = self;
        let bundle = std::mem::take(&mut rest.bundle);
        for (frame, encoded) in bundle.frames() {
            // Its name may belong to a newcomer by now, whose frames nothing may come after.
            if session.has_ended() || !rest.refresh(&core.registry, session) {
                return;
            }
            let parcel = Parcel::encoded(frame, encoded, scratch);
            distribute(core, session, batch, &rest.receivers, &parcel).await;
        }
        bundle.give();
    }

    /// A message to the broker's own client; its answer, if there is one, comes from there.
    async fn ask_broker(&mut self, qos: QoS, payload: &[u8]) {
        let Courier { core, session, batch, .. } = self;
        core.admin.count_read(payload);
        let Some(answer) = admin::answer(core, payload) else { return };
        let delivery = Delivery {
            kind: FrameKind::Message,
            realtime: qos.is_realtime(),
            sender: BROKER_NAME,
            topic: None,
            payload: &answer,
        };
        if batch.queue_acks(session) {
            batch.touch(session);
        }
        distribute(core, session, batch, std::slice::from_ref(session), &Parcel::new(delivery, None)).await;
    }

    /// Writes out what the batch has gathered. When this client does not read its acknowledgements,
    /// no more operations are read from it until it does. `frames` tells how many they were.
    pub(super) async fn finish_batch(&mut self, frames: u64) {
        let acknowledged = self.batch.has_acks();
        if let Some(lookout) = &self.core.options.lookout {
            self.batch.tell(lookout, &self.session, frames);
        }
        self.batch.flush(&self.session);
        self.scratch.release();
        self.routes.release();
        if acknowledged && self.session.is_over_budget(&self.core.options) {
            Box::pin(backpressure::wait_until_read(&self.core, &self.session)).await;
        }
    }

    /// Writes out what was gathered, without waiting for anything. For clients in this process,
    /// whose operations come one by one, a task does it unless the frame is urgent: that makes one
    /// write of many.
    pub(super) fn flush_local(&mut self, qos: QoS) {
        self.scratch.release();
        self.routes.release();
        self.batch.flush_touched(|receiver| match qos {
            QoS::No => receiver.flush_soon(),
            _ => receiver.flush(),
        });
    }

    fn log_denial(&self, op: &Operation<'_, &[u8]>) {
        if self.session.denial_logged.swap(true, Relaxed) {
            return;
        }
        let what = match op {
            Operation::Message { .. } => "send to",
            Operation::Broadcast { .. } => "broadcast to",
            Operation::Publish { .. } | Operation::PublishFor { .. } => "publish",
            _ => "subscribe to",
        };
        let whom = op.subject();
        log::warn!(
            "access denied: {} may not {what} {whom:?} (further denials are not logged)",
            self.session.name()
        );
    }
}
