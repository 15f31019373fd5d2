//! Many clients, reconnections of many clients, large frames, and hostile peers.
#![cfg(all(unix, feature = "broker", feature = "ipc"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod common;

use busrt::QoS;
use busrt::broker::Options;
use common::{Bus, Peer, eventually, next, on_every_transport};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

fn resident_kb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_simultaneous_clients() {
    raise_descriptor_limit();
    let bus = Bus::start(Options::default().timeout(common::PATIENCE)).await;
    let mut clients = vec![];
    for i in 0..2000 {
        let (client, frames) = bus.listener(&format!("many.c{i}")).await;
        client.subscribe(format!("for/{i}"), QoS::No).await.unwrap();
        client.subscribe("for/all", QoS::Processed).await.unwrap();
        clients.push((client, frames));
    }
    assert_eq!(bus.broker.stats().clients, 2000);
    let sender = bus.client("sender").await;
    sender.publish("for/all", "published", QoS::Processed).await.unwrap();
    sender.broadcast("many.*", "broadcast", QoS::Processed).await.unwrap();
    for (i, (client, frames)) in clients.iter_mut().enumerate() {
        sender.publish(&format!("for/{i}"), "its own", QoS::No).await.unwrap();
        sender.send(client.name(), "direct", QoS::No).await.unwrap();
        for wanted in ["published", "broadcast", "its own", "direct"] {
            assert_eq!(next(frames).await.payload(), wanted.as_bytes());
        }
    }
    drop(clients);
    eventually("all clients have left", || bus.broker.stats().clients == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_reconnects_leaves_nothing_behind() {
    let bus = Bus::start(Options::default()).await;
    let storm = async |rounds: usize| {
        for round in 0..rounds {
            let clients: Vec<_> = futures(10, |i| {
                let config = bus.config(&format!("storm.{i}"));
                async move {
                    let client = busrt::Client::connect(&config).await.unwrap();
                    client
                        .subscribe([format!("t/{i}"), "t/+".into()].as_slice(), QoS::Processed)
                        .await
                        .unwrap();
                    client.publish("t/x", "hello", QoS::No).await.unwrap();
                    client
                }
            })
            .await;
            // Some disconnect in order, some just close.
            for (i, client) in clients.into_iter().enumerate() {
                if (i + round) % 2 == 0 {
                    client.disconnect().await;
                }
            }
            eventually("all clients have left", || bus.broker.stats().clients == 0).await;
        }
    };
    storm(5).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let before = open_descriptors();
    storm(50).await;
    eventually("all descriptors are closed", || open_descriptors() <= before).await;
    assert_eq!(bus.broker.clients().clients.len(), 1, "only the broker's own client is left");
}

async fn futures<F: Future<Output: Send + 'static> + Send + 'static>(
    n: usize,
    make: impl Fn(usize) -> F,
) -> Vec<F::Output> {
    let tasks: Vec<_> = (0..n).map(|i| tokio::spawn(make(i))).collect();
    let mut results = vec![];
    for task in tasks {
        results.push(task.await.unwrap());
    }
    results
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_incomplete_large_frame_delays_no_other_client() {
    on_every_transport(async |bus| {
        let (_b, mut b_frames) = bus.listener("b").await;
        let (_c, mut c_frames) = bus.listener("c").await;
        let sender = bus.client("c.sender").await;
        // 16 MiB arrive slowly from this peer: small frames pass while only half of them have arrived.
        let mut peer = bus.peer("large");
        let payload: Vec<u8> = (0..16 * 1024 * 1024).map(|i: u32| (i ^ (i >> 11)) as u8).collect();
        let frame = Peer::operation(1, 0x52, &[b"b\0", payload.as_slice()].concat());
        let (first, second) = frame.split_at(frame.len() / 2);
        peer.write(first);
        for i in 0..1000u32 {
            sender.send("c", i.to_le_bytes().to_vec(), QoS::Processed).await.unwrap();
            assert_eq!(next(&mut c_frames).await.payload(), i.to_le_bytes());
        }
        // After that, the large frame is completed, and intact.
        peer.write(second);
        assert!(next(&mut b_frames).await.payload() == payload);
        assert_eq!(peer.next().0, [0xfe, 1, 0, 0, 0, 1]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_frames_are_not_delayed_by_a_receiver_of_large_ones() {
    let bus = Bus::start(Options::default()).await;
    // The socket is full, with 16 MiB that the peer does not read yet.
    let mut slow = bus.peer("slow");
    let (_c, mut frames) = bus.listener("c").await;
    let a = bus.client("a").await;
    let payload = vec![0x5a; 16 * 1024 * 1024];
    a.send("slow", payload.clone(), QoS::Processed).await.unwrap();
    for i in 0..1000u32 {
        a.send("c", i.to_le_bytes().to_vec(), QoS::Processed).await.unwrap();
        assert_eq!(next(&mut frames).await.payload(), i.to_le_bytes());
    }
    let got = tokio::task::spawn_blocking(move || slow.next().1).await.unwrap();
    assert!(got[2..] == payload);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn declared_lengths_cost_nothing() {
    let bus = Bus::start(Options::default()).await;
    let mut peers: Vec<_> = (0..20).map(|i| bus.peer(&format!("liar{i}"))).collect();
    let before = resident_kb();
    for peer in &mut peers {
        peer.write(&[1, 0, 0, 0, 0x12, 0xff, 0xff, 0xff, 0xff]);
        peer.write(b"ab");
    }
    // The broker has read the headers when it serves a client that connects after them.
    let a = bus.client("a").await;
    a.send("a", "x", QoS::Processed).await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    // Other tests of this binary run at the same time: the bound leaves room for their memory, and is far below 80
    // GiB.
    assert!(resident_kb() < before + 400 * 1024);
}

/// A small random generator. It prints its seed, so that a failure can be repeated.
struct Random(u64);

impl Random {
    fn seeded() -> Random {
        let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| {
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64
        });
        println!("SEED={seed}");
        Random(seed | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| (self.next() >> 24) as u8).collect()
    }
}

/// Sends garbage at one of the stages of a connection. Returns whether the broker closes it.
fn attack_with(path: &str, round: usize, bytes: &[u8]) -> bool {
    use std::io::Write;
    let mut peer = match round % 3 {
        0 => Peer::connect(path),
        1 => {
            let mut peer = Peer::connect(path);
            peer.write(&[0xeb, 1, 0]);
            peer
        }
        _ => Peer::register(path, &format!("garbage{round}")),
    };
    // The broker may close while this side is still writing.
    let _ = peer.stream.write_all(bytes);
    peer.is_closed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_bytes_close_that_connection_and_nothing_else() {
    let bus = Bus::start(Options::default().timeout(Duration::from_secs(2)).max_payload(1 << 20)).await;
    let (a, mut frames) = bus.listener("a").await;
    let running = AtomicBool::new(true);
    let attack = async {
        let mut random = Random::seeded();
        for batch in 0..6 {
            let attackers: Vec<_> = (batch * 30..batch * 30 + 30)
                .map(|round| {
                    let len = 1 + (random.next() % 200) as usize;
                    let bytes = random.bytes(len);
                    let path = bus.path.clone();
                    tokio::task::spawn_blocking(move || (round, attack_with(&path, round, &bytes)))
                })
                .collect();
            for attacker in attackers {
                let (round, closed) = attacker.await.unwrap();
                assert!(closed, "round {round} was not closed");
            }
        }
        running.store(false, Ordering::Relaxed);
    };
    let honest = async {
        let mut i = 0u32;
        while running.load(Ordering::Relaxed) {
            a.send("a", i.to_le_bytes().to_vec(), QoS::Processed).await.unwrap();
            assert_eq!(next(&mut frames).await.payload(), i.to_le_bytes());
            i += 1;
        }
    };
    tokio::join!(attack, honest);
    assert_eq!(bus.broker.stats().clients, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_topics_neither_overflow_nor_stall() {
    // Masks may be as deep as the length allows: the default bound of levels is far below.
    let bus = Bus::start(Options::default().max_levels(usize::MAX)).await;
    let (a, mut frames) = bus.listener("a").await;
    let deep = "/".repeat(60_000);
    a.subscribe(deep.as_str(), QoS::Processed).await.unwrap();
    a.subscribe("+/".repeat(20_000) + "#", QoS::Processed).await.unwrap();
    a.publish(&deep, "deep", QoS::Processed).await.unwrap();
    assert_eq!(next(&mut frames).await.payload(), b"deep");
    let wide = "x/".repeat(30_000);
    a.publish(&wide, "wide", QoS::Processed).await.unwrap();
    assert_eq!(next(&mut frames).await.payload(), b"wide");
    a.broadcast(&"?.".repeat(30_000), "nobody", QoS::Processed).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_clients_are_disconnected_and_pinging_ones_stay() {
    let bus = Bus::start(Options::default().timeout(Duration::from_millis(400))).await;
    let silent = bus.peer("silent");
    let mut pinging = bus.peer("pinging");
    let half = {
        let mut peer = bus.peer("half");
        // Half a frame is followed by pings, which the broker must take for its body: silence is measured from the
        // last byte.
        peer.write(&[1, 0, 0, 0, 0x12, 100, 0, 0, 0, b'x']);
        peer
    };
    let client = busrt::Client::connect(&bus.config("client").ping_interval(Duration::from_millis(100)))
        .await
        .unwrap();
    let gone = |name: &str| !bus.broker.clients().clients.iter().any(|client| client.name == name);
    eventually("the silent ones are disconnected", || {
        pinging.ping();
        gone("silent") && gone("half")
    })
    .await;
    assert!(!gone("pinging") && !gone("client"));
    assert!(client.is_connected());
    // The broker pings too.
    assert_eq!(pinging.read(6), [0; 6]);
    drop((silent, half));
}
