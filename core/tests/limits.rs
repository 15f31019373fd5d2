//! The limits for a client, and the broker's answer when a client exceeds them. Other clients are not affected.
#![cfg(all(target_os = "linux", feature = "server", feature = "rpc"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod common;

use busrt::ErrorKind;
use busrt::broker::{Options, SlowPolicy};
use common::daemon::Daemon;
use common::raw::{
    ACK, BROADCAST, EXCLUDE, Item, MESSAGE, PUBLISH, PUBLISH_FOR, Raw, SUBSCRIBE, UNSUBSCRIBE, numbered,
    payload,
};
use common::{Bus, PATIENCE, Peer, eventually};
use std::io::Write;
use std::time::{Duration, Instant};

const OK: Option<u8> = Some(1);
const DATA: Option<u8> = Some(0x72);
const UNEXCLUDE: u8 = 0x05;
const SOON: Duration = Duration::from_secs(15);

async fn bus(options: Options) -> Bus {
    Bus::start(options.timeout(PATIENCE)).await
}

/// Asserts that the client is served normally.
fn assert_well(raw: &mut Raw, name: &str) {
    let head = [name.as_bytes(), b"\0"].concat();
    assert_eq!(raw.ask_within(MESSAGE, &payload(&head, 77, 8), SOON), OK);
    assert_eq!(raw.delivery(SOON).expect("a message to itself").number(), 77);
}

/// A body over the payload limit ends the connection, for every operation; one at the limit is accepted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn payloads() {
    let bus = bus(Options::new().max_payload(1000)).await;
    let mut other = Raw::register(&bus.path, "other");
    other.subscribe("t");
    for (flags, head) in [(PUBLISH, b"t\0".as_slice()), (MESSAGE, b"other\0"), (BROADCAST, b"oth*\0")] {
        for address in [&bus.path, &bus.port] {
            let mut client = Raw::register(address, "client");
            assert_eq!(client.ask_within(flags, &payload(head, 1, 1000 - head.len()), SOON), OK);
            // The declared length is enough: the body is never sent.
            client.stream.write_all(&[9, 0, 0, 0, flags | ACK, 0xe9, 3, 0, 0]).unwrap();
            assert!(client.is_closed_within(SOON), "{flags:x}");
            eventually("the name is free", || bus.broker.clients().clients.len() == 2).await;
        }
    }
    assert_eq!(other.rest().len(), 4, "the bodies at the limit came");
    assert_well(&mut other, "other");
}

/// A name over the limit is answered 72, on a socket and within the process.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names() {
    for (limit, options) in [(10, Options::new().max_name(10)), (1024, Options::new())] {
        let bus = bus(options).await;
        for address in [&bus.path, &bus.port] {
            let mut fits = Raw::connect(address);
            assert_eq!(fits.try_register(&"n".repeat(limit)), OK);
            let mut over = Raw::connect(address);
            assert_eq!(over.try_register(&"m".repeat(limit + 1)), DATA);
            assert!(over.is_closed_within(SOON));
            assert_well(&mut fits, &"n".repeat(limit));
            drop(fits);
            eventually("the name is free", || bus.broker.clients().clients.len() == 1).await;
        }
        let e = bus.broker.client(&"m".repeat(limit + 1)).await.unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Data);
        bus.broker.client(&"m".repeat(limit)).await.unwrap();
    }
}

/// Operations with a topic that is too long or has too many levels are answered 72 if they ask for an
/// acknowledgement; otherwise the connection ends.
async fn topics_over_a_limit(options: Options, fits: &str, over: &str) {
    let bus = bus(options).await;
    let mut other = Raw::register(&bus.path, "other");
    let mut client = Raw::register(&bus.path, "client");
    let body = |flags: u8, topic: &str| match flags {
        PUBLISH => [topic.as_bytes(), b"\0x"].concat(),
        PUBLISH_FOR => [topic.as_bytes(), b"\0other\0x"].concat(),
        _ => topic.as_bytes().to_vec(),
    };
    for flags in [SUBSCRIBE, EXCLUDE, UNEXCLUDE, UNSUBSCRIBE, PUBLISH, PUBLISH_FOR] {
        assert_eq!(client.ask_within(flags, &body(flags, fits), SOON), OK, "{flags}");
    }
    for flags in [SUBSCRIBE, EXCLUDE, PUBLISH, PUBLISH_FOR] {
        assert_eq!(client.ask_within(flags, &body(flags, over), SOON), DATA, "{flags}");
        assert_well(&mut client, "client");
    }
    assert_eq!(client.ask_within(SUBSCRIBE, format!("a\0{over}\0b").as_bytes(), SOON), DATA);
    for flags in [SUBSCRIBE, EXCLUDE, PUBLISH, PUBLISH_FOR] {
        let mut ends = Raw::register(&bus.path, "ends");
        ends.send(flags, &body(flags, over));
        assert!(ends.is_closed_within(SOON), "{flags}");
        eventually("the name is free", || bus.broker.clients().clients.len() == 3).await;
    }
    assert_well(&mut client, "client");
    assert_well(&mut other, "other");
    let local = bus.broker.client("local").await.unwrap();
    let e = local.subscribe(over, busrt::QoS::Processed).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Data);
    let e = local.publish(over, "x", busrt::QoS::Processed).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Data);
    local.subscribe(fits, busrt::QoS::Processed).await.unwrap();
}

