//! Clients behind faulty connections, clients that have nothing to fear, traffic between them, and what must
//! hold whatever happens: an acknowledged message to a client that stays connected arrives, what one sends to
//! another arrives in order and once, nobody waits for ever, nothing grows.

use super::proxy::{Fault, Proxy};
use super::random::Random;
use super::{PATIENCE, Transport, eventually};
use busrt::broker::{Broker, Options};
use busrt::client::{Client, Config, Frames, Reconnect, WhileDown};
use busrt::proto::request::Operation;
use busrt::rpc::{Call, Caller, Handlers, Rpc, RpcError};
use busrt::{ErrorKind, Frame, QoS};
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const FLAKY: usize = 8;
const STEADY: usize = 2;

/// Numbers received, by sender.
#[derive(Default)]
struct Log {
    last: HashMap<String, u64>,
    all: HashSet<(String, u64)>,
}

/// A client and what it has received.
struct Node {
    client: Client,
    log: Arc<Mutex<Log>>,
    /// What it last sent: numbers never come twice.
    number: u64,
}

struct Echo;

impl Handlers for Echo {
    async fn on_call(&self, call: Call) -> Result<Bytes, RpcError> {
        Ok(call.params_bytes())
    }
}

/// What came of a while of it.
#[derive(Debug, Default, Clone, Copy)]
pub struct Outcome {
    pub acknowledged: u64,
    pub lost: u64,
    pub replies: u64,
    pub failed_calls: u64,
}

impl std::ops::AddAssign for Outcome {
    fn add_assign(&mut self, other: Outcome) {
        self.acknowledged += other.acknowledged;
        self.lost += other.lost;
        self.replies += other.replies;
        self.failed_calls += other.failed_calls;
    }
}

pub struct Storm {
    path: String,
    broker: Option<Broker>,
    proxies: Vec<Proxy>,
    steady: Vec<Node>,
    flaky: Vec<Node>,
    echo: Rpc,
    random: Random,
    _dir: tempfile::TempDir,
}

fn options() -> Options {
    Options::new().timeout(Duration::from_secs(1))
}

fn number(frame: &Frame) -> u64 {
    frame.payload().first_chunk().map(|bytes| u64::from_le_bytes(*bytes)).unwrap()
}

fn take(mut frames: Frames, log: Arc<Mutex<Log>>) {
    tokio::spawn(async move {
        while let Some(frame) = frames.recv().await {
            if frame.sender() == ".broker" {
                continue;
            }
            let (sender, number) = (frame.sender().to_owned(), number(&frame));
            let mut log = log.lock();
            let last = log.last.insert(sender.clone(), number).unwrap_or(0);
            assert!(last < number, "{number} of {sender} after {last}");
            log.all.insert((sender, number));
        }
    });
}

impl Node {
    async fn start(config: &Config) -> Node {
        // The way there may be a faulty one.
        let client = loop {
            match Client::connect(config).await {
                Ok(client) => break client,
                Err(e) => assert_ne!(e.kind(), ErrorKind::Data, "{e}"),
            }
        };
        let log = Arc::<Mutex<Log>>::default();
        take(client.frames().unwrap(), log.clone());
        while client.subscribe("news/#", QoS::Processed).await.is_err() {}
        Node { client, log, number: 0 }
    }
}

impl Storm {
    pub async fn start(faults: &[Fault], mut random: Random) -> Storm {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bus.sock").display().to_string();
        let broker = Broker::new(options());
        broker.listen(&path).await.unwrap();
        let mut proxies = vec![];
        for transport in [Transport::Unix, Transport::Tcp] {
            proxies.push(Proxy::start(transport, &path, faults, &mut random).await);
        }
        let reconnect = Reconnect::new().delays(Duration::from_millis(2), Duration::from_millis(100));
        let config = |address: &str, name: String| {
            let config = Config::new(address, name).reconnect(reconnect.clone()).queue_size(256);
            config
                .ping_interval(Duration::from_millis(100))
                .while_down(WhileDown::Wait(PATIENCE))
                .timeout(PATIENCE)
        };
        let mut steady = vec![];
        for i in 0..STEADY {
            steady.push(Node::start(&config(&path, format!("steady.{i}"))).await);
        }
        let mut flaky = vec![];
        for i in 0..FLAKY {
            let config = config(&proxies[i % 2].address, format!("flaky.{i}"));
            let config = config.timeout(Duration::from_millis(600)).silence(Duration::from_millis(400));
            flaky.push(Node::start(&config).await);
        }
        let echo = Rpc::new(Client::connect(&config(&path, "echo".into())).await.unwrap(), Echo);
        Storm { path, broker: Some(broker), proxies, steady, flaky, echo, random, _dir: dir }
    }

    /// The broker goes without a word and comes again.
    pub async fn restart(&mut self) {
        self.broker = None;
        let broker = Broker::new(options());
        broker.listen(&self.path).await.unwrap();
        self.broker = Some(broker);
        self.all_are_back().await;
    }

    pub fn injected(&self) -> u64 {
        self.proxies.iter().map(Proxy::injected).sum()
    }

