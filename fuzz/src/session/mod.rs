//! Clients of a broker, driven by the choices of an input and compared with a model.
//!
//! A client is a socket pair whose other end the broker serves, or a client within the broker's process. One step is a registration, the end of a connection,
//! a stream of operations of one client, raw bytes of one client, or streams of all clients at the same time. After each
//! step all clients are read up to a barrier, and must have received what the model says.

mod model;
mod peer;
mod wire;

use crate::choices::Choices;
use busrt::broker::{Broker, Options};
use busrt::transport::Socket;
use model::{Model, Outcome};
use peer::{Local, Peer};
use std::collections::BTreeMap;
use std::os::unix::net::UnixStream as StdUnixStream;
use tokio::net::UnixStream;
use wire::*;

const NAMES: [&str; 10] = ["a", "b", "a%%1", "a%%2", "b%%1", "g.a", "g.b.c", "g.a%%x%%y", "*", "g.?"];
/// Names of clients within the broker's process.
const LOCAL_NAMES: [&str; 2] = ["l", "g.l"];
const TARGETS: [&str; 8] = ["a", "b", "a%%1", "g.a", "*", ".broker", "x", "l"];
const MASKS: [&str; 10] = ["*", "g.*", "?", "?.?", "a", "a%%1", "g.?.c", "g.a", "", "x.*"];
const TOPICS: [&str; 9] = ["t", "t/x", "t/y", "t/x/y", "", "/", "t/+", ".broker/info", "t/#"];
const TOPIC_MASKS: [&str; 11] = ["t", "t/x", "t/+", "t/#", "#", "+", "+/x", "t/+/y", "", "t/#/x", "/"];
/// Steps of one input.
const STEPS: usize = 40;

/// Runs one input on a broker of its own.
pub fn run(choices: Choices<'_>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(Session::new(choices).run());
}

struct Session<'a> {
    choices: Choices<'a>,
    broker: Broker,
    model: Model,
    clients: BTreeMap<String, Peer>,
}

impl<'a> Session<'a> {
    fn new(mut choices: Choices<'a>) -> Self {
        let force_register = choices.below(2) == 1;
        let broker = Broker::new(Options::default().force_register(force_register));
        Session { choices, broker, model: Model::new(force_register), clients: BTreeMap::new() }
    }

    async fn run(mut self) {
        for _ in 0..STEPS {
            if self.choices.is_used_up() {
                break;
            }
            match self.choices.below(8) {
                0 => self.register().await,
                1 => self.register_local().await,
                2 => self.leave().await,
                3..=5 => self.operations().await,
                6 => self.all_at_once().await,
                _ => self.raw_bytes().await,
            }
        }
        self.check(BTreeMap::new(), None).await;
    }

    /// One of the registered clients.
    fn client(&mut self) -> Option<String> {
        if self.clients.is_empty() {
            return None;
        }
        let at = self.choices.below(self.clients.len());
        self.clients.keys().nth(at).cloned()
    }

    async fn register(&mut self) {
        let name = self.choices.of(&NAMES);
        let (ours, theirs) = StdUnixStream::pair().expect("a socket pair");
        let socket = Socket::from_unix(theirs).expect("a socket");
        self.broker.attach(socket).expect("a broker that is not shutting down");
        ours.set_nonblocking(true).expect("a socket that does not block");
        let mut wire = Wire::new(UnixStream::from_std(ours).expect("a socket of the runtime"));
        let registration = [&GREETING[..], &(name.len() as u16).to_le_bytes(), name.as_bytes()].concat();
        let pieces = [self.choices.below(8), self.choices.below(4)];
        wire.write(&registration, &pieces).await;
        let (code, evicted) = self.model.register(name);
        assert_eq!(wire.read(4).await.as_deref(), Some(&[0xeb, 1, 0, 1][..]));
        assert_eq!(wire.read(1).await, Some(vec![code]), "{name}");
        if code != 1 {
            assert_eq!(wire.read(1).await, None, "a refused connection is closed");
            return;
        }
        for name in evicted {
            self.ended(&name).await;
        }
        self.clients.insert(name.to_owned(), Peer::Wire(wire));
    }

    async fn register_local(&mut self) {
        let name = self.choices.of(&LOCAL_NAMES);
        if !self.model.has(name) {
            self.model.register(name);
            let local = Local::register(&self.broker, name).await;
            self.clients.insert(name.to_owned(), Peer::Local(local));
        }
    }

    /// Reads a connection to its end. Nothing may be delivered to it.
    async fn ended(&mut self, name: &str) {
        let peer = self.clients.remove(name).expect("a client of the model has a connection");
        assert_eq!(peer.read_to_end().await, Received::default(), "{name}");
    }

    async fn leave(&mut self) {
        let Some(name) = self.client() else { return };
        if let Some(peer) = self.clients.get_mut(&name) {
            peer.end().await;
        }
        for name in self.model.unregister(&name) {
            self.ended(&name).await;
        }
    }

    /// A body for the operation, of the names that matter.
    fn body(&mut self, code: u8) -> Vec<u8> {
        let choices = &mut self.choices;
        let mut parts: Vec<&[u8]> = vec![];
        match code {
            PUBLISH => parts.push(choices.of(&TOPICS).as_bytes()),
            PUBLISH_FOR => parts.extend([choices.of(&TOPICS).as_bytes(), choices.of(&TARGETS).as_bytes()]),
            MESSAGE => parts.push(choices.of(&TARGETS).as_bytes()),
            BROADCAST => parts.push(choices.of(&MASKS).as_bytes()),
            _ => {
                for _ in 0..1 + choices.below(3) {
                    parts.push(choices.of(&TOPIC_MASKS).as_bytes());
                }
                return parts.join(&0);
            }
        }
        let payload = match choices.byte() {
            // Large bodies take another way through the broker.
            len @ 250.. => vec![len; usize::from(len - 249) * 5000],
            len => choices.bytes(usize::from(len) % 8).to_vec(),
        };
        // The broker's own client answers what is a call.
        let is_call = parts.first() == Some(&&b".broker"[..]) && code == MESSAGE;
        parts.push(if is_call { b"" } else { &payload });
        parts.join(&0)
    }

