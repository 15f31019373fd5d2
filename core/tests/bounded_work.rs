//! The broker serves other clients during any long work that one client requests, and dividing long work does not
//! change the order that a client can observe.
#![cfg(all(target_os = "linux", feature = "server", feature = "rpc"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod common;

use busrt::broker::{AccessList, ClientAccess, Options};
use common::daemon::Daemon;
use common::probe::Probe;
use common::raw::{
    ACK, BROADCAST, EXCLUDE, MESSAGE, PUBLISH, PUBLISH_FOR, Raw, SUBSCRIBE, UNSUBSCRIBE, call, numbered,
};
use common::{Bus, PATIENCE, Peer};
use std::io::Write;
use std::time::{Duration, Instant};

const MANY: u32 = 500_000;
/// Both the test and the broker hold a descriptor for each.
const SECONDARIES: u32 = 6_000;
/// A time limit that a debug build on a loaded machine does not need for the heaviest work here.
const LONG: Duration = Duration::from_secs(50);

/// A `busrtd` and a probe on it. Only one exists at a time, also across processes, because these tests measure how
/// long others wait.
struct Bench {
    path: String,
    probe: Probe,
    bar: Duration,
    _daemon: Daemon,
    _dir: tempfile::TempDir,
    _alone: std::fs::File,
}

/// A lock that is held for as long as the file is open.
fn alone() -> std::fs::File {
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("bounded_work.lock");
    let file = std::fs::File::create(path).unwrap();
    rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive).unwrap();
    file
}

impl Bench {
    fn start() -> Bench {
        Bench::start_with(&[])
    }

    fn start_with(more: &[&str]) -> Bench {
        let alone = alone();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bus.sock").display().to_string();
        // A debug build may need long for a single frame. With a single worker, the result does not depend on which
        // worker is busy.
        let daemon = Daemon::start(std::slice::from_ref(&path), &[&["-t", "60", "-w", "1"], more].concat());
        let probe = Probe::start(&path);
        let bar = probe.bar();
        Bench { path, probe, bar, _daemon: daemon, _dir: dir, _alone: alone }
    }

    /// Asserts that the probe has not been delayed since the last call.
    fn assert_undisturbed(&self, by: &str) {
        let longest = self.probe.longest();
        println!("{by}: {longest:?}, at most {:?}", self.bar);
        assert!(longest < self.bar, "{by}: a round trip of another client took {longest:?}");
    }
}

/// Returns many topics as one body.
fn topics(count: u32) -> Vec<u8> {
    (0..count).map(|i| format!("many/{}/{i}", i % 1000)).collect::<Vec<_>>().join("\0").into_bytes()
}

/// One SUBSCRIBE frame of half a million topics, then one UNSUBSCRIBE frame of them.
#[test]
fn subscribing_to_many_topics_in_one_frame() {
    let bench = Bench::start();
    let mut client = Raw::register(&bench.path, "client");
    let body = topics(MANY);
    assert_eq!(client.ask_within(SUBSCRIBE, &body, LONG), Some(1));
    bench.assert_undisturbed("subscribe");
    assert_eq!(client.ask_within(UNSUBSCRIBE, &body, LONG), Some(1));
    bench.assert_undisturbed("unsubscribe");
    assert_eq!(client.ask_within(EXCLUDE, &body, LONG), Some(1));
    bench.assert_undisturbed("exclude");
}

/// A client leaves with half a million subscriptions. Its name is free immediately, and the next client of that name
/// has none of them.
#[test]
fn leaving_with_many_subscriptions() {
    let bench = Bench::start();
    let mut client = Raw::register(&bench.path, "client");
    assert_eq!(client.ask_within(SUBSCRIBE, &topics(MANY), LONG), Some(1));
    bench.probe.longest();
    drop(client);
    let left = Instant::now();
    let mut again = Raw::connect(&bench.path);
    while again.try_register("client") != Some(1) {
        assert!(left.elapsed() < Duration::from_millis(1500), "the name is not free");
        std::thread::sleep(Duration::from_millis(5));
        again = Raw::connect(&bench.path);
    }
    println!("the name was free after {:?}", left.elapsed());
    again.subscribe("many/7/7");
    let mut publisher = Raw::register(&bench.path, "publisher");
    for topic in ["many/0/0", "many/7/7", "many/8/8", "many/999/499999"] {
        assert_eq!(publisher.ask(PUBLISH, format!("{topic}\0x").as_bytes()), 1);
    }
    let received = again.rest();
    assert_eq!(received.len(), 1, "{received:?}");
    std::thread::sleep(Duration::from_millis(500));
    bench.assert_undisturbed("leave");
}

