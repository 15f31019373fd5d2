//! Tests of the client against a minimal broker, which sends and expects exact bytes.

#[cfg(feature = "rpc")]
mod calling;
#[cfg(not(busrt_portable))]
mod polling;
#[cfg(not(busrt_portable))]
mod polling_queues;
mod receiving;
#[cfg(feature = "runtime")]
mod runtime;

use super::*;
use crate::error::ErrorKind;
use crate::proto::delivery::{self, Delivery};
use crate::proto::op::{FrameKind, GREETING, QoS};
use crate::proto::request::{self, Operation, PING};
use bytes::Bytes;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// A timeout for tests that would fail by hanging.
const PATIENCE: Duration = Duration::from_secs(20);

struct FakeBroker(UnixStream);

fn pair() -> (Socket, FakeBroker) {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    theirs.set_nonblocking(true).unwrap();
    (Socket::from_unix(ours).unwrap(), FakeBroker(UnixStream::from_std(theirs).unwrap()))
}

/// Disables pings and probes, which would come between the bytes that a test expects.
fn config() -> Config {
    Config::new("", "me").ping_interval(Duration::from_secs(3600)).silence(None)
}

impl FakeBroker {
    async fn expect(&mut self, wanted: &[u8]) {
        let mut got = vec![0; wanted.len()];
        tokio::time::timeout(PATIENCE, self.0.read_exact(&mut got)).await.expect("too few bytes").unwrap();
        assert_eq!(got, wanted, "{} instead of {}", got.escape_ascii(), wanted.escape_ascii());
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.unwrap();
    }

    async fn register(&mut self, more: &[u8]) {
        self.send(&GREETING).await;
        self.expect(&GREETING).await;
        self.send(b"\x01").await;
        self.expect(b"\x02\0me").await;
        self.send(&[b"\x01", more].concat()).await;
    }

    /// Returns the bytes that have arrived so far.
    fn read_now(&mut self) -> Vec<u8> {
        let mut bytes = vec![0; 4096];
        let n = self.0.try_read(&mut bytes).unwrap_or(0);
        bytes.truncate(n);
        bytes
    }

    async fn rest(&mut self) -> Vec<u8> {
        let mut rest = vec![];
        tokio::time::timeout(PATIENCE, self.0.read_to_end(&mut rest)).await.expect("no end").unwrap();
        rest
    }
}

async fn connected(config: &Config) -> (Client, FakeBroker) {
    let (socket, mut broker) = pair();
    let (client, ()) = tokio::join!(Client::connect_stream(socket, config), broker.register(b""));
    (client.unwrap(), broker)
}

fn message(payload: &[u8]) -> Vec<u8> {
    let mut out = vec![];
    let kind = FrameKind::Message;
    Delivery { kind, realtime: false, sender: "peer", topic: None, payload }.encode_head(&mut out);
    out.extend_from_slice(payload);
    out
}

async fn eventually(mut done: impl FnMut() -> bool) {
    let work = async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, work).await.expect("the condition never became true");
}

#[test]
fn handles_are_send_and_sync() {
    fn check<T: Send + Sync>() {}
    fn check_future<T: Send>(_: impl FnOnce(Client) -> T) {}
    check::<Client>();
    check::<Frames>();
    check::<PendingOperation>();
    check_future(|c| async move { c.send("a", "b", QoS::No).await });
    check_future(|c| async move { c.subscribe(vec![String::new()], QoS::No).await });
    check_future(|c| async move { c.secondary().await });
    check_future(|c| async move { c.disconnect().await });
}

#[tokio::test]
async fn a_refusal_is_reported_with_its_code() {
    let (socket, mut broker) = pair();
    let refuse = async {
        broker.send(&GREETING).await;
        broker.expect(&GREETING).await;
        broker.send(b"\x01").await;
        broker.expect(b"\x02\0me").await;
        broker.send(b"\x76").await;
        assert!(broker.rest().await.is_empty());
    };
    let config = config();
    let (result, ()) = tokio::join!(Client::connect_stream(socket, &config), refuse);
    let e = result.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Busy);
    assert!(e.to_string().contains("Server response: 0x76"), "{e}");
}

#[tokio::test]
async fn peers_that_are_not_brokers() {
    for (greeting, kind) in [
        (&b"HTTP/1.1"[..], ErrorKind::NotSupported),
        (b"\xeb\x02\0", ErrorKind::NotSupported),
        (b"\xeb", ErrorKind::ConnectionLost),
    ] {
        let (socket, mut broker) = pair();
        broker.send(greeting).await;
        broker.0.shutdown().await.unwrap();
        assert_eq!(Client::connect_stream(socket, &config()).await.unwrap_err().kind(), kind);
        assert!(broker.rest().await.is_empty());
    }
    let (socket, _silent) = pair();
    let config = config().timeout(Duration::from_millis(20));
    assert_eq!(Client::connect_stream(socket, &config).await.unwrap_err().kind(), ErrorKind::Timeout);
}

