//! The orderly shutdown of the broker: acknowledged frames are delivered, and it takes no longer than allowed.
#![cfg(all(target_os = "linux", feature = "server", feature = "rpc"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod common;

use busrt::QoS;
use busrt::broker::{Broker, Options, SlowPolicy};
use common::daemon::{Daemon, free_port};
use common::raw::{ACK, Item, MESSAGE, PUBLISH, Raw, numbered, payload};
use common::slow::{FULL_SPEED, SIZE, Taker, numbers};
use common::{Bus, PATIENCE, Peer};
use rustix::process::Signal;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(15);

/// Reads to the end of the connection. Returns the numbers of the deliveries (the announcement has none) and the
/// acknowledged ids.
fn read_to_the_end(raw: &mut Raw) -> (Vec<u32>, Vec<u32>) {
    let (mut delivered, mut acknowledged) = (vec![], vec![]);
    loop {
        match raw.receive(SOON).expect("the end in time") {
            Item::Delivery(delivery) if delivery.sender() != b".broker" => delivered.push(delivery.number()),
            Item::Ack { id, code: 1 } => acknowledged.push(id),
            Item::End => return (delivered, acknowledged),
            _ => {}
        }
    }
}

/// SIGTERM arrives while a sender streams acknowledged messages to a receiver that reads more slowly than they
/// arrive: each acknowledged message is delivered. The sender has many in progress, and continues to send until its
/// connection ends.
async fn nothing_acknowledged_is_lost(over_tcp: bool, receiver_over_tcp: bool) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bus.sock").display().to_string();
    let port = format!("127.0.0.1:{}", free_port());
    let more = ["-t", "60", "--drain-ms", "3000", "--queue-bytes", "1000000", "--sndbuf", "65536"];
    let mut daemon = Daemon::start(&[path.clone(), port.clone()], &more);
    // One receiver reads nothing, so that the shutdown takes all of the drain time.
    let stuck = Raw::register(&path, "stuck");
    let mut filler = Raw::register(&path, "filler");
    filler.stream.write_all(&numbered(MESSAGE, b"stuck\0", 0..600, SIZE)).unwrap();
    assert_eq!(filler.ask(PUBLISH, b"nobody\0"), 1);
    let address = |tcp| if tcp { &port } else { &path };
    let receiver = Raw::register(address(receiver_over_tcp), "receiver");
    let mut sender = Raw::register(address(over_tcp), "sender");
    let mut stream = sender.stream.try_clone();
    let sending = std::thread::spawn(move || {
        let mut sent = 0;
        while stream.write_all(&numbered(MESSAGE | ACK, b"receiver\0", sent..sent + 50, 200)).is_ok() {
            sent += 50;
        }
    });
    let receiving = Taker::start(receiver, 4_000_000);
    let acknowledging = std::thread::spawn(move || read_to_the_end(&mut sender).1);
    std::thread::sleep(Duration::from_millis(500));
    daemon.signal(Signal::TERM);
    assert!(daemon.wait().success());
    drop(stuck);
    let acknowledged = acknowledging.join().unwrap();
    receiving.set_rate(FULL_SPEED);
    assert!(receiving.wait_for_the_end(SOON), "the receiver's connection does not end");
    let delivered = numbers(&receiving.stop().1);
    sending.join().unwrap();
    assert!(!acknowledged.is_empty());
    let lost = acknowledged.iter().filter(|id| delivered.binary_search(id).is_err()).count();
    assert_eq!(lost, 0, "of {} acknowledged and {} delivered", acknowledged.len(), delivered.len());
}

/// See [`nothing_acknowledged_is_lost`].
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_over_unix() {
    nothing_acknowledged_is_lost(false, false).await;
}

/// See [`nothing_acknowledged_is_lost`].
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_over_tcp() {
    nothing_acknowledged_is_lost(true, true).await;
}

/// See [`nothing_acknowledged_is_lost`].
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_between_transports() {
    nothing_acknowledged_is_lost(false, true).await;
}