/// A primary with thousands of secondaries.
fn family(bench: &Bench) -> (Raw, Vec<Raw>) {
    let primary = Raw::register(&bench.path, "primary");
    let secondaries =
        (0..SECONDARIES).map(|i| Raw::register(&bench.path, &format!("primary%%{i}"))).collect();
    bench.probe.longest();
    (primary, secondaries)
}

/// All secondaries of a primary that leaves are disconnected, and then its name is free.
#[test]
fn leaving_with_many_secondaries() {
    let bench = Bench::start();
    let (primary, mut secondaries) = family(&bench);
    drop(primary);
    let left = Instant::now();
    while Raw::connect(&bench.path).try_register("primary") != Some(1) {
        assert!(left.elapsed() < LONG, "the name is not free");
        std::thread::sleep(Duration::from_millis(5));
    }
    println!("the name was free after {:?}", left.elapsed());
    assert!(secondaries.iter_mut().all(|secondary| secondary.is_closed_within(PATIENCE)));
    bench.assert_undisturbed("leave");
}

/// A client takes over the name of a primary with thousands of secondaries. All of them are disconnected.
#[test]
fn taking_over_a_name_with_many_secondaries() {
    let bench = Bench::start_with(&["--force-register"]);
    let (mut primary, mut secondaries) = family(&bench);
    let mut next = Raw::register(&bench.path, "primary");
    assert!(primary.is_closed_within(PATIENCE));
    assert!(secondaries.iter_mut().all(|secondary| secondary.is_closed_within(PATIENCE)));
    bench.assert_undisturbed("take over");
    assert_eq!(next.ask(MESSAGE, b"primary\0x"), 1);
    assert_eq!(Raw::connect(&bench.path).try_register("primary%%0"), Some(1));
}

/// Filters of `client.list` that take long to compile.
#[test]
fn heavy_filters() {
    let bench = Bench::start();
    let mut client = Raw::register(&bench.path, "client");
    for filter in [r"\w{200}", r"(\w{20}|\d{30}){5}", r"[^a]{250}\p{L}{150}"] {
        let mut bytes = vec![];
        for id in 1..=20 {
            bytes.extend(Peer::operation(id, MESSAGE, &call(id, "client.list", &filter_params(filter))));
        }
        client.stream.write_all(&bytes).unwrap();
        for _ in 0..20 {
            let reply = client.delivery(LONG).expect("an answer");
            assert!(matches!(reply.payload()[0], 0x11 | 0x12));
        }
        bench.assert_undisturbed(filter);
    }
}

fn filter_params(filter: &str) -> Vec<u8> {
    rmp_serde::to_vec_named(&std::collections::BTreeMap::from([("filter", filter)])).unwrap()
}

/// Filters that cannot be used: those over the size limit are answered -32602 with a reason, invalid ones -32700.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_filters() {
    let bus = Bus::start(Options::new().timeout(PATIENCE)).await;
    let mut client = Raw::register(&bus.path, "client");
    let error = |reply: &[u8]| {
        assert_eq!(reply[0], 0x12, "not refused");
        (i16::from_le_bytes([reply[5], reply[6]]), reply[7..].to_vec())
    };
    let long = "a".repeat(200_000);
    for filter in [r"\w{1000}\w{1000}", r"((\w{100}){100}){100}", &long] {
        let (code, reason) = error(&client.call("client.list", &filter_params(filter)));
        assert_eq!(code, -32602, "{}", &filter[..20.min(filter.len())]);
        assert!(!reason.is_empty(), "without a reason");
    }
    for filter in ["(", "a{2,1}", "[z-a]"] {
        assert_eq!(error(&client.call("client.list", &filter_params(filter))).0, -32700, "{filter}");
    }
    let reply = client.call("client.list", &filter_params("^client$"));
    assert_eq!(reply[0], 0x11);
    assert_eq!(client.state_of("client").unwrap().dropped, 0);
}

