//! One connection to a broker over a socket: the write path, the task that reads, the task that keeps
//! time.
//!
//! Requests are encoded on the caller's thread and written there too. Small ones that come in a burst are written
//! together, by a task or by the caller. The reader completes acknowledgements and replies itself and leaves frames in
//! the inbox.
//!
//! The tasks hold [`Shared`], never the [`Connection`]: dropping that begins the end. What was sent is
//! written, our direction is ended, what the broker still sends is read until it closes too (closing
//! with unread bytes would make TCP discard what is on its way), all within the timeout.

use super::ack_target::AckTarget;
use super::acks::{Acks, Registered, Waiter};
use super::alive::Alive;
use super::burst::BurstDetector;
use super::client_state::ClientState;
use super::config::Config;
use super::encode::EncodedRequest;
use super::inbox::End;
use super::keep::keep;
use super::pending::PendingOperation;
use super::reader::{Input, Reader};
use super::request::{AnswerTo, Bound, Request, Submitted, TrySend};
use super::subscriptions::is_change;
use crate::error::{Error, ErrorKind, Result};
use crate::fork::Process;
use crate::proto::op::QoS;
use crate::proto::request;
use crate::transport::writer::next_ticket;
use crate::transport::{Load, Socket, Writer};
use parking_lot::Mutex;
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};

/// A burst of requests is written by the caller when so many bytes wait.
const COALESCE_BYTES: usize = 4096;

/// How far a connection has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Phase {
    Open,
    /// This side ends it: nothing more is sent.
    Closing,
    /// The reader has ended.
    Ended(End),
}

/// The end of a connection that the client holds.
#[derive(Debug)]
pub(crate) struct Connection {
    shared: Arc<Shared>,
    /// A child that inherited the connection through fork must not end its parent's.
    process: Process,
}

/// What the tasks of a connection share with it.
#[derive(Debug)]
pub(super) struct Shared {
    /// Not registered for reading: the reader's task has the handle that is.
    pub(super) socket: Socket,
    pub(super) writer: Arc<Writer>,
    pub(super) client: Arc<ClientState>,
    pub(super) acks: Acks,
    pub(super) config: Config,
    /// Set when the phase is no longer [`Phase::Open`]: reading it costs less.
    closing: AtomicBool,
    /// Whether the program has begun to end it.
    close_begun: AtomicBool,
    pub(super) phase: watch::Sender<Phase>,
    /// Why this side has cut the connection.
    cut: Mutex<Option<End>>,
    /// Whether the reader waits for the program to take frames.
    pub(super) parked: AtomicBool,
    pub(super) born: Instant,
    /// When the last byte came, in ns since `born`.
    pub(super) heard: AtomicU64,
    /// The number of acknowledgements and replies that have come.
    pub(super) answers: AtomicU64,
    burst: BurstDetector,
    /// Whether a task is about to flush.
    flush_scheduled: AtomicBool,
    /// When the heartbeat wakes up, in ns since `born`.
    heartbeat_at: AtomicU64,
    /// Wakes the heartbeat earlier.
    pub(super) alarm: Notify,
    /// Locked by whoever reads, and only tried.
    pub(super) input: Mutex<Input>,
}

impl Connection {
    /// Starts the tasks of a registered connection. `leftover` came after the registration.
    pub(crate) fn start(
        socket: Socket,
        writer: Arc<Writer>,
        leftover: &[u8],
        client: Arc<ClientState>,
        config: &Config,
    ) -> Connection {
        let shared = Arc::new(Shared {
            socket: socket.unregistered(),
            writer,
            acks: Acks::new(&client),
            client,
            config: config.clone(),
            closing: AtomicBool::new(false),
            close_begun: AtomicBool::new(false),
            phase: watch::Sender::new(Phase::Open),
            cut: Mutex::new(None),
            parked: AtomicBool::new(false),
            born: Instant::now(),
            heard: AtomicU64::new(0),
            answers: AtomicU64::new(0),
            burst: BurstDetector::default(),
            flush_scheduled: AtomicBool::new(false),
            heartbeat_at: AtomicU64::new(u64::MAX),
            alarm: Notify::new(),
            input: Mutex::new(Input::new(leftover)),
        });
        let readable: Weak<Shared> = Arc::downgrade(&shared);
        shared.client.inbox.lease().attach(readable);
        tokio::spawn(Reader::new(shared.clone(), socket).run());
        // From here on, and not from when the task first runs, the exit of the process waits for this connection.
        let alive = Alive::current(&config.name);
        tokio::spawn(keep(shared.clone(), alive));
        Connection { shared, process: Process::current() }
    }