/// A receiver that pings while the queues are drained receives all of 1,500 acknowledged messages: its unread pings
/// do not make the kernel discard data in transit to it.
async fn pings_during_the_drain(over_tcp: bool) {
    const COUNT: u32 = 1500;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bus.sock").display().to_string();
    let port = format!("127.0.0.1:{}", free_port());
    let more = ["-t", "60", "--drain-ms", "20000"];
    let mut daemon = Daemon::start(&[path.clone(), port.clone()], &more);
    let receiver = Raw::register(if over_tcp { &port } else { &path }, "receiver");
    let mut sender = Raw::register(&path, "sender");
    let bytes = numbered(MESSAGE | ACK, b"receiver\0", 0..COUNT, 5 * SIZE);
    sender.stream.write_all(&bytes).unwrap();
    assert_eq!(sender.ack(COUNT - 1, SOON), Some(1));
    drop(sender);
    daemon.signal(Signal::TERM);
    let mut pings = receiver.stream.try_clone();
    let pinging = std::thread::spawn(move || {
        while pings.write_all(&[0; 9]).is_ok() {
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    std::thread::sleep(Duration::from_millis(200));
    let taker = Taker::start(receiver, 6_000_000);
    taker.wait_for(COUNT as usize + 1, SOON);
    let (raw, received) = taker.stop();
    assert_eq!(numbers(&received).len(), COUNT as usize);
    // The broker need not wait for the whole drain time: the receiver closes.
    raw.stream.shutdown_write();
    pinging.join().unwrap();
    drop(raw);
    assert!(daemon.wait().success());
}

/// See [`pings_during_the_drain`].
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pings_during_the_drain_over_tcp() {
    pings_during_the_drain(true).await;
}

/// See [`pings_during_the_drain`].
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pings_during_the_drain_over_unix() {
    pings_during_the_drain(false).await;
}

/// After the announcement, nothing is read any more: later frames are neither acknowledged nor delivered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_read_after_the_announcement() {
    let bus = Bus::start(Options::new().timeout(PATIENCE).drain(Duration::from_millis(1500))).await;
    let mut receiver = Raw::register(&bus.path, "receiver");
    // This client keeps the drain going, because its queue does not empty.
    let stuck = Raw::register(&bus.path, "stuck");
    let mut filler = Raw::register(&bus.path, "filler");
    filler.stream.write_all(&numbered(MESSAGE, b"stuck\0", 0..4000, SIZE)).unwrap();
    assert_eq!(filler.ask(PUBLISH, b"nobody\0"), 1);
    let mut sender = Raw::register(&bus.path, "sender");
    let broker = bus.broker.clone();
    let ending = tokio::spawn(async move { broker.shutdown().await });
    let announced = sender.delivery(SOON).expect("the announcement");
    assert_eq!(announced.sender(), b".broker");
    // Reading stops together with the announcement.
    std::thread::sleep(Duration::from_millis(200));
    let late = Peer::operation(77, MESSAGE | ACK, &payload(b"receiver\0", 77, 10));
    // An error means that the connection is already half-closed.
    let _ = sender.stream.write_all(&late);
    let (_, acknowledged) = read_to_the_end(&mut sender);
    assert_eq!(acknowledged, [], "acknowledged after the announcement");
    let (delivered, _) = read_to_the_end(&mut receiver);
    assert_eq!(delivered, [], "delivered after the announcement");
    ending.await.unwrap();
    drop(stuck);
}

/// The shutdown takes no longer than the drain time, although one receiver reads nothing, another never closes, and a
/// third sends continuously.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_is_bounded() {
    for policy in [SlowPolicy::Disconnect, SlowPolicy::Block] {
        let drain = Duration::from_millis(800);
        let bus = Bus::start(Options::new().timeout(PATIENCE).drain(drain).slow(policy)).await;
        let _stuck = Raw::register(&bus.path, "stuck");
        let _idle = Raw::register(&bus.port, "idle");
        let _unregistered = Raw::connect(&bus.path);
        let filler = Raw::register(&bus.path, "filler");
        let mut stream = filler.stream.try_clone();
        let filling = std::thread::spawn(move || {
            while stream.write_all(&numbered(MESSAGE, b"stuck\0", 0..1000, SIZE)).is_ok() {}
        });
        std::thread::sleep(Duration::from_millis(500));
        let started = Instant::now();
        bus.broker.shutdown().await;
        let took = started.elapsed();
        assert!(took < drain + Duration::from_millis(1500), "{policy:?}: {took:?}");
        drop(filler);
        filling.join().unwrap();
    }
}

/// If nothing is waiting, the shutdown does not take the whole drain time: it ends when all peers have closed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_is_prompt_when_clients_close() {
    let bus = Bus::start(Options::new().timeout(PATIENCE).drain(PATIENCE)).await;
    let mut clients: Vec<Raw> = [&bus.path, &bus.port]
        .iter()
        .enumerate()
        .map(|(i, address)| Raw::register(address, &format!("c{i}")))
        .collect();
    let closing = std::thread::spawn(move || {
        for client in &mut clients {
            read_to_the_end(client);
        }
    });
    let started = Instant::now();
    tokio::time::timeout(SOON, bus.broker.shutdown()).await.expect("a prompt end");
    println!("the end took {:?}", started.elapsed());
    closing.join().unwrap();
}

/// After the shutdown has begun, clients within the process are refused too: their messages are not accepted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_process_senders_are_refused() {
    let bus = Bus::start(Options::new().timeout(PATIENCE).drain(Duration::from_millis(1500))).await;
    let local = bus.broker.client("local").await.unwrap();
    let stuck = Raw::register(&bus.path, "stuck");
    let mut filler = Raw::register(&bus.path, "filler");
    filler.stream.write_all(&numbered(MESSAGE, b"stuck\0", 0..4000, SIZE)).unwrap();
    assert_eq!(filler.ask(PUBLISH, b"nobody\0"), 1);
    local.send("stuck", payload(b"", 1, 10), QoS::Processed).await.unwrap();
    let broker = bus.broker.clone();
    let ending = tokio::spawn(async move { broker.shutdown().await });
    assert!(filler.delivery(SOON).is_some(), "the announcement");
    std::thread::sleep(Duration::from_millis(200));
    assert!(!ending.is_finished());
    local.send("stuck", payload(b"", 2, 10), QoS::Processed).await.unwrap_err();
    local.publish("t", "x", QoS::Processed).await.unwrap_err();
    bus.broker.client("another").await.unwrap_err();
    ending.await.unwrap();
    drop(stuck);
}

