//! Clients within the broker's process whose receivers have no room: the effects of the end of the sender, of the end
//! of the receiver and of a deadline on waiting operations, and waiting outside of a runtime.
#![cfg(all(unix, feature = "broker", feature = "rpc"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod common;

use busrt::broker::{Options, SlowPolicy};
use busrt::client::{Client, CompletionQueue, Event, Frames, Request, Wait};
use busrt::rpc::Caller;
use busrt::{ErrorKind, QoS};
use common::{Bus, PATIENCE, Transport, eventually, held_by};
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const SHORT: Duration = Duration::from_millis(100);
/// Ten times what the waits of these tests take on a quiet machine.
const SOON: Duration = Duration::from_secs(3);

/// Creates a bus on which senders wait without a time limit.
async fn bus() -> Bus {
    let options = Options::default().slow(SlowPolicy::Block).hold(PATIENCE).stall(PATIENCE);
    Bus::start_for(Transport::Local, options).await
}

/// Creates a receiver with room for four small frames, and returns the frames, which it does not take.
async fn small(bus: &Bus, name: &str) -> (Client, Frames) {
    let config = bus.config(name).inbox_bytes(4 * held_by(8));
    let client = bus.broker.client_with(&config).await.unwrap();
    let frames = client.frames().unwrap();
    (client, frames)
}

/// Sends to a receiver until there is no room. The results go to the queue, numbered from 0. Returns their number.
fn fill(client: &Client, target: &str, completions: &CompletionQueue) -> u64 {
    let request = Request::message(target, "x", QoS::Processed);
    let mut sent = 0;
    while client.try_send_to(&request, completions, sent).unwrap().is_sent() {
        sent += 1;
        assert!(sent < 1000, "no bound");
    }
    sent
}

/// The ways in which a client ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Disconnects,
    Closes,
    IsDisconnected,
}

/// Operations that wait for a receiver fail when their own client ends, before the event of the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_a_sender_ends_waiting_operations() {
    for end in [End::Disconnects, End::Closes, End::IsDisconnected] {
        let bus = bus().await;
        let (_slow, _frames) = small(&bus, "slow").await;
        let client = bus.client("sender").await;
        let completions = CompletionQueue::new();
        let sent = fill(&client, "slow", &completions);
        // One of these is being delivered, the other waits behind it.
        let request = Request::message("slow", "x", QoS::Processed);
        assert!(client.send_in_order_to(&request, &completions, sent).unwrap().is_sent());
        let waits = sent + 1;
        let delivered = 4;
        eventually("the first are delivered", || completions.len() == delivered).await;
        let (told, pending) = (Arc::new(AtomicUsize::new(usize::MAX)), completions.clone());
        let callback = client.on_event({
            let told = told.clone();
            move |event| {
                if matches!(event, Event::Disconnected { .. }) {
                    told.store(pending.len(), Ordering::SeqCst);
                }
            }
        });
        let room = tokio::spawn({
            let client = client.clone();
            async move { client.room().ready().await }
        });
        let publication = tokio::spawn({
            let client = client.clone();
            async move { client.send("slow", "x", QoS::No).await }
        });
        let call = tokio::spawn({
            let caller = Caller::new(client.clone());
            async move { caller.call("slow", "m", "", QoS::Processed).await }
        });
        let blocking = tokio::task::spawn_blocking({
            let client = client.clone();
            move || client.room().wait(Wait::forever())
        });
        tokio::time::sleep(SHORT).await;
        let started = Instant::now();
        match end {
            End::Disconnects => client.disconnect().await,
            End::Closes => client.close(),
            End::IsDisconnected => assert!(bus.broker.disconnect("sender")),
        }
        assert_eq!(room.await.unwrap().unwrap_err().kind(), ErrorKind::ConnectionLost, "{end:?}");
        assert_eq!(blocking.await.unwrap().unwrap_err().kind(), ErrorKind::ConnectionLost, "{end:?}");
        assert_eq!(publication.await.unwrap().unwrap_err().kind(), ErrorKind::ConnectionLost, "{end:?}");
        assert_eq!(call.await.unwrap().unwrap_err().code(), -32115, "{end:?}");
        eventually("all have failed", || completions.len() as u64 == waits).await;
        assert!(started.elapsed() < SOON, "{end:?}: after {:?}", started.elapsed());
        let mut batch = vec![];
        completions.take(&mut batch, usize::MAX);
        for completion in &batch[delivered..] {
            let error = completion.error().expect("not delivered");
            assert_eq!(error.kind(), ErrorKind::ConnectionLost, "{end:?}: {error}");
        }
        eventually("the end is reported", || told.load(Ordering::SeqCst) < usize::MAX).await;
        assert_eq!(told.load(Ordering::SeqCst) as u64, waits, "{end:?}: the end was reported before");
        drop(callback);
    }
}

