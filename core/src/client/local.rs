//! The link of a client within the broker's process: operations are routed on the caller's task.

use super::acks::{Answer, Confirmation};
use super::config::Config;
use super::inbox::{End, Inbox};
use super::submission::{Request, Submission, Tell};
use super::{Client, Link};
use crate::broker::in_process::{LocalLink, Submitted};
use crate::error::{Error, ErrorKind, Result};
use crate::proto::request::Operation;
use bytes::Bytes;
use std::sync::Arc;

impl Client {
    /// A client within the broker's process.
    pub(crate) fn local(name: String, link: LocalLink, inbox: Arc<Inbox>, mut config: Config) -> Client {
        config.name = name;
        inbox.events.tell(super::Event::Connected);
        Client::new(config, Link::Local(Local::new(link)), inbox, Arc::default())
    }
}

/// A [`LocalLink`], as a client sees it.
pub(crate) struct Local {
    link: LocalLink,
}

impl Local {
    fn new(link: LocalLink) -> Local {
        Local { link }
    }

    /// Routes an operation on the caller's thread: at once, if its payload is all there and its receivers have
    /// room, else when that is awaited.
    #[inline]
    pub(crate) fn submit<'o>(&'o self, request: Request<'o>, inbox: &'o Inbox) -> Result<Submission<'o>> {
        check_names(request.operation)?;
        if request.prefix.is_empty() {
            return self.route(request, inbox);
        }
        Ok(Submission::Waits(Box::pin(async move {
            let joined = with_prefix(request.operation, request.prefix);
            self.route(Request { operation: &joined, ..request }, inbox)?.sent().await
        })))
    }

    fn route<'o>(&'o self, request: Request<'o>, inbox: &'o Inbox) -> Result<Submission<'o>> {
        match self.link.submit(request.operation, request.qos) {
            Submitted::Done(answer) => confirm(answer, request).map(Submission::Sent),
            Submitted::Waits(routed) => Ok(Submission::Waits(Box::pin(async move {
                // A receiver has no room. It may be waiting for this client in turn.
                let _blocked = inbox.block();
                confirm(routed.await, request)
            }))),
        }
    }

    pub(crate) fn ping(&self) -> Result<()> {
        if self.is_connected() { Ok(()) } else { Err(ErrorKind::ConnectionLost.into()) }
    }

    pub(crate) fn secondary(&self, name: &str, inbox: Arc<Inbox>) -> Result<Local> {
        self.link.secondary(name, inbox).map(Local::new)
    }

    pub(crate) fn disconnect(&self, inbox: &Inbox) {
        inbox.end(End::new(ErrorKind::ConnectionLost, "disconnected by this client"));
        self.link.disconnect();
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.link.is_connected()
    }

    pub(crate) fn sent(&self) -> (u64, u64) {
        self.link.sent()
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        self.link.disconnect();
    }
}

/// What the program is told of what became of an operation.
fn confirm(answer: Answer, request: Request<'_>) -> Result<Confirmation> {
    match (answer, request.tell) {
        (Err(ErrorKind::ConnectionLost), _) => {
            Err(Error::new(ErrorKind::ConnectionLost, "the client is not connected"))
        }
        (answer, Tell::Program) if request.qos.needs_ack() => Ok(Confirmation::done(answer)),
        #[cfg(feature = "rpc")]
        (Err(kind), Tell::Log) => {
            log::debug!("a reply was refused: {kind}");
            Ok(Confirmation::done(Ok(())))
        }
        _ => Ok(Confirmation::done(Ok(()))),
    }
}

/// Names and topics over a socket end at a NUL: one with a NUL must not mean something else here.
fn check_names(operation: &Operation<'_, Bytes>) -> Result<()> {
    let has_nul = |text: &str| text.as_bytes().contains(&0);
    let wrong = match operation {
        Operation::Publish { topic, .. } => has_nul(topic),
        Operation::PublishFor { topic, receiver, .. } => has_nul(topic) || has_nul(receiver),
        Operation::Message { target, .. } => has_nul(target),
        Operation::Broadcast { mask, .. } => has_nul(mask),
        Operation::Subscribe(topics)
        | Operation::Unsubscribe(topics)
        | Operation::Exclude(topics)
        | Operation::Unexclude(topics) => topics.iter().any(has_nul),
        _ => false,
    };
    if wrong { Err(Error::new(ErrorKind::Data, "a name or topic with a NUL")) } else { Ok(()) }
}

fn with_prefix<'a>(operation: &Operation<'a, Bytes>, prefix: &[u8]) -> Operation<'a, Bytes> {
    let mut joined = operation.clone();
    if let Operation::Publish { payload, .. }
    | Operation::PublishFor { payload, .. }
    | Operation::Message { payload, .. }
    | Operation::Broadcast { payload, .. } = &mut joined
    {
        *payload = [prefix, payload].concat().into();
    }
    joined
}
