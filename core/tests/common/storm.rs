//! Runs a `busrtd` that may be killed, with clients behind faulty connections, steady clients, clients that come and
//! go, and traffic between them. It checks that an acknowledged message to a client that stays connected arrives,
//! that messages between two clients arrive once and in order, that the subscriptions are those that were
//! acknowledged, and that no client waits for ever.

use super::daemon::{Daemon, free_port};
use super::proxy::{Fault, Proxy};
use super::random::Random;
use super::traffic::{Actor, Log, NEWS, Outcome, Sent, TOPICS, Topics, World, Wrong, take};
use super::{PATIENCE, Transport, eventually};
use busrt::broker::ClientList;
use busrt::client::{Client, Config, Event, Reconnect, WhileDown};
use busrt::rpc::{Call, Caller, Handlers, Rpc, RpcError};
use busrt::{ErrorKind, QoS};
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const FLAKY: usize = 8;
const STEADY: usize = 3;
const GUESTS: usize = 6;
/// The broker's timeout. Stalled connections last longer, so that the broker ends them.
const TIMEOUT: &str = "1.5";

/// A client that stays connected, and the frames that it has received.
struct Node {
    client: Client,
    log: Arc<Mutex<Log>>,
    number: u64,
    topics: Topics,
    /// Number of connections that it has lost.
    lost: Arc<AtomicU64>,
}

struct Echo;

impl Handlers for Echo {
    async fn on_call(&self, call: Call) -> Result<Bytes, RpcError> {
        Ok(call.params_bytes())
    }
}

pub struct Storm {
    pub daemon: Daemon,
    world: Arc<World>,
    proxies: Vec<Proxy>,
    steady: Vec<Node>,
    flaky: Vec<Node>,
    /// The names of the guests, and the numbers that they sent last.
    guests: Vec<(String, u64)>,
    echo: Rpc,
    kills: u64,
    random: Random,
    _dir: tempfile::TempDir,
}

impl Node {
    async fn start(config: &Config, wrong: &Wrong) -> Node {
        // The connection may be faulty.
        let client = loop {
            match Client::connect(config).await {
                Ok(client) => break client,
                Err(e) => assert_ne!(e.kind(), ErrorKind::Data, "{e}"),
            }
        };
        let (log, lost) = (Arc::<Mutex<Log>>::default(), Arc::new(AtomicU64::new(0)));
        client
            .on_event({
                let lost = lost.clone();
                move |event| {
                    lost.fetch_add(u64::from(matches!(event, Event::Disconnected { .. })), Ordering::SeqCst);
                }
            })
            .detach();
        take(&client, log.clone(), wrong.clone());
        while client.subscribe(NEWS, QoS::Processed).await.is_err() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Node { client, log, number: 0, topics: Topics::default(), lost }
    }

    fn name(&self) -> &str {
        self.client.name()
    }

    fn lost(&self) -> u64 {
        self.lost.load(Ordering::SeqCst)
    }

    fn next(&mut self) -> (u64, Vec<u8>) {
        self.number += 1;
        (self.number, self.number.to_le_bytes().to_vec())
    }
}

impl Storm {
    pub async fn start(faults: &[Fault], mut random: Random) -> Storm {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bus.sock").display().to_string();
        let port = format!("127.0.0.1:{}", free_port());
        let daemon = Daemon::start(&[path.clone(), port.clone()], &["-t", TIMEOUT]);
        let mut proxies = vec![];
        for transport in [Transport::Unix, Transport::Tcp] {
            proxies.push(Proxy::start(transport, &path, faults, &mut random).await);
        }
        let straight = [path, port];
        let reconnect = Reconnect::new().delays(Duration::from_millis(2), Duration::from_millis(100));
        let config = |address: &str, name: String| {
            let config = Config::new(address, name)
                .reconnect(reconnect.clone())
                .queue_size(256)
                .inbox_bytes(64 * 1024);
            config
                .ping_interval(Duration::from_millis(100))
                .while_down(WhileDown::Wait(PATIENCE))
                .timeout(PATIENCE)
        };
        let (wrong, mut steady) = (Wrong::default(), vec![]);
        for i in 0..STEADY {
            steady.push(Node::start(&config(&straight[i % 2], format!("steady.{i}")), &wrong).await);
        }
        let mut flaky = vec![];
        let policies = [WhileDown::Wait(PATIENCE), WhileDown::Fail, WhileDown::Queue(1 << 16)];
        for i in 0..FLAKY {
            let config = config(&proxies[i % 2].address, format!("flaky.{i}")).while_down(policies[i % 3]);
            let config = config.timeout(Duration::from_millis(600)).silence(Duration::from_millis(400));
            flaky.push(Node::start(&config, &wrong).await);
        }
        let echo = Rpc::new(Client::connect(&config(&straight[0], "echo".into())).await.unwrap(), Echo);
        let names = |nodes: &[Node]| nodes.iter().map(|node| node.name().to_owned()).collect();
        let world = Arc::new(World {
            steady: names(&steady),
            flaky: names(&flaky),
            addresses: straight
                .into_iter()
                .chain(proxies.iter().map(|proxy| proxy.address.clone()))
                .collect(),
            broker: AtomicU64::new(0),
            settled: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            wrong,
        });
        let guests = (0..GUESTS).map(|i| (format!("guest.{i}"), 0)).collect();
        Storm { daemon, world, proxies, steady, flaky, guests, echo, kills: 0, random, _dir: dir }
    }

