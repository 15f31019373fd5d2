//! The tasks of a broker other than carrying frames: listening, its own client, forced registration, attaching.
#![cfg(all(unix, feature = "broker", feature = "ipc"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod common;

use busrt::broker::{Broker, ClientKind, Options};
use busrt::client::{Client, Config};
use busrt::transport::Socket;
use busrt::{ErrorKind, QoS};
use common::{Bus, eventually, next};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stale_socket_is_replaced_a_live_one_is_not_stolen() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bus.sock");
    let address = path.to_str().unwrap();
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let broker = Broker::new(Options::default().socket_mode(0o640));
    broker.listen(address).await.unwrap();
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o640);
    let client = Client::connect(&Config::new(address, "a")).await.unwrap();
    let other = Broker::new(Options::default());
    let e = other.listen(address).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Busy);
    assert!(e.to_string().contains(address), "{e}");
    client.send("a", "still served", QoS::Processed).await.unwrap();
    broker.shutdown().await;
    assert!(!path.exists());
    std::fs::write(&path, "precious").unwrap();
    assert_eq!(other.listen(address).await.unwrap_err().kind(), ErrorKind::Busy);
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file is left");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invalid_addresses() {
    let broker = Broker::new(Options::default());
    assert_eq!(broker.listen("nonsense").await.unwrap_err().kind(), ErrorKind::Data);
    assert_eq!(broker.listen("/no/such/folder/bus.sock").await.unwrap_err().kind(), ErrorKind::Io);
    assert_eq!(broker.listen("fifo:/no/such/folder/fifo").await.unwrap_err().kind(), ErrorKind::Io);
    let port = broker.listen("127.0.0.1:0").await.unwrap();
    assert_eq!(broker.listen(&port).await.unwrap_err().kind(), ErrorKind::Io);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_listeners_of_each_kind_are_one_bus() {
    let bus = Bus::start(Options::default()).await;
    let second = bus.path.replace("bus.sock", "second.socket");
    bus.broker.listen(&second).await.unwrap();
    let ipv6 = bus.broker.listen("[::1]:0").await;
    let (_local, mut frames) = {
        let client = bus.broker.client("local").await.unwrap();
        let frames = client.frames().unwrap();
        (client, frames)
    };
    let mut addresses = vec![bus.path.clone(), second.clone(), bus.port.clone()];
    // Containers may have no IPv6.
    addresses.extend(ipv6.ok());
    let mut clients = vec![];
    for (i, address) in addresses.iter().enumerate() {
        let client = Client::connect(&Config::new(address, format!("c{i}"))).await.unwrap();
        client.send("local", address.clone(), QoS::Processed).await.unwrap();
        assert_eq!(next(&mut frames).await.payload(), address.as_bytes());
        clients.push(client);
    }
    let list = bus.broker.clients().clients;
    let of = |name: &str| list.iter().find(|client| client.name == name).unwrap();
    assert_eq!(
        (of("c1").kind, of("c1").port.as_deref(), of("c1").source.as_deref()),
        (ClientKind::LocalIpc, Some(second.as_str()), None)
    );
    assert_eq!(of("c2").kind, ClientKind::Tcp);
    assert!(of("c2").source.as_deref().unwrap().starts_with("127.0.0.1:"));
    assert_eq!((of("local").kind, of("local").port.as_deref()), (ClientKind::Internal, None));
    assert_eq!(of(".broker").kind, ClientKind::Internal);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connected_stream_joins_the_bus() {
    let bus = Bus::start(Options::default()).await;
    let (ours, theirs) = UnixStream::pair().unwrap();
    bus.broker.attach(Socket::from_unix(ours).unwrap()).unwrap();
    let inherited = Socket::from_fd(theirs.into()).unwrap();
    let client = Client::connect_stream(inherited, &Config::new("", "pair")).await.unwrap();
    let mut frames = client.frames().unwrap();
    client.send("pair", "x", QoS::Processed).await.unwrap();
    assert_eq!(next(&mut frames).await.payload(), b"x");
    let list = bus.broker.clients().clients;
    assert!(list.iter().any(|client| client.name == "pair" && client.port.as_deref() == Some("")));
    let file = std::fs::File::open("/dev/null").unwrap();
    assert!(Socket::from_fd(file.into()).is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn force_register_evicts() {
    let bus = Bus::start(Options::default().force_register(true)).await;
    let (watcher, mut frames) = bus.listener("watcher").await;
    watcher.subscribe(".broker/info", QoS::Processed).await.unwrap();
    let old = bus.client("a").await;
    old.subscribe("#", QoS::Processed).await.unwrap();
    let second = old.secondary_named("x").await.unwrap();
    let new = bus.client("a").await;
    for gone in [&old, &second] {
        tokio::time::timeout(common::PATIENCE, gone.closed()).await.unwrap();
    }
    let mut new_frames = new.frames().unwrap();
    watcher.publish("t", "x", QoS::Processed).await.unwrap();
    watcher.send("a", "to the new one", QoS::Processed).await.unwrap();
    assert_eq!(next(&mut new_frames).await.payload(), b"to the new one");
    let third = new.secondary_named("x").await.unwrap();
    assert_eq!(
        new.secondary_named("x").await.unwrap_err().kind(),
        ErrorKind::Busy,
        "a secondary is never evicted"
    );
    // The watcher is told of both registrations, but not that the first client left.
    let mut heard = vec![];
    for _ in 0..2 {
        let event: rmpv::Value = rmp_serde::from_slice(next(&mut frames).await.payload()).unwrap();
        heard.push(format!("{} {}", event["s"].as_str().unwrap(), event["d"].as_str().unwrap()));
    }
    assert_eq!(heard, ["reg a", "reg a"]);
    drop((third, new));
    let event: rmpv::Value = rmp_serde::from_slice(next(&mut frames).await.payload()).unwrap();
    assert_eq!((event["s"].as_str(), event["d"].as_str()), (Some("unreg"), Some("a")));
    assert!(event["t"].as_u64().is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fifo_takes_commands() {
    let bus = Bus::start(Options::default()).await;
    let fifo = bus.path.replace("bus.sock", "fifo");
    bus.broker.listen(&format!("fifo:{fifo}")).await.unwrap();
    let meta = std::fs::metadata(&fifo).unwrap();
    assert!(meta.file_type().is_fifo());
    assert_eq!(meta.permissions().mode() & 0o777, 0o622);
    let (a, mut frames) = bus.listener("g.a").await;
    a.subscribe("t/#", QoS::Processed).await.unwrap();
    let mut wanted: Vec<(&str, &[u8])> = vec![];
    let mut lines = String::new();
    for (line, payload) in [
        ("g.a hello to you\n", &b"hello to you"[..]),
        ("g.* hello all\n", b"hello all"),
        ("=t/x  spaced\r\n", b" spaced"),
        ("nobody lost\n\nno-target\n", b""),
        ("g.a .a notification\n", b"\0a notification"),
        ("g.a :set x=5 on=true s=a=b\n", b"\x01\0\0\0\0set\0\x83\xa1x\x05\xa2on\xc3\xa1s\xa3a=b"),
        ("g.a :get\n", b"\x01\0\0\0\0get\0\x80"),
        ("g.a :bad parameters\ng.a last\n", b"last"),
    ] {
        lines.push_str(line);
        if !payload.is_empty() {
            wanted.push((line, payload));
        }
    }
    std::fs::write(&fifo, lines).unwrap();
    for (line, payload) in wanted {
        let frame = next(&mut frames).await;
        assert_eq!((frame.payload(), frame.sender()), (payload, ".broker"), "{line:?}");
    }
    // A line of over 1 MiB is not a command; the next line is.
    let long = format!("g.a {}\ng.a short\n", "x".repeat(2 << 20));
    let path = fifo.clone();
    tokio::task::spawn_blocking(move || std::fs::write(path, long).unwrap()).await.unwrap();
    assert_eq!(next(&mut frames).await.payload(), b"short");
    let second = Broker::new(Options::default());
    assert!(second.listen(&format!("fifo:{fifo}")).await.is_err(), "another broker reads it");
    bus.broker.shutdown().await;
    assert!(!std::path::Path::new(&fifo).exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counters_count() {
    let bus = Bus::start(Options::default()).await;
    let mut a = bus.peer("a");
    let mut b = bus.peer("b");
    a.ping();
    a.send(1, 0x52, b"b\0hello");
    assert_eq!(a.next().0[0], 0xfe);
    assert_eq!(b.next().1, b"a\0hello");
    let queued = || bus.broker.clients().clients.iter().map(|client| client.queue).sum::<usize>();
    eventually("the queues are empty", || queued() == 0).await;
    let list = bus.broker.clients().clients;
    let of = |name: &str| list.iter().find(|client| client.name == name).unwrap().clone();
    let a = of("a");
    assert_eq!((a.r_frames, a.r_bytes, a.w_frames, a.w_bytes), (1, 7, 1, 6));
    let b = of("b");
    assert_eq!((b.r_frames, b.r_bytes, b.w_frames, b.w_bytes, b.queue, b.instances), (0, 0, 1, 7, 0, 1));
    let stats = bus.broker.stats();
    assert_eq!((stats.r_frames, stats.r_bytes, stats.w_frames, stats.w_bytes), (1, 7, 2, 13));
    bus.broker.disconnect("a");
    assert_eq!(bus.broker.stats().w_frames, 2, "clients that left are still counted");
}

/// Clients within the process send from several threads at the same time, also as the same client.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counters_miss_nothing_within_the_process() {
    const EACH: u64 = 20_000;
    let broker = Broker::new(Options::default());
    let receiver = broker.client("receiver").await.unwrap();
    let mut frames = receiver.frames().unwrap();
    let (one, two) = (broker.client("one").await.unwrap(), broker.client("two").await.unwrap());
    let senders = [one.clone(), one.clone(), two.clone()].map(|client| {
        tokio::spawn(async move {
            for _ in 0..EACH {
                client.send("receiver", "x", QoS::No).await.unwrap();
            }
        })
    });
    for _ in 0..3 * EACH {
        next(&mut frames).await;
    }
    for sender in senders {
        sender.await.unwrap();
    }
    // Sent bodies contain the receiver's name and a separator, received ones contain the sender's.
    let (sent, received) = (8 + 1 + 1, 3 + 1 + 1);
    assert_eq!((one.stats().w_frames, one.stats().w_bytes), (2 * EACH, 2 * EACH * sent));
    assert_eq!((two.stats().w_frames, two.stats().w_bytes), (EACH, EACH * sent));
    assert_eq!((receiver.stats().r_frames, receiver.stats().r_bytes), (3 * EACH, 3 * EACH * received));
    let stats = broker.stats();
    assert_eq!((stats.r_frames, stats.r_bytes), (3 * EACH, 3 * EACH * sent));
    assert_eq!((stats.w_frames, stats.w_bytes), (3 * EACH, 3 * EACH * received));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropping_the_last_handle_closes_everything() {
    let bus = Bus::start(Options::default()).await;
    let path = bus.path.clone();
    let client = bus.client("a").await;
    let Bus { broker, _dir, .. } = bus;
    drop(broker);
    tokio::time::timeout(common::PATIENCE, client.closed()).await.unwrap();
    eventually("the socket is removed", || !std::path::Path::new(&path).exists()).await;
}

/// Operation 0 with QoS bits has no effect and is not acknowledged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operation_zero_is_never_acknowledged() {
    use common::raw::{ACK, MESSAGE, Raw};
    let bus = Bus::start(Options::default()).await;
    let mut raw = Raw::register(&bus.path, "raw");
    let nop = raw.send(ACK, b"x\0y");
    let asked = raw.send(MESSAGE | ACK, b"raw\0x");
    let mut acknowledged = vec![];
    while acknowledged.last() != Some(&asked) {
        if let Some(common::raw::Item::Ack { id, .. }) = raw.receive(common::PATIENCE) {
            acknowledged.push(id);
        }
    }
    assert_eq!(acknowledged, [asked], "operation 0 has the id {nop}");
}
