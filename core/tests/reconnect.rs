//! A client that reconnects: it registers its name again, restores its subscriptions, and reports what was lost.
#![cfg(all(unix, feature = "broker", feature = "rpc"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod common;

use busrt::broker::{Broker, Options};
use busrt::client::{Client, Config, Event, Events, Reconnect, WhileDown};
use busrt::proto::request::Operation;
use busrt::rpc::{Call, Handlers, Rpc, RpcError};
use busrt::{ErrorKind, QoS};
use bytes::Bytes;
use common::fake::FakeListener;
use common::{PATIENCE, Peer, eventually, next, nothing_waits};
use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// A broker that a test stops and starts again on the same socket.
struct Site {
    path: String,
    broker: Option<Broker>,
    _dir: tempfile::TempDir,
}

impl Site {
    async fn start() -> Site {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bus.sock").display().to_string();
        let mut site = Site { path, broker: None, _dir: dir };
        site.up().await;
        site
    }

    async fn up(&mut self) {
        let broker = Broker::new(Options::default());
        broker.listen(&self.path).await.unwrap();
        self.broker = Some(broker);
    }

    fn down(&mut self) {
        self.broker = None;
    }

    fn config(&self, name: &str) -> Config {
        Config::new(&self.path, name).timeout(PATIENCE).reconnect(quick())
    }

    async fn client(&self, name: &str) -> Client {
        Client::connect(&self.config(name)).await.unwrap()
    }
}

fn quick() -> Reconnect {
    Reconnect::new().delays(Duration::from_millis(2), Duration::from_millis(20))
}

async fn event(events: &mut Events) -> Option<Event> {
    tokio::time::timeout(PATIENCE, events.recv()).await.expect("an event in time")
}

/// Skips everything up to the next connection.
async fn connected(events: &mut Events) {
    while event(events).await.expect("the client has ended") != Event::Connected {}
}

#[tokio::test]
async fn subscriptions_exclusions_and_frames_stay() {
    let mut site = Site::start().await;
    let client = site.client("a").await;
    let mut frames = client.frames().unwrap();
    let mut events = client.events();
    connected(&mut events).await;
    client.subscribe(["t/#", "gone", "u"], QoS::Processed).await.unwrap();
    client.exclude("t/not/#", QoS::No).await.unwrap();
    client.unsubscribe("gone", QoS::No).await.unwrap();
    for round in 0..3 {
        site.down();
        site.up().await;
        connected(&mut events).await;
        let sender = Client::connect(&Config::new(&site.path, "b")).await.unwrap();
        for topic in ["gone", "t/not/this", "t/1", "u"] {
            sender.publish(topic, "x", QoS::Processed).await.unwrap();
        }
        let mut got =
            [next(&mut frames).await, next(&mut frames).await].map(|f| f.topic().unwrap().to_owned());
        got.sort();
        assert_eq!(got, ["t/1", "u"], "round {round}");
        nothing_waits(&client, &mut frames).await;
    }
    assert!(client.is_connected());
    client.disconnect().await;
    assert_eq!(client.closed().await.kind(), ErrorKind::ConnectionLost);
    assert!(frames.recv().await.is_none());
    while event(&mut events).await.is_some() {}
}

#[tokio::test]
async fn events_and_callbacks_of_a_reconnection() {
    let mut site = Site::start().await;
    let client = site.client("a").await;
    let mut events = client.events();
    let told = Arc::new(AtomicUsize::new(0));
    client
        .on_event({
            let told = told.clone();
            move |_| {
                told.fetch_add(1, Ordering::SeqCst);
            }
        })
        .detach();
    assert_eq!(event(&mut events).await, Some(Event::Connected));
    site.down();
    let Some(Event::Disconnected { kind, .. }) = event(&mut events).await else { panic!("no disconnection") };
    assert_eq!(kind, ErrorKind::ConnectionLost);
    assert!(!client.is_connected());
    let mut last = 0;
    while last < 4 {
        let Some(Event::Reconnecting { attempt, delay, .. }) = event(&mut events).await else {
            panic!("no try")
        };
        assert_eq!(attempt, last + 1);
        assert!(delay <= Duration::from_millis(20));
        last = attempt;
    }
    site.up().await;
    connected(&mut events).await;
    assert!(told.load(Ordering::SeqCst) >= 7);
    client.disconnect().await;
    assert!(matches!(event(&mut events).await, Some(Event::Disconnected { .. })));
    assert_eq!(event(&mut events).await, None);
    assert_eq!(Arc::strong_count(&told), 1, "the callback is still held");
}