    pub fn injected(&self) -> u64 {
        self.proxies.iter().map(Proxy::injected).sum()
    }

    /// Runs traffic and faults for this long, and kills the broker during that time if `kill` is true. Then the
    /// faults stop, all clients reconnect, and it checks every acknowledged message and every subscription.
    pub async fn rage(&mut self, length: Duration, kill: bool) -> Outcome {
        self.world.stop.store(false, Ordering::Relaxed);
        self.proxies.iter().for_each(|proxy| proxy.set_calm(false));
        let world = &self.world;
        let all = [&world.steady[..], &world.flaky[..]].concat();
        let mut staying = vec![];
        for (nodes, targets) in [(&mut self.flaky, &world.steady), (&mut self.steady, &all)] {
            for node in nodes {
                let topics = std::mem::take(&mut node.topics);
                let actor = Actor::new(world, targets, node.number, topics, self.random.fork());
                staying.push(tokio::spawn(actor.stay(node.client.clone())));
            }
        }
        let mut coming = vec![];
        for (name, number) in &self.guests {
            let actor = Actor::new(world, &all, *number, Topics::default(), self.random.fork());
            coming.push(tokio::spawn(actor.come_and_go(name.clone())));
        }
        if kill {
            let before = length.mul_f64(self.random.below(100) as f64 / 100.0);
            tokio::time::sleep(before).await;
            self.kill().await;
            tokio::time::sleep(length - before).await;
        } else {
            tokio::time::sleep(length).await;
        }
        self.world.stop.store(true, Ordering::Relaxed);
        let (mut outcome, mut acknowledged) = (Outcome::default(), vec![]);
        for (task, node) in staying.into_iter().zip(self.flaky.iter_mut().chain(&mut self.steady)) {
            let actor = tokio::time::timeout(PATIENCE, task).await.expect("a client hangs").unwrap();
            (node.number, node.topics) = (actor.number, actor.topics);
            outcome += actor.outcome;
            acknowledged.extend(actor.acknowledged);
        }
        for (task, (_, number)) in coming.into_iter().zip(&mut self.guests) {
            let actor = tokio::time::timeout(PATIENCE, task).await.expect("a guest hangs").unwrap();
            *number = actor.number;
            outcome += actor.outcome;
            acknowledged.extend(actor.acknowledged);
        }
        self.proxies.iter().for_each(|proxy| proxy.set_calm(true));
        self.all_are_back().await;
        self.guests_are_gone().await;
        self.account(acknowledged).await;
        self.subscriptions_are_in_force().await;
        assert!(self.world.wrong.lock().is_empty(), "{:?}", self.world.wrong.lock());
        for node in &self.steady {
            assert_eq!(node.lost(), self.kills, "{} was cut", node.name());
        }
        for node in self.steady.iter().chain(&self.flaky) {
            node.log.lock().all.clear();
        }
        outcome
    }

    /// Kills the broker and starts it again.
    async fn kill(&mut self) {
        self.world.broker.fetch_add(1, Ordering::SeqCst);
        self.daemon.kill();
        self.daemon.restart();
        self.kills += 1;
        let broker = self.world.broker.fetch_add(1, Ordering::SeqCst) + 1;
        for node in &self.steady {
            eventually("the steady clients are connected again", || {
                node.lost() == self.kills && node.client.is_connected()
            })
            .await;
        }
        self.world.settled.store(broker, Ordering::SeqCst);
    }