#[tokio::test]
async fn connecting_without_a_broker_fails() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("none.sock").display().to_string();
    let e = Client::connect(&Config::new(path.clone(), "me")).await.unwrap_err();
    assert_eq!((e.kind(), e.io_kind()), (ErrorKind::Io, Some(std::io::ErrorKind::NotFound)));
    assert!(e.to_string().contains(&path));
    assert_eq!(Client::connect(&Config::new("nowhere", "me")).await.unwrap_err().kind(), ErrorKind::Data);
    let long = Config::new(path, "x".repeat(70_000));
    assert!(Client::connect(&long).await.is_err());
}

#[tokio::test]
async fn frames_that_come_with_the_registration() {
    let (socket, mut broker) = pair();
    let frames = [message(b"one"), message(&[7; 20_000])].concat();
    let config = config();
    let (client, ()) = tokio::join!(Client::connect_stream(socket, &config), broker.register(&frames));
    let client = client.unwrap();
    let mut frames = client.frames().unwrap();
    assert_eq!(frames.recv().await.unwrap().payload(), b"one");
    assert_eq!(frames.recv().await.unwrap().payload(), [7; 20_000]);
}

#[tokio::test]
async fn operations_are_these_bytes() {
    let (client, mut broker) = connected(&config()).await;
    client.send("b", "hi", QoS::No).await.unwrap();
    client.broadcast("b.*", "hi", QoS::Realtime).await.unwrap();
    client.publish("t", "hi", QoS::No).await.unwrap();
    client.publish_for("t", "b", "hi", QoS::No).await.unwrap();
    client.subscribe("t/#", QoS::No).await.unwrap();
    client.unsubscribe(["a", "b"], QoS::No).await.unwrap();
    client.exclude(vec!["a".to_owned()], QoS::No).await.unwrap();
    client.unexclude("a", QoS::No).await.unwrap();
    client.subscribe(Vec::<String>::new(), QoS::Processed).await.unwrap();
    client.ping().await.unwrap();
    broker.expect(b"\0\0\0\0\x12\x04\0\0\0b\0hi").await;
    broker.expect(b"\0\0\0\0\x93\x06\0\0\0b.*\0hi").await;
    broker.expect(b"\0\0\0\0\x01\x04\0\0\0t\0hi").await;
    broker.expect(b"\0\0\0\0\x06\x06\0\0\0t\0b\0hi").await;
    broker.expect(b"\0\0\0\0\x02\x03\0\0\0t/#").await;
    broker.expect(b"\0\0\0\0\x03\x03\0\0\0a\0b").await;
    broker.expect(b"\0\0\0\0\x04\x01\0\0\0a").await;
    broker.expect(b"\0\0\0\0\x05\x01\0\0\0a").await;
    broker.expect(&PING).await;
    let stats = client.stats();
    assert_eq!((stats.w_frames, stats.w_bytes), (8, 4 + 6 + 4 + 6 + 3 + 3 + 1 + 1));
    assert_eq!(client.send("a\0b", "x", QoS::Processed).await.unwrap_err().kind(), ErrorKind::Data);
    assert_eq!(client.subscribe("a\0b", QoS::Processed).await.unwrap_err().kind(), ErrorKind::Data);
    client.send("b", "after", QoS::No).await.unwrap();
    broker.expect(b"\0\0\0\0\x12\x07\0\0\0b\0after").await;
}

#[tokio::test]
async fn it_pings_by_itself() {
    let (_client, mut broker) = connected(&config().ping_interval(Duration::from_millis(5))).await;
    for _ in 0..3 {
        broker.expect(&PING).await;
    }
}

#[tokio::test]
async fn the_time_between_pings_can_be_changed() {
    let (client, mut broker) = connected(&config().ping_interval(Duration::from_millis(20))).await;
    client.set_ping_interval(Duration::from_millis(5));
    for _ in 0..3 {
        broker.expect(&PING).await;
    }
    client.set_ping_interval(Duration::from_secs(3600));
    broker.expect(&PING).await;
    client.send("b", "after", QoS::No).await.unwrap();
    broker.expect(b"\0\0\0\0\x12\x07\0\0\0b\0after").await;
}

#[tokio::test]
async fn a_refused_request_leaves_no_trace() {
    let (client, mut broker) = connected(&config().ping_interval(Duration::from_millis(5))).await;
    client.send("a\0b", "x", QoS::No).await.unwrap_err();
    broker.expect(&PING).await;
}

