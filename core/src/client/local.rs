//! The link of a client within the broker's process: operations are routed on the caller's thread.
//!
//! An operation that cannot be finished immediately, because a receiver has no room or because it takes long, is
//! finished by a task. Until then the link has no room: further operations wait for room, or queue behind it.

use super::ack_target::AckTarget;
use super::backlog::Entry;
use super::client_state::{ClientState, Finishing};
use super::contain::wake_all;
use super::inbox::End;
use super::outcome::{Answer, Failure};
use super::pending::PendingOperation;
use super::request::{AnswerTo, Bound, Deadline, Request, Submitted, TrySend};
use super::room::RoomState;
use super::waker_set::WakerSet;
use crate::broker::in_process::{Begun, LocalLink, Unfinished};
use crate::error::{Error, ErrorKind, Result};
use crate::proto::op::QoS;
use crate::proto::request::Operation;
use crate::transport::writer::next_ticket;
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::time::Instant;

/// A [`LocalLink`] from the point of view of a client.
pub(crate) struct Local(Arc<Shared>);

/// The state that the client shares with the task that finishes operations.
struct Shared {
    link: LocalLink,
    client: Arc<ClientState>,
    /// The runtime in which the client was made.
    runtime: Option<Handle>,
    queue: Mutex<Queue>,
}

/// Unfinished operations, in order.
#[derive(Default)]
struct Queue {
    /// True if the task is running.
    is_running: bool,
    entries: VecDeque<Deferred>,
}

/// An operation that the task finishes.
struct Deferred {
    entry: Entry,
    to: Target,
    /// `None` if it has not begun.
    begun: Option<Unfinished>,
}

/// The destination of an answer, as an owned value.
enum Target {
    Told(AckTarget),
    /// A destination with a deadline.
    Expiring(Arc<Expiring>),
    #[cfg(feature = "rpc")]
    Call(u32),
    #[cfg(feature = "rpc")]
    Log,
    Nothing,
}

/// The destination of an answer, or of a timeout if the answer does not come in time. Only the first of the two
/// counts.
struct Expiring {
    told: Mutex<Option<AckTarget>>,
    deadline: Instant,
    ticket: u64,
}

impl Expiring {
    fn tell(&self, answer: Answer) -> WakerSet {
        let told = self.told.lock().take();
        told.map(|told| told.tell(answer)).unwrap_or_default()
    }
}

/// The timer calls this at the deadline.
impl Wake for Expiring {
    fn wake(self: Arc<Self>) {
        wake_all(self.tell(Err(Failure::Timeout)));
    }
}

/// The result of starting an operation for a task that waits.
pub(crate) enum LocalSubmit<'a> {
    Done(Submitted),
    Waits(Pin<Box<dyn Future<Output = Result<Submitted>> + Send + 'a>>),
}

impl Local {
    pub(super) fn new(link: LocalLink, client: Arc<ClientState>) -> Local {
        let runtime = Handle::try_current().ok();
        Local(Arc::new(Shared { link, client, runtime, queue: Mutex::default() }))
    }

    /// Routes an operation on the caller's thread.
    pub(crate) fn try_submit(
        &self,
        request: &Request<'_>,
        to: AnswerTo<'_>,
        bound: Bound,
    ) -> Result<Submitted> {
        let shared = &self.0;
        check(request)?;
        if !shared.link.is_connected() {
            return Err(lost());
        }
        let mut queue = shared.queue.lock();
        if queue.is_running {
            if bound == Bound::Bounded {
                return Ok(TrySend::NoRoom);
            }
            let (target, pending) = target(to, request.qos, &shared.client);
            let Some(entry) = Entry::copy(request) else { return Ok(TrySend::Sent(pending)) };
            let (target, alarm) = shared.expiring(target, request.deadline);
            queue.entries.push_back(Deferred { entry, to: target, begun: None });
            drop(queue);
            shared.set_alarm(alarm);
            return Ok(TrySend::Sent(pending));
        }
        drop(queue);
        let operation = with_shared_payload(request);
        let unfinished = match shared.link.begin(&operation, request.qos) {
            Begun::Done(answer) => return shared.confirm(answer, request.qos, to),
            Begun::Waits(unfinished) => unfinished,
        };
        let (target, pending) = target(to, request.qos, &shared.client);
        if let Some(entry) = Entry::copy(&Request::shared(&operation, request.qos)) {
            let (target, alarm) = shared.expiring(target, request.deadline);
            shared.defer(Deferred { entry, to: target, begun: Some(unfinished) })?;
            shared.set_alarm(alarm);
        }
        Ok(TrySend::Sent(pending))
    }

