//! A client that reconnects: a series of connections, and the time between them.
//!
//! A task waits for the end of the current connection, then tries to connect again, after increasing delays. A new
//! connection becomes the current one only when everything is restored: subscriptions and exclusions are
//! acknowledged, and queued operations have been passed on in their order. Therefore no new operation can overtake
//! them.
//!
//! The lock is never held across an await, nor while code runs that may call the client: while a connection is used
//! or dropped, while a payload is dropped, while tasks that wait for the status are woken.

use super::alive::Alive;
use super::backlog::{Backlog, Entry};
use super::client_state::ClientState;
use super::config::Config;
use super::connect;
use super::connection::Connection;
use super::contain::{contain, discard_value};
use super::events::Event;
use super::inbox::End;
use super::pending::PendingOperation;
use super::policy::{Reconnect, WhileDown};
use super::request::{AnswerTo, Bound, Request, Submitted, TrySend};
use super::resume::restore;
use super::room::RoomState;
use super::shared::lost;
use super::waiters::Waiters;
use crate::error::{Error, ErrorKind, Result};
use crate::fork::Process;
use parking_lot::RwLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

/// After a connection that lasted this long, the delays begin anew. After shorter ones they continue to grow;
/// otherwise two programs of the same name would evict each other without a pause.
const STEADY: Duration = Duration::from_secs(1);

const RUNTIME_GONE: &str = "the runtime was shut down";

/// The handle that the client owns. Dropping it ends the client.
#[derive(Debug)]
pub(super) struct ReconnectingLink {
    shared: Arc<Shared>,
    /// Detects a fork: a child that inherited the client must not end the parent's.
    process: Process,
}

#[derive(Debug)]
struct Shared {
    config: Config,
    plan: Reconnect,
    client: Arc<ClientState>,
    state: RwLock<State>,
    /// The state without its content, for tasks that wait for a change.
    status: watch::Sender<Status>,
    /// The wakers of the tasks that wait for a connection.
    waiters: Waiters,
    /// True if an operation of the queue is being passed to a connection that is not current yet.
    handing_over: AtomicBool,
    /// The primary of a secondary client, which must connect first.
    primary: Option<Weak<Shared>>,
}

#[derive(Debug)]
enum State {
    Up(Arc<Connection>),
    Down(Backlog),
    Ended,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    Up,
    Down,
    Ended,
}

impl ReconnectingLink {
    /// Starts to supervise a client that has just connected for the first time. `primary` is the primary of a
    /// secondary client.
    pub(super) fn start(
        connection: Connection,
        config: &Config,
        plan: Reconnect,
        client: Arc<ClientState>,
        primary: Option<&ReconnectingLink>,
    ) -> ReconnectingLink {
        let connection = Arc::new(connection);
        let primary = primary.map(|d| d.shared.primary.clone().unwrap_or_else(|| Arc::downgrade(&d.shared)));
        let shared = Arc::new(Shared {
            config: config.clone(),
            plan,
            client,
            state: RwLock::new(State::Up(connection.clone())),
            status: watch::Sender::new(Status::Up),
            waiters: Waiters::default(),
            handing_over: AtomicBool::new(false),
            primary,
        });
        shared.tell(Event::Connected);
        let supervisor = Supervisor { shared: shared.clone(), connection: Some(connection) };
        tokio::spawn(supervisor.run(Alive::current(&config.name)));
        ReconnectingLink { shared, process: Process::current() }
    }

    /// Sends a request over the current connection, or applies the policy if there is none.
    pub(super) fn try_submit(
        &self,
        request: &Request<'_>,
        to: AnswerTo<'_>,
        bound: Bound,
    ) -> Result<Submitted> {
        let shared = &*self.shared;
        loop {
            if let Some(connection) = shared.connection()? {
                match connection.try_submit(request, to, bound) {
                    // The request has not been sent.
                    Err(e) if e.kind() == ErrorKind::ConnectionLost => shared.lose(&connection),
                    result => return result,
                }
            }
            match shared.config.while_down {
                WhileDown::Fail => return Err(lost()),
                WhileDown::Wait(_) => return Ok(TrySend::NoRoom),
                WhileDown::Queue(bytes) => {
                    let entry = if to.is_call() { None } else { Entry::new(request)? };
                    let Some(entry) = entry else { return Ok(TrySend::NoRoom) };
                    if let Some(queued) = shared.enqueue(entry, bytes) {
                        return queued.map(|()| TrySend::Sent(PendingOperation::done(Ok(()))));
                    }
                }
            }
        }
    }