#[tokio::test]
async fn acknowledgements_in_any_order() {
    let (client, mut broker) = connected(&config()).await;
    let operation = || Operation::Message { target: "b", payload: Bytes::new() };
    let mut confirmations = vec![];
    for _ in 0..3 {
        confirmations.push(client.submit(operation(), QoS::Processed).await.unwrap());
    }
    for id in 1..=3 {
        broker.expect(&[id, 0, 0, 0, 0x52, 2, 0, 0, 0, b'b', 0]).await;
    }
    assert!(client.submit(operation(), QoS::No).await.unwrap().is_completed());
    broker.send(&delivery::ack(2, 0x77)).await;
    broker.send(&delivery::ack(1, 1)).await;
    eventually(|| confirmations[0].is_completed() && confirmations[1].is_completed()).await;
    assert!(!confirmations[2].is_completed());
    broker.send(&delivery::ack(3, 0x79)).await;
    let mut kinds = vec![];
    for confirmation in confirmations {
        kinds.push(confirmation.await.err().map(|e| e.kind()));
    }
    assert_eq!(kinds, [None, Some(ErrorKind::NotDelivered), Some(ErrorKind::AccessDenied)]);
}

#[tokio::test]
async fn no_acknowledgement_in_time() {
    let (client, _broker) = connected(&config().timeout(Duration::from_millis(30))).await;
    let e = client.send("b", "x", QoS::Processed).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Timeout);
    assert!(client.is_connected());
}

#[tokio::test]
async fn the_end_fails_waiting_operations_immediately() {
    let (client, mut broker) = connected(&config().timeout(Duration::from_secs(3600))).await;
    let mut frames = client.frames().unwrap();
    let pending = client.submit(Operation::Message { target: "b", payload: Bytes::new() }, QoS::Processed);
    let pending = pending.await.unwrap();
    broker.send(&message(b"last")).await;
    drop(broker);
    assert_eq!(pending.await.unwrap_err().kind(), ErrorKind::ConnectionLost);
    assert_eq!(client.closed().await.kind(), ErrorKind::ConnectionLost);
    assert!(!client.is_connected());
    assert_eq!(frames.recv().await.unwrap().payload(), b"last");
    assert!(frames.recv().await.is_none());
    for qos in [QoS::No, QoS::Processed] {
        assert_eq!(client.send("b", "x", qos).await.unwrap_err().kind(), ErrorKind::ConnectionLost);
    }
    assert_eq!(client.ping().await.unwrap_err().kind(), ErrorKind::ConnectionLost);
    client.disconnect().await;
}

#[tokio::test]
async fn invalid_bytes_end_the_connection() {
    for garbage in [&b"\x99\0\0\0\0\0"[..], b"\x12\x02\0\0\0\0ab", b"\x12\x02\0\0\0\0\xff\0"] {
        let (client, mut broker) = connected(&config()).await;
        broker.send(garbage).await;
        assert_eq!(client.closed().await.kind(), ErrorKind::Data);
        assert!(broker.rest().await.is_empty());
    }
}

#[tokio::test]
async fn dropping_the_client_writes_queued_data() {
    let (client, mut broker) = connected(&config()).await;
    for i in 0..1000u32 {
        client.publish("t", i.to_le_bytes().to_vec(), QoS::No).await.unwrap();
    }
    drop(client);
    // There was no await since the drop: the data is already in the socket.
    let all = broker.rest().await;
    assert_eq!(all.len(), 1000 * (9 + 2 + 4));
    assert!(all.ends_with(&999u32.to_le_bytes()));
}

#[tokio::test]
async fn dropping_the_client_writes_more_than_the_socket_holds() {
    let (client, mut broker) = connected(&config()).await;
    let payload = Bytes::from(vec![7; 1024 * 1024]);
    for _ in 0..8 {
        client.publish("t", payload.clone(), QoS::No).await.unwrap();
    }
    drop(client);
    assert_eq!(broker.rest().await.len(), 8 * (9 + 2 + payload.len()));
}

#[tokio::test]
async fn a_disconnect_waits_until_everything_is_written() {
    let (client, mut broker) = connected(&config()).await;
    let payload = Bytes::from(vec![7; 4 * 1024 * 1024]);
    let pending = client.submit(Operation::Message { target: "b", payload }, QoS::Processed).await.unwrap();
    let taken = tokio::spawn(async move {
        let mut header = [0; 9 + 2];
        broker.0.read_exact(&mut header).await.unwrap();
        let mut body = vec![0; 4 * 1024 * 1024];
        broker.0.read_exact(&mut body).await.unwrap();
        broker.send(&delivery::ack(1, 1)).await;
        broker.rest().await.len()
    });
    client.disconnect().await;
    assert_eq!(taken.await.unwrap(), 0);
    assert!(!client.is_connected());
    // The client received the data that the broker sent after that.
    pending.await.unwrap();
    assert_eq!(client.send("b", "x", QoS::No).await.unwrap_err().kind(), ErrorKind::ConnectionLost);
}

