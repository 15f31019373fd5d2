//! The write path of a connection: a request is checked, registered, queued, and written or left for a flush.

use super::ack_target::AckTarget;
use super::acks::{Registered, Waiter};
use super::encode::EncodedRequest;
use super::pending::PendingOperation;
use super::request::{AnswerTo, Bound, Request, Submitted, TrySend};
use super::shared::{Shared, lost};
use super::subscriptions::is_change;
use crate::error::Result;
use crate::proto::op::QoS;
use crate::transport::Load;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// The caller writes a burst of requests when this many bytes are waiting.
const COALESCE_BYTES: usize = 4096;

/// The result of queueing a request.
enum Queued {
    Done {
        /// The earliest deadline of all requests, if it has changed.
        next_deadline: Option<Instant>,
        /// Number of bytes that wait to be written.
        waiting: usize,
        /// True if this is the only request whose answer the program awaits.
        is_alone: bool,
    },
    NoRoom,
    /// The call has ended, and its outcome has been delivered.
    #[cfg(feature = "rpc")]
    CallEnded,
    /// The connection has ended.
    Lost,
}

impl Shared {
    /// Queues a request, and writes it or schedules a flush.
    pub(super) fn try_submit(
        self: &Arc<Self>,
        request: &Request<'_>,
        to: AnswerTo<'_>,
        bound: Bound,
    ) -> Result<Submitted> {
        if self.is_closing() {
            return Err(lost());
        }
        if bound == Bound::Bounded && request.is_copied() && !self.writer.load().is_below(self.room()) {
            return Ok(TrySend::NoRoom);
        }
        let is_restored = self.client.subscriptions.is_some() && is_change(&request.operation);
        let qos = if is_restored { request.qos.acknowledged() } else { request.qos };
        // Everything is validated before anything is queued or registered.
        let mut encoded = EncodedRequest::new(request, qos)?;
        let body_len = encoded.body_len();
        let now = (qos.needs_ack() || !self.coalescing.waits()).then(|| self.now());
        let write_now = self.must_write_now(qos, now);
        let (waiter, pending) = self.waiter(request, qos, to);
        let deadline = now.and_then(|now| self.deadline(request, now)).filter(|_| waiter.is_some());
        let (next_deadline, waiting, is_alone) = match self.queue(&mut encoded, to, bound, waiter, deadline) {
            Queued::Done { next_deadline, waiting, is_alone } => (next_deadline, waiting, is_alone),
            Queued::NoRoom => return Ok(TrySend::NoRoom),
            #[cfg(feature = "rpc")]
            Queued::CallEnded => return Ok(TrySend::Sent(pending)),
            Queued::Lost => return Err(lost()),
        };
        self.client.count_sent(body_len);
        if let Some(at) = next_deadline {
            self.wake_heartbeat_at(at);
        }
        if write_now || waiting >= COALESCE_BYTES {
            self.writer.flush();
            if !write_now {
                self.coalescing.written_by_sender();
            }
            // What the program sends after the answer of a single request is no burst: its time does not matter.
            if !is_alone {
                self.burst.wrote(self.now());
            }
        } else {
            self.flush_soon();
        }
        self.expect_answer(qos, to);
        Ok(TrySend::Sent(pending))
    }

    /// Registers a request and queues it in one step under the lock of the queue.
    #[inline]
    fn queue(
        &self,
        encoded: &mut EncodedRequest,
        to: AnswerTo<'_>,
        bound: Bound,
        mut waiter: Option<Waiter>,
        deadline: Option<Instant>,
    ) -> Queued {
        #[cfg(not(feature = "rpc"))]
        let _ = to;
        let queued = self.writer.with(|backlog| {
            if bound == Bound::Bounded && !backlog.load().is_below(self.room()) {
                return Ok::<_, Waiter>(Queued::NoRoom);
            }
            // A call that has ended with another connection must not be sent over this one.
            #[cfg(feature = "rpc")]
            if let AnswerTo::Call(id) = to
                && !self.client.calls.is_waiting(id)
            {
                return Ok(Queued::CallEnded);
            }
            // The entry is added before the bytes can be written, and in the order of the bytes.
            let registered = match waiter.take() {
                None => Registered { op_id: 0, next_deadline: None, is_alone: false },
                Some(waiter) => self.acks.register(deadline, waiter)?,
            };
            encoded.push(registered.op_id, backlog.queue());
            let Registered { next_deadline, is_alone, .. } = registered;
            #[cfg(feature = "rpc")]
            let is_alone = is_alone && self.client.calls.pending() == usize::from(to.is_call());
            Ok(Queued::Done { next_deadline, waiting: backlog.queue().bytes(), is_alone })
        });
        // A waiter that was not registered is dropped here, without the lock.
        queued.and_then(std::result::Result::ok).unwrap_or(Queued::Lost)
    }

    /// Prepares waiting threads and the reader for the answer to a queued request.
    #[inline]
    fn expect_answer(&self, qos: QoS, to: AnswerTo<'_>) {
        let lease = self.client.inbox.lease();
        lease.note_sent();
        if qos.needs_ack() {
            self.client.inbox.unpark();
            if let AnswerTo::Queue(queue, _) = to {
                queue.expect_from(lease);
            }
        }
    }

    /// Returns the load below which there is room for a request.
    pub(super) fn room(&self) -> Load {
        Load { frames: self.config.queue_size, bytes: self.config.queue_bytes }
    }

    /// Returns true if a request must be written before the call returns. `now` is known unless others wait to be
    /// written.
    fn must_write_now(&self, qos: QoS, now: Option<Duration>) -> bool {
        if qos.is_realtime() || self.config.write_through {
            return true;
        }
        let Some(now) = now.filter(|_| !self.coalescing.waits()) else {
            self.burst.continues();
            return false;
        };
        let awaits_answers = |since: Duration| {
            let pipelined = qos.needs_ack() && self.acks.is_awaited();
            !pipelined && self.has_heard_since(since)
        };
        !self.burst.is_burst(now, awaits_answers)
    }

    fn deadline(&self, request: &Request<'_>, now: Duration) -> Option<Instant> {
        request.deadline.after(self.started + now, self.config.timeout)
    }

    /// Returns the entry of a request for the table of acknowledgements, and the handle for the program.
    fn waiter(
        &self,
        request: &Request<'_>,
        qos: QoS,
        to: AnswerTo<'_>,
    ) -> (Option<Waiter>, PendingOperation) {
        let mut pending = PendingOperation::done(Ok(()));
        let told = match to {
            _ if !request.qos.needs_ack() => None,
            AnswerTo::Handle => {
                let (slot, handle) = PendingOperation::waiting(self.client.inbox.lease());
                pending = handle;
                Some(AckTarget::Slot(slot))
            }
            AnswerTo::Queue(queue, token) => Some(AckTarget::Queue(queue.clone(), token)),
            #[cfg(feature = "rpc")]
            AnswerTo::Call(id) => return (Some(Waiter::Call(id)), pending),
            #[cfg(feature = "rpc")]
            AnswerTo::Log => return (Some(Waiter::Reply), pending),
            AnswerTo::Nothing => None,
        };
        let subscriptions = self.client.subscriptions.as_ref().filter(|_| qos.needs_ack());
        let waiter = match subscriptions {
            Some(subscriptions) if is_change(&request.operation) => {
                subscriptions.change(&request.operation, told).map(|change| Waiter::Topics(Box::new(change)))
            }
            _ => told.map(Waiter::Program),
        };
        (waiter.or_else(|| qos.needs_ack().then_some(Waiter::Probe)), pending)
    }
}