    /// Sends a request if there is room.
    #[inline]
    pub(super) fn try_submit(
        &self,
        request: &Request<'_>,
        to: AnswerTo<'_>,
        bound: Bound,
    ) -> Result<Submitted> {
        self.shared.try_submit(request, to, bound)
    }

    /// Ready with true when there is room for a request, and with false when none can be sent any more. Else the waker
    /// is registered under the ticket; see [`forget_room`](Connection::forget_room).
    pub(super) fn poll_room(&self, ticket: u64, cx: &mut Context<'_>) -> Poll<bool> {
        let room = self.shared.writer.poll_below(ticket, self.shared.room(), cx);
        // The second look sees an end that began before the waker was registered.
        if self.is_connected() { room } else { Poll::Ready(false) }
    }

    /// Sends a request that no program waits for, within the timeout.
    pub(super) async fn send(&self, request: &Request<'_>) -> Result<()> {
        let ticket = next_ticket();
        let sent = poll_fn(|cx| {
            loop {
                match self.try_submit(request, AnswerTo::Nothing, Bound::Bounded) {
                    Ok(TrySend::Sent(_)) => return Poll::Ready(Ok(())),
                    // If there is none any more, the next try says why.
                    Ok(TrySend::NoRoom) => _ = ready!(self.poll_room(ticket, cx)),
                    Err(e) => return Poll::Ready(Err(e)),
                }
            }
        });
        let sent = timeout(self.shared.config.timeout, sent).await;
        self.forget_room(ticket);
        sent.unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::Timeout, "the broker takes no more from this client"))
        })
    }

    /// Takes back the registration of [`poll_room`](Connection::poll_room) or
    /// [`poll_written`](Connection::poll_written).
    pub(super) fn forget_room(&self, ticket: u64) {
        self.shared.writer.forget_waiter(ticket);
    }

    /// Writes what can be written now. Returns the position in the stream that is reached when everything sent so
    /// far is in the kernel.
    pub(super) fn begin_flush(&self) -> u64 {
        self.shared.writer.flush();
        self.shared.writer.position()
    }

    /// Ready with true when everything before the position is in the kernel, with false when it never will be.
    pub(super) fn poll_written(&self, position: u64, ticket: u64, cx: &mut Context<'_>) -> Poll<bool> {
        self.shared.writer.poll_written(ticket, position, cx)
    }

    /// Sends a ping.
    pub(crate) fn ping(&self) -> Result<()> {
        if !self.is_connected() {
            return Err(lost());
        }
        self.shared.ping();
        Ok(())
    }

    /// Reads once on this thread. Returns whether bytes were read.
    #[cfg(test)]
    pub(super) fn read_now(&self) -> bool {
        use super::reading_lease::{Look, Readable};
        self.shared.read_now() == Look::Some
    }

    /// Whether a thread holds the lock of the input.
    #[cfg(test)]
    pub(super) fn is_reading(&self) -> bool {
        self.shared.input.is_locked()
    }

    /// Whether requests can be sent.
    pub(crate) fn is_connected(&self) -> bool {
        !self.shared.closing.load(Ordering::Relaxed)
    }

    /// Requests sent and the bytes of their bodies.
    pub(crate) fn sent(&self) -> (u64, u64) {
        self.shared.client.sent()
    }

    /// Begins the end: see [`disconnect`](Connection::disconnect), which waits for it.
    pub(super) fn begin_close(&self, why: &'static str) {
        self.shared.begin_close(why);
    }

    /// Begins the end, and fails what waits for an answer now.
    pub(super) fn close(&self, why: &'static str) {
        self.fail_operations();
        self.shared.begin_close(why);
    }

    /// Fails the operations that wait for an answer, and all that follow.
    pub(super) fn fail_operations(&self) {
        self.shared.refuse();
        self.shared.acks.end();
    }

    /// Waits until the connection has ended and tells why.
    pub(super) async fn ended(&self) -> End {
        self.shared.wait_ended().await
    }

    /// Ends the connection when what was sent is written, within the timeout.
    pub(crate) async fn disconnect(&self) {
        self.shared.begin_close("disconnected by this client");
        self.shared.wait_ended().await;
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if self.process.is_current() {
            self.shared.begin_close("the client was dropped");
        }
        self.process.leak_if_inherited(&self.shared);
    }
}