/// The maximum length of a topic.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_topics() {
    topics_over_a_limit(Options::new().max_topic(20), &"t".repeat(20), &"t".repeat(21)).await;
}

/// The maximum number of levels of a topic or mask.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics_of_many_levels() {
    topics_over_a_limit(Options::new().max_levels(4), "a/+/c/d", "a/+/c/d/e").await;
    topics_over_a_limit(Options::new().max_levels(4), "a/b/c/#", "////").await;
}

/// The default limits: 64 KiB and 512 levels.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn default_limits_of_topics() {
    topics_over_a_limit(Options::new(), &"t".repeat(65536), &"t".repeat(65537)).await;
    topics_over_a_limit(Options::new(), &["a"; 512].join("/"), &["a"; 513].join("/")).await;
}

/// Subscriptions and exclusions are counted together: existing ones count once, ended ones do not count.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscriptions() {
    let bus = bus(Options::new().max_subscriptions(5)).await;
    let mut client = Raw::register(&bus.path, "client");
    let mut ask = |flags, topics: &str| client.ask_within(flags, topics.as_bytes(), SOON);
    assert_eq!(ask(SUBSCRIBE, "a\0b\0a"), OK);
    assert_eq!(ask(SUBSCRIBE, "a\0b\0c/+"), OK);
    assert_eq!(ask(EXCLUDE, "a\0x"), OK);
    assert_eq!(ask(SUBSCRIBE, "d"), DATA);
    assert_eq!(ask(EXCLUDE, "d"), DATA);
    assert_eq!(ask(SUBSCRIBE, "a\0c/+\0b"), OK, "existing subscriptions");
    assert_eq!(ask(EXCLUDE, "x\0x\0a"), OK, "existing subscriptions");
    assert_eq!(ask(UNSUBSCRIBE, "never\0b\0b"), OK);
    assert_eq!(ask(SUBSCRIBE, "d"), OK);
    assert_eq!(ask(SUBSCRIBE, "e"), DATA);
    assert_eq!(ask(UNEXCLUDE, "a\0x\0never"), OK);
    assert_eq!(ask(SUBSCRIBE, "e\0f"), OK);
    assert_eq!(ask(SUBSCRIBE, "g"), DATA);
    for _ in 0..20 {
        assert_eq!(ask(UNSUBSCRIBE, "f"), OK);
        assert_eq!(ask(SUBSCRIBE, "f"), OK);
    }
    assert_eq!(ask(SUBSCRIBE, "g"), DATA);
    assert_eq!(ask(PUBLISH, "f\0x"), OK);
    assert_eq!(client.delivery(SOON).expect("a publication").payload(), b"x");
    // Without an acknowledgement the connection ends.
    client.send(SUBSCRIBE, b"g");
    assert!(client.is_closed_within(SOON));
    // Each client has its own limit, also one that takes over a name.
    eventually("the name is free", || bus.broker.clients().clients.len() == 1).await;
    let mut again = Raw::register(&bus.path, "client");
    assert_eq!(again.ask_within(SUBSCRIBE, b"1\x002\x003\x004\x005", SOON), OK);
    assert_eq!(again.ask_within(SUBSCRIBE, b"6", SOON), DATA);
}

/// A connection over the limit is refused with 74; clients within the process are not counted; a free place can be
/// used again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections() {
    let bus = bus(Options::new().max_connections(3)).await;
    let _local = bus.broker.client("local").await.unwrap();
    let mut first = Raw::register(&bus.path, "first");
    let second = Raw::register(&bus.port, "second");
    let mut third = Raw::register(&bus.path, "third");
    for address in [&bus.path, &bus.port] {
        let mut over = Raw::connect(address);
        assert_eq!(over.try_register("over"), Some(0x74));
        assert!(over.is_closed_within(SOON));
    }
    assert_well(&mut first, "first");
    drop(second);
    let started = Instant::now();
    while Raw::connect(&bus.path).try_register("second") != OK {
        assert!(started.elapsed() < SOON, "the place is not free");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_well(&mut third, "third");
    bus.broker.client("local.2").await.unwrap();
}

