//! A client within the broker's process: frames are passed on without encoding them to bytes.

use super::core::Core;
use super::dispatcher::{Deferred, Detached, Dispatcher};
use super::outbox::{Outbox, Sink};
use super::session::{ClientKind, Identity, Session};
use super::unregister::unregister;
use crate::client::client_state::ClientState;
use crate::error::{Error, ErrorKind, Result};
use crate::fork::Process;
use crate::proto::op::QoS;
use crate::proto::request::Operation;
use bytes::Bytes;
use parking_lot::Mutex;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

/// One registered in-process client. Dropping it unregisters the client.
pub(crate) struct LocalLink {
    /// Detects a fork: a child process has a copy of the broker, but none of its threads.
    process: Process,
    core: Arc<Core>,
    session: Arc<Session>,
    /// Dispatchers that are not in use: as many as the largest number of simultaneous operations so far. They are
    /// boxed because every operation takes one and gives it back.
    #[expect(clippy::vec_box)]
    dispatchers: Mutex<Vec<Box<Dispatcher>>>,
}

impl LocalLink {
    /// Registers a client. If it takes over the name of another client, the secondaries of that client are
    /// unregistered first.
    pub(super) async fn take_over(
        core: &Arc<Core>,
        name: &str,
        client: Arc<ClientState>,
    ) -> Result<LocalLink> {
        super::valid_name(name, &core.options)?;
        core.evict_secondaries(&internal(name)).await;
        LocalLink::register(core, name, client)
    }

    fn register(core: &Arc<Core>, name: &str, client: Arc<ClientState>) -> Result<LocalLink> {
        super::valid_name(name, &core.options)?;
        let identity = internal(name);
        let session = core
            .register(identity, Sink::InProcess(client))
            .map_err(|kind| Error::new(kind, name.to_owned()))?;
        Ok(LocalLink {
            process: Process::current(),
            core: core.clone(),
            session,
            dispatchers: Mutex::default(),
        })
    }

    /// A link through which the broker itself sends: it is not registered, and no access rules apply to it.
    #[cfg(unix)]
    pub(super) fn broker(core: &Arc<Core>) -> LocalLink {
        let identity = internal(crate::proto::op::BROKER_NAME);
        let session = Arc::new(Session::new(u32::MAX, 0, identity, Outbox::of_broker(), 0, 0));
        LocalLink { process: Process::current(), core: core.clone(), session, dispatchers: Mutex::default() }
    }

    /// Starts one operation on the caller's thread. If a receiver does not keep up, or the operation takes long, the
    /// caller must await the returned future.
    pub(crate) fn submit<'o>(&'o self, op: &'o Operation<'o, Bytes>, qos: QoS) -> Submitted<'o> {
        match self.begin(op, qos) {
            Begun::Done(result) => Submitted::Done(result),
            Begun::Waits(deferred) => Submitted::Waits(Box::pin(self.finish(deferred, op))),
        }
    }

    /// Starts one operation on the caller's thread. Returns the unfinished part, which the caller must give to
    /// [`finish`](LocalLink::finish).
    pub(crate) fn begin(&self, op: &Operation<'_, Bytes>, qos: QoS) -> Begun {
        if self.session.has_ended() || self.core.is_closing() {
            return Begun::Done(Err(ErrorKind::ConnectionLost));
        }
        let payload = op.payload_ref();
        let borrowed = borrow(op);
        let (traffic, len) = (&self.session.traffic, borrowed.body_len() as u64);
        let mut dispatchers = self.dispatchers.lock();
        // Counted under the lock, since several threads may call.
        traffic.r_frames.add(1);
        traffic.r_bytes.add(len);
        let free = dispatchers.pop();
        drop(dispatchers);
        let mut dispatcher =
            free.unwrap_or_else(|| Box::new(Dispatcher::new(self.core.clone(), self.session.clone())));
        let submitted = dispatcher.begin(self.session.name(), &self.core).submit(qos, borrowed, payload);
        let deferred = match submitted {
            Ok(None) => Err(Ok(())),
            Err(kind) => Err(Err(kind)),
            // The batch is new, so that no earlier frames are in it.
            Ok(Some(deferred)) => deferred.detach().ok_or(Err(ErrorKind::Other)),
        };
        match deferred {
            Ok(rest) => Begun::Waits(Unfinished {
                dispatcher,
                rest,
                qos,
                _in_progress: OwnedInProgress::begin(self.core.clone()),
            }),
            Err(result) => {
                self.give_back(dispatcher, qos);
                Begun::Done(self.answer(result, op))
            }
        }
    }

    /// Finishes an operation, and waits for its receivers if necessary. `op` is the operation that was begun.
    pub(crate) async fn finish(
        &self,
        unfinished: Unfinished,
        op: &Operation<'_, Bytes>,
    ) -> Result<(), ErrorKind> {
        let Unfinished { mut dispatcher, rest, qos, _in_progress } = unfinished;
        let mut batch = dispatcher.begin(self.session.name(), &self.core);
        let result = batch.complete(Deferred::attach(rest, borrow(op)), op.payload_ref()).await;
        drop(batch);
        self.give_back(dispatcher, qos);
        self.answer(result, op)
    }

    /// Returns the result of an operation. If the client has ended while the operation waited for receivers, it was
    /// not delivered to all of them.
    fn answer(&self, result: Result<(), ErrorKind>, op: &Operation<'_, Bytes>) -> Result<(), ErrorKind> {
        let may_be_cut_short = match op {
            Operation::Message { .. } => result == Err(ErrorKind::NotDelivered),
            _ => result.is_ok(),
        };
        if may_be_cut_short && self.session.has_ended() { Err(ErrorKind::ConnectionLost) } else { result }
    }

    fn give_back(&self, mut dispatcher: Box<Dispatcher>, qos: QoS) {
        dispatcher.flush_in_process(qos);
        self.dispatchers.lock().push(dispatcher);
    }

    /// Registers a secondary of this client, whose frames go to `client`.
    pub(crate) fn secondary(&self, name: &str, client: Arc<ClientState>) -> Result<LocalLink> {
        LocalLink::register(&self.core, name, client)
    }

    /// Unregisters the client and its secondaries. If there are many secondaries, some are unregistered shortly after
    /// it returns.
    pub(crate) fn disconnect(&self) {
        if !self.process.is_current() {
            return;
        }
        unregister(&self.core, &self.session, "closed by the client");
    }

    pub(crate) fn is_connected(&self) -> bool {
        !self.session.has_ended()
    }

    /// Returns the number of operations so far, and the bytes that their bodies would have on the wire.
    pub(crate) fn sent(&self) -> (u64, u64) {
        let traffic = &self.session.traffic;
        (traffic.r_frames.get(), traffic.r_bytes.get())
    }
}

