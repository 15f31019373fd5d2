//! A client of any implementation, with the features that all implementations have.

use crate::{Bed, ours, theirs};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Ours,
    OursBlocking,
    Theirs,
    TheirsSync,
}

/// An operation; several topics are one frame.
#[derive(Debug, Clone, Copy)]
pub enum Op<'a> {
    Send(&'a str, &'a [u8]),
    Broadcast(&'a str, &'a [u8]),
    Publish(&'a str, &'a [u8]),
    PublishFor(&'a str, &'a str, &'a [u8]),
    Subscribe(&'a [&'a str]),
    Unsubscribe(&'a [&'a str]),
    Exclude(&'a [&'a str]),
    Unexclude(&'a [&'a str]),
}

/// A received frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The kind of the frame on the wire.
    pub kind: u8,
    pub sender: String,
    pub primary_sender: String,
    pub topic: Option<String>,
    pub payload: Vec<u8>,
    pub realtime: bool,
}

impl Seen {
    /// Returns the frame that a receiver of this operation of `sender` gets.
    pub fn new(op: Op<'_>, sender: &str, qos: u8) -> Seen {
        let (kind, topic, payload) = match op {
            Op::Send(_, payload) => (0x12, None, payload),
            Op::Broadcast(_, payload) => (0x13, None, payload),
            Op::Publish(topic, payload) | Op::PublishFor(topic, _, payload) => {
                (1, Some(topic.to_owned()), payload)
            }
            _ => panic!("{op:?} delivers nothing"),
        };
        Seen {
            kind,
            sender: sender.to_owned(),
            primary_sender: sender.split("%%").next().unwrap_or_default().to_owned(),
            topic,
            payload: payload.to_vec(),
            realtime: qos & 2 != 0,
        }
    }
}

enum Client<'a> {
    Ours(ours::Async<'a>),
    OursBlocking(ours::Blocking),
    Theirs(theirs::Async<'a>),
    TheirsSync(theirs::Sync),
}

/// A registered client. Errors are result codes of the protocol.
pub struct Peer<'a> {
    pub name: String,
    bed: &'a Bed,
    client: Client<'a>,
}

macro_rules! each {
    ($peer:expr, $client:ident => $what:expr) => {
        match $peer {
            Client::Ours($client) => $what,
            Client::OursBlocking($client) => $what,
            Client::Theirs($client) => $what,
            Client::TheirsSync($client) => $what,
        }
    };
}

impl<'a> Peer<'a> {
    pub fn connect(bed: &'a Bed, kind: Kind, name: &str) -> Result<Peer<'a>, u8> {
        let client = match kind {
            Kind::Ours => Client::Ours(ours::Async::connect(bed, name)?),
            Kind::OursBlocking => Client::OursBlocking(ours::Blocking::connect(bed, name)?),
            Kind::Theirs => Client::Theirs(theirs::Async::connect(bed, name)?),
            Kind::TheirsSync => Client::TheirsSync(theirs::Sync::connect(bed, name)?),
        };
        Ok(Peer { name: name.to_owned(), bed, client })
    }

    /// Performs an operation, and waits for its acknowledgement if `qos` asks for one.
    pub fn run(&mut self, op: Op<'_>, qos: u8) -> Result<(), u8> {
        match &mut self.client {
            Client::Ours(c) => c.run(op, qos),
            Client::OursBlocking(c) => c.run(op, qos),
            Client::Theirs(c) => c.start(op, qos)?.wait(self.bed),
            Client::TheirsSync(c) => c.start(op, qos)?.wait(self.bed),
        }
    }

    /// Sends an operation without waiting for its acknowledgement.
    pub fn start(&mut self, op: Op<'_>, qos: u8) -> Result<Answer, u8> {
        each!(&mut self.client, c => c.start(op, qos))
    }

    pub fn finish(&self, answer: Answer) -> Result<(), u8> {
        answer.wait(self.bed)
    }

    /// Returns the next frame.
    pub fn take(&mut self) -> Seen {
        each!(&mut self.client, c => c.take())
    }

    /// Returns true if no untaken frame was delivered: a message to itself arrives behind it.
    pub fn is_quiet(&mut self) -> bool {
        let name = self.name.clone();
        let op = Op::Send(&name, b"is it quiet?");
        self.run(op, 1).unwrap();
        self.take() == Seen::new(op, &name, 1)
    }

    pub fn is_connected(&self) -> bool {
        each!(&self.client, c => c.is_connected())
    }

    pub fn ping(&mut self) -> Result<(), u8> {
        each!(&mut self.client, c => c.ping())
    }

    /// Connects a secondary client with the name that this implementation chooses.
    pub fn secondary(&self) -> Result<Peer<'a>, u8> {
        let (name, client) = match &self.client {
            Client::Ours(c) => c.secondary().map(|(name, c)| (name, Client::Ours(c)))?,
            Client::OursBlocking(c) => c.secondary().map(|(name, c)| (name, Client::OursBlocking(c)))?,
            Client::Theirs(c) => c.secondary().map(|(name, c)| (name, Client::Theirs(c)))?,
            Client::TheirsSync(c) => c.secondary().map(|(name, c)| (name, Client::TheirsSync(c)))?,
        };
        Ok(Peer { name, bed: self.bed, client })
    }
}

/// A pending acknowledgement.
pub enum Answer {
    Ours(busrt::client::PendingOperation),
    OursBlocking(busrt::blocking::PendingOperation),
    Theirs(busrt_ref::OpConfirm),
    TheirsSync(busrt_ref::SyncOpConfirm),
}

impl Answer {
    fn wait(self, bed: &Bed) -> Result<(), u8> {
        match self {
            Answer::Ours(confirmation) => bed.wait(confirmation).map_err(ours::code),
            Answer::OursBlocking(confirmation) => confirmation.wait().map_err(ours::code),
            Answer::Theirs(None) | Answer::TheirsSync(None) => Ok(()),
            Answer::Theirs(Some(receiver)) => bed.wait(receiver).expect("an answer").map_err(theirs::code),
            Answer::TheirsSync(Some(receiver)) => {
                receiver.recv_timeout(crate::PATIENCE).expect("an answer").map_err(theirs::code)
            }
        }
    }
}
