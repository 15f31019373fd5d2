//! A client within the broker's process: no bytes, frames are handed over as they are.

use super::core::Core;
use super::dispatcher::Dispatcher;
use super::outbox::{Outbox, Sink};
use super::session::{ClientKind, Identity, Session};
use crate::client::inbox::Inbox;
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
    /// A child made by fork has a copy of the broker, but none of its threads.
    process: Process,
    core: Arc<Core>,
    session: Arc<Session>,
    /// Dispatchers that are not in use: as many as there have been operations at the same time. Boxed, since one is
    /// taken and given back with every operation.
    #[expect(clippy::vec_box)]
    dispatchers: Mutex<Vec<Box<Dispatcher>>>,
}

impl LocalLink {
    pub(super) fn register(core: &Arc<Core>, name: &str, inbox: Arc<Inbox>) -> Result<LocalLink> {
        super::valid_name(name, &core.options)?;
        let identity = Identity { name: name.into(), kind: ClientKind::Internal, peer: None, port: None };
        let session = core
            .register(identity, Sink::InProcess(inbox))
            .map_err(|kind| Error::new(kind, name.to_owned()))?;
        Ok(LocalLink {
            process: Process::current(),
            core: core.clone(),
            session,
            dispatchers: Mutex::default(),
        })
    }

    /// The broker itself as a sender: it is not registered, and no rules bind it.
    #[cfg(unix)]
    pub(super) fn broker(core: &Arc<Core>) -> LocalLink {
        let name = crate::proto::op::BROKER_NAME.into();
        let identity = Identity { name, kind: ClientKind::Internal, peer: None, port: None };
        let session = Arc::new(Session::new(u32::MAX, 0, identity, Outbox::of_broker(), 0, 0));
        LocalLink { process: Process::current(), core: core.clone(), session, dispatchers: Mutex::default() }
    }

    /// Starts one operation on the caller's thread. If a receiver does not keep up, or the operation takes long, the
    /// future that is returned must be awaited.
    pub(crate) fn submit<'o>(&'o self, op: &'o Operation<'o, Bytes>, qos: QoS) -> Submitted<'o> {
        if self.session.has_ended() || self.core.is_closing() {
            return Submitted::Done(Err(ErrorKind::ConnectionLost));
        }
        let payload = payload_of(op);
        let borrowed = borrow(op);
        let (traffic, len) = (&self.session.traffic, body_len(&borrowed) as u64);
        let mut dispatchers = self.dispatchers.lock();
        // Under the lock, since callers may be several.
        traffic.r_frames.add(1);
        traffic.r_bytes.add(len);
        let free = dispatchers.pop();
        drop(dispatchers);
        let mut dispatcher =
            free.unwrap_or_else(|| Box::new(Dispatcher::new(self.core.clone(), self.session.clone())));
        let submitted = dispatcher.begin(self.session.name(), &self.core).submit(qos, borrowed, payload);
        match submitted {
            Ok(None) => {
                self.give_back(dispatcher, qos);
                Submitted::Done(Ok(()))
            }
            Err(kind) => {
                self.give_back(dispatcher, qos);
                Submitted::Done(Err(kind))
            }
            Ok(Some(deferred)) => {
                let waits = InProgress::begin(&self.core);
                Submitted::Waits(Box::pin(async move {
                    let _waits = waits;
                    let mut batch = dispatcher.begin(self.session.name(), &self.core);
                    let result = batch.complete(*deferred, payload).await;
                    drop(batch);
                    self.give_back(dispatcher, qos);
                    result
                }))
            }
        }
    }

    fn give_back(&self, mut dispatcher: Box<Dispatcher>, qos: QoS) {
        dispatcher.flush_in_process(qos);
        self.dispatchers.lock().push(dispatcher);
    }

    /// Registers a secondary of this client, whose frames go to `inbox`.
    pub(crate) fn secondary(&self, name: &str, inbox: Arc<Inbox>) -> Result<LocalLink> {
        LocalLink::register(&self.core, name, inbox)
    }

    /// Unregisters the client and its secondaries.
    pub(crate) fn disconnect(&self) {
        if !self.process.is_current() {
            return;
        }
        self.core.end(&self.session, "closed by the client");
    }

    pub(crate) fn is_connected(&self) -> bool {
        !self.session.has_ended()
    }

    /// The number of operations so far, and the bytes that their bodies would have on the wire.
    pub(crate) fn sent(&self) -> (u64, u64) {
        let traffic = &self.session.traffic;
        (traffic.r_frames.get(), traffic.r_bytes.get())
    }
}

/// An operation that waits, or takes long, or the announcement of the end: while the broker shuts down, no receiver's stream ends before it is done.
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

/// What became of an operation so far.
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

fn payload_of<'a>(op: &'a Operation<'_, Bytes>) -> Option<&'a Bytes> {
    match op {
        Operation::Message { payload, .. }
        | Operation::Broadcast { payload, .. }
        | Operation::Publish { payload, .. }
        | Operation::PublishFor { payload, .. } => Some(payload),
        _ => None,
    }
}

fn borrow<'a>(op: &'a Operation<'a, Bytes>) -> Operation<'a, &'a [u8]> {
    match op {
        Operation::Nop => Operation::Nop,
        Operation::Publish { topic, payload } => Operation::Publish { topic, payload },
        Operation::PublishFor { topic, receiver, payload } => {
            Operation::PublishFor { topic, receiver, payload }
        }
        Operation::Subscribe(topics) => Operation::Subscribe(*topics),
        Operation::Unsubscribe(topics) => Operation::Unsubscribe(*topics),
        Operation::Exclude(topics) => Operation::Exclude(*topics),
        Operation::Unexclude(topics) => Operation::Unexclude(*topics),
        Operation::Message { target, payload } => Operation::Message { target, payload },
        Operation::Broadcast { mask, payload } => Operation::Broadcast { mask, payload },
    }
}

/// The length that the body would have on the wire.
fn body_len(op: &Operation<'_, &[u8]>) -> usize {
    let topics_len = |topics: &crate::proto::request::Topics<'_>| {
        topics.iter().map(|topic| topic.len() + 1).sum::<usize>().saturating_sub(1)
    };
    match op {
        Operation::Nop => 0,
        Operation::Publish { topic: name, payload }
        | Operation::Message { target: name, payload }
        | Operation::Broadcast { mask: name, payload } => name.len() + 1 + payload.len(),
        Operation::PublishFor { topic, receiver, payload } => {
            topic.len() + receiver.len() + 2 + payload.len()
        }
        Operation::Subscribe(topics)
        | Operation::Unsubscribe(topics)
        | Operation::Exclude(topics)
        | Operation::Unexclude(topics) => topics_len(topics),
    }
}
