//! A client within the broker's process: no bytes, frames are handed over as they are.

use super::Core;
use super::courier::Courier;
use super::held::Stop;
use super::outbox::Outlet;
use super::session::{ClientKind, Identity, Session};
use crate::client::inbox::Inbox;
use crate::error::{Error, ErrorKind, Result};
use crate::proto::op::QoS;
use crate::proto::request::Operation;
use bytes::Bytes;
use parking_lot::Mutex;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

/// One registered in-process client. Dropping it unregisters the client.
pub(crate) struct LocalLink {
    core: Arc<Core>,
    session: Arc<Session>,
    /// Ways into the bus that are not in use: as many as there have been operations at once. Boxed, since one is
    /// taken and given back with every operation.
    #[expect(clippy::vec_box)]
    couriers: Mutex<Vec<Box<Courier>>>,
}

impl LocalLink {
    pub(super) fn register(core: &Arc<Core>, name: &str, inbox: Arc<Inbox>) -> Result<LocalLink> {
        super::valid_name(name)?;
        let identity = Identity { name: name.into(), kind: ClientKind::Internal, peer: None, port: None };
        let session = core
            .register(identity, Outlet::local(inbox))
            .map_err(|kind| Error::new(kind, name.to_owned()))?;
        Ok(LocalLink { core: core.clone(), session, couriers: Mutex::default() })
    }

    /// The broker itself as a sender: registered nowhere, bound by no rules.
    #[cfg(unix)]
    pub(super) fn broker(core: &Arc<Core>) -> LocalLink {
        let name = crate::proto::op::BROKER_NAME.into();
        let identity = Identity { name, kind: ClientKind::Internal, peer: None, port: None };
        let session = Arc::new(Session::new(u32::MAX, identity, Outlet::Broker, 0, 0));
        LocalLink { core: core.clone(), session, couriers: Mutex::default() }
    }

    /// Does one operation on the caller's thread. What it returns must be awaited if a receiver does not keep up.
    pub(crate) fn submit<'o>(&'o self, op: &'o Operation<'o, Bytes>, qos: QoS) -> Submitted<'o> {
        if self.session.has_ended() {
            return Submitted::Done(Err(ErrorKind::ConnectionLost));
        }
        let payload = payload_of(op);
        let borrowed = borrow(op);
        let (traffic, len) = (&self.session.traffic, body_len(&borrowed) as u64);
        let mut couriers = self.couriers.lock();
        // Under the lock, since callers may be several.
        traffic.r_frames.add(1);
        traffic.r_bytes.add(len);
        let free = couriers.pop();
        drop(couriers);
        let mut courier =
            free.unwrap_or_else(|| Box::new(Courier::new(self.core.clone(), self.session.clone())));
        match courier.begin(qos, &borrowed, self.session.name(), payload) {
            Ok(()) => {
                self.give_back(courier, qos);
                Submitted::Done(Ok(()))
            }
            Err(Stop::Refused(kind)) => {
                let result = Err(courier.refuse(kind, &borrowed));
                self.give_back(courier, qos);
                Submitted::Done(result)
            }
            Err(Stop::Unfinished(why)) => Submitted::Waits(Box::pin(async move {
                let result = courier.finish(*why, qos, &borrowed, payload).await;
                self.give_back(courier, qos);
                result
            })),
        }
    }

    fn give_back(&self, mut courier: Box<Courier>, qos: QoS) {
        courier.flush_local(qos);
        self.couriers.lock().push(courier);
    }

    /// Registers a secondary of this client, whose frames go to `inbox`.
    pub(crate) fn secondary(&self, name: &str, inbox: Arc<Inbox>) -> Result<LocalLink> {
        LocalLink::register(&self.core, name, inbox)
    }

    /// Unregisters the client; its secondaries go too.
    pub(crate) fn disconnect(&self) {
        self.core.end(&self.session, "closed by the client");
    }

    pub(crate) fn is_connected(&self) -> bool {
        !self.session.has_ended()
    }

    /// Operations so far, and what the bytes of their bodies would be on the wire.
    pub(crate) fn sent(&self) -> (u64, u64) {
        let traffic = &self.session.traffic;
        (traffic.r_frames.get(), traffic.r_bytes.get())
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

/// What the body would be on the wire.
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
