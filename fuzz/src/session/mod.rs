//! Clients of a broker, driven by the choices of an input and compared with a model.
//!
//! A client is a socket pair whose other end the broker serves, or a client within the broker's process. One step is a
//! registration, the end of a connection, a stream of operations of one client, raw bytes of one client, streams of all
//! clients at the same time, or a change of the access rules. After each step all clients are read up to a barrier, and
//! must have received what the model says. In some sessions the queues are small, and some clients do not read for a
//! while.

mod access;
mod model;
mod peer;
mod queues;
mod wire;

use crate::choices::Choices;
use access::Access;
use busrt::broker::Broker;
use busrt::transport::Socket;
use model::{Model, Outcome};
use peer::{Local, Peer};
use queues::{Queues, from};
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
/// The primary names that access rules are chosen for.
const PRIMARIES: [&str; 6] = ["a", "b", "g.a", "g.b.c", "*", "g.?"];
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
    queues: Queues,
    /// The frames that were dropped for a client before the present step, as the broker counts them.
    dropped: BTreeMap<String, u64>,
}

impl<'a> Session<'a> {
    fn new(mut choices: Choices<'a>) -> Self {
        let force_register = choices.below(2) == 1;
        let queues = Queues::choose(&mut choices);
        let broker = Broker::new(queues.options(&mut choices).force_register(force_register));
        let (model, clients, dropped) = (Model::new(force_register), BTreeMap::new(), BTreeMap::new());
        Session { choices, broker, model, clients, queues, dropped }
    }

