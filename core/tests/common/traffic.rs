//! The traffic of a storm's clients (messages, publications, calls, changes of subscriptions), and a record of it to
//! compare with what others have received.

use super::random::Random;
use busrt::client::{Client, Config, Reconnect};
use busrt::proto::request::Operation;
use busrt::rpc::Caller;
use busrt::{ErrorKind, QoS};
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// The topic masks that clients subscribe to and exclude.
const MASKS: [&str; 10] = ["t/0", "t/1", "t/2", "t/+", "t/#", "+/1", "t/1/#", "t/+/x", "u/+", "u/#"];
/// The topics of publications.
pub const TOPICS: [&str; 8] = ["t/0", "t/1", "t/2", "t/1/x", "t/2/x", "u/1", "u/1/y", "t"];
/// The prefix of the topics to which all clients are always subscribed.
pub const NEWS: &str = "news/#";
const QOS: [QoS; 4] = [QoS::No, QoS::Processed, QoS::Realtime, QoS::RealtimeProcessed];

/// The state that all clients share.
pub struct World {
    pub steady: Vec<String>,
    pub flaky: Vec<String>,
    /// Addresses of the broker itself and of the proxies.
    pub addresses: Vec<String>,
    /// Twice the number of times that a broker was killed and another one started; odd in between.
    pub broker: AtomicU64,
    /// The value of `broker` when all steady clients had reconnected.
    pub settled: AtomicU64,
    pub stop: AtomicBool,
    pub wrong: Wrong,
}

/// Numbers received, by sender.
#[derive(Default)]
pub struct Log {
    pub last: HashMap<String, u64>,
    pub all: HashSet<(String, u64)>,
}

fn number_of(payload: &[u8]) -> u64 {
    payload.first_chunk().map(|bytes| u64::from_le_bytes(*bytes)).unwrap()
}

/// The faults that were found, because a task cannot fail the test by itself.
pub type Wrong = Arc<Mutex<Vec<String>>>;

/// Takes a client's frames until its end, and reports frames that arrive twice or out of order.
pub fn take(receiver: &Client, log: Arc<Mutex<Log>>, wrong: Wrong) {
    let (mut frames, receiver) = (receiver.frames().unwrap(), receiver.name().to_owned());
    tokio::spawn(async move {
        while let Some(frame) = frames.recv().await {
            if frame.sender() == ".broker" {
                continue;
            }
            let (sender, number) = (frame.sender().to_owned(), number_of(frame.payload()));
            let mut log = log.lock();
            let last = log.last.insert(sender.clone(), number).unwrap_or(0);
            if last >= number {
                wrong.lock().push(format!("{receiver} got {number} of {sender} after {last}"));
            }
            log.all.insert((sender, number));
        }
    });
}

/// The counts of one run.
#[derive(Debug, Default, Clone, Copy)]
pub struct Outcome {
    pub acknowledged: u64,
    pub lost: u64,
    pub replies: u64,
    pub failed_calls: u64,
    pub changes: u64,
    pub failed_changes: u64,
    pub visits: u64,
}

