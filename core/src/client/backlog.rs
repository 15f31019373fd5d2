//! Operations that wait for a connection: see [`WhileDown::Queue`](super::WhileDown::Queue).

use super::encode::EncodedRequest;
use super::request::{Payload, Request};
use crate::error::Result;
use crate::proto::op::QoS;
use crate::proto::request::{Operation, Topics};
use bytes::Bytes;
use std::collections::VecDeque;

/// Bytes that each entry counts in addition to its own.
const ENTRY: usize = 64;

/// Operations without acknowledgement, in the order in which they were submitted.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    entries: VecDeque<Entry>,
    bytes: usize,
}

#[derive(Debug)]
pub(super) struct Entry {
    kind: Kind,
    name: Box<str>,
    payload: Bytes,
    prefix: Box<[u8]>,
    qos: QoS,
}

#[derive(Debug)]
enum Kind {
    Publish,
    PublishFor(Box<str>),
    Message,
    Broadcast,
    // Changes of topics; the name holds the joined masks.
    Subscribe,
    Unsubscribe,
    Exclude,
    Unexclude,
}

impl Entry {
    /// Copies a request that asks for no acknowledgement. Returns `None` if it is of a kind that is never queued.
    ///
    /// # Errors
    ///
    /// The request can never be sent.
    pub(super) fn new(request: &Request<'_>) -> Result<Option<Entry>> {
        if request.operation.payload_ref().is_none() || request.qos.needs_ack() {
            return Ok(None);
        }
        // Validated now: once it is queued, an error could no longer be reported to the caller.
        EncodedRequest::new(request, request.qos)?;
        Ok(Entry::copy(request))
    }

    /// Copies any request; returns `None` for a ping.
    pub(super) fn copy(request: &Request<'_>) -> Option<Entry> {
        let (kind, name) = match &request.operation {
            Operation::Publish { topic, .. } => (Kind::Publish, Box::from(*topic)),
            Operation::PublishFor { topic, receiver, .. } => {
                (Kind::PublishFor(Box::from(*receiver)), Box::from(*topic))
            }
            Operation::Message { target, .. } => (Kind::Message, Box::from(*target)),
            Operation::Broadcast { mask, .. } => (Kind::Broadcast, Box::from(*mask)),
            Operation::Subscribe(topics) => (Kind::Subscribe, joined(topics)),
            Operation::Unsubscribe(topics) => (Kind::Unsubscribe, joined(topics)),
            Operation::Exclude(topics) => (Kind::Exclude, joined(topics)),
            Operation::Unexclude(topics) => (Kind::Unexclude, joined(topics)),
            Operation::Nop => return None,
        };
        let payload = request.operation.payload_ref().map_or(Bytes::new(), |payload| payload.to_shared());
        let prefix = [request.envelope, request.prefix].concat().into();
        Some(Entry { kind, name, payload, prefix, qos: request.qos })
    }

    pub(super) fn request(&self) -> Request<'_> {
        let payload = Payload::Shared(&self.payload);
        let operation = match &self.kind {
            Kind::Publish => Operation::Publish { topic: &self.name, payload },
            Kind::PublishFor(receiver) => Operation::PublishFor { topic: &self.name, receiver, payload },
            Kind::Message => Operation::Message { target: &self.name, payload },
            Kind::Broadcast => Operation::Broadcast { mask: &self.name, payload },
            Kind::Subscribe => Operation::Subscribe(Topics::Joined(&self.name)),
            Kind::Unsubscribe => Operation::Unsubscribe(Topics::Joined(&self.name)),
            Kind::Exclude => Operation::Exclude(Topics::Joined(&self.name)),
            Kind::Unexclude => Operation::Unexclude(Topics::Joined(&self.name)),
        };
        Request::new(operation, self.qos).prefix(&self.prefix)
    }

    fn cost(&self) -> usize {
        let receiver = match &self.kind {
            Kind::PublishFor(receiver) => receiver.len(),
            _ => 0,
        };
        ENTRY + self.name.len() + receiver + self.prefix.len() + self.payload.len()
    }
}

fn joined(topics: &Topics<'_>) -> Box<str> {
    topics.iter().collect::<Vec<_>>().join("\0").into()
}

impl Backlog {
    /// Appends an entry, unless that would exceed the bound in bytes.
    ///
    /// # Errors
    ///
    /// The entry itself. The caller must drop it without holding a lock, because the owner of a payload may run code
    /// in its drop.
    pub(super) fn push(&mut self, entry: Entry, bound: usize) -> std::result::Result<(), Entry> {
        let cost = entry.cost();
        if cost > bound.saturating_sub(self.bytes) {
            return Err(entry);
        }
        self.bytes += cost;
        self.entries.push_back(entry);
        Ok(())
    }

    /// Removes the next entry to be sent.
    pub(super) fn pop(&mut self) -> Option<Entry> {
        let entry = self.entries.pop_front()?;
        self.bytes -= entry.cost();
        Some(entry)
    }

    /// Puts back an entry that was not sent.
    pub(super) fn unpop(&mut self, entry: Entry) {
        self.bytes += entry.cost();
        self.entries.push_front(entry);
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn entry(payload: &'static [u8]) -> Entry {
        Entry::new(&Request::message("b", payload, QoS::No)).unwrap().unwrap()
    }

    #[test]
    fn a_bound_in_bytes_and_an_order() {
        let mut backlog = Backlog::default();
        let bound = 2 * (ENTRY + 1 + 3);
        assert!(backlog.push(entry(b"one"), bound).is_ok() && backlog.push(entry(b"two"), bound).is_ok());
        assert!(backlog.push(entry(b""), bound).is_err());
        let first = backlog.pop().unwrap();
        backlog.unpop(first);
        for wanted in ["one", "two"] {
            assert_eq!(backlog.pop().unwrap().payload, wanted);
        }
        assert_eq!((backlog.bytes, backlog.len()), (0, 0));
    }

    #[test]
    fn operations_that_can_never_be_sent_are_refused() {
        let wrong = Request::message("a\0b", "", QoS::No);
        assert_eq!(Entry::new(&wrong).unwrap_err().kind(), ErrorKind::Data);
        let topics = ["a", "b"];
        let subscribe = Request::new(Operation::Subscribe(Topics::List(&topics)), QoS::No);
        assert!(Entry::new(&subscribe).unwrap().is_none());
        assert_eq!(Entry::copy(&subscribe).unwrap().request().operation, subscribe.operation);
        assert!(Entry::new(&Request::message("b", "", QoS::Processed)).unwrap().is_none());
    }
}