    async fn run(mut self) {
        for _ in 0..STEPS {
            if self.choices.is_used_up() {
                break;
            }
            match self.choices.below(9) {
                0 => self.register().await,
                1 => self.register_local().await,
                2 => self.leave().await,
                3..=5 => self.operations().await,
                6 => self.all_at_once().await,
                7 => self.raw_bytes().await,
                _ => self.change_access().await,
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
        wire.write(&registration, &pieces);
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
        self.dropped.remove(name);
    }

    async fn register_local(&mut self) {
        let name = self.choices.of(&LOCAL_NAMES);
        if !self.model.has(name) {
            self.model.register_local(name);
            let local = Local::register(&self.broker, name).await;
            self.clients.insert(name.to_owned(), Peer::Local(local));
            self.dropped.remove(name);
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

    async fn change_access(&mut self) {
        let access = Access::choose(&mut self.choices, &PRIMARIES);
        self.broker.set_access(access.as_ref().map(Access::list)).await;
        for name in self.model.set_access(access) {
            self.ended(&name).await;
        }
        self.check(BTreeMap::new(), None).await;
    }

    /// Lets some of the clients read nothing, if the queues are small.
    fn pause_some(&mut self) {
        if !self.queues.are_small() {
            return;
        }
        for peer in self.clients.values() {
            if let Peer::Wire(wire) = peer {
                wire.set_reading(self.choices.below(2) == 0);
            }
        }
    }

    /// Gives the broker some time, then lets all clients read again.
    async fn resume_all(&mut self) {
        if !self.queues.are_small() {
            return;
        }
        for _ in 0..self.choices.below(16) {
            tokio::task::yield_now().await;
        }
        for peer in self.clients.values() {
            if let Peer::Wire(wire) = peer {
                wire.set_reading(true);
            }
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
        self.send_all(vec![(name.clone(), stream, pieces)]).await;
        self.check([(name, outcome)].into(), None).await;
    }

    /// Sends streams of several clients.
    async fn send_all(&mut self, streams: Vec<(String, Vec<u8>, Vec<usize>)>) {
        self.pause_some();
        let (mut local, mut wires) = (vec![], vec![]);
        for stream in streams {
            match self.clients.get(&stream.0).is_some_and(Peer::is_local) {
                true => local.push(stream),
                false => wires.push(stream),
            }
        }
        for (name, stream, pieces) in wires {
            if let Some(peer) = self.clients.get_mut(&name) {
                peer.send(&stream, &pieces).await;
            }
        }
        self.resume_all().await;
        // A client within the process waits for its receivers: all of them must read.
        for (name, stream, pieces) in local {
            if let Some(peer) = self.clients.get_mut(&name) {
                peer.send(&stream, &pieces).await;
            }
        }
    }

    /// All clients send at the same time: what each of them sent arrives in order.
    async fn all_at_once(&mut self) {
        let names: Vec<String> = self.clients.keys().cloned().collect();
        let mut outcomes = BTreeMap::new();
        let mut streams = vec![];
        for name in &names {
            let stream = self.stream(&[PUBLISH, MESSAGE, BROADCAST, PUBLISH_FOR]);
            outcomes.insert(name.clone(), self.model.stream(name, &stream));
            streams.push((name.clone(), stream, self.pieces()));
        }
        self.send_all(streams).await;
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
        // The model takes long to find out what such a mask covers.
        if stream.iter().filter(|byte| matches!(byte, b'?' | b'*')).count() > 8 {
            return;
        }
        let outcome = self.model.stream(&name, &stream);
        self.pause_some();
        if let Some(Peer::Wire(wire)) = self.clients.get_mut(&name) {
            wire.write(&stream, &pieces);
            if outcome.is_incomplete {
                wire.end();
            }
        }
        self.resume_all().await;
        if outcome.is_broken || outcome.is_incomplete {
            self.check([(name.clone(), outcome)].into(), Some(&name)).await;
        } else {
            self.check([(name, outcome)].into(), None).await;
        }
    }

    /// Reads all clients and compares. One of them may have been closed.
    async fn check(&mut self, outcomes: BTreeMap<String, Outcome>, closed: Option<&str>) {
        let mut received: BTreeMap<String, Received> = BTreeMap::new();
        let gone = closed.map(|name| self.model.unregister(name)).unwrap_or_default();
        for name in &gone {
            let peer = self.clients.remove(name).expect("a client of the model has a connection");
            received.insert(name.clone(), peer.read_to_end().await);
        }
        // When all senders have their acknowledgements, all frames are in the queues of their receivers.
        for round in 0..2 {
            self.clients.values_mut().for_each(|peer| peer.send_barrier(round));
            for (name, peer) in &mut self.clients {
                let more = peer.read_barrier(round).await;
                let all = received.entry(name.clone()).or_default();
                all.acks.extend(more.acks);
                all.deliveries.extend(more.deliveries);
            }
        }
        let none = Outcome::default();
        for (name, received) in &received {
            let outcome = outcomes.get(name).unwrap_or(&none);
            self.queues.check_acks(name, outcome, &received.acks, gone.contains(name));
        }
        let mut missing: BTreeMap<&str, usize> = BTreeMap::new();
        for (name, frames) in &received {
            let mut count = 0;
            for (sender, outcome) in &outcomes {
                let wanted = outcome.deliveries.get(name).map(|all| &all[..]).unwrap_or_default();
                let (got, who) = (from(frames, sender), format!("from {sender} to {name}"));
                count += got.len();
                if gone.contains(name) {
                    // A connection that ends may lose what was queued for it.
                    self.queues.check_last(wanted, &got, &who);
                    continue;
                }
                let acks = received.get(sender).map(|received| &received.acks[..]).unwrap_or_default();
                *missing.entry(name).or_default() += self.queues.check_deliveries(wanted, &got, acks, &who);
            }
            assert_eq!(frames.deliveries.len(), count, "deliveries to {name} from no sender");
        }
        for client in self.broker.clients().clients {
            let before = self.dropped.insert(client.name.clone(), client.dropped).unwrap_or_default();
            let missing = missing.get(&*client.name).copied().unwrap_or_default() as u64;
            let counted = client.dropped - before;
            // Announcements of the broker that are dropped count too.
            assert!(counted >= missing, "{missing} frames for {}, {counted} counted as dropped", client.name);
        }
    }
}
