//! Operations that wait for a connection: see [`WhileDown::Queue`](super::WhileDown::Queue).

use super::encode::EncodedRequest;
use super::request::{Payload, Request};
use crate::error::Result;
use crate::proto::op::QoS;
use crate::proto::request::Operation;
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
    /// The operation's code.
    code: u8,
    /// The operation's texts, joined by NUL.
    texts: Box<str>,
    payload: Bytes,
    prefix: Box<[u8]>,
    qos: QoS,
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
        let operation = &request.operation;
        if matches!(operation, Operation::Nop) {
            return None;
        }
        let texts = operation.texts().collect::<Vec<_>>().join("\0").into();
        let payload = operation.payload_ref().map_or(Bytes::new(), |payload| payload.to_shared());
        let prefix = [request.envelope, request.prefix].concat().into();
        Some(Entry { code: operation.code(), texts, payload, prefix, qos: request.qos })
    }

    pub(super) fn request(&self) -> Request<'_> {
        let payload = Payload::Shared(&self.payload);
        // The code and the texts are those of an operation, so that it is never a ping.
        let operation = Operation::from_texts(self.code, &self.texts, payload).unwrap_or(Operation::Nop);
        Request::new(operation, self.qos).prefix(&self.prefix)
    }

    fn cost(&self) -> usize {
        ENTRY + self.texts.len() + self.prefix.len() + self.payload.len()
    }
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
    use crate::proto::request::Topics;

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