    /// Does the same as [`try_submit`](Local::try_submit), for a task that waits until the operation is finished:
    /// that task finishes the operation itself.
    #[inline]
    pub(crate) fn submit<'a>(&'a self, request: &Request<'a>, to: AnswerTo<'a>) -> Result<LocalSubmit<'a>> {
        let shared = &self.0;
        check(request)?;
        if shared.queue.lock().is_running {
            return Ok(LocalSubmit::Done(TrySend::NoRoom));
        }
        let (operation, qos) = (with_shared_payload(request), request.qos);
        match shared.link.begin(&operation, qos) {
            Begun::Done(answer) => shared.confirm(answer, qos, to).map(LocalSubmit::Done),
            Begun::Waits(unfinished) => Ok(LocalSubmit::Waits(Box::pin(async move {
                // A receiver has no room. That receiver may be waiting for this client.
                let _blocked = shared.client.inbox.block();
                let answer = shared.link.finish(unfinished, &operation).await;
                shared.confirm(answer, qos, to)
            }))),
        }
    }

    /// Does the same as [`ReconnectingLink::poll_room`](super::reconnect::ReconnectingLink::poll_room).
    pub(super) fn poll_room(&self, ticket: u64, cx: &mut Context<'_>) -> Result<RoomState> {
        match self.poll_flushed(ticket, cx) {
            Poll::Ready(Ok(())) => Ok(RoomState::Ready),
            Poll::Ready(Err(e)) => Err(e),
            Poll::Pending => Ok(RoomState::Full),
        }
    }

    /// Returns ready when every operation is finished.
    ///
    /// # Errors
    ///
    /// The client has ended.
    pub(super) fn poll_flushed(&self, ticket: u64, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let shared = &self.0;
        let look = || {
            if !shared.link.is_connected() {
                return Poll::Ready(Err(lost()));
            }
            if shared.queue.lock().is_running { Poll::Pending } else { Poll::Ready(Ok(())) }
        };
        if look().is_pending() {
            shared.client.senders.register(ticket, cx.waker());
        }
        // The second check sees changes that happened before the waker was registered.
        look()
    }

    pub(super) fn forget_room(&self, ticket: u64) {
        self.0.client.senders.forget(ticket);
    }

    pub(crate) fn ping(&self) -> Result<()> {
        if self.is_connected() { Ok(()) } else { Err(ErrorKind::ConnectionLost.into()) }
    }

    pub(crate) fn secondary(&self, name: &str, client: Arc<ClientState>) -> Result<Local> {
        let link = self.0.link.secondary(name, client.clone())?;
        Ok(Local::new(link, client))
    }

    pub(crate) fn disconnect(&self) {
        self.0.client.end(End::new(ErrorKind::ConnectionLost, "disconnected by this client"));
        self.0.link.disconnect();
        self.0.client.senders.wake_all();
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.0.link.is_connected()
    }

    pub(crate) fn sent(&self) -> (u64, u64) {
        self.0.link.sent()
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        self.0.link.disconnect();
    }
}

impl Shared {
    /// Returns the answer to the program for a finished operation.
    fn confirm(
        &self,
        answer: std::result::Result<(), ErrorKind>,
        qos: QoS,
        to: AnswerTo<'_>,
    ) -> Result<Submitted> {
        if answer == Err(ErrorKind::ConnectionLost) {
            return Err(lost());
        }
        let answer = answer.map_err(|kind| Failure::Refused(kind.code()));
        if let AnswerTo::Handle = to {
            let answer = if qos.needs_ack() { answer } else { Ok(()) };
            return Ok(TrySend::Sent(PendingOperation::done(answer)));
        }
        let (target, pending) = target(to, qos, &self.client);
        self.tell(target, answer);
        Ok(TrySend::Sent(pending))
    }

    /// Adds a deadline that the program has set. Without one, only the broker's own bounds apply.
    fn expiring(&self, target: Target, deadline: Deadline) -> (Target, Option<Arc<Expiring>>) {
        let deadline = match deadline {
            Deadline::Default => None,
            deadline => deadline.after(Instant::now(), Duration::ZERO),
        };
        match (target, deadline) {
            (Target::Told(told), Some(deadline)) => {
                let told = Mutex::new(Some(told));
                let expiring = Arc::new(Expiring { told, deadline, ticket: next_ticket() });
                (Target::Expiring(expiring.clone()), Some(expiring))
            }
            (target, _) => (target, None),
        }
    }

    fn set_alarm(&self, alarm: Option<Arc<Expiring>>) {
        if let Some(expiring) = alarm {
            let (deadline, ticket) = (expiring.deadline, expiring.ticket);
            self.client.timer.wake_at(deadline, ticket, &expiring.into());
        }
    }

    /// Delivers the answer. It runs wakers and the logger: the caller must hold no lock.
    fn tell(&self, target: Target, answer: Answer) {
        let wakers = match target {
            Target::Told(told) => told.tell(answer),
            Target::Expiring(expiring) => {
                self.client.timer.forget_wake_at(expiring.deadline, expiring.ticket);
                expiring.tell(answer)
            }
            #[cfg(feature = "rpc")]
            Target::Call(id) => match answer {
                Err(failure @ Failure::Refused(_)) => self.client.calls.fail(id, failure),
                _ => WakerSet::default(),
            },
            #[cfg(feature = "rpc")]
            Target::Log => {
                if let Err(failure) = answer {
                    log::debug!("a reply was refused: {}", failure.kind());
                }
                WakerSet::default()
            }
            Target::Nothing => WakerSet::default(),
        };
        wake_all(wakers);
    }