struct Slow(Arc<tokio::sync::Notify>);

impl Handlers for Slow {
    async fn on_call(&self, call: Call) -> Result<Bytes, RpcError> {
        if call.method() == "slow" {
            self.0.notify_one();
            std::future::pending::<()>().await;
        }
        Ok(call.params_bytes())
    }
}

#[tokio::test]
async fn calls_under_way_fail_immediately_and_servers_stay() {
    let mut site = Site::start().await;
    let started = Arc::new(tokio::sync::Notify::new());
    let server = Rpc::new(site.client("server").await, Slow(started.clone()));
    let caller = Rpc::new(site.client("caller").await, ());
    let (mut ours, mut theirs) = (caller.client().events(), server.client().events());
    connected(&mut ours).await;
    connected(&mut theirs).await;
    let call = tokio::spawn({
        let caller = caller.clone();
        async move { caller.call_with_deadline("server", "slow", "", QoS::Processed, 10 * PATIENCE).await }
    });
    started.notified().await;
    site.down();
    let e = tokio::time::timeout(PATIENCE, call).await.unwrap().unwrap().unwrap_err();
    assert_eq!(e.kind(), Some(ErrorKind::Io), "{e}");
    site.up().await;
    connected(&mut ours).await;
    connected(&mut theirs).await;
    let reply = caller.call("server", "echo", "hello", QoS::Processed).await.unwrap();
    assert_eq!(reply.payload(), b"hello");
}

#[tokio::test]
async fn operations_fail_immediately_by_default() {
    let mut site = Site::start().await;
    let client = site.client("a").await;
    let mut events = client.events();
    connected(&mut events).await;
    site.down();
    event(&mut events).await;
    for qos in [QoS::No, QoS::Processed] {
        assert_eq!(client.send("a", "x", qos).await.unwrap_err().kind(), ErrorKind::ConnectionLost);
        assert_eq!(client.subscribe("x", qos).await.unwrap_err().kind(), ErrorKind::ConnectionLost);
    }
    assert_eq!(client.ping().await.unwrap_err().kind(), ErrorKind::ConnectionLost);
    let caller = Rpc::new(client.clone(), ());
    let e = caller.call("a", "m", "", QoS::Processed).await.unwrap_err();
    assert_eq!(e.kind(), Some(ErrorKind::Io));
    site.up().await;
    connected(&mut events).await;
    client.publish("x", "nobody is subscribed", QoS::Processed).await.unwrap();
    assert_eq!(client.stats().r_frames, 0);
}

#[tokio::test]
async fn operations_wait_up_to_a_bound() {
    let mut site = Site::start().await;
    let patient = Client::connect(&site.config("a").while_down(WhileDown::Wait(PATIENCE))).await.unwrap();
    let hasty = site.config("b").while_down(WhileDown::Wait(Duration::from_millis(20)));
    let hasty = Client::connect(&hasty).await.unwrap();
    let mut frames = patient.frames().unwrap();
    let mut events = patient.events();
    connected(&mut events).await;
    site.down();
    event(&mut events).await;
    let waiting = tokio::spawn({
        let client = patient.clone();
        async move {
            client.subscribe("t", QoS::Processed).await?;
            client.publish("t", "at last", QoS::No).await
        }
    });
    assert_eq!(hasty.send("a", "x", QoS::No).await.unwrap_err().kind(), ErrorKind::ConnectionLost);
    assert!(!waiting.is_finished());
    site.up().await;
    waiting.await.unwrap().unwrap();
    assert_eq!(next(&mut frames).await.payload(), b"at last");
}