    /// Returns ready if another attempt to send may succeed. Otherwise the waker is registered under the ticket; see
    /// [`forget_room`](ReconnectingLink::forget_room).
    ///
    /// # Errors
    ///
    /// Nothing can be sent, now and later.
    pub(super) fn poll_room(&self, ticket: u64, cx: &mut Context<'_>) -> Result<RoomState> {
        let shared = &*self.shared;
        loop {
            if let Some(connection) = shared.connection()? {
                match connection.poll_room(ticket, cx) {
                    Poll::Pending => return Ok(RoomState::Full),
                    Poll::Ready(true) => return Ok(RoomState::Ready),
                    // A request must not be tried over it: a call would count as sent when the loss is reported.
                    Poll::Ready(false) => shared.lose(&connection),
                }
            }
            let bound = match shared.config.while_down {
                WhileDown::Fail => return Err(lost()),
                WhileDown::Wait(bound) => bound,
                WhileDown::Queue(_) => shared.config.timeout,
            };
            shared.waiters.register(ticket, cx.waker());
            // The second check sees changes that happened before the waker was registered.
            if shared.connection()?.is_none() {
                return Ok(RoomState::Down(bound));
            }
        }
    }

    /// Removes the registration of [`poll_room`](ReconnectingLink::poll_room) or
    /// [`poll_written`](ReconnectingLink::poll_written).
    pub(super) fn forget_room(&self, ticket: u64) {
        self.shared.waiters.forget(ticket);
        if let Ok(Some(connection)) = self.shared.connection() {
            connection.forget_room(ticket);
        }
    }

    /// Returns ready with the connection to which everything sent so far has been passed, when the operations that
    /// waited for a connection have been passed to one.
    ///
    /// # Errors
    ///
    /// [`ConnectionLost`](ErrorKind::ConnectionLost): the client has ended, or there is no connection and no
    /// operation waits for one.
    pub(super) fn poll_connection(&self, ticket: u64, cx: &mut Context<'_>) -> Poll<Result<Arc<Connection>>> {
        let shared = &*self.shared;
        let look = || match &*shared.state.read() {
            State::Up(connection) => Poll::Ready(Ok(connection.clone())),
            State::Down(backlog) if backlog.len() > 0 || shared.is_handing_over() => Poll::Pending,
            State::Down(_) | State::Ended => Poll::Ready(Err(lost())),
        };
        if look().is_pending() {
            shared.waiters.register(ticket, cx.waker());
        }
        look()
    }

    pub(super) fn ping(&self) -> Result<()> {
        self.shared.connection()?.ok_or_else(lost)?.ping()
    }

    pub(super) fn is_connected(&self) -> bool {
        matches!(&*self.shared.state.read(), State::Up(connection) if connection.is_connected())
    }

    pub(super) fn sent(&self) -> (u64, u64) {
        self.shared.client.sent()
    }

    /// Begins to end the client: see [`disconnect`](ReconnectingLink::disconnect), which waits for it.
    pub(super) fn begin_close(&self, why: &'static str) {
        self.shared.end(why);
    }

    /// Begins to end the client, and fails everything that waits for an answer.
    pub(super) fn close(&self, why: &'static str) {
        let end = End::new(ErrorKind::ConnectionLost, why);
        self.shared.end_with(end, |connection| connection.close(why));
    }

    /// Ends the client after everything sent is written, within the timeout.
    pub(super) async fn disconnect(&self) {
        if let Some(connection) = self.shared.end("disconnected by this client") {
            connection.disconnect().await;
        }
    }
}

impl Drop for ReconnectingLink {
    fn drop(&mut self) {
        if self.process.is_current() {
            self.shared.end("the client was dropped");
        }
        self.process.leak_if_inherited(&self.shared);
    }
}

impl Shared {
    fn tell(&self, event: Event) {
        self.client.events.tell(event);
    }

