//! Calls in progress: deadlines, room, lost connections, handles and completions.
#![cfg(all(unix, feature = "broker", feature = "rpc"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod common;

use busrt::broker::Options;
use busrt::client::{Client, Completed, CompletionQueue, Config, Deadline, Reconnect, Request, Wait};
use busrt::client::{Frames, WhileDown};
use busrt::rpc::{CallRequest, Caller, Reply};
use busrt::{ErrorKind, QoS};
use bytes::Bytes;
use common::fake::{FakeBroker, FakeListener};
use common::{Bus, PATIENCE, next};
use std::time::{Duration, Instant};

const SHORT: Duration = Duration::from_millis(100);
/// Ten times what the waits of these tests take on a quiet machine.
const SOON: Duration = Duration::from_secs(2);

async fn connected(listener: FakeListener, config: &Config) -> (Client, FakeBroker, FakeListener) {
    let accepted = tokio::task::spawn_blocking(move || (listener.accept(), listener));
    let client = Client::connect(config).await.unwrap();
    let (broker, listener) = accepted.await.unwrap();
    (client, broker, listener)
}

fn fill(client: &Client) {
    let payload = vec![0; 256 * 1024];
    while client.try_send(&Request::publish("fill", &payload, QoS::No)).unwrap().is_sent() {}
}

fn holds_call(body: &[u8], method: &str) -> bool {
    body.windows(method.len()).any(|part| part == method.as_bytes())
}