#[tokio::test]
async fn operations_are_queued_up_to_a_bound() {
    let mut site = Site::start().await;
    let config = site.config("a").while_down(WhileDown::Queue(1000 * (64 + 1 + 4)));
    let client = Client::connect(&config).await.unwrap();
    let mut frames = client.frames().unwrap();
    let mut events = client.events();
    connected(&mut events).await;
    site.down();
    event(&mut events).await;
    for i in 0..1000u32 {
        client.send("a", i.to_le_bytes().to_vec(), QoS::No).await.unwrap();
    }
    let e = client.send("a", "one too many", QoS::No).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::ConnectionLost);
    assert_eq!(client.send("a\0", "x", QoS::Realtime).await.unwrap_err().kind(), ErrorKind::Data);
    let last = tokio::spawn({
        let client = client.clone();
        async move { client.send("a", 1000u32.to_le_bytes().to_vec(), QoS::Processed).await }
    });
    tokio::task::yield_now().await;
    site.up().await;
    last.await.unwrap().unwrap();
    for i in 0..=1000u32 {
        assert_eq!(next(&mut frames).await.payload(), i.to_le_bytes());
    }
    nothing_waits(&client, &mut frames).await;
}

/// The program ends the client while one of the queued operations is being handed to the new connection.
#[tokio::test]
async fn an_operation_that_was_being_handed_over_is_counted() {
    const LEN: usize = 256 << 10;
    let listener = Arc::new(FakeListener::new());
    let accept = |listener: &Arc<FakeListener>| {
        let listener = listener.clone();
        tokio::task::spawn_blocking(move || listener.accept())
    };
    let first = accept(&listener);
    let config = listener.config().reconnect(quick()).while_down(WhileDown::Queue(64 << 20)).queue_bytes(LEN);
    let client = Client::connect(&config).await.unwrap();
    let mut events = client.events();
    connected(&mut events).await;
    drop(first.await.unwrap());
    while !matches!(event(&mut events).await, Some(Event::Disconnected { .. })) {}
    // The sockets and the queue hold only a few of them, because nothing is read.
    for _ in 0..20 {
        client.send("x", vec![7; LEN], QoS::No).await.unwrap();
    }
    let mut second = accept(&listener).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    client.close();
    let mut dropped = 0;
    loop {
        match event(&mut events).await {
            Some(Event::Dropped { frames, .. }) => dropped += frames,
            Some(Event::Disconnected { last: true, .. }) | None => break,
            Some(_) => {}
        }
    }
    // The operations that were handed over before may still arrive.
    let received = tokio::task::spawn_blocking(move || {
        let mut bytes = vec![];
        let _ = second.stream.read_to_end(&mut bytes);
        // Besides the payloads there are a few bytes of headers.
        bytes.len() / LEN + usize::from(bytes.len() % LEN > 1000)
    });
    let received = received.await.unwrap() as u64;
    assert_eq!(dropped + received, 20, "dropped {dropped}, received {received}, the last maybe in part");
}

#[tokio::test]
async fn queued_operations_that_were_never_sent_are_counted() {
    let mut site = Site::start().await;
    let client = Client::connect(&site.config("a").while_down(WhileDown::Queue(1 << 20))).await.unwrap();
    let mut events = client.events();
    connected(&mut events).await;
    site.down();
    event(&mut events).await;
    for _ in 0..3 {
        client.send("a", "x", QoS::No).await.unwrap();
    }
    client.disconnect().await;
    while !matches!(event(&mut events).await.unwrap(), Event::Dropped { frames: 3, .. }) {}
}

#[tokio::test]
async fn a_name_that_is_still_held_is_tried_until_it_is_free() {
    let mut site = Site::start().await;
    let client = site.client("a").await;
    let mut events = client.events();
    connected(&mut events).await;
    // Another client holds the name, like a dead connection that the broker has not noticed.
    site.down();
    while !matches!(event(&mut events).await, Some(Event::Reconnecting { attempt: 1, .. })) {}
    let other = std::path::PathBuf::from(&site.path).with_file_name("other.sock").display().to_string();
    let broker = Broker::new(Options::default());
    broker.listen(&other).await.unwrap();
    let holder = Client::connect(&Config::new(other, "a")).await.unwrap();
    broker.listen(&site.path).await.unwrap();
    while !matches!(event(&mut events).await, Some(Event::Reconnecting { attempt, .. }) if attempt > 4) {}
    assert!(!client.is_connected());
    drop(holder);
    connected(&mut events).await;
    client.send("a", "x", QoS::Processed).await.unwrap();
}