    /// Traffic and faults for so long; then calm, everybody back, every acknowledged message accounted for.
    pub async fn rage(&mut self, length: Duration) -> Outcome {
        let stop = Arc::new(AtomicBool::new(false));
        self.proxies.iter().for_each(|proxy| proxy.set_calm(false));
        let names = |nodes: &[Node]| nodes.iter().map(|n| n.client.name().to_owned()).collect::<Vec<_>>();
        let (steady, flaky) = (names(&self.steady), names(&self.flaky));
        let mut tasks = vec![];
        for (nodes, targets) in [(&self.flaky, &steady), (&self.steady, &flaky)] {
            for node in nodes {
                let sender = Sender {
                    client: node.client.clone(),
                    targets: targets.clone(),
                    number: node.number,
                    random: self.random.fork(),
                    acknowledged: vec![],
                    outcome: Outcome::default(),
                };
                tasks.push(tokio::spawn(sender.run(stop.clone())));
            }
        }
        tokio::time::sleep(length).await;
        stop.store(true, Ordering::Relaxed);
        let mut outcome = Outcome::default();
        let mut acknowledged = vec![];
        for (task, node) in tasks.into_iter().zip(self.flaky.iter_mut().chain(&mut self.steady)) {
            let sender = tokio::time::timeout(PATIENCE, task).await.expect("a sender hangs").unwrap();
            outcome += sender.outcome;
            node.number = sender.number;
            acknowledged.extend(sender.acknowledged);
        }
        self.proxies.iter().for_each(|proxy| proxy.set_calm(true));
        self.all_are_back().await;
        let logs: HashMap<_, _> =
            self.steady.iter().map(|n| (n.client.name().to_owned(), n.log.clone())).collect();
        for (target, sender, number) in acknowledged {
            // The others were not connected all the time.
            let Some(log) = logs.get(&target) else { continue };
            let what = format!("{number} of {sender} to {target} was acknowledged");
            eventually(&what, || log.lock().all.contains(&(sender.clone(), number))).await;
        }
        for node in self.steady.iter().chain(&self.flaky) {
            node.log.lock().all.clear();
        }
        outcome
    }

    /// Everybody has a connection and the subscription.
    async fn all_are_back(&mut self) {
        let (publisher, others) = self.steady.split_first_mut().unwrap();
        let started = std::time::Instant::now();
        for node in others.iter().chain(&self.flaky) {
            loop {
                assert!(started.elapsed() < PATIENCE, "{} does not get the news", node.client.name());
                publisher.number += 1;
                let number = publisher.number;
                let news =
                    publisher.client.publish("news/all", number.to_le_bytes().to_vec(), QoS::Processed);
                if news.await.is_err() {
                    continue;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
                if node.log.lock().last.get(publisher.client.name()) == Some(&number) {
                    break;
                }
            }
        }
        let echo = Caller::new(publisher.client.clone());
        while echo.call(self.echo.client().name(), "echo", "x", QoS::Processed).await.is_err() {
            assert!(started.elapsed() < PATIENCE, "the server does not come back");
        }
    }
}

struct Sender {
    client: Client,
    targets: Vec<String>,
    number: u64,
    random: Random,
    /// Target, sender, number.
    acknowledged: Vec<(String, String, u64)>,
    outcome: Outcome,
}

impl Sender {
    async fn run(mut self, stop: Arc<AtomicBool>) -> Sender {
        while !stop.load(Ordering::Relaxed) {
            match self.random.below(10) {
                0 => self.call().await,
                1 => self.publish().await,
                2..5 => self.pipeline().await,
                _ => {
                    self.message(QoS::Processed).await;
                    self.message(QoS::No).await;
                }
            }
            if self.random.below(4) == 0 {
                tokio::time::sleep(Duration::from_millis(self.random.below(4))).await;
            }
        }
        self
    }

    fn payload(&mut self) -> Bytes {
        self.number += 1;
        let mut payload = self.number.to_le_bytes().to_vec();
        let len = if self.random.below(50) == 0 { 20_000 } else { 200 };
        payload.resize(8 + self.random.below(len) as usize, 7);
        payload.into()
    }

    fn lost(&mut self, e: &busrt::Error) {
        use ErrorKind::{ConnectionLost, NotRegistered, Timeout};
        assert!(matches!(e.kind(), ConnectionLost | NotRegistered | Timeout), "{e}");
        self.outcome.lost += 1;
    }

    fn acknowledged(&mut self, target: String, number: u64) {
        self.outcome.acknowledged += 1;
        self.acknowledged.push((target, self.client.name().to_owned(), number));
    }

    async fn message(&mut self, qos: QoS) {
        let target = self.targets[self.random.below(self.targets.len() as u64) as usize].clone();
        let payload = self.payload();
        match self.client.send(&target, payload, qos).await {
            Ok(()) if qos.needs_ack() => self.acknowledged(target, self.number),
            Ok(()) => {}
            Err(e) => self.lost(&e),
        }
    }

    async fn pipeline(&mut self) {
        let mut under_way = vec![];
        for _ in 0..16 {
            let target = self.targets[self.random.below(self.targets.len() as u64) as usize].clone();
            let operation = Operation::Message { target: &target, payload: self.payload() };
            match self.client.submit(operation, QoS::Processed).await {
                Ok(confirmation) => under_way.push((confirmation, target, self.number)),
                Err(e) => self.lost(&e),
            }
        }
        for (confirmation, target, number) in under_way {
            match confirmation.await {
                Ok(()) => self.acknowledged(target, number),
                Err(e) => self.lost(&e),
            }
        }
    }

    async fn publish(&mut self) {
        let payload = self.payload();
        if let Err(e) = self.client.publish("news/of/somebody", payload, QoS::RealtimeProcessed).await {
            self.lost(&e);
        }
    }

    async fn call(&mut self) {
        let payload = self.payload();
        match Caller::new(self.client.clone()).call("echo", "echo", payload.clone(), QoS::Processed).await {
            Ok(reply) => {
                assert_eq!(reply.payload(), payload);
                self.outcome.replies += 1;
            }
            Err(e) => {
                assert!(e.kind().is_some(), "{e}");
                self.outcome.failed_calls += 1;
            }
        }
    }
}