    fn stream(&mut self, codes: &[u8]) -> Vec<u8> {
        let mut stream = vec![];
        for number in 0..1 + self.choices.below(12) as u32 {
            let (code, qos) = (self.choices.of(codes), self.choices.below(4) as u8);
            let body = self.body(code);
            stream.extend(operation(number, code, qos, &body));
        }
        stream
    }

    fn pieces(&mut self) -> Vec<usize> {
        (0..self.choices.below(4)).map(|_| self.choices.below(64)).collect()
    }

    async fn operations(&mut self) {
        let Some(name) = self.client() else { return };
        let codes = [PUBLISH, SUBSCRIBE, MESSAGE, BROADCAST, PUBLISH_FOR, UNSUBSCRIBE, EXCLUDE, UNEXCLUDE];
        let (stream, pieces) = (self.stream(&codes), self.pieces());
        let outcome = self.model.stream(&name, &stream);
        if let Some(peer) = self.clients.get_mut(&name) {
            peer.send(&stream, &pieces).await;
        }
        self.check([(name, outcome)].into(), None).await;
    }

    /// All clients send at the same time: what each of them sent arrives in order.
    async fn all_at_once(&mut self) {
        let names: Vec<String> = self.clients.keys().cloned().collect();
        let mut outcomes = BTreeMap::new();
        let mut streams = vec![];
        for name in &names {
            let stream = self.stream(&[PUBLISH, MESSAGE, BROADCAST, PUBLISH_FOR]);
            outcomes.insert(name.clone(), self.model.stream(name, &stream));
            streams.push((stream, self.pieces()));
        }
        for (peer, (stream, pieces)) in self.clients.values_mut().zip(&streams) {
            peer.send(stream, pieces).await;
        }
        self.check(outcomes, None).await;
    }

    /// Bytes of the input. What cannot be read ends the connection; a frame that is not complete is ended by the client.
    async fn raw_bytes(&mut self) {
        let Some(name) = self.client() else { return };
        if self.clients.get(&name).is_none_or(Peer::is_local) {
            return;
        }
        let len = 4 * self.choices.below(64);
        let (stream, pieces) = (self.choices.bytes(len).to_vec(), self.pieces());
        // The limit of levels is not modelled.
        if stream.iter().filter(|byte| **byte == b'/').count() >= 500 {
            return;
        }
        let outcome = self.model.stream(&name, &stream);
        let Some(Peer::Wire(wire)) = self.clients.get_mut(&name) else { return };
        wire.write(&stream, &pieces).await;
        if outcome.is_broken || outcome.is_incomplete {
            if outcome.is_incomplete {
                wire.end().await;
            }
            self.check([(name.clone(), outcome)].into(), Some(&name)).await;
        } else {
            self.check([(name, outcome)].into(), None).await;
        }
    }

    /// Reads all clients, the senders of the outcomes first, and compares. One of them may have been closed.
    async fn check(&mut self, mut outcomes: BTreeMap<String, Outcome>, closed: Option<&str>) {
        let mut received: BTreeMap<String, Received> = BTreeMap::new();
        if let Some(name) = closed {
            for gone in self.model.unregister(name) {
                let peer = self.clients.remove(&gone).expect("a client of the model has a connection");
                let last = peer.read_to_end().await;
                // A connection that ends may lose what was queued for it: acknowledgements, deliveries to itself.
                let acks = outcomes
                    .get_mut(&gone)
                    .map(|outcome| std::mem::take(&mut outcome.acks))
                    .unwrap_or_default();
                assert!(acks.starts_with(&last.acks), "{gone}: {last:?} instead of {acks:?}");
                for outcome in outcomes.values_mut() {
                    let wanted = outcome.deliveries.remove(&gone).unwrap_or_default();
                    assert!(wanted.starts_with(&last.deliveries), "{gone}: {last:?} instead of {wanted:?}");
                }
            }
        }
        // When all senders have their acknowledgements, all frames are in the queues of their receivers.
        for round in 0..2 {
            for (name, peer) in &mut self.clients {
                let more = peer.barrier(round).await;
                let all = received.entry(name.clone()).or_default();
                all.acks.extend(more.acks);
                all.deliveries.extend(more.deliveries);
            }
        }
        for (name, received) in &received {
            let acks = outcomes.get(name).map(|outcome| &outcome.acks[..]).unwrap_or_default();
            assert_eq!(received.acks, acks, "acknowledgements to {name}");
            let mut count = 0;
            for (sender, outcome) in &outcomes {
                let wanted = outcome.deliveries.get(name).map(|all| &all[..]).unwrap_or_default();
                let got: Vec<&Vec<u8>> =
                    received.deliveries.iter().filter(|frame| is_from(frame, sender)).collect();
                count += wanted.len();
                assert!(
                    got.iter().copied().eq(wanted),
                    "from {sender} to {name}: {got:?} instead of {wanted:?}"
                );
            }
            assert_eq!(received.deliveries.len(), count, "deliveries to {name}");
        }
    }
}

fn is_from(frame: &[u8], sender: &str) -> bool {
    frame[6..].strip_prefix(sender.as_bytes()).is_some_and(|rest| rest.first() == Some(&0))
}