    /// Sets a new state. The old one is returned, so that it is dropped without the lock.
    fn change(&self, to: impl FnOnce(&mut State) -> Option<State>) -> Option<State> {
        let mut state = self.state.write();
        let next = to(&mut state)?;
        let old = std::mem::replace(&mut *state, next);
        drop(state);
        self.publish_status();
        Some(old)
    }

    /// Publishes the state as the status, and wakes the tasks that wait for it. The state is read again, because two
    /// threads that change it may publish in the opposite order.
    fn publish_status(&self) {
        self.status.send_if_modified(|status| {
            let present = match &*self.state.read() {
                State::Up(_) => Status::Up,
                State::Down(_) => Status::Down,
                State::Ended => Status::Ended,
            };
            std::mem::replace(status, present) != present
        });
        self.waiters.wake_all();
    }

    fn is_handing_over(&self) -> bool {
        self.handing_over.load(Ordering::SeqCst)
    }

    /// Returns the current connection, if there is one, and an error if the client has ended.
    fn connection(&self) -> Result<Option<Arc<Connection>>> {
        match &*self.state.read() {
            State::Up(connection) => Ok(Some(connection.clone())),
            State::Down(_) => Ok(None),
            State::Ended => Err(lost()),
        }
    }

    /// Handles the end of a connection, if it is the current one.
    fn lose(&self, lost: &Arc<Connection>) {
        self.change(|state| match state {
            State::Up(connection) if Arc::ptr_eq(connection, lost) => Some(State::Down(Backlog::default())),
            _ => None,
        });
    }

    /// Ends the client for the program. The last connection is being closed; the supervisor reports the end when
    /// everything that waits for an answer has failed.
    fn end(&self, why: &'static str) -> Option<Arc<Connection>> {
        self.end_with(End::new(ErrorKind::ConnectionLost, why), |connection| connection.begin_close(why))
    }

    fn end_with(&self, end: End, close: impl FnOnce(&Connection)) -> Option<Arc<Connection>> {
        let old = self.change(|state| match state {
            State::Ended => None,
            _ => Some(State::Ended),
        })?;
        let connection = match old {
            State::Up(connection) => {
                close(&connection);
                Some(connection)
            }
            State::Down(backlog) if backlog.len() > 0 => {
                log::warn!("{} operations of {:?} were never sent", backlog.len(), self.config.name);
                self.tell(Event::Dropped { frames: backlog.len() as u64 });
                None
            }
            _ => None,
        };
        self.client.stop(end);
        connection
    }

    /// Queues an operation. Returns `None` if the connection is back.
    fn enqueue(&self, entry: Entry, bound: usize) -> Option<Result<()>> {
        // An entry that is not queued must be dropped without the lock.
        let mut rejected = None;
        let mut state = self.state.write();
        let queued = match &mut *state {
            State::Up(_) => None,
            State::Ended => Some(Err(lost())),
            State::Down(backlog) => Some(backlog.push(entry, bound).map_err(|entry| {
                rejected = Some(entry);
                let context = "the client is not connected, and the queue for that time is full";
                Error::new(ErrorKind::ConnectionLost, context)
            })),
        };
        drop(state);
        queued
    }

    /// Returns when the program has ended the client.
    async fn wait_ended(&self) {
        // An error would mean that the sender was dropped, which cannot happen while it is borrowed.
        let _ = self.status.subscribe().wait_for(|status| *status == Status::Ended).await;
    }

