//! Clients and a `busrtd` that is killed, stopped, and shut down.
#![cfg(all(target_os = "linux", feature = "server", feature = "rpc"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod common;

use busrt::client::{Client, Config, Event, Reconnect};
use busrt::{ErrorKind, Frame, QoS};
use common::daemon::{Daemon, free_port};
use common::{PATIENCE, Peer, eventually, next};
use parking_lot::Mutex;
use rustix::process::Signal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

const CLIENTS: u32 = 200;
const RESTARTS: u32 = 20;
/// This many frames of 100,000 bytes are more than sockets hold.
const LARGE_FRAMES: usize = 60;

fn quick() -> Reconnect {
    Reconnect::new().delays(Duration::from_millis(10), Duration::from_millis(200))
}

/// One of many clients: takes its frames and detects frames that arrive twice or out of order.
struct Member {
    client: Client,
    /// Number of times that it has connected.
    connected: Arc<AtomicU32>,
    /// The last number received from each sender.
    last: Mutex<Vec<u64>>,
    received: AtomicU64,
    /// The last round whose marker arrived through its own subscription.
    own: AtomicU32,
    /// The last round whose marker arrived through the subscription that all share.
    shared: AtomicU32,
}

impl Member {
    async fn start(address: &str, index: u32) -> Arc<Member> {
        let config = Config::new(address, format!("member.{index}")).reconnect(quick()).timeout(PATIENCE);
        let client = Client::connect(&config).await.unwrap();
        let connected = Arc::new(AtomicU32::new(0));
        client
            .on_event({
                let connected = connected.clone();
                move |event| {
                    connected.fetch_add(u32::from(*event == Event::Connected), Ordering::SeqCst);
                }
            })
            .detach();
        let topics = [format!("own/{index}"), "all/#".to_owned()];
        client.subscribe(topics, QoS::Processed).await.unwrap();
        client.exclude("all/not", QoS::Processed).await.unwrap();
        let mut frames = client.frames().unwrap();
        let member = Arc::new(Member {
            client,
            connected,
            last: Mutex::new(vec![0; CLIENTS as usize]),
            received: AtomicU64::new(0),
            own: AtomicU32::new(0),
            shared: AtomicU32::new(0),
        });
        let taking = member.clone();
        tokio::spawn(async move {
            while let Some(frame) = frames.recv().await {
                taking.take(&frame);
            }
        });
        member
    }