#[tokio::test]
async fn secondaries_come_back_after_their_primary() {
    let mut site = Site::start().await;
    let primary = site.client("a").await;
    let secondary = primary.secondary_named("1").await.unwrap();
    let third = secondary.secondary().await.unwrap();
    let mut all = [primary.events(), secondary.events(), third.events()];
    secondary.subscribe("t", QoS::Processed).await.unwrap();
    let mut frames = secondary.frames().unwrap();
    for events in &mut all {
        connected(events).await;
    }
    for _ in 0..3 {
        site.down();
        site.up().await;
        for events in &mut all {
            connected(events).await;
        }
        primary.publish("t", "x", QoS::Processed).await.unwrap();
        assert_eq!(next(&mut frames).await.topic(), Some("t"));
    }
    // They end with their primary.
    primary.disconnect().await;
    assert_eq!(secondary.closed().await.kind(), ErrorKind::ConnectionLost);
    drop(primary);
    assert_eq!(third.closed().await.kind(), ErrorKind::ConnectionLost);
}

#[tokio::test]
async fn it_gives_up_after_the_configured_number_of_attempts() {
    let mut site = Site::start().await;
    let config = site.config("a").reconnect(quick().tries(3)).while_down(WhileDown::Wait(PATIENCE));
    let client = Client::connect(&config).await.unwrap();
    let mut frames = client.frames().unwrap();
    site.down();
    let e = client.closed().await;
    assert!(e.to_string().contains("after 3 tries"), "{e}");
    assert!(frames.recv().await.is_none());
    assert_eq!(client.send("a", "x", QoS::No).await.unwrap_err().kind(), ErrorKind::ConnectionLost);
}

#[tokio::test]
async fn a_dropped_client_stops_reconnecting() {
    let mut site = Site::start().await;
    let client = site.client("a").await;
    let mut events = client.events();
    let mut frames = client.frames().unwrap();
    connected(&mut events).await;
    site.down();
    while !matches!(event(&mut events).await, Some(Event::Reconnecting { .. })) {}
    drop(client);
    while event(&mut events).await.is_some() {}
    assert!(frames.recv().await.is_none());
    let alive = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    eventually("the tasks are gone", || alive() == 0).await;
    site.up().await;
    assert!(site.broker.as_ref().unwrap().clients().clients.iter().all(|client| client.name != "a"));
}

/// Accepts a connection and registers it as a broker does, so that the test sees the bytes of the client.
fn accept(listener: &std::os::unix::net::UnixListener, name: &str) -> std::os::unix::net::UnixStream {
    let mut stream = accept_but_for_the_answer(listener, name);
    stream.write_all(&[1]).unwrap();
    stream
}

