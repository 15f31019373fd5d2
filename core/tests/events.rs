//! The events of a connection, their times, and the removal of callbacks.
#![cfg(all(unix, feature = "broker"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod common;

use busrt::QoS;
use busrt::broker::Options;
use busrt::client::{Client, Config, Deadline, Event, Reconnect, Request};
use busrt::proto::request::Operation;
use bytes::Bytes;
use common::{Bus, PATIENCE, eventually};
use parking_lot::Mutex;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

const NAME: &str = "me";

/// Registers one client like a broker, and answers nothing after that.
fn accept(listener: &UnixListener) -> UnixStream {
    let (mut stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(&[0xeb, 1, 0]).unwrap();
    stream.read_exact(&mut [0; 3]).unwrap();
    stream.write_all(&[1]).unwrap();
    stream.read_exact(&mut [0; 2 + NAME.len()]).unwrap();
    stream.write_all(&[1]).unwrap();
    stream
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operations_fail_before_the_end_is_reported() {
    for (reconnects, by_the_program) in [(false, false), (false, true), (true, false), (true, true)] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bus.sock").display().to_string();
        let listener = UnixListener::bind(&path).unwrap();
        let (go, gone) = mpsc::channel::<()>();
        let broker = std::thread::spawn(move || {
            let stream = accept(&listener);
            drop(listener);
            gone.recv().unwrap();
            drop(stream);
        });
        let plan = reconnects.then(|| Reconnect::new().tries(1));
        let client =
            Client::connect(&Config::new(&path, NAME).timeout(PATIENCE).reconnect(plan)).await.unwrap();
        let operation = Operation::Message { target: "x", payload: Bytes::from_static(b"y") };
        let pending = Arc::new(Mutex::new(client.submit(operation, QoS::Processed).await.unwrap()));
        let (tell, told) = mpsc::channel();
        let callback = client.on_event({
            let pending = pending.clone();
            move |event| {
                if matches!(event, Event::Disconnected { .. }) {
                    let _ = tell.send(pending.lock().is_completed());
                }
            }
        });
        let closing = by_the_program.then(|| {
            let client = client.clone();
            tokio::spawn(async move { client.disconnect().await })
        });
        if by_the_program {
            eventually("the client closes", || !client.is_connected()).await;
            assert!(told.try_recv().is_err(), "the event is reported before the operation has failed");
        }
        go.send(()).unwrap();
        let completed = tokio::task::spawn_blocking(move || told.recv_timeout(PATIENCE).unwrap());
        assert!(completed.await.unwrap(), "reconnects {reconnects}, by the program {by_the_program}");
        if let Some(closing) = closing {
            closing.await.unwrap();
        }
        broker.join().unwrap();
        drop(callback);
    }
}

/// Operations also fail first when the client ends with its runtime, whose tasks are dropped in any order.
#[test]
fn operations_fail_before_the_end_of_the_runtime_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bus.sock").display().to_string();
    let listener = UnixListener::bind(&path).unwrap();
    for round in 0..60 {
        let (reconnects, closes) = (round % 2 == 0, round % 4 < 2);
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let plan = reconnects.then(Reconnect::new);
        // Unwritten data delays the end of the runtime only for a short time.
        let config = Config::new(&path, NAME).timeout(Duration::from_millis(20)).reconnect(plan);
        let connecting = runtime.spawn(async move { Client::connect(&config).await });
        let _broker = accept(&listener);
        let client = runtime.block_on(connecting).unwrap().unwrap();
        let request = Request::message("x", b"y", QoS::Processed).deadline(Deadline::Never);
        let operation = client.try_send(&request).unwrap().sent().unwrap();
        #[cfg(feature = "rpc")]
        let call = {
            use busrt::rpc::{CallRequest, Caller};
            let request = CallRequest::new("x", "m", b"", QoS::No).deadline(Deadline::Never);
            Caller::new(client.clone()).try_call(&request).unwrap().sent().unwrap()
        };
        #[cfg(feature = "rpc")]
        let completed = move || operation.is_completed() && call.is_completed();
        #[cfg(not(feature = "rpc"))]
        let completed = move || operation.is_completed();
        let (tell, told) = mpsc::channel();
        client
            .on_event(move |event| {
                if matches!(event, Event::Disconnected { .. }) {
                    let _ = tell.send(completed());
                }
            })
            .detach();
        if closes {
            // The end has begun, and nothing has failed yet.
            runtime.spawn({
                let client = client.clone();
                async move { client.disconnect().await }
            });
        }
        drop(runtime);
        assert_eq!(told.recv_timeout(PATIENCE), Ok(true), "round {round}");
        drop(client);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_disconnection_says_so() {
    let Bus { broker, path, _dir, .. } = Bus::start(Options::default()).await;
    let delay = Duration::from_millis(10);
    let plan = Reconnect::new().delays(delay, delay).tries(2);
    let client = Client::connect(&Config::new(&path, NAME).reconnect(plan)).await.unwrap();
    let single = Client::connect(&Config::new(&path, "single")).await.unwrap();
    let (mut events, mut single) = (client.events(), single.events());
    drop(broker);
    let mut last = vec![];
    while let Some(event) = events.recv().await {
        if let Event::Disconnected { last: is_last, .. } = event {
            last.push(is_last);
        }
    }
    assert_eq!(last, [false, true]);
    assert_eq!(single.recv().await, Some(Event::Connected));
    assert!(matches!(single.recv().await, Some(Event::Disconnected { last: true, .. })));
    assert_eq!(single.recv().await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_callback_that_holds_its_client_does_not_keep_it_for_ever() {
    let bus = Bus::start(Options::default()).await;
    let is_registered = || bus.broker.clients().clients.iter().any(|client| client.name == NAME);
    let client = bus.client(NAME).await;
    let callback = client.on_event({
        let client = client.clone();
        move |_| drop(client.name().to_owned())
    });
    drop(client);
    assert!(is_registered());
    drop(callback);
    eventually("the client is unregistered", || !is_registered()).await;

    // A weak handle does not keep the client alive, however long the callback exists.
    let client = bus.client(NAME).await;
    let weak = client.downgrade();
    client.on_event(move |_| drop(weak.upgrade())).detach();
    let weak = client.downgrade();
    drop(client);
    assert!(weak.upgrade().is_none());
    eventually("the client is unregistered", || !is_registered()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_waker_of_a_stream_may_use_the_client() {
    struct Reenters(Client, AtomicBool);
    impl Wake for Reenters {
        fn wake(self: Arc<Self>) {
            let _ = self.0.events();
            drop(self.0.on_event(|_| ()));
            self.1.store(true, Ordering::SeqCst);
        }
    }
    let bus = Bus::start(Options::default()).await;
    let client = bus.client(NAME).await;
    let mut events = client.events();
    while events.try_recv().is_some() {}
    let reenters = Arc::new(Reenters(client.clone(), AtomicBool::new(false)));
    let waker = Waker::from(reenters.clone());
    assert!(events.poll_recv(&mut Context::from_waker(&waker)).is_pending());
    bus.broker.disconnect(NAME);
    eventually("the waker returns", || reenters.1.load(Ordering::SeqCst)).await;
}