    fn take(&self, frame: &Frame) {
        let number = || frame.payload().first_chunk().map(|bytes| u64::from_le_bytes(*bytes)).unwrap();
        match frame.topic() {
            None => {
                let sender: usize = frame.sender().strip_prefix("member.").unwrap().parse().unwrap();
                let last = std::mem::replace(&mut self.last.lock()[sender], number());
                assert!(last < number(), "{} after {last} of {sender}", number());
                self.received.fetch_add(1, Ordering::Relaxed);
            }
            Some("all/marker") => {
                assert_eq!(self.shared.swap(number() as u32, Ordering::SeqCst) + 1, number() as u32)
            }
            Some(topic) if topic.starts_with("own/") => {
                assert_eq!(self.own.swap(number() as u32, Ordering::SeqCst) + 1, number() as u32);
            }
            Some(".broker/warn") => {}
            topic => panic!("{topic:?} was not subscribed to, or excluded"),
        }
    }
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Sends messages to the next member until `stop` is set, each with a higher number, and counts their outcomes.
async fn traffic(members: Vec<Arc<Member>>, index: usize, stop: Arc<AtomicBool>) -> (u64, u64, u64) {
    let (me, target) = (&members[index], members[(index + 1) % members.len()].client.name().to_owned());
    let (mut number, mut acknowledged, mut lost) = (0u64, 0, 0);
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        match me.client.send(&target, number.to_le_bytes().to_vec(), QoS::Processed).await {
            Ok(()) => acknowledged += 1,
            Err(e) => {
                let fine = matches!(e.kind(), ErrorKind::ConnectionLost | ErrorKind::NotRegistered);
                assert!(fine, "{e}");
                lost += 1;
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    (number, acknowledged, lost)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_clients_and_twenty_kills() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bus.sock").display().to_string();
    let port = format!("127.0.0.1:{}", free_port());
    let binds = [path.clone(), port.clone()];
    let mut daemon = Daemon::start(&binds, &[]);
    let mut members = vec![];
    for i in 0..CLIENTS {
        members.push(Member::start(if i % 2 == 0 { &path } else { &port }, i).await);
    }
    let metrics = tokio::runtime::Handle::current().metrics();
    let stop = Arc::new(AtomicBool::new(false));
    let senders: Vec<_> =
        (0..members.len()).map(|i| tokio::spawn(traffic(members.clone(), i, stop.clone()))).collect();
    let tasks = metrics.num_alive_tasks();
    let open = descriptors();
    for round in 1..=RESTARTS {
        if round > 1 {
            daemon.kill();
            daemon.restart();
        }
        for member in &members {
            eventually("all have reconnected", || member.connected.load(Ordering::SeqCst) >= round).await;
        }
        let publisher = Client::connect(&Config::new(&path, "publisher").timeout(PATIENCE)).await.unwrap();
        let marker = || u64::from(round).to_le_bytes().to_vec();
        publisher.publish("all/not", marker(), QoS::Processed).await.unwrap();
        publisher.publish("all/marker", marker(), QoS::Processed).await.unwrap();
        for i in 0..CLIENTS {
            publisher.publish(&format!("own/{i}"), marker(), QoS::Processed).await.unwrap();
        }
        for member in &members {
            let both = || {
                member.own.load(Ordering::SeqCst) == round && member.shared.load(Ordering::SeqCst) == round
            };
            eventually("each has its subscriptions", both).await;
        }
        publisher.disconnect().await;
    }
    stop.store(true, Ordering::Relaxed);
    let (mut sent, mut acknowledged, mut lost) = (0, 0, 0);
    for sender in senders {
        let (s, a, l) = sender.await.unwrap();
        (sent, acknowledged, lost) = (sent + s, acknowledged + a, lost + l);
    }
    // Each client has connected exactly once for each restart.
    assert!(members.iter().all(|member| member.connected.load(Ordering::SeqCst) == RESTARTS));
    eventually("no descriptor is left", || descriptors() <= open).await;
    let expected = tasks - CLIENTS as usize;
    eventually("no task is left", || metrics.num_alive_tasks() <= expected).await;
    let received: u64 = members.iter().map(|member| member.received.load(Ordering::Relaxed)).sum();
    println!(
        "{CLIENTS} clients, {RESTARTS} brokers: {sent} sent, {acknowledged} acknowledged, {lost} failed, {received} received; \
         {open} descriptors, {tasks} tasks"
    );
    assert!(received <= sent && acknowledged > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_stopped_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bus.sock").display().to_string();
    let port = format!("127.0.0.1:{}", free_port());
    let daemon = Daemon::start(&[path.clone(), port.clone()], &[]);
    for address in [&path, &port] {
        let config = Config::new(address, "a").timeout(Duration::from_millis(500));
        let config = config.silence(Duration::from_millis(300)).reconnect(quick());
        let client = Client::connect(&config).await.unwrap();
        let mut frames = client.frames().unwrap();
        client.subscribe("t", QoS::Processed).await.unwrap();
        let mut events = client.events();
        assert_eq!(events.recv().await, Some(Event::Connected));
        daemon.signal(Signal::STOP);
        // The program receives no byte.
        let ended = tokio::time::timeout(PATIENCE, events.recv()).await.unwrap();
        assert!(matches!(ended, Some(Event::Disconnected { .. })), "{ended:?}");
        daemon.signal(Signal::CONT);
        while events.recv().await != Some(Event::Connected) {}
        client.publish("t", "x", QoS::Processed).await.unwrap();
        assert_eq!(next(&mut frames).await.topic(), Some("t"));
        client.disconnect().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_drains_queues_and_refuses_new_clients() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bus.sock").display().to_string();
    let mut daemon = Daemon::start(std::slice::from_ref(&path), &["--drain-ms", "60000"]);
    // A receiver that has not read so far, and a sender that has sent it more than sockets hold.
    let mut receiver = Peer::register(&path, "receiver");
    let mut early = Peer::connect(&path);
    let sender = Client::connect(&Config::new(&path, "sender").timeout(PATIENCE)).await.unwrap();
    let mut warnings = sender.frames().unwrap();
    let payload = bytes::Bytes::from(vec![7; 100_000]);
    for _ in 0..LARGE_FRAMES {
        sender.send("receiver", payload.clone(), QoS::Processed).await.unwrap();
    }
    daemon.signal(Signal::TERM);
    assert_eq!(next(&mut warnings).await.topic(), Some(".broker/warn"));
    eventually("the socket is removed", || !std::path::Path::new(&path).exists()).await;
    assert!(early.is_closed(), "a connection that has not registered stays open");
    for _ in 0..LARGE_FRAMES {
        assert_eq!(receiver.next().1.len(), "sender\0".len() + payload.len());
    }
    assert_eq!(receiver.next().0[0], 1);
    assert!(daemon.wait().success());
    assert!(receiver.is_closed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_sigterm_exits_immediately() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bus.sock").display().to_string();
    let mut daemon = Daemon::start(std::slice::from_ref(&path), &["--drain-ms", "3600000"]);
    let receiver = Peer::register(&path, "receiver");
    let sender = Client::connect(&Config::new(&path, "sender").timeout(PATIENCE)).await.unwrap();
    for _ in 0..LARGE_FRAMES {
        sender.send("receiver", vec![7; 100_000], QoS::Processed).await.unwrap();
    }
    daemon.signal(Signal::TERM);
    eventually("the first signal is handled", || !std::path::Path::new(&path).exists()).await;
    daemon.signal(Signal::TERM);
    assert!(daemon.wait().success());
    drop(receiver);
}