/// Operations that wait for a receiver fail when the runtime of their client is dropped.
#[test]
fn the_end_of_a_runtime_ends_waiting_operations() {
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(1).enable_all().build().unwrap()
    };
    let (server, own) = (runtime(), runtime());
    let bus = server.block_on(bus());
    let (_slow, _frames) = server.block_on(small(&bus, "slow"));
    let client = own.block_on(bus.client("sender"));
    let completions = CompletionQueue::new();
    let sent = fill(&client, "slow", &completions);
    let request = Request::message("slow", "x", QoS::Processed);
    assert!(client.send_in_order_to(&request, &completions, sent).unwrap().is_sent());
    server.block_on(eventually("the first are delivered", || completions.len() == 4));
    std::thread::sleep(SHORT);
    drop(own);
    server.block_on(eventually("all have failed", || completions.len() as u64 == sent + 1));
}

/// Only one task awaits the operation.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_a_sender_ends_an_operation_that_a_task_awaits() {
    for end in [End::Disconnects, End::Closes, End::IsDisconnected] {
        let bus = bus().await;
        let (_slow, _frames) = small(&bus, "slow").await;
        let client = bus.client("sender").await;
        for _ in 0..4 {
            client.send("slow", "x", QoS::Processed).await.unwrap();
        }
        for qos in [QoS::No, QoS::Processed] {
            let name = format!("sender.{qos:?}");
            let client = bus.client(&name).await;
            let waits = tokio::spawn({
                let client = client.clone();
                async move { client.send("slow", "x", qos).await }
            });
            tokio::time::sleep(SHORT).await;
            assert!(!waits.is_finished());
            let started = Instant::now();
            match end {
                End::Disconnects => client.disconnect().await,
                End::Closes => client.close(),
                End::IsDisconnected => assert!(bus.broker.disconnect(&name)),
            }
            assert_eq!(waits.await.unwrap().unwrap_err().kind(), ErrorKind::ConnectionLost, "{end:?}");
            assert!(started.elapsed() < SOON, "{end:?}: after {:?}", started.elapsed());
        }
    }
}

/// When a receiver leaves, operations that wait for it end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_a_receiver_ends_operations_that_wait_for_it() {
    let bus = bus().await;
    let (slow, frames) = small(&bus, "slow").await;
    let client = bus.client("sender").await;
    let completions = CompletionQueue::new();
    let sent = fill(&client, "slow", &completions);
    let waits = tokio::spawn({
        let client = client.clone();
        async move { client.send("slow", "x", QoS::Processed).await }
    });
    tokio::time::sleep(SHORT).await;
    drop((slow, frames));
    assert_eq!(waits.await.unwrap().unwrap_err().kind(), ErrorKind::NotRegistered);
    eventually("all have ended", || completions.len() as u64 == sent).await;
    client.room().ready().await.unwrap();
    client.flush().await.unwrap();
}

/// Waiting for a receiver works on any executor, and without one: receivers in the process and on a socket.
#[test]
fn waiting_for_a_receiver_outside_of_a_runtime() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    for on_a_socket in [false, true] {
        let bus = runtime.block_on(bus());
        let (slow, mut frames) = if on_a_socket {
            let config = bus.config("slow").inbox_bytes(4 * held_by(8));
            let client = runtime.block_on(Client::connect(&config)).unwrap();
            let frames = client.frames().unwrap();
            (client, frames)
        } else {
            runtime.block_on(small(&bus, "slow"))
        };
        let client = runtime.block_on(bus.client("sender"));
        let size = if on_a_socket { 100_000 } else { 1 };
        let taking = std::thread::spawn(move || {
            std::thread::sleep(SHORT);
            let mut taken = 0;
            let wait = || Wait::at_most(PATIENCE);
            while let Some(frame) = wait().on(|cx| frames.poll_recv(cx)).unwrap().expect("a frame") {
                taken += 1;
                if frame.payload() == b"last" {
                    return taken;
                }
            }
            taken
        });
        let count = 300;
        for qos in [QoS::No, QoS::Processed] {
            for _ in 0..count {
                let mut sending = pin!(client.send("slow", vec![b'x'; size], qos));
                let sent = Wait::at_most(PATIENCE).on(|cx| sending.as_mut().poll(cx)).unwrap();
                sent.expect("sent in time").unwrap();
            }
        }
        let mut sending = pin!(client.send("slow", "last", QoS::Processed));
        Wait::at_most(PATIENCE).on(|cx| sending.as_mut().poll(cx)).unwrap().expect("in time").unwrap();
        assert_eq!(taking.join().unwrap(), 2 * count + 1);
        assert!(slow.is_connected());
    }
}

/// The deadline of a call is kept while its receiver has no room.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadline_of_a_call_holds_while_its_receiver_has_no_room() {
    let bus = bus().await;
    let (_slow, _frames) = small(&bus, "slow").await;
    let client = bus.client("sender").await;
    for _ in 0..4 {
        client.send("slow", "x", QoS::Processed).await.unwrap();
    }
    let caller = Caller::new(client);
    // The first is being delivered, the others wait for room behind it.
    for qos in [QoS::Processed, QoS::No, QoS::Processed] {
        let started = Instant::now();
        let late = caller.call_with_deadline("slow", "m", "", qos, SHORT).await.unwrap_err();
        assert_eq!(late.code(), -32120);
        assert!(started.elapsed() < SOON, "after {:?}", started.elapsed());
    }
}