    /// Passes an operation to the task, which finishes it.
    ///
    /// # Errors
    ///
    /// There is no runtime.
    fn defer(self: &Arc<Self>, deferred: Deferred) -> Result<()> {
        let Some(runtime) = &self.runtime else {
            return Err(Error::new(ErrorKind::NotSupported, "the client was made outside of a runtime"));
        };
        let mut queue = self.queue.lock();
        queue.entries.push_back(deferred);
        let was_running = std::mem::replace(&mut queue.is_running, true);
        drop(queue);
        if !was_running {
            let task = Finisher {
                shared: self.clone(),
                current: None,
                is_done: false,
                _finishing: self.client.begin_finishing(),
            };
            runtime.spawn(task.run());
        }
        Ok(())
    }
}

impl Shared {
    /// Removes the next operation to be finished. If there is none, the link has room again.
    fn next_deferred(&self) -> Option<Deferred> {
        let mut queue = self.queue.lock();
        let next = queue.entries.pop_front();
        queue.is_running = next.is_some();
        next
    }
}

/// The task that finishes operations. When it is dropped, also with its runtime, the remaining operations fail.
struct Finisher {
    shared: Arc<Shared>,
    /// The destination of the answer to the operation that is being finished.
    current: Option<Target>,
    /// True if it has found nothing left to do: another task may already be running.
    is_done: bool,
    /// Delays the report of the client's end until the operations have failed.
    _finishing: Finishing,
}

impl Finisher {
    async fn run(mut self) {
        let shared = self.shared.clone();
        // A receiver that has no room may be waiting for this client.
        let _blocked = shared.client.inbox.block();
        loop {
            let Some(Deferred { entry, to, begun }) = shared.next_deferred() else {
                self.is_done = true;
                shared.client.senders.wake_all();
                return;
            };
            self.current = Some(to);
            let request = entry.request();
            let operation = with_shared_payload(&request);
            let begun = match begun {
                Some(unfinished) => Begun::Waits(unfinished),
                None => shared.link.begin(&operation, request.qos),
            };
            let answer = match begun {
                Begun::Done(answer) => answer,
                Begun::Waits(unfinished) => Box::pin(shared.link.finish(unfinished, &operation)).await,
            };
            if let Some(to) = self.current.take() {
                shared.tell(to, answer.map_err(Failure::of_kind));
            }
            tokio::task::coop::consume_budget().await;
        }
    }
}

impl Drop for Finisher {
    fn drop(&mut self) {
        if self.is_done {
            return;
        }
        let mut queue = self.shared.queue.lock();
        let left = std::mem::take(&mut queue.entries);
        queue.is_running = false;
        drop(queue);
        for to in self.current.take().into_iter().chain(left.into_iter().map(|deferred| deferred.to)) {
            self.shared.tell(to, Err(Failure::Lost));
        }
        self.shared.client.senders.wake_all();
    }
}

fn lost() -> Error {
    Error::new(ErrorKind::ConnectionLost, "the client is not connected")
}

/// Returns the destination of the answer, and the handle for the program.
fn target(to: AnswerTo<'_>, qos: QoS, client: &ClientState) -> (Target, PendingOperation) {
    let done = || PendingOperation::done(Ok(()));
    match to {
        #[cfg(feature = "rpc")]
        AnswerTo::Call(id) if qos.needs_ack() => (Target::Call(id), done()),
        #[cfg(feature = "rpc")]
        AnswerTo::Log => (Target::Log, done()),
        AnswerTo::Handle if qos.needs_ack() => {
            let (slot, pending) = PendingOperation::waiting(client.inbox.lease());
            (Target::Told(AckTarget::Slot(slot)), pending)
        }
        AnswerTo::Queue(queue, token) if qos.needs_ack() => {
            (Target::Told(AckTarget::Queue(queue.clone(), token)), done())
        }
        _ => (Target::Nothing, done()),
    }
}

/// Rejects requests that could not be sent over a socket: there, names and topics end at a NUL, and a body is shorter
/// than 4 GiB.
fn check(request: &Request<'_>) -> Result<()> {
    let has_nul = |text: &str| text.as_bytes().contains(&0);
    if request.operation.texts().any(has_nul) {
        return Err(Error::new(ErrorKind::Data, "a name or topic with a NUL"));
    }
    if u32::try_from(request.payload_len()).is_err() {
        return Err(Error::new(ErrorKind::Data, "a payload over 4 GiB"));
    }
    Ok(())
}

/// Returns the operation with its whole payload in one piece.
fn with_shared_payload<'a>(request: &Request<'a>) -> Operation<'a, Bytes> {
    let Request { operation, envelope, prefix, .. } = request;
    operation.by_ref().map_payload(|payload| {
        if envelope.is_empty() && prefix.is_empty() {
            payload.to_shared()
        } else {
            [envelope, prefix, payload.bytes()].concat().into()
        }
    })
}