    /// Tries to connect until there is a current connection.
    async fn come_back(&self, step: &mut u32) -> Result<Arc<Connection>, End> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            let delay = self.plan.delay(*step);
            *step = step.saturating_add(1);
            self.tell(Event::Reconnecting { attempt, delay });
            sleep(delay).await;
            self.wait_primary().await?;
            match self.try_connect().await {
                Ok(connection) => return Ok(connection),
                Err(e) => {
                    log::debug!("{:?} cannot connect: {e}", self.config.name);
                    if self.plan.is_over(attempt) {
                        let why = format!("given up after {attempt} tries to connect again: {e}");
                        return Err(End::new(e.kind(), why));
                    }
                }
            }
        }
    }

    async fn wait_primary(&self) -> Result<(), End> {
        let Some(primary) = &self.primary else { return Ok(()) };
        let gone = || End::new(ErrorKind::ConnectionLost, "the primary client has ended");
        let mut status = primary.upgrade().ok_or_else(gone)?.status.subscribe();
        // An error means that the primary has just been dropped.
        match status.wait_for(|status| *status != Status::Down).await {
            Ok(status) if *status == Status::Up => Ok(()),
            _ => Err(gone()),
        }
    }

    async fn try_connect(&self) -> Result<Arc<Connection>> {
        let connection = Arc::new(connect::connect(&self.config, self.client.clone()).await?);
        if let Some(subscriptions) = &self.client.subscriptions {
            restore(subscriptions, &connection).await?;
        }
        loop {
            let mut next = None;
            let up = self.change(|state| {
                if let State::Down(backlog) = state {
                    next = backlog.pop();
                    self.handing_over.store(next.is_some(), Ordering::SeqCst);
                }
                // The last check of the backlog and the change of the state are one step, so that nothing is left
                // behind.
                let up = next.is_none() && matches!(state, State::Down(_));
                up.then(|| State::Up(connection.clone()))
            });
            if up.is_some() {
                return Ok(connection);
            }
            // Nothing is left, but the connection is not current: the program has just ended the client.
            let mut unsent = Unsent { shared: self, entry: Some(next.ok_or_else(lost)?) };
            if let Some(entry) = &unsent.entry {
                connection.send(&entry.request()).await?;
            }
            unsent.entry = None;
        }
    }

    /// Puts back an operation that was not sent. It is dropped if the client has ended.
    fn requeue(&self, entry: Entry) {
        let mut entry = Some(entry);
        let mut state = self.state.write();
        if let State::Down(backlog) = &mut *state
            && let Some(entry) = entry.take()
        {
            backlog.unpop(entry);
        }
        drop(state);
        self.handing_over.store(false, Ordering::SeqCst);
        if entry.is_some() {
            contain("the logger", || log::warn!("1 operation of {:?} was never sent", self.config.name));
            self.tell(Event::Dropped { frames: 1 });
            discard_value("a payload", entry);
        }
    }
}

/// An operation of the queue that is being passed to a connection. If it was not sent, dropping the value puts it
/// back, also when the future is cancelled.
struct Unsent<'s> {
    shared: &'s Shared,
    entry: Option<Entry>,
}

impl Drop for Unsent<'_> {
    fn drop(&mut self) {
        if let Some(entry) = self.entry.take() {
            self.shared.requeue(entry);
        }
    }
}

/// The task that follows a client from one connection to the next. When it is dropped, also with its runtime, it
/// reports the end of the client.
struct Supervisor {
    shared: Arc<Shared>,
    /// The current connection.
    connection: Option<Arc<Connection>>,
}

impl Supervisor {
    async fn run(mut self, mut alive: Alive) {
        let shared = self.shared.clone();
        let mut step = 0;
        while let Some(connection) = &self.connection {
            let born = Instant::now();
            let end = connection.ended().await;
            if alive.is_closing() {
                shared.end(RUNTIME_GONE);
            }
            shared.lose(connection);
            self.connection = None;
            // The status is published after the state has changed.
            if matches!(&*shared.state.read(), State::Ended) {
                return;
            }
            log::info!("{:?} has lost its connection: {}", shared.config.name, end.error());
            shared.tell(Event::disconnected(&end.error(), false));
            if born.elapsed() >= STEADY {
                step = 0;
            }
            let connected = tokio::select! {
                connected = shared.come_back(&mut step) => connected,
                () = shared.wait_ended() => return,
                () = alive.closing() => {
                    shared.end(RUNTIME_GONE);
                    return;
                }
            };
            match connected {
                Ok(connection) => self.connection = Some(connection),
                Err(end) => {
                    shared.end_with(end, |_| {});
                    return;
                }
            }
            log::info!("{:?} is connected again", shared.config.name);
            shared.tell(Event::Connected);
        }
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        // No task may wait for a connection that will never come.
        self.shared.end(RUNTIME_GONE);
        if let Some(connection) = &self.connection {
            // The runtime is being dropped, perhaps the tasks of the connection later than this one.
            connection.fail_operations();
        }
        self.shared.client.tell_end();
    }
}