/// When the number of unregistered connections exceeds the limit, the oldest of them is closed; registered ones are
/// not affected.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handshakes() {
    let bus = bus(Options::new().max_handshakes(3)).await;
    let mut registered: Vec<Raw> = (0..5).map(|i| Raw::register(&bus.path, &format!("r{i}"))).collect();
    let mut waiting = vec![];
    for i in 0..6 {
        let address = if i % 2 == 0 { &bus.path } else { &bus.port };
        waiting.push(Raw::connect(address));
        // The connections are accepted one after the other.
        std::thread::sleep(Duration::from_millis(100));
    }
    for oldest in &mut waiting[..3] {
        assert!(oldest.is_closed_within(SOON), "the oldest is not closed");
    }
    for (i, newest) in waiting[3..].iter_mut().enumerate() {
        assert_eq!(newest.try_register(&format!("n{i}")), OK);
        assert_well(newest, &format!("n{i}"));
    }
    for (i, registered) in registered.iter_mut().enumerate() {
        assert_well(registered, &format!("r{i}"));
    }
    // Registered ones do not count any more, so that there is room for three more.
    let mut more: Vec<Raw> = (0..3).map(|_| Raw::connect(&bus.path)).collect();
    for (i, raw) in more.iter_mut().enumerate() {
        assert_eq!(raw.try_register(&format!("m{i}")), OK);
    }
}

/// Many receivers that read nothing hold little more than the total together, although each is far below its own
/// budget. A small receiver that reads gets everything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_queues_together() {
    const TOTAL: usize = 4 << 20;
    const SIZE: usize = 20_000;
    for policy in [SlowPolicy::DropNew, SlowPolicy::Disconnect] {
        let options = Options::new()
            .queue_total(TOTAL)
            .slow(policy)
            .hold(Duration::from_millis(100))
            .stall(Duration::from_secs(30))
            .socket_buffers(busrt::transport::Buffers { send: Some(16 * 1024), receive: None });
        let bus = bus(options).await;
        let mut observer = Raw::register(&bus.path, "observer");
        let _stuck: Vec<Raw> = (0..16).map(|i| Raw::register(&bus.path, &format!("stuck{i}"))).collect();
        let mut well = Raw::register(&bus.path, "well");
        let mut sender = Raw::register(&bus.path, "sender");
        for round in 0..50 {
            for i in 0..16 {
                let head = format!("stuck{i}\0");
                sender.send(MESSAGE, &payload(head.as_bytes(), round, SIZE));
            }
            assert_eq!(sender.ask_within(MESSAGE, &payload(b"well\0", round, 100), SOON), OK);
            assert_eq!(well.delivery(SOON).expect("the small one is served").number(), round);
        }
        let held: usize = bus.broker.clients().clients.iter().map(|client| client.queue * SIZE).sum();
        assert!(held < TOTAL * 3 / 2, "{policy:?}: {held} bytes are held");
        assert!(held > TOTAL / 4, "{policy:?}: {held} bytes are held");
        assert!(bus.broker.stats().dropped > 0);
        assert_eq!(observer.state_of("well").unwrap().dropped, 0);
    }
}

/// An idle client keeps almost no caches, however many topics it has used: the memory that one client has released
/// serves the next. (Not every allocator returns it to the system.)
#[test]
fn clients_at_rest() {
    const CLIENTS: usize = 60;
    const ROUNDS: usize = 3;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bus.sock").display().to_string();
    let daemon = Daemon::start(std::slice::from_ref(&path), &["-t", "60", "-w", "2"]);
    let mut subscriber = Raw::register(&path, "subscriber");
    subscriber.subscribe("never/#");
    let mut clients: Vec<Raw> = vec![];
    let mut after_first = 0;
    for round in 0..ROUNDS {
        for i in 0..CLIENTS {
            let mut client = Raw::register(&path, &format!("c{round}.{i}"));
            let bytes: Vec<u8> = (0..2000)
                .flat_map(|n| {
                    Peer::operation(n, PUBLISH, format!("plant/{i}/sensor/{n}/value\0x").as_bytes())
                })
                .collect();
            client.stream.write_all(&bytes).unwrap();
            assert_eq!(client.ask(PUBLISH, b"plant\0x"), 1);
            clients.push(client);
        }
        // This is long enough for the broker to find them idle.
        std::thread::sleep(Duration::from_millis(2000));
        if round == 0 {
            after_first = daemon.size().memory;
        }
    }
    let more = CLIENTS * (ROUNDS - 1);
    let each = daemon.size().memory.saturating_sub(after_first) / more;
    assert!(each < 60_000, "{each} bytes for each of {more} more clients");
    for client in &mut clients {
        assert_eq!(client.ask(PUBLISH, b"plant\0x"), 1);
    }
}