/// All 65,536 masks with `a` or `+` in each of 16 levels match one topic.
#[test]
fn masks_that_all_match() {
    let bench = Bench::start();
    let mut client = Raw::register(&bench.path, "client");
    let masks: Vec<String> = (0..1u32 << 16)
        .map(|bits| {
            let levels: Vec<&str> = (0..16).map(|i| if bits >> i & 1 == 0 { "a" } else { "+" }).collect();
            format!("{}/+", levels.join("/"))
        })
        .collect();
    assert_eq!(client.ask_within(SUBSCRIBE, masks.join("\0").as_bytes(), LONG), Some(1));
    bench.assert_undisturbed("subscribe to all masks");
    let mut publisher = Raw::register(&bench.path, "publisher");
    let head = ["a"; 16].join("/");
    // No two topics are equal, so that no cache helps.
    let bytes: Vec<u8> = (0..60)
        .flat_map(|i| Peer::operation(i, PUBLISH | ACK, format!("{head}/{i}\0x").as_bytes()))
        .collect();
    publisher.stream.write_all(&bytes).unwrap();
    assert_eq!(publisher.ack(59, LONG), Some(1));
    bench.assert_undisturbed("publish");
    assert_eq!(client.rest().len(), 60, "each publication comes once");
    drop(client);
    std::thread::sleep(Duration::from_millis(500));
    bench.assert_undisturbed("leave with all masks");
}

/// A client subscribes to and unsubscribes from 1,100 masks beside 300,000 of another.
#[test]
fn few_masks_beside_many_of_another() {
    let bench = Bench::start();
    let mut other = Raw::register(&bench.path, "other");
    let many: Vec<String> = (0..300_000).map(|i| format!("m/{i}/+")).collect();
    assert_eq!(other.ask_within(SUBSCRIBE, many.join("\0").as_bytes(), LONG), Some(1));
    bench.assert_undisturbed("subscribe to 300,000 masks");
    let mut client = Raw::register(&bench.path, "client");
    let few: Vec<String> = (0..1100).map(|i| format!("few/{i}/+/#")).collect();
    let few = few.join("\0");
    for _ in 0..20 {
        assert_eq!(client.ask_within(SUBSCRIBE, few.as_bytes(), LONG), Some(1));
        assert_eq!(client.ask_within(UNSUBSCRIBE, few.as_bytes(), LONG), Some(1));
    }
    bench.assert_undisturbed("subscribe and unsubscribe");
    assert_eq!(client.ask(PUBLISH, b"m/77/x\0x"), 1);
    assert_eq!(other.rest().len(), 1);
}

/// Masks of thousands of levels, if the limit of levels allows them, and topics that match many of them.
#[test]
fn masks_of_many_levels() {
    let bench = Bench::start();
    let mut client = Raw::register(&bench.path, "client");
    // Up to the default limits of levels and length.
    let masks: Vec<String> = (1..500).map(|i| format!("{}a/#", "+/".repeat(i))).collect();
    assert_eq!(client.ask_within(SUBSCRIBE, masks.join("\0").as_bytes(), LONG), Some(1));
    let mut publisher = Raw::register(&bench.path, "publisher");
    let bytes: Vec<u8> = (0..500)
        .flat_map(|i| Peer::operation(i, PUBLISH | ACK, format!("{}{i}\0x", "a/".repeat(511)).as_bytes()))
        .collect();
    publisher.stream.write_all(&bytes).unwrap();
    assert_eq!(publisher.ack(499, LONG), Some(1));
    bench.assert_undisturbed("masks of many levels");
    assert_eq!(client.rest().len(), 500);
}

/// A burst of publications to many subscribers.
#[test]
fn a_burst_to_many_subscribers() {
    let bench = Bench::start();
    let mut subscribers: Vec<Raw> =
        (0..1000).map(|i| Raw::register(&bench.path, &format!("sub{i}"))).collect();
    for subscriber in &mut subscribers {
        subscriber.subscribe("t");
    }
    bench.probe.longest();
    let mut publisher = Raw::register(&bench.path, "publisher");
    let mut bytes = numbered(PUBLISH, b"t\0", 0..2000, 20);
    bytes.extend(Peer::operation(2000, PUBLISH | ACK, b"t\0last"));
    publisher.stream.write_all(&bytes).unwrap();
    assert_eq!(publisher.ack(2000, LONG), Some(1));
    bench.assert_undisturbed("fan-out");
    for subscriber in &mut subscribers {
        assert_eq!(subscriber.rest().len(), 2001);
    }
}