impl Shared {
    /// How much may wait to be written before there is no room.
    fn room(&self) -> Load {
        Load { frames: self.config.queue_size, bytes: self.config.queue_bytes }
    }

    fn now(&self) -> Duration {
        Instant::now().duration_since(self.born)
    }

    /// Queues a request, and writes it or has it written.
    fn try_submit(
        self: &Arc<Self>,
        request: &Request<'_>,
        to: AnswerTo<'_>,
        bound: Bound,
    ) -> Result<Submitted> {
        if self.closing.load(Ordering::Relaxed) {
            return Err(lost());
        }
        if bound == Bound::Bounded && request.is_copied() && !self.writer.load().is_below(self.room()) {
            return Ok(TrySend::NoRoom);
        }
        let is_restored = self.client.subscriptions.is_some() && is_change(&request.operation);
        let qos = if is_restored { request.qos.acknowledged() } else { request.qos };
        // Everything is checked before anything is queued or registered.
        let mut encoded = EncodedRequest::new(request, qos)?;
        let body_len = encoded.body_len();
        let now = (qos.needs_ack() || !self.is_coalescing()).then(|| self.now());
        let write_now = self.must_write_now(qos, now);
        let (mut waiter, pending) = self.waiter(request, qos, to);
        let deadline = now.and_then(|now| self.deadline(request, now)).filter(|_| waiter.is_some());
        let queued = self.writer.with(|backlog| {
            if bound == Bound::Bounded && !backlog.load().is_below(self.room()) {
                return Ok::<_, Option<Waiter>>(None);
            }
            // A call that has ended with another connection is not sent over this one.
            #[cfg(feature = "rpc")]
            if let AnswerTo::Call(id) = to
                && !self.client.calls.is_waiting(id)
            {
                return Err(None);
            }
            // The entry is made before the bytes can leave, and in their order.
            let registered = match waiter.take() {
                None => Registered { op_id: 0, next_deadline: None },
                Some(waiter) => self.acks.register(deadline, waiter).map_err(Some)?,
            };
            encoded.push(registered.op_id, backlog.queue());
            Ok(Some((registered.next_deadline, backlog.queue().bytes())))
        });
        let (next_deadline, waiting) = match queued {
            Some(Ok(Some(queued))) => queued,
            Some(Ok(None)) => return Ok(TrySend::NoRoom),
            // The call has ended, and its outcome is told already. The connection is sound.
            Some(Err(None)) => return Ok(TrySend::Sent(pending)),
            Some(Err(Some(_))) | None => return Err(lost()),
        };
        self.client.count_sent(body_len);
        if let Some(at) = next_deadline {
            self.alarm_at(at);
        }
        if write_now || waiting >= COALESCE_BYTES {
            self.writer.flush();
            self.burst.wrote(self.now());
        } else {
            self.flush_soon();
        }
        let lease = self.client.inbox.lease();
        lease.note_sent();
        if qos.needs_ack() {
            self.client.inbox.unpark();
            if to.is_queue() {
                // No thread polls for what goes there.
                lease.sleeps();
            }
        }
        Ok(TrySend::Sent(pending))
    }

    /// Whether requests wait for the task that flushes.
    fn is_coalescing(&self) -> bool {
        self.flush_scheduled.load(Ordering::Relaxed)
    }

    /// Whether a request is written before the call returns; `now` is known unless others wait to be written.
    fn must_write_now(&self, qos: QoS, now: Option<Duration>) -> bool {
        if qos.is_realtime() || self.config.write_through {
            return true;
        }
        let Some(now) = now.filter(|_| !self.is_coalescing()) else {
            self.burst.continues();
            return false;
        };
        let awaits_answers = |since: Duration| {
            let pipelined = qos.needs_ack() && self.acks.is_awaited();
            !pipelined && self.heard.load(Ordering::Relaxed) > since.as_nanos() as u64
        };
        !self.burst.is_burst(now, awaits_answers)
    }

    /// Lets a task flush, unless one is about to.
    fn flush_soon(self: &Arc<Self>) {
        // The first look costs less. The lock of the queue orders it: the task clears the flag before it takes the queue.
        if self.is_coalescing() || self.flush_scheduled.swap(true, Ordering::AcqRel) {
            return;
        }
        let shared = self.clone();
        self.writer.runtime().spawn(async move {
            // Cleared before the flush: requests that are queued after it schedule another one.
            shared.flush_scheduled.store(false, Ordering::SeqCst);
            shared.writer.flush();
            shared.burst.wrote(shared.now());
        });
    }