    /// Waits until every client is connected and has its subscription.
    async fn all_are_back(&mut self) {
        let (publisher, others) = self.steady.split_first_mut().unwrap();
        let started = Instant::now();
        for node in others.iter().chain(&self.flaky) {
            loop {
                assert!(started.elapsed() < PATIENCE, "{} does not receive the news topic", node.name());
                let (number, payload) = publisher.next();
                if publisher.client.publish("news/all", payload, QoS::Processed).await.is_err() {
                    continue;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
                if node.log.lock().last.get(publisher.name()) == Some(&number) {
                    break;
                }
            }
        }
        let caller = Caller::new(publisher.client.clone());
        while caller.call(self.echo.client().name(), "echo", "x", QoS::Processed).await.is_err() {
            assert!(started.elapsed() < PATIENCE, "the server does not reconnect");
        }
    }

    /// Waits until the broker has only the clients that stay.
    async fn guests_are_gone(&self) {
        let caller = Caller::new(self.steady[0].client.clone());
        let started = Instant::now();
        loop {
            let reply = caller.call(".broker", "client.list", "", QoS::Processed).await.unwrap();
            let list: ClientList = rmp_serde::from_slice(reply.payload()).unwrap();
            let mut names = list.clients.iter().map(|client| client.name.as_str()).collect::<Vec<_>>();
            names.retain(|name| !name.starts_with('.'));
            if names.len() == 1 + FLAKY + STEADY {
                return;
            }
            assert!(
                started.elapsed() < PATIENCE,
                "a guest stays for ever, or a client does not reconnect: {names:?}"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Checks that all messages arrived that the present broker has acknowledged to steady clients. Of the messages
    /// that a killed broker acknowledged, the last ones may be missing.
    async fn account(&self, mut acknowledged: Vec<Sent>) {
        let logs: HashMap<_, _> = self.steady.iter().map(|n| (n.name().to_owned(), n.log.clone())).collect();
        let broker = self.world.broker.load(Ordering::SeqCst);
        let mut missing = BTreeMap::new();
        acknowledged.sort();
        for Sent { target, sender, broker: by, number } in acknowledged {
            // The other clients were not connected all the time.
            let Some(log) = logs.get(&target) else { continue };
            let what = format!("{number} of {sender} to {target} was acknowledged");
            let key = (sender, number);
            let arrived = || log.lock().all.contains(&key);
            if by == broker {
                eventually(&what, arrived).await;
                continue;
            }
            match missing.get(&(target.clone(), key.0.clone(), by)) {
                None if arrived() => {}
                None => drop(missing.insert((target, key.0, by), number)),
                Some(before) => assert!(!arrived(), "{what}, and arrived, but {before} before it did not"),
            }
        }
    }

    /// Publishes to every topic, and checks which clients receive it.
    async fn subscriptions_are_in_force(&mut self) {
        let started = Instant::now();
        for node in self.steady.iter_mut().chain(&mut self.flaky) {
            while let Err(e) = node.topics.settle(&node.client).await {
                assert!(started.elapsed() < PATIENCE, "{} cannot change its subscriptions: {e}", node.name());
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        // Earlier faults may still end a connection during this time. The received publications prove nothing then.
        while !self.try_subscriptions().await {
            assert!(started.elapsed() < PATIENCE, "connections are lost again and again");
        }
    }

    async fn try_subscriptions(&mut self) -> bool {
        let others: Vec<_> = self.steady.iter().chain(&self.flaky).map(|n| n.client.clone()).collect();
        for client in &others {
            eventually("all are connected", || client.is_connected()).await;
        }
        let lost: Vec<_> = self.steady.iter().chain(&self.flaky).map(Node::lost).collect();
        let (publisher, _) = self.steady.split_first_mut().unwrap();
        let mut published = vec![];
        for topic in TOPICS {
            let (number, payload) = publisher.next();
            publisher.client.publish(topic, payload, QoS::Processed).await.unwrap();
            published.push((topic, (publisher.name().to_owned(), number)));
        }
        // A marker to each client, which arrives after all publications.
        let mut markers = vec![];
        for client in &others {
            let (number, payload) = publisher.next();
            if publisher.client.send(client.name(), payload, QoS::Processed).await.is_err() {
                return false;
            }
            markers.push(number);
        }
        let publisher = &self.steady[0];
        for ((node, marker), lost) in self.steady.iter().chain(&self.flaky).zip(markers).zip(lost) {
            let got = || node.log.lock().last.get(publisher.name()) == Some(&marker);
            eventually("the client receives the marker", || got() || node.lost() > lost).await;
            if node.lost() > lost {
                return false;
            }
            for (topic, key) in &published {
                let (got, must) = (node.log.lock().all.contains(key), node.topics.let_through(topic));
                assert_eq!(got, must, "{} and {topic}: {:?}", node.name(), node.topics);
            }
        }
        true
    }
}