impl std::ops::AddAssign for Outcome {
    fn add_assign(&mut self, other: Outcome) {
        self.acknowledged += other.acknowledged;
        self.lost += other.lost;
        self.replies += other.replies;
        self.failed_calls += other.failed_calls;
        self.changes += other.changes;
        self.failed_changes += other.failed_changes;
        self.visits += other.visits;
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Set {
    Subscriptions,
    Exclusions,
}

/// The subscriptions that must be in force for a client, according to the outcomes of its changes.
#[derive(Debug, Default)]
pub struct Topics {
    sets: BTreeSet<(Set, &'static str)>,
    /// Changes that may or may not be in force; the value says whether they add.
    open: BTreeMap<(Set, &'static str), bool>,
}

impl Topics {
    /// Returns true if the client must receive publications on `topic`.
    pub fn let_through(&self, topic: &str) -> bool {
        let any = |which| self.sets.iter().any(|(set, mask)| *set == which && matches(mask, topic));
        any(Set::Subscriptions) && !any(Set::Exclusions)
    }

    fn note(&mut self, set: Set, masks: &[&'static str], add: bool, result: &busrt::Result<()>) {
        for mask in masks {
            match result {
                Ok(()) if add => drop(self.sets.insert((set, mask))),
                Ok(()) => drop(self.sets.remove(&(set, mask))),
                // The broker may still make the change on this connection.
                Err(e) if e.kind() == ErrorKind::Timeout => drop(self.open.insert((set, mask), add)),
                Err(_) => continue,
            }
            if result.is_ok() {
                self.open.remove(&(set, mask));
            }
        }
    }

    /// Repeats the changes that may or may not be in force. After that, the broker has made all of them.
    pub async fn settle(&mut self, client: &Client) -> busrt::Result<()> {
        while let Some((&(set, mask), &add)) = self.open.first_key_value() {
            let result = change(client, set, &[mask], add, QoS::Processed).await;
            self.note(set, &[mask], add, &result);
            result?;
        }
        client.unsubscribe("nothing", QoS::Processed).await
    }
}

/// Matches as docs/protocol.md section 7 specifies.
fn matches(mask: &str, topic: &str) -> bool {
    let mut levels = topic.split('/');
    for part in mask.split('/') {
        match (part, levels.next()) {
            ("#", Some(_)) => return true,
            ("+", Some(_)) => {}
            (part, Some(level)) if part == level => {}
            _ => return false,
        }
    }
    levels.next().is_none()
}

async fn change(client: &Client, set: Set, masks: &[&str], add: bool, qos: QoS) -> busrt::Result<()> {
    match (set, add) {
        (Set::Subscriptions, true) => client.subscribe(masks, qos).await,
        (Set::Subscriptions, false) => client.unsubscribe(masks, qos).await,
        (Set::Exclusions, true) => client.exclude(masks, qos).await,
        (Set::Exclusions, false) => client.unexclude(masks, qos).await,
    }
}

/// The acknowledged messages, each with the broker that acknowledged it.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sent {
    pub target: String,
    pub sender: String,
    pub broker: u64,
    pub number: u64,
}

/// Acts in the name of clients, and records the outcomes.
pub struct Actor {
    pub world: Arc<World>,
    targets: Vec<String>,
    /// The number that was sent last; no number is used twice.
    pub number: u64,
    random: Random,
    /// True for a client that comes and goes under one name. A reply to an earlier client of that name may reach it,
    /// because call ids start at 1 in each.
    visits: bool,
    pub topics: Topics,
    pub acknowledged: Vec<Sent>,
    pub outcome: Outcome,
}

impl Actor {
    pub fn new(world: &Arc<World>, targets: &[String], number: u64, topics: Topics, random: Random) -> Actor {
        let (world, targets) = (world.clone(), targets.to_vec());
        Actor {
            world,
            targets,
            number,
            random,
            visits: false,
            topics,
            acknowledged: vec![],
            outcome: Outcome::default(),
        }
    }

    fn stops(&self) -> bool {
        self.world.stop.load(Ordering::Relaxed)
    }

    /// Acts for a client that stays connected.
    pub async fn stay(mut self, client: Client) -> Actor {
        while !self.stops() {
            self.act(&client).await;
            if self.random.below(4) == 0 {
                tokio::time::sleep(Duration::from_millis(self.random.below(4))).await;
            }
        }
        self
    }

    /// Acts for a client that comes and goes, always under the same name.
    pub async fn come_and_go(mut self, name: String) -> Actor {
        self.visits = true;
        while !self.stops() {
            let longest = Duration::from_millis(self.random.below(300));
            // After that time, the client leaves in the middle of its current operation.
            let _ = tokio::time::timeout(longest, self.visit(&name)).await;
            self.topics = Topics::default();
            tokio::time::sleep(Duration::from_millis(self.random.below(10))).await;
        }
        self
    }

    async fn visit(&mut self, name: &str) {
        let address = &self.world.addresses[self.random.below(self.world.addresses.len() as u64) as usize];
        let mut config = Config::new(address, name).timeout(Duration::from_millis(600));
        if self.random.below(2) == 0 {
            config = config
                .reconnect(Reconnect::new().delays(Duration::from_millis(2), Duration::from_millis(20)));
        }
        // An error may come from the connection, the name, or the broker.
        let Ok(client) = Client::connect(&config).await else { return };
        self.outcome.visits += 1;
        if self.random.below(4) > 0 {
            take(&client, Arc::default(), self.world.wrong.clone());
        }
        let secondary = match self.random.below(4) {
            0 => client.secondary().await.ok(),
            _ => None,
        };
        for _ in 0..self.random.below(8) {
            self.act(secondary.as_ref().unwrap_or(&client)).await;
        }
        match self.random.below(4) {
            0 => client.disconnect().await,
            1 => drop(client.drain(Duration::from_millis(100)).await),
            _ => {}
        }
    }

    async fn act(&mut self, client: &Client) {
        match self.random.below(12) {
            0 => self.call(client).await,
            1 => self.publish(client).await,
            2..4 => self.change(client).await,
            4..7 => self.pipeline(client).await,
            _ => {
                self.message(client, QoS::Processed).await;
                self.message(client, QoS::No).await;
            }
        }
    }

    fn payload(&mut self) -> Bytes {
        self.number += 1;
        let mut payload = self.number.to_le_bytes().to_vec();
        let len = if self.random.below(50) == 0 { 20_000 } else { 200 };
        payload.resize(8 + self.random.below(len) as usize, 7);
        payload.into()
    }

    fn target(&mut self) -> String {
        self.targets[self.random.below(self.targets.len() as u64) as usize].clone()
    }

    fn broker(&self) -> u64 {
        self.world.broker.load(Ordering::SeqCst)
    }

    async fn lost(&mut self, e: &busrt::Error) {
        use ErrorKind::{ConnectionLost, NotDelivered, NotRegistered, Timeout};
        assert!(matches!(e.kind(), ConnectionLost | NotDelivered | NotRegistered | Timeout), "{e}");
        self.outcome.lost += 1;
        if e.kind() == ConnectionLost {
            // It may fail immediately, again and again.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Records an acknowledgement. `broker` is the number of the broker before the message was sent.
    fn acknowledged(&mut self, target: &str, sender: &str, number: u64, broker: u64) {
        self.outcome.acknowledged += 1;
        // Otherwise it is unknown whether the broker that acknowledged it is still running.
        if broker.is_multiple_of(2) && broker == self.broker() {
            let (target, sender) = (target.to_owned(), sender.to_owned());
            self.acknowledged.push(Sent { target, sender, broker, number });
        }
    }

    async fn message(&mut self, client: &Client, qos: QoS) {
        let (target, payload, broker) = (self.target(), self.payload(), self.broker());
        match client.send(&target, payload, qos).await {
            Ok(()) if qos.needs_ack() => self.acknowledged(&target, client.name(), self.number, broker),
            Ok(()) => {}
            Err(e) => self.lost(&e).await,
        }
    }

    async fn pipeline(&mut self, client: &Client) {
        let mut under_way = vec![];
        let broker = self.broker();
        for _ in 0..16 {
            let target = self.target();
            let operation = Operation::Message { target: &target, payload: self.payload() };
            match client.submit(operation, QoS::Processed).await {
                Ok(confirmation) => under_way.push((confirmation, target, self.number)),
                Err(e) => self.lost(&e).await,
            }
        }
        for (confirmation, target, number) in under_way {
            match confirmation.await {
                Ok(()) => self.acknowledged(&target, client.name(), number, broker),
                Err(e) => self.lost(&e).await,
            }
        }
    }

    async fn publish(&mut self, client: &Client) {
        let (payload, broker) = (self.payload(), self.broker());
        let settled = self.world.settled.load(Ordering::SeqCst) == broker;
        let result = match self.random.below(3) {
            0 => {
                let topic = self.random.pick(&TOPICS);
                if let Err(e) = client.publish(topic, payload, self.random.pick(&QOS)).await {
                    self.lost(&e).await;
                }
                return;
            }
            1 => client.broadcast("steady.*", payload, QoS::Processed).await,
            _ => client.publish("news/of/somebody", payload, QoS::RealtimeProcessed).await,
        };
        match result {
            Ok(()) if settled => {
                for target in self.world.steady.clone() {
                    self.acknowledged(&target, client.name(), self.number, broker);
                }
            }
            Ok(()) => {}
            Err(e) => self.lost(&e).await,
        }
    }

    async fn change(&mut self, client: &Client) {
        let masks: Vec<_> = (0..1 + self.random.below(3)).map(|_| self.random.pick(&MASKS)).collect();
        // Both kinds have the same probability, so that subscriptions do not run out and exclusions do not hide
        // everything.
        let (set, add) = match self.random.below(6) {
            0..3 => (Set::Subscriptions, true),
            3 => (Set::Subscriptions, false),
            4 => (Set::Exclusions, true),
            _ => (Set::Exclusions, false),
        };
        // Only one exclusion is added at a time, so that other topics are left.
        let masks = if set == Set::Exclusions && add { &masks[..1] } else { &masks[..] };
        let result = change(client, set, masks, add, self.random.pick(&QOS)).await;
        self.topics.note(set, masks, add, &result);
        match result {
            Ok(()) => self.outcome.changes += 1,
            Err(e) => {
                self.outcome.failed_changes += 1;
                self.lost(&e).await;
            }
        }
    }

    async fn call(&mut self, client: &Client) {
        let payload = self.payload();
        match Caller::new(client.clone()).call("echo", "echo", payload.clone(), QoS::Processed).await {
            Ok(reply) => {
                let former = self.visits && number_of(reply.payload()) < self.number;
                assert!(former || reply.payload() == payload, "another call was answered");
                self.outcome.replies += 1;
            }
            Err(e) => {
                assert!(e.kind().is_some(), "{e}");
                self.outcome.failed_calls += 1;
            }
        }
    }
}
