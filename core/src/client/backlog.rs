//! Operations that wait for a connection: see [`WhileDown::Queue`](super::WhileDown::Queue).

use super::encode::encode_head;
use crate::error::Result;
use crate::proto::op::QoS;
use crate::proto::request::Operation;
use bytes::Bytes;
use std::collections::VecDeque;

/// What an entry costs besides its bytes.
const ENTRY: usize = 64;

/// Operations without acknowledgement, in their order.
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
    pub(super) qos: QoS,
}

#[derive(Debug)]
enum Kind {
    Publish,
    PublishFor(Box<str>),
    Message,
    Broadcast,
}

impl Entry {
    /// A copy of an operation; `None` if it is of a kind that does not wait.
    ///
    /// # Errors
    /// It cannot be sent, ever.
    pub(super) fn new(operation: &Operation<'_, Bytes>, prefix: &[u8], qos: QoS) -> Result<Option<Entry>> {
        let (kind, name, payload) = match operation {
            Operation::Publish { topic, payload } => (Kind::Publish, *topic, payload),
            Operation::PublishFor { topic, receiver, payload } => {
                (Kind::PublishFor(Box::from(*receiver)), *topic, payload)
            }
            Operation::Message { target, payload } => (Kind::Message, *target, payload),
            Operation::Broadcast { mask, payload } => (Kind::Broadcast, *mask, payload),
            _ => return Ok(None),
        };
        // Who queues it must be told, nobody else would be.
        encode_head(operation, prefix, 0, qos, &mut Vec::new())?;
        Ok(Some(Entry { kind, name: name.into(), payload: payload.clone(), prefix: prefix.into(), qos }))
    }

    pub(super) fn operation(&self) -> Operation<'_, Bytes> {
        let payload = self.payload.clone();
        match &self.kind {
            Kind::Publish => Operation::Publish { topic: &self.name, payload },
            Kind::PublishFor(receiver) => Operation::PublishFor { topic: &self.name, receiver, payload },
            Kind::Message => Operation::Message { target: &self.name, payload },
            Kind::Broadcast => Operation::Broadcast { mask: &self.name, payload },
        }
    }

    pub(super) fn prefix(&self) -> &[u8] {
        &self.prefix
    }

    fn cost(&self) -> usize {
        let receiver = match &self.kind {
            Kind::PublishFor(receiver) => receiver.len(),
            _ => 0,
        };
        ENTRY + self.name.len() + receiver + self.prefix.len() + self.payload.len()
    }
}

impl Backlog {
    /// Appends an entry, unless that would exceed the bound in bytes.
    ///
    /// # Errors
    /// The entry itself, to be dropped by the caller when it holds no lock: a payload may have an owner with a
    /// drop of its own.
    pub(super) fn push(&mut self, entry: Entry, bound: usize) -> std::result::Result<(), Entry> {
        let cost = entry.cost();
        if cost > bound.saturating_sub(self.bytes) {
            return Err(entry);
        }
        self.bytes += cost;
        self.entries.push_back(entry);
        Ok(())
    }

    /// The next entry to be sent.
    pub(super) fn pop(&mut self) -> Option<Entry> {
        let entry = self.entries.pop_front()?;
        self.bytes -= entry.cost();
        Some(entry)
    }

    /// Takes back an entry that was not sent after all.
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
        let operation = Operation::Message { target: "b", payload: Bytes::from_static(payload) };
        Entry::new(&operation, b"", QoS::No).unwrap().unwrap()
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
    fn what_could_never_be_sent_is_refused() {
        let wrong = Operation::Message { target: "a\0b", payload: Bytes::new() };
        assert_eq!(Entry::new(&wrong, b"", QoS::No).unwrap_err().kind(), ErrorKind::Data);
        assert!(Entry::new(&Operation::Subscribe(Topics::Joined("t")), b"", QoS::No).unwrap().is_none());
    }
}