/// Frames of one read that each have another receiver, and one that is sent to all clients by mask.
#[test]
fn broadcasts_to_many_clients() {
    let bench = Bench::start();
    let clients: Vec<Raw> = (0..1000).map(|i| Raw::register(&bench.path, &format!("x.{i}.y.z"))).collect();
    bench.probe.longest();
    let mut sender = Raw::register(&bench.path, "sender");
    let masks: [&[u8]; 3] = [b"?.?.?.?\0", b"x.*\0", b"x.?.y.*\0"];
    let bytes: Vec<u8> = (0..300)
        .flat_map(|i| Peer::operation(i, common::raw::BROADCAST | ACK, masks[i as usize % 3]))
        .collect();
    sender.stream.write_all(&bytes).unwrap();
    assert_eq!(sender.ack(299, LONG), Some(1));
    bench.assert_undisturbed("broadcast");
    drop(clients);
}

/// A frame that a client sends after a huge SUBSCRIBE on the same connection is routed with all of its subscriptions,
/// although the work is divided and nothing is acknowledged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publication_after_a_huge_subscribe_is_routed_with_all_of_it() {
    let bus = Bus::start(Options::new().timeout(PATIENCE)).await;
    let mut client = Raw::register(&bus.path, "client");
    let count = 200_000;
    let mut bytes = Peer::operation(1, SUBSCRIBE, &topics(count));
    let seen = [0, 1, count / 2, count - 2, count - 1];
    for i in seen {
        bytes.extend(Peer::operation(2, PUBLISH, format!("many/{}/{i}\0first", i % 1000).as_bytes()));
    }
    bytes.extend(Peer::operation(3, UNSUBSCRIBE, &topics(count)));
    for i in seen {
        bytes.extend(Peer::operation(4, PUBLISH, format!("many/{}/{i}\0second", i % 1000).as_bytes()));
    }
    let writing = std::thread::spawn({
        let mut stream = client.stream.try_clone();
        move || stream.write_all(&bytes).unwrap()
    });
    for i in seen {
        let delivery = client.delivery(LONG).expect("a publication");
        assert_eq!(delivery.payload(), b"first", "{i}");
    }
    writing.join().unwrap();
    assert_eq!(client.rest(), [], "after unsubscribing");
}

/// After the acknowledgement of a huge SUBSCRIBE, every other client's publication finds all of the subscriptions;
/// after that of an UNSUBSCRIBE, none of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_acknowledged_subscription_is_whole() {
    let bus = Bus::start(Options::new().timeout(PATIENCE)).await;
    let mut client = Raw::register(&bus.path, "client");
    let mut publisher = Raw::register(&bus.path, "publisher");
    let count = 100_000;
    let sample: Vec<u32> = (0..count).step_by(997).collect();
    for (flags, expected) in [(SUBSCRIBE, sample.len()), (UNSUBSCRIBE, 0)] {
        assert_eq!(client.ask_within(flags, &topics(count), LONG), Some(1));
        for i in &sample {
            assert_eq!(publisher.ask(PUBLISH, format!("many/{}/{i}\0x", i % 1000).as_bytes()), 1);
        }
        assert_eq!(client.rest().len(), expected);
    }
}

/// A client that disconnects in the middle of an endless SUBSCRIBE leaves nothing behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaving_in_the_middle_of_a_subscribe() {
    let bus = Bus::start(Options::new().timeout(PATIENCE)).await;
    let mut publisher = Raw::register(&bus.path, "publisher");
    for _ in 0..5 {
        let mut client = Raw::register(&bus.path, "client");
        client.stream.write_all(&Peer::operation(1, SUBSCRIBE, &topics(50_000))).unwrap();
        assert!(bus.broker.disconnect("client"));
        let mut again = Raw::register(&bus.path, "client");
        for i in [0, 25_000, 49_999] {
            assert_eq!(publisher.ask(PUBLISH, format!("many/{}/{i}\0x", i % 1000).as_bytes()), 1);
        }
        assert_eq!(again.rest(), []);
        drop(again);
        common::eventually("the name is free", || bus.broker.clients().clients.len() == 2).await;
    }
}