#[tokio::test]
async fn a_disconnect_from_a_broker_that_hangs_ends() {
    let (client, mut broker) = connected(&config().timeout(Duration::from_millis(50))).await;
    client.disconnect().await;
    assert!(!client.is_connected());
    assert!(broker.rest().await.is_empty());
}

#[tokio::test]
async fn a_broker_that_reads_nothing_holds_senders_back() {
    let config = config().queue_size(10).timeout(Duration::from_millis(100));
    let (client, mut broker) = connected(&config).await;
    let payload = Bytes::from(vec![7; 1024 * 1024]);
    let mut result = Ok(());
    let mut sent = 0;
    while sent < 100 && result.is_ok() {
        result = client.publish("t", payload.clone(), QoS::No).await;
        sent += usize::from(result.is_ok());
    }
    assert_eq!(result.unwrap_err().kind(), ErrorKind::Timeout);
    assert!(sent < 20, "{sent}");
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.publish("t", "last", QoS::No).await }
    });
    tokio::task::yield_now().await;
    let reading = tokio::spawn(async move { broker.rest().await });
    waiting.await.unwrap().unwrap();
    drop(client);
    let all = reading.await.unwrap();
    assert_eq!(all.len(), sent * (9 + 2 + payload.len()) + 9 + 2 + 4);
}

#[tokio::test]
async fn frames_have_one_consumer() {
    let (client, mut broker) = connected(&config()).await;
    let first = client.frames().unwrap();
    assert_eq!(client.frames().unwrap_err().kind(), ErrorKind::Busy);
    drop(first);
    broker.send(&message(b"dropped")).await;
    eventually(|| client.stats().r_frames == 1).await;
    assert_eq!(client.stats().queue, 0);
    let mut second = client.frames().unwrap();
    assert!(second.try_recv().is_none());
    broker.send(&message(b"x")).await;
    assert_eq!(second.recv().await.unwrap().sender(), "peer");
}

#[tokio::test]
async fn frames_end_with_the_last_handle() {
    let (client, mut broker) = connected(&config()).await;
    let mut frames = client.frames().unwrap();
    broker.send(&message(b"x")).await;
    eventually(|| client.stats().r_frames == 1).await;
    drop(client);
    assert_eq!(frames.recv().await.unwrap().payload(), b"x");
    assert!(frames.recv().await.is_none());
}

#[test]
fn dropping_the_runtime_ends_all_waits() {
    let build =
        || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (first, second) = (build(), build());
    let (client, broker) = first.block_on(connected(&config().timeout(PATIENCE * 2)));
    let _guard = second.enter();
    let pending = second.spawn({
        let client = client.clone();
        async move { client.send("b", "x", QoS::Processed).await }
    });
    first.shutdown_timeout(PATIENCE);
    let e = second.block_on(async { tokio::time::timeout(PATIENCE, pending).await.unwrap().unwrap() });
    assert_eq!(e.unwrap_err().kind(), ErrorKind::ConnectionLost);
    drop(broker);
}

#[test]
fn dropping_the_runtime_writes_queued_data() {
    // On a single thread, the task that writes a burst does not run before the end.
    let build = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let first = build();
    let (client, broker) = first.block_on(connected(&config()));
    let broker = broker.0.into_std().unwrap();
    first.block_on(async {
        for _ in 0..100 {
            client.publish("t", "x", QoS::No).await.unwrap();
        }
    });
    drop(first);
    let rest = build().block_on(async { FakeBroker(UnixStream::from_std(broker).unwrap()).rest().await });
    assert_eq!(rest.len(), 100 * (9 + 2 + 1));
    assert!(!client.is_connected());
}

#[test]
fn a_thread_that_waits_for_room_writes_queued_data() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (client, broker) = runtime.block_on(connected(&config().queue_size(4)));
    // The runtime does not run: only this thread can write the burst.
    let request = Request::publish("t", "x", QoS::No);
    let is_full = (0..2000).any(|_| matches!(client.try_send(&request), Ok(TrySend::NoRoom)));
    assert!(is_full);
    assert!(client.room().wait(Wait::at_most(Duration::from_secs(2))).unwrap());
    drop(broker);
}