/// A call that waits for room when the connection breaks either continues over the next one, or is reported as failed
/// and not sent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_was_reported_as_failed_is_never_sent() {
    for (waits, deadline) in [(true, PATIENCE), (true, Duration::from_millis(300)), (false, PATIENCE)] {
        let listener = FakeListener::new();
        let config = listener
            .config()
            .queue_size(1)
            .reconnect(Reconnect::new().delays(Duration::from_millis(20), Duration::from_millis(20)))
            .while_down(if waits { WhileDown::Wait(PATIENCE) } else { WhileDown::Fail });
        let (client, broker, listener) = connected(listener, &config).await;
        fill(&client);
        let caller = Caller::new(client.clone());
        let mut call = tokio::spawn(async move {
            caller.call_with_deadline("srv", "transfer_money", "", QoS::Processed, deadline).await
        });
        tokio::time::sleep(SHORT).await;
        drop(broker);
        let goes_on = waits && deadline == PATIENCE;
        let failed = if goes_on { None } else { Some((&mut call).await.unwrap().unwrap_err()) };
        let accepting = tokio::task::spawn_blocking(move || (listener.accept(), listener));
        let (mut broker, _listener) = accepting.await.unwrap();
        let seen = tokio::task::spawn_blocking(move || {
            let mut calls = 0;
            while let Some(sent) = broker.next_within(5 * SHORT) {
                calls += u32::from(holds_call(&sent.body, "transfer_money"));
            }
            (calls, broker)
        });
        let (seen, _broker) = seen.await.unwrap();
        match failed {
            None => {
                assert!(!call.is_finished(), "{:?}", call.await);
                assert_eq!(seen, 1);
            }
            Some(error) => {
                let kind = if waits { ErrorKind::Timeout } else { ErrorKind::Io };
                assert_eq!((seen, error.kind()), (0, Some(kind)), "{error}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadline_holds_while_a_call_waits_for_room() {
    let listener = FakeListener::new();
    let config = listener.config().queue_size(1);
    let (client, _broker, _listener) = connected(listener, &config).await;
    fill(&client);
    let caller = Caller::new(client);
    let started = Instant::now();
    let late = caller.call_with_deadline("srv", "m", "", QoS::Processed, SHORT).await.unwrap_err();
    assert_eq!(late.code(), -32120);
    assert!(started.elapsed() < SOON, "after {:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadline_holds_while_a_call_waits_for_a_connection() {
    for policy in [WhileDown::Wait(PATIENCE), WhileDown::Queue(1 << 20)] {
        let listener = FakeListener::new();
        let config = listener.config().reconnect(Reconnect::new()).while_down(policy);
        let (client, broker, listener) = connected(listener, &config).await;
        drop((broker, listener));
        common::eventually("the loss of the connection is noticed", || !client.is_connected()).await;
        let caller = Caller::new(client);
        let started = Instant::now();
        let late = caller.call_with_deadline("srv", "m", "", QoS::No, SHORT).await.unwrap_err();
        assert_eq!(late.code(), -32120);
        assert!(started.elapsed() < SOON, "after {:?}", started.elapsed());
    }
}

/// Answers every request with its own parameters.
async fn echo(client: Client, mut frames: Frames) {
    while let Some(frame) = frames.recv().await {
        let payload = frame.payload();
        let Some((id, rest)) = payload.get(1..).and_then(|rest| rest.split_first_chunk::<4>()) else {
            continue;
        };
        let params = rest.splitn(2, |byte| *byte == 0).nth(1).unwrap_or_default();
        let reply = [&[0x11][..], id, params].concat();
        client.send(frame.sender(), reply, QoS::No).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_from_a_plain_thread() {
    common::on_every_transport(async |bus| {
        let (server, frames) = bus.listener("srv").await;
        let serving = tokio::spawn(echo(server, frames));
        let caller = Caller::new(bus.client("me").await);
        let plain = std::thread::spawn(move || {
            let completions = CompletionQueue::new();
            for token in 0..64u64 {
                let params = token.to_le_bytes();
                let call = CallRequest::new("srv", "echo", &params, QoS::Processed).prefix(b"number ");
                assert!(caller.try_call_to(&call, &completions, token).unwrap().is_sent());
            }
            let mut batch = vec![];
            while batch.len() < 64 {
                assert!(completions.wait(Wait::at_most(PATIENCE)).unwrap());
                completions.take(&mut batch, 100);
            }
            for completion in batch {
                let Completed::Call(Ok(frame)) = completion.result else { panic!("no reply") };
                let wanted = [b"number ", &completion.token.to_le_bytes()[..]].concat();
                assert_eq!(Reply::new(frame).unwrap().payload(), wanted);
            }
            let params = Bytes::from(vec![7; 10_000]);
            let call = CallRequest::new("srv", "echo", &params, QoS::No).deadline(Deadline::Never);
            let pending = caller.try_call(&call).unwrap().sent().unwrap();
            assert!(pending.id() == 65);
            assert_eq!(pending.wait_timeout(PATIENCE).unwrap().unwrap().payload(), params);
            assert!(pending.is_completed() && pending.result().unwrap().is_ok());
            let call = CallRequest::new("nobody", "m", "", QoS::Processed);
            let pending = caller.try_call(&call).unwrap().sent().unwrap();
            assert_eq!(pending.wait_timeout(PATIENCE).unwrap().unwrap_err().code(), -32113);
        });
        tokio::task::spawn_blocking(move || plain.join().unwrap()).await.unwrap();
        serving.abort();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deadlines_are_kept_without_a_waiter_and_late_replies_are_dropped() {
    let listener = FakeListener::new();
    let config = listener.config();
    let (client, mut broker, _listener) = connected(listener, &config).await;
    let mut frames = client.frames().unwrap();
    let caller = Caller::new(client.clone());
    let completions = CompletionQueue::new();
    let call = CallRequest::new("srv", "m", "", QoS::No);
    let started = Instant::now();
    assert!(caller.try_call_to(&call.deadline(SHORT), &completions, 1).unwrap().is_sent());
    let cancelled = caller.try_call(&call).unwrap().sent().unwrap();
    let id = caller.try_call_to(&call, &completions, 2).unwrap().sent().unwrap();
    cancelled.cancel();
    assert!(caller.cancel(id) && !caller.cancel(id));
    completions.ready().await;
    let completion = completions.try_take().unwrap();
    assert_eq!((completion.token, completion.error().unwrap().kind()), (1, ErrorKind::Timeout));
    assert!(started.elapsed() >= SHORT && started.elapsed() < SOON, "after {:?}", started.elapsed());
    tokio::task::spawn_blocking(move || {
        for id in 1..=3u32 {
            let reply = [&[0x11][..], &id.to_le_bytes(), b"late"].concat();
            broker.message("srv", &reply);
            broker.message("other", &reply);
        }
        broker
    })
    .await
    .unwrap();
    // A reply from another client is an ordinary message.
    for _ in 1..=3 {
        assert_eq!(next(&mut frames).await.sender(), "other");
    }
    assert!(frames.try_recv().is_none() && completions.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn close_fails_calls_immediately() {
    let bus = Bus::start(Options::default()).await;
    let (_server, mut frames) = bus.listener("srv").await;
    let client = bus.client("me").await;
    let caller = Caller::new(client.clone());
    let completions = CompletionQueue::new();
    let call = CallRequest::new("srv", "m", "", QoS::No).deadline(Deadline::Never);
    let pending = caller.try_call(&call).unwrap().sent().unwrap();
    assert!(caller.try_call_to(&call, &completions, 7).unwrap().is_sent());
    client.close();
    assert_eq!(pending.wait_timeout(Duration::ZERO).unwrap().unwrap_err().code(), -32115);
    assert_eq!(completions.try_take().unwrap().error().unwrap().kind(), ErrorKind::ConnectionLost);
    assert_eq!(caller.try_call(&call).unwrap_err().code(), -32115);
    // Data that was sent before is written nevertheless.
    for _ in 0..2 {
        assert!(next(&mut frames).await.payload().starts_with(&[1]));
    }
}

/// The acknowledgement and the reply of one call are reported separately, by handles and by a queue.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_acknowledgement_of_a_call_is_separate() {
    let bus = Bus::start(Options::default()).await;
    let (client, mut server) = (bus.client("caller").await, bus.peer("srv"));
    let caller = Caller::new(client);
    let call = |target| CallRequest::new(target, "m", "", QoS::Processed).deadline(Deadline::Never);

    let (operation, pending) = caller.try_call_with_ack(&call("srv")).unwrap().sent().unwrap();
    operation.await.unwrap();
    assert!(!pending.is_completed(), "no reply was sent");
    server.send(1, 0x12, &[b"caller\0\x11", &pending.id().to_le_bytes()[..], b"result"].concat());
    assert_eq!(tokio::time::timeout(PATIENCE, pending).await.unwrap().unwrap().payload(), b"result");

    let (operation, pending) = caller.try_call_with_ack(&call("missing")).unwrap().sent().unwrap();
    assert_eq!(operation.await.unwrap_err().kind(), ErrorKind::NotRegistered);
    assert!(!pending.is_completed(), "the refusal belongs to the operation");

    let queue = CompletionQueue::new();
    let id = caller.try_call_with_ack_to(&call("srv"), &queue, 1, 2).unwrap().sent().unwrap();
    tokio::time::timeout(PATIENCE, queue.ready()).await.unwrap();
    let first = queue.try_take().unwrap();
    assert!(matches!((first.token, first.result), (1, Completed::Operation(Ok(())))));
    server.send(2, 0x12, &[b"caller\0\x11", &id.to_le_bytes()[..], b"again"].concat());
    tokio::time::timeout(PATIENCE, queue.ready()).await.unwrap();
    let second = queue.try_take().unwrap();
    let Completed::Call(Ok(frame)) = second.result else { panic!("{second:?}") };
    assert_eq!((second.token, Reply::new(frame).unwrap().payload()), (2, &b"again"[..]));
}