/// Access rules change while a client has many subscriptions: those that are no longer allowed end, and other clients
/// are served during that work.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn access_rules_beside_many_subscriptions() {
    let _alone = alone();
    let bus = Bus::start(Options::new().timeout(PATIENCE)).await;
    let mut client = Raw::register(&bus.path, "client");
    let body = [b"kept/1\0".as_slice(), &topics(200_000)].concat();
    assert_eq!(client.ask_within(SUBSCRIBE, &body, LONG), Some(1));
    let probe = Probe::start(&bus.path);
    let bar = probe.bar();
    let list = AccessList::new()
        .client("probe", ClientAccess::all())
        .client("publisher", ClientAccess::all())
        .client("client", ClientAccess::all().subscriptions(["kept/#"]));
    // On a worker thread, like in a program.
    let broker = bus.broker.clone();
    tokio::spawn(async move { broker.set_access(Some(list)).await }).await.unwrap();
    let longest = probe.longest();
    let mut publisher = Raw::register(&bus.path, "publisher");
    for topic in ["kept/1", "many/0/0", "many/999/199999"] {
        assert_eq!(publisher.ask(PUBLISH, format!("{topic}\0x").as_bytes()), 1);
    }
    assert_eq!(client.rest().len(), 1, "only the allowed subscription is left");
    assert!(longest < bar, "a round trip of another client took {longest:?}, not {bar:?}");
}

/// Making room in a stuck receiver's queue never waits, so that this work must yield to other clients explicitly.
#[test]
fn publications_to_a_stuck_receiver() {
    let bench = Bench::start_with(&["--slow", "drop-old", "--hold-ms", "100", "--stall-ms", "200"]);
    let mut observer = Raw::register(&bench.path, "observer");
    let mut stuck = Raw::register(&bench.path, "stuck");
    stuck.subscribe("t");
    let mut publisher = Raw::register(&bench.path, "publisher");
    publisher.stream.write_all(&numbered(PUBLISH, b"t\0", 0..30_000, 100)).unwrap();
    observer.wait_for_state("stuck", |state| state.is("stuck"));
    bench.probe.longest();
    publisher.stream.write_all(&numbered(PUBLISH, b"t\0", 0..1_000_000, 4)).unwrap();
    assert_eq!(publisher.ask(PUBLISH, b"nobody\0"), 1);
    bench.assert_undisturbed("publications to a stuck receiver");
}

/// Names, topics and lists of topics that are as long as a body may be: each is refused, and none delays other
/// clients.
#[test]
fn texts_as_long_as_a_body() {
    const LEN: usize = 96 << 20;
    let bench = Bench::start();
    let endless = vec![b'x'; LEN];
    for flags in [PUBLISH, PUBLISH_FOR | ACK, MESSAGE | ACK, BROADCAST] {
        let mut client = Raw::register(&bench.path, &format!("client{flags}"));
        client.send(flags, &endless);
        assert_eq!(client.ask_within(SUBSCRIBE, b"topic", LONG), None, "{flags:#x}");
        bench.assert_undisturbed(&format!("no NUL, {flags:#x}"));
    }
    let mut client = Raw::register(&bench.path, "client");
    let ended = [&endless[..], b"\0x"].concat();
    for (flags, answer) in [(PUBLISH, 0x72), (PUBLISH_FOR, 0x72), (BROADCAST, 0x72), (MESSAGE, 0x71)] {
        assert_eq!(client.ask_within(flags, &ended, LONG), Some(answer), "{flags:#x}");
        bench.assert_undisturbed(&format!("a NUL at the end, {flags:#x}"));
    }
    // Two bytes for each character, which are slow to validate, and a list with a valid topic at its end.
    let list = ["é".repeat(LEN / 2).as_bytes(), b"\0fine"].concat();
    for flags in [SUBSCRIBE, UNSUBSCRIBE, EXCLUDE] {
        assert_eq!(client.ask_within(flags, &list, LONG), Some(0x72), "{flags:#x}");
        bench.assert_undisturbed(&format!("a list, {flags:#x}"));
    }
    let request = [b".broker\0\x01\x01\0\0\0", &endless[..]].concat();
    client.send(MESSAGE, &request);
    let reply = client.delivery(LONG).expect("a reply");
    assert_eq!(reply.payload()[..7], [0x12, 1, 0, 0, 0, 0xa7, 0x80], "-32601");
    bench.assert_undisturbed("a method");
}