/// A client within the process can take the waiting frames although the broker has shut down.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_process_receivers_keep_waiting_frames() {
    let broker = Broker::new(Options::new());
    let sender = broker.client("sender").await.unwrap();
    let receiver = broker.client("receiver").await.unwrap();
    let mut frames = receiver.frames().unwrap();
    for number in 0..100u32 {
        sender.send("receiver", number.to_le_bytes().to_vec(), QoS::Processed).await.unwrap();
    }
    broker.shutdown().await;
    for number in 0..100u32 {
        assert_eq!(common::next(&mut frames).await.payload(), number.to_le_bytes());
    }
}

/// A peer that closes its sending half is closed. Frames that it wrote before are delivered and answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_half_closed_peer_is_closed() {
    let bus = Bus::start(Options::new().timeout(PATIENCE)).await;
    for address in [&bus.path, &bus.port] {
        let receiver = Taker::start(Raw::register(&bus.path, "receiver"), FULL_SPEED);
        let mut peer = Raw::register(address, "peer");
        peer.stream.write_all(&numbered(MESSAGE | ACK, b"receiver\0", 0..500, SIZE)).unwrap();
        peer.stream.shutdown_write();
        let (_, acknowledged) = read_to_the_end(&mut peer);
        assert_eq!(acknowledged, (0..500).collect::<Vec<_>>());
        assert!(receiver.wait_for(500, SOON), "it got {}", receiver.count());
        let (raw, received) = receiver.finish();
        assert_eq!(numbers(&received), (0..500).collect::<Vec<_>>());
        drop(raw);
        common::eventually("both clients have left", || bus.broker.clients().clients.len() == 1).await;
    }
}

/// Frames that a client wrote before it closed are delivered, even if it has unread data.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_written_before_closing_are_delivered() {
    let bus = Bus::start(Options::new().timeout(PATIENCE)).await;
    let receiver = Taker::start(Raw::register(&bus.path, "receiver"), FULL_SPEED);
    let mut expected = 0;
    for _ in 0..20 {
        let mut sender = Raw::register(&bus.path, "sender");
        sender.stream.write_all(&numbered(MESSAGE, b"receiver\0", 0..100, SIZE)).unwrap();
        drop(sender);
        expected += 100;
        assert!(receiver.wait_for(expected, SOON), "it got {} of {expected}", receiver.count());
        common::eventually("the name is free", || bus.broker.clients().clients.len() == 2).await;
    }
}

/// A second shutdown, and one while clients come and go all the time, do no harm.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_while_clients_come_and_go() {
    let bus = Bus::start(Options::new().timeout(PATIENCE).drain(Duration::from_millis(500))).await;
    let stop = Arc::new(AtomicBool::new(false));
    let coming: Vec<_> = (0..4)
        .map(|i| {
            let (stop, path) = (stop.clone(), bus.path.clone());
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let Ok(stream) = std::os::unix::net::UnixStream::connect(&path) else { return };
                    stream.set_read_timeout(Some(SOON)).unwrap();
                    let mut stream = stream;
                    let name = format!("c{i}");
                    let hello = [&[0xeb, 1, 0, 2, 0], name.as_bytes()].concat();
                    // Errors mean that the broker is shutting down.
                    let _ = stream.write_all(&hello);
                    let _ = std::io::Read::read(&mut stream, &mut [0; 5]);
                }
            })
        })
        .collect();
    std::thread::sleep(Duration::from_millis(200));
    let (first, second) = (bus.broker.clone(), bus.broker.clone());
    let started = Instant::now();
    tokio::join!(first.shutdown(), second.shutdown());
    assert!(started.elapsed() < Duration::from_secs(5));
    stop.store(true, Ordering::Relaxed);
    coming.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(bus.broker.clients().clients.len(), 1);
}

/// A second call of shutdown waits for the end too, and continues the shutdown if the first call is cancelled.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shutdown_is_called_twice() {
    for gives_up in [false, true] {
        let bus = Bus::start(Options::new().timeout(PATIENCE).drain(Duration::from_millis(1500))).await;
        let silent = Raw::register(&bus.path, "silent");
        let broker = bus.broker.clone();
        let first = tokio::spawn(async move { broker.shutdown().await });
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(!first.is_finished());
        if gives_up {
            first.abort();
        }
        bus.broker.shutdown().await;
        let left = bus.broker.clients().clients;
        assert!(!left.iter().any(|client| client.name == "silent"), "it returned before the end");
        drop(silent);
    }
}
