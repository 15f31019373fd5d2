//! Finishes the operations that could not be finished by a plain function call.

use super::deferred::{Deferred, Routed, Step};
use super::{Batch, Dispatch, Rejection, frame_of};
use crate::broker::admin;
use crate::broker::outbound_frame::{OutboundFrame, Scratch};
use crate::broker::registry::{Progress, TopicChange};
use crate::broker::session::Session;
use crate::error::ErrorKind;
use crate::proto::delivery::Delivery;
use crate::proto::op::{BROKER_NAME, FrameKind, QoS};
use crate::proto::request::{Operation, Topics};
use bytes::Bytes;
use std::sync::Arc;

impl<'a> Batch<'_, 'a> {
    /// Finishes an operation that came over the wire.
    ///
    /// # Errors
    /// The connection must end.
    pub(crate) async fn resume(
        &mut self,
        deferred: Box<Deferred<'a>>,
        owner: Option<&Bytes>,
    ) -> Result<(), Rejection> {
        self.deliver().await;
        let (op_id, qos, op) = (deferred.op_id, deferred.qos, deferred.op.clone());
        if let (Step::Broker, Operation::Message { payload, .. }) = (&deferred.step, &op) {
            let distributor = &self.dispatcher.distributor;
            let result = distributor.core.registry.permit_message(&distributor.session, BROKER_NAME);
            // The acknowledgement goes before the answer.
            self.acknowledge(op_id, qos, result);
            match result {
                Ok(()) => self.ask_broker(qos, payload).await,
                Err(kind) => self.note_refusal(kind, &op),
            }
            return Ok(());
        }
        match self.complete(*deferred, owner).await {
            Ok(()) => self.acknowledge(op_id, qos, Ok(())),
            Err(kind) => {
                if let Dispatch::Rejected(rejection) = self.reject(op_id, qos, &op, kind) {
                    return Err(rejection);
                }
            }
        }
        Ok(())
    }

    /// Finishes an operation without acknowledging it; waits for its receivers if necessary.
    ///
    /// # Errors
    /// The refusal that its acknowledgement reports.
    pub(crate) async fn complete(
        &mut self,
        deferred: Deferred<'a>,
        owner: Option<&Bytes>,
    ) -> Result<(), ErrorKind> {
        let Deferred { qos, op, mut step, .. } = deferred;
        loop {
            step = match step {
                Step::Broker => {
                    if let Operation::Message { payload, .. } = op {
                        self.ask_broker(qos, payload).await;
                    }
                    return Ok(());
                }
                Step::Reject(rest, kind) => {
                    self.dispatcher.distributor.deliver_rest(rest).await;
                    return Err(kind);
                }
                Step::AfterEarlier(rest) => {
                    self.dispatcher.distributor.deliver_rest(rest).await;
                    match self.route(qos, &op, false, owner) {
                        Routed::Done => return Ok(()),
                        Routed::Refused(kind) => return Err(kind),
                        Routed::Deferred(next) => next,
                    }
                }
                Step::Search => Step::Receivers(self.search(&op).await?),
                Step::Receivers(receivers) => return self.send_waiting(&receivers, &op, qos, owner).await,
                Step::Topics(change, topics, done, result) => {
                    return self.change_rest(change, topics, done, result).await;
                }
            };
        }
    }

    async fn send_waiting(
        &mut self,
        receivers: &[Arc<Session>],
        op: &Operation<'a, &'a [u8]>,
        qos: QoS,
        owner: Option<&Bytes>,
    ) -> Result<(), ErrorKind> {
        let Some(frame) = frame_of(op, qos, self.frames.sender()) else { return Ok(()) };
        let mut scratch = Scratch::default();
        let outbound = match frame.kind {
            FrameKind::Message => OutboundFrame::new(frame, owner),
            _ => OutboundFrame::for_many(frame, owner, &mut scratch),
        };
        self.dispatcher.distributor.send_waiting(receivers, &outbound, qos).await
    }

    /// The receivers of an operation whose search takes several steps.
    async fn search(&mut self, op: &Operation<'a, &'a [u8]>) -> Result<Vec<Arc<Session>>, ErrorKind> {
        let distributor = &mut self.dispatcher.distributor;
        let (found, only) = match *op {
            Operation::Broadcast { mask, .. } => (distributor.find(FrameKind::Broadcast, mask).await?, None),
            Operation::Publish { topic, .. } => {
                (distributor.find(FrameKind::Publication, topic).await?, None)
            }
            Operation::PublishFor { topic, receiver, .. } => {
                (distributor.find(FrameKind::Publication, topic).await?, Some(receiver))
            }
            _ => return Ok(vec![]),
        };
        Ok(found
            .iter()
            .filter(|session| only.is_none_or(|name| session.primary() == name))
            .cloned()
            .collect())
    }

    async fn change_rest(
        &mut self,
        change: TopicChange,
        topics: Topics<'a>,
        done: usize,
        mut result: Result<(), ErrorKind>,
    ) -> Result<(), ErrorKind> {
        let distributor = &mut self.dispatcher.distributor;
        let mut topics = topics.iter().skip(done);
        loop {
            distributor.pause().await;
            let (core, budget) = (&distributor.core, &mut distributor.budget);
            let session = &distributor.session;
            let (progress, next) =
                core.registry.change_topics(session, change, &mut topics, &core.options, budget);
            if result != Err(ErrorKind::AccessDenied) && next.is_err() {
                result = next;
            }
            if progress == Progress::Done {
                return result;
            }
        }
    }

    /// Answers a message to the broker's own client.
    async fn ask_broker(&mut self, qos: QoS, payload: &[u8]) {
        let distributor = &mut self.dispatcher.distributor;
        let core = distributor.core.clone();
        core.counters.count_read(payload);
        let answer = match admin::answer(&core, payload) {
            admin::Answer::None => return,
            admin::Answer::Ready(answer) => answer,
            admin::Answer::Later(pending) => {
                // The answer may take long: everything so far is flushed first.
                distributor.flush_all().await;
                let Some(answer) = pending.await else { return };
                distributor.budget.renew();
                answer
            }
        };
        let frame = Delivery {
            kind: FrameKind::Message,
            realtime: qos.is_realtime(),
            sender: BROKER_NAME,
            topic: None,
            payload: &answer,
        };
        // The acknowledgement comes first.
        distributor.queue_acks();
        let receiver = distributor.session.clone();
        let outbound = OutboundFrame::new(frame, None);
        let _ = distributor.send_waiting(std::slice::from_ref(&receiver), &outbound, QoS::No).await;
    }
}