fn internal(name: &str) -> Identity {
    Identity { name: name.into(), kind: ClientKind::Internal, peer: None, port: None }
}

/// An operation that waits or takes long, or the announcement of the shutdown. While the broker shuts down, no
/// receiver's stream ends before all of these are done.
pub(super) struct InProgress<'c>(&'c Core);

impl InProgress<'_> {
    pub(super) fn begin(core: &Core) -> InProgress<'_> {
        core.reading.fetch_add(1, SeqCst);
        InProgress(core)
    }
}

impl Drop for InProgress<'_> {
    fn drop(&mut self) {
        self.0.reading.fetch_sub(1, SeqCst);
        self.0.connection_changed.notify_waiters();
    }
}

/// An operation in progress that borrows nothing; see [`InProgress`].
struct OwnedInProgress(Arc<Core>);

impl OwnedInProgress {
    fn begin(core: Arc<Core>) -> OwnedInProgress {
        core.reading.fetch_add(1, SeqCst);
        OwnedInProgress(core)
    }
}

impl Drop for OwnedInProgress {
    fn drop(&mut self) {
        self.0.reading.fetch_sub(1, SeqCst);
        self.0.connection_changed.notify_waiters();
    }
}

/// The result of beginning an operation.
pub(crate) enum Begun {
    Done(Result<(), ErrorKind>),
    Waits(Unfinished),
}

/// The unfinished part of an operation.
pub(crate) struct Unfinished {
    dispatcher: Box<Dispatcher>,
    rest: Detached,
    qos: QoS,
    _in_progress: OwnedInProgress,
}

/// The state of an operation after its first attempt.
pub(crate) enum Submitted<'o> {
    Done(Result<(), ErrorKind>),
    Waits(Pin<Box<dyn Future<Output = Result<(), ErrorKind>> + Send + 'o>>),
}

impl Submitted<'_> {
    #[cfg(unix)]
    pub(super) async fn outcome(self) -> Result<(), ErrorKind> {
        match self {
            Submitted::Done(result) => result,
            Submitted::Waits(rest) => rest.await,
        }
    }
}

impl Drop for LocalLink {
    fn drop(&mut self) {
        self.disconnect();
        self.process.leak_if_inherited(&self.core);
        self.process.leak_if_inherited(&self.session);
    }
}

impl fmt::Debug for LocalLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LocalLink").field(&self.session.name()).finish()
    }
}

fn borrow<'a>(op: &'a Operation<'a, Bytes>) -> Operation<'a, &'a [u8]> {
    op.by_ref().map_payload(|payload| &payload[..])
}