/// Receivers share long topics like payloads: a hundred receivers that read nothing do not hold a hundred copies.
#[test]
fn long_topics_are_shared() {
    const RECEIVERS: usize = 100;
    const COUNT: u32 = 60;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bus.sock").display().to_string();
    let more = ["-t", "60", "-w", "2", "--slow", "drop-new", "--sndbuf", "16384"];
    let daemon = Daemon::start(std::slice::from_ref(&path), &more);
    let mut receivers: Vec<Raw> = (0..RECEIVERS).map(|i| Raw::register(&path, &format!("r{i}"))).collect();
    for receiver in &mut receivers {
        receiver.subscribe("+");
    }
    let before = daemon.size().memory;
    let mut sender = Raw::register(&path, "sender");
    let head = ["t".repeat(60_000).as_bytes(), b"\0"].concat();
    sender.stream.write_all(&numbered(PUBLISH, &head, 0..COUNT, 10)).unwrap();
    assert_eq!(sender.ask_within(PUBLISH, b"\0x", SOON), OK);
    let grown = daemon.size().memory.saturating_sub(before);
    // A copy for each would be 360 MB.
    assert!(grown < 100_000_000, "{grown} bytes");
    for receiver in &mut receivers {
        let mut received = receiver.rest();
        received.retain(|delivery| delivery.sender() != b".broker");
        assert_eq!(received.len(), COUNT as usize + 1);
        assert_eq!(received[7].number(), 7);
    }
}

/// An incomplete frame holds memory for the bytes that have arrived, not for its declared length.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn declared_lengths_hold_nothing() {
    let bus = bus(Options::new()).await;
    let before = common::daemon::Size::of(std::process::id()).memory;
    let mut clients = vec![];
    for i in 0..50 {
        let mut client = Raw::register(&bus.path, &format!("c{i}"));
        client.stream.write_all(&[1, 0, 0, 0, PUBLISH, 0, 0, 0, 0x10]).unwrap();
        client.stream.write_all(b"topic\0beginning").unwrap();
        clients.push(client);
    }
    let mut other = Raw::register(&bus.path, "other");
    assert_well(&mut other, "other");
    let grown = common::daemon::Size::of(std::process::id()).memory.saturating_sub(before);
    assert!(grown < 200 << 20, "{grown} bytes");
    assert!(clients.iter_mut().all(|client| !matches!(client.receive(Duration::ZERO), Some(Item::End))));
}

/// Four gigabytes of zeros that take no memory: every page is the kernel's zero page.
struct Zeros(std::ptr::NonNull<std::ffi::c_void>, usize);

// SAFETY: the mapping is read-only and belongs to this value alone.
unsafe impl Send for Zeros {}

impl Zeros {
    fn map(len: usize) -> Zeros {
        use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a new mapping at an address that the kernel chooses touches no other memory.
        let at = unsafe { mmap_anonymous(std::ptr::null_mut(), len, ProtFlags::READ, flags) }.unwrap();
        Zeros(std::ptr::NonNull::new(at).unwrap(), len)
    }
}

impl AsRef<[u8]> for Zeros {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: the mapping has this length, can be read, and lives as long as this value.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast(), self.1) }
    }
}

impl Drop for Zeros {
    fn drop(&mut self) {
        // SAFETY: the mapping was made with this address and length, and no slice of it outlives this value.
        unsafe { rustix::mm::munmap(self.0.as_ptr(), self.1) }.unwrap();
    }
}

/// A payload whose delivery would exceed the length field of a frame is refused, and the receiver's stream stays
/// valid.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deliveries_that_do_not_fit_a_frame() {
    let bus = bus(Options::new().max_payload(u32::MAX).slow(SlowPolicy::DropNew)).await;
    let mut receiver = Raw::register(&bus.path, "receiver");
    receiver.subscribe("t");
    let local = bus.broker.client("local").await.unwrap();
    // None of the deliveries fits, because the sender's name and a separator are added.
    for len in [u32::MAX as usize - 5, u32::MAX as usize, (1 << 32) + 5] {
        let payload = bytes::Bytes::from_owner(Zeros::map(len));
        let qos = busrt::QoS::Processed;
        let results = [
            local.publish("t", payload.clone(), qos).await,
            local.publish_for("t", "receiver", payload.clone(), qos).await,
            local.broadcast("receiver", payload.clone(), qos).await,
            local.send("receiver", payload.slice(..), qos).await,
        ];
        for result in results {
            assert!(result.is_err(), "{len} bytes were accepted");
        }
    }
    local.send("receiver", "well", busrt::QoS::Processed).await.unwrap();
    assert_eq!(receiver.delivery(SOON).expect("a message").payload(), b"well");
}