    fn deadline(&self, request: &Request<'_>, now: Duration) -> Option<Instant> {
        request.deadline.after(self.born + now, self.config.timeout)
    }

    /// The entry of a request in the table of acknowledgements, and the handle for the program.
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

    /// Has the heartbeat look at the deadlines at that time at the latest.
    fn alarm_at(&self, at: Instant) {
        let at = at.saturating_duration_since(self.born).as_nanos() as u64;
        if self.heartbeat_at.fetch_min(at, Ordering::SeqCst) > at {
            self.alarm.notify_one();
        }
    }

    /// The heartbeat looks at the deadlines now: later ones have to wake it.
    pub(super) fn heartbeat_looks(&self) {
        self.heartbeat_at.store(u64::MAX, Ordering::SeqCst);
    }

    /// The heartbeat sleeps until then.
    pub(super) fn heartbeat_sleeps(&self, until: Instant) {
        let until = until.saturating_duration_since(self.born).as_nanos() as u64;
        self.heartbeat_at.fetch_min(until, Ordering::SeqCst);
    }

    /// The program ends the connection: what can be written now is written on this thread.
    pub(super) fn begin_close(&self, why: &'static str) {
        self.closing.store(true, Ordering::Relaxed);
        if self.close_begun.swap(true, Ordering::Relaxed) {
            return;
        }
        self.writer.flush();
        // Those who wait for room are told that there will be none.
        self.writer.wake_waiters();
        if self.writer.load().frames == 0 {
            self.socket.shutdown_write();
        }
        // Wakes up the task that sees to the rest.
        self.advance(Phase::Closing);
        if self.client.subscriptions.is_none() {
            self.client.stop(End::new(ErrorKind::ConnectionLost, why));
        }
    }

    /// The broker is given up.
    pub(super) fn cut(&self, end: End) {
        *self.cut.lock() = Some(end);
        self.closing.store(true, Ordering::Relaxed);
        self.writer.close();
        self.advance(Phase::Closing);
    }

    /// Nothing more is sent.
    pub(super) fn refuse(&self) {
        self.closing.store(true, Ordering::Relaxed);
    }

    fn advance(&self, to: Phase) {
        self.phase.send_if_modified(|phase| {
            let ahead = !matches!(phase, Phase::Ended(_));
            if ahead {
                *phase = to;
            }
            ahead
        });
    }

    /// Whether nothing more is read.
    pub(super) fn has_ended(&self) -> bool {
        matches!(*self.phase.borrow(), Phase::Ended(_))
    }

    /// Returns whether this side ends the connection, or it has ended.
    pub(super) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }

    /// Whether the reader waits for the program to take frames.
    pub(super) fn is_parked(&self) -> bool {
        self.parked.load(Ordering::Relaxed)
    }

    pub(super) async fn wait_ended(&self) -> End {
        let mut phase = self.phase.subscribe();
        match phase.wait_for(|phase| matches!(phase, Phase::Ended(_))).await.as_deref() {
            Ok(Phase::Ended(end)) => end.clone(),
            // The sender is gone, which it cannot be while it is borrowed.
            _ => End::new(ErrorKind::ConnectionLost, "the client is gone"),
        }
    }

    /// Tells the broker that this client is alive.
    pub(super) fn ping(&self) {
        self.writer.with(|backlog| backlog.queue().push(|out| out.extend_from_slice(&request::PING)));
        self.writer.flush();
    }

    /// Notes that the broker is alive, or could not be heard so far.
    pub(super) fn hear(&self) {
        self.heard.store(self.born.elapsed().as_nanos() as u64, Ordering::Relaxed);
    }

    /// The connection has ended: everything that waits fails.
    pub(super) fn finish(&self, end: End) {
        self.closing.store(true, Ordering::Relaxed);
        self.writer.close();
        let end = self.cut.lock().take().unwrap_or(end);
        // Operations fail before the program is told of the end.
        self.acks.end();
        if self.client.subscriptions.is_none() {
            self.client.stop(end.clone());
            self.client.tell_end();
        } else {
            self.client.lose();
        }
        self.advance(Phase::Ended(end));
    }
}

pub(super) fn lost() -> Error {
    Error::new(ErrorKind::ConnectionLost, "the client is not connected")
}