fn accept_but_for_the_answer(
    listener: &std::os::unix::net::UnixListener,
    name: &str,
) -> std::os::unix::net::UnixStream {
    let (mut stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(&[0xeb, 1, 0]).unwrap();
    expect(&mut stream, &[0xeb, 1, 0]);
    stream.write_all(&[1]).unwrap();
    expect(&mut stream, &[&(name.len() as u16).to_le_bytes(), name.as_bytes()].concat());
    stream
}

fn expect(stream: &mut std::os::unix::net::UnixStream, wanted: &[u8]) {
    let mut got = vec![0; wanted.len()];
    stream.read_exact(&mut got).unwrap();
    assert_eq!(got, wanted, "{} instead of {}", got.escape_ascii(), wanted.escape_ascii());
}

#[tokio::test]
async fn a_client_dropped_while_it_registers_does_not_stay_connected() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bus.sock").display().to_string();
    let listener = Arc::new(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let config = Config::new(&path, "me").reconnect(quick()).ping_interval(PATIENCE * 2).silence(None);
    // The order in which the task notices the drop and the answer is random: it is tried several times.
    for _ in 0..20 {
        let (go, gone) = std::sync::mpsc::channel::<()>();
        let broker = tokio::task::spawn_blocking({
            let listener = listener.clone();
            move || {
                let stream = accept(&listener, "me");
                gone.recv().unwrap();
                drop(stream);
                accept_but_for_the_answer(&listener, "me")
            }
        });
        let client = Client::connect(&config).await.unwrap();
        go.send(()).unwrap();
        let mut stream = broker.await.unwrap();
        stream.write_all(&[1]).unwrap();
        // The socket is readable now, but the task that waits for the answer has not read it.
        tokio::task::yield_now().await;
        drop(client);
        let mut peer = Peer { stream };
        assert!(tokio::task::spawn_blocking(move || peer.is_closed()).await.unwrap(), "the connection stays");
    }
}

#[tokio::test]
async fn everything_is_restored_in_few_frames_before_anything_else() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bus.sock").display().to_string();
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let (go, gone) = std::sync::mpsc::channel::<()>();
    let broker = std::thread::spawn(move || {
        let mut stream = accept(&listener, "me");
        expect(
            &mut stream,
            b"\x01\0\0\0\x42\x03\0\0\0b\0a\x02\0\0\0\x44\x01\0\0\0x\x03\0\0\0\x42\x01\0\0\0c",
        );
        stream.write_all(b"\xfe\x01\0\0\0\x01\xfe\x02\0\0\0\x01\xfe\x03\0\0\0\x01").unwrap();
        expect(&mut stream, b"\x04\0\0\0\x42\x04\0\0\0lost");
        gone.recv().unwrap();
        drop(stream);
        let mut stream = accept(&listener, "me");
        expect(&mut stream, b"\x01\0\0\0\xc4\x01\0\0\0x\x02\0\0\0\xc2\x05\0\0\0a\0b\0c");
        // Operations that wait for the connection are not sent before the broker has acknowledged this.
        stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        stream.read_exact(&mut [0]).unwrap_err();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(b"\xfe\x01\0\0\0\x01\xfe\x02\0\0\0\x01").unwrap();
        expect(&mut stream, b"\0\0\0\0\x12\x07\0\0\0b\0first\0\0\0\0\x12\x06\0\0\0b\0next");
    });
    let config =
        Config::new(&path, "me").reconnect(quick()).while_down(WhileDown::Queue(1000)).timeout(PATIENCE);
    let config = config.ping_interval(PATIENCE).silence(None);
    let client = Client::connect(&config).await.unwrap();
    let mut events = client.events();
    connected(&mut events).await;
    client.subscribe(["b", "a"], QoS::No).await.unwrap();
    client.exclude("x", QoS::No).await.unwrap();
    client.subscribe("c", QoS::Processed).await.unwrap();
    let lost = Operation::Subscribe(busrt::proto::request::Topics::Joined("lost"));
    let lost = client.submit(lost, QoS::Processed).await.unwrap();
    go.send(()).unwrap();
    assert_eq!(lost.await.unwrap_err().kind(), ErrorKind::ConnectionLost);
    event(&mut events).await;
    client.send("b", "first", QoS::No).await.unwrap();
    client.send("b", "next", QoS::No).await.unwrap();
    tokio::task::spawn_blocking(move || broker.join().unwrap()).await.unwrap();
}

#[tokio::test]
async fn a_silent_broker_is_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bus.sock").display().to_string();
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let broker = std::thread::spawn(move || {
        let mut first = accept(&listener, "me");
        let probe = b"\x01\0\0\0\xc3\x0c\0\0\0.busrt/alive";
        expect(&mut first, probe);
        // Any byte counts as an answer.
        first.write_all(&[0; 6]).unwrap();
        expect(&mut first, b"\x02\0\0\0\xc3\x0c\0\0\0.busrt/alive");
        // It sends nothing more, so that the client connects again.
        (first, accept(&listener, "me"))
    });
    let config = Config::new(&path, "me").ping_interval(PATIENCE).timeout(Duration::from_millis(200));
    let client =
        Client::connect(&config.silence(Duration::from_millis(30)).reconnect(quick())).await.unwrap();
    let mut events = client.events();
    connected(&mut events).await;
    let Some(Event::Disconnected { reason, .. }) = event(&mut events).await else { panic!("no end") };
    assert!(reason.contains("does not answer"), "{reason}");
    let _streams = tokio::task::spawn_blocking(move || broker.join().unwrap()).await.unwrap();
}

#[tokio::test]
async fn a_half_open_connection_is_noticed_with_a_full_inbox() {
    let mut site = Site::start().await;
    let config = site.config("a").inbox_bytes(4 * common::held_by(3)).ping_interval(Duration::from_millis(5));
    let client = Client::connect(&config).await.unwrap();
    let mut events = client.events();
    connected(&mut events).await;
    let mut frames = client.frames().unwrap();
    let sender = Client::connect(&Config::new(&site.path, "b")).await.unwrap();
    for _ in 0..10 {
        sender.send("a", "x", QoS::Processed).await.unwrap();
    }
    eventually("the queue is full", || client.stats().queue >= 4).await;
    site.down();
    site.up().await;
    connected(&mut events).await;
    client.send("a", "after", QoS::Processed).await.unwrap();
    while next(&mut frames).await.payload() != b"after" {}
}
