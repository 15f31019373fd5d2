//! Sending: refusals, waits for room, and the reported outcomes.
#![cfg(all(unix, feature = "broker", feature = "rpc"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod common;

use busrt::broker::Options;
use busrt::client::{Client, Completed, Config, Reconnect, Request, Wait, WhileDown};
use busrt::proto::request::Operation;
use busrt::{ErrorKind, QoS};
use common::fake::{FakeBroker, FakeListener};
use common::{Bus, PATIENCE, eventually, next, nothing_waits};
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

const SHORT: Duration = Duration::from_millis(100);
/// Ten times what the waits of these tests take on a quiet machine.
const SOON: Duration = Duration::from_secs(2);

/// Connects to a fake broker.
async fn connected(listener: FakeListener, config: &Config) -> (Client, FakeBroker, FakeListener) {
    let accepted = tokio::task::spawn_blocking(move || (listener.accept(), listener));
    let client = Client::connect(config).await.unwrap();
    let (broker, listener) = accepted.await.unwrap();
    (client, broker, listener)
}

/// Sends until there is no room.
fn fill(client: &Client) {
    let payload = vec![0; 256 * 1024];
    while client.try_send(&Request::publish("fill", &payload, QoS::No)).unwrap().is_sent() {}
}

/// Returns frames that forge a message, of the length from which a payload is queued without a copy.
fn forged_frames(target: &str) -> Vec<u8> {
    let mut frames = vec![];
    let operation = Operation::Message { target, payload: &b"forged"[..] };
    operation.encode_head(0, QoS::No, &mut frames).unwrap();
    frames.extend_from_slice(b"forged");
    while frames.len() < 4600 {
        frames.extend_from_slice(&[0; 9]);
    }
    frames
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_part_of_a_refused_operation_is_written() {
    let bus = Bus::start(Options::default()).await;
    let (victim, mut frames) = bus.listener("victim").await;
    let client = bus.client("attacker").await;
    for payload in [forged_frames("victim"), vec![b'x'; 5000], vec![]] {
        for qos in [QoS::No, QoS::Processed] {
            let refused = client.publish("a\0b", payload.clone(), qos).await.unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Data);
            let refused = client.broadcast("*\0", payload.clone(), qos).await.unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Data);
            let refused = client.publish_for("topic", "a\0b", payload.clone(), qos).await.unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Data);
        }
    }
    client.send("victim", "genuine", QoS::Processed).await.unwrap();
    assert_eq!(next(&mut frames).await.payload(), b"genuine");
    nothing_waits(&victim, &mut frames).await;
    assert!(client.is_connected());
}

/// Waiting for room works on any executor, and without one.
#[test]
fn waiting_for_room_outside_of_a_runtime() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let listener = FakeListener::new();
    let config = listener.config().queue_size(4).timeout(SHORT);
    let (client, broker, _listener) = runtime.block_on(connected(listener, &config));
    fill(&client);
    let mut publish = pin!(client.publish("t", "x", QoS::No));
    let result = Wait::forever().on(|cx| publish.as_mut().poll(cx)).unwrap().unwrap();
    assert_eq!(result.unwrap_err().kind(), ErrorKind::Timeout);
    drop(broker);
}

/// Waiting for a connection works on any executor too, and without one.
#[test]
fn waiting_for_a_connection_outside_of_a_runtime() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let listener = FakeListener::new();
    let delay = Duration::from_millis(20);
    let config = listener.config().reconnect(Reconnect::new().delays(delay, delay));
    let config = config.while_down(WhileDown::Wait(3 * SHORT));
    let (client, broker, listener) = runtime.block_on(connected(listener, &config));
    drop(broker);
    runtime.block_on(eventually("the loss of the connection is noticed", || !client.is_connected()));
    let started = Instant::now();
    let mut publish = pin!(client.publish("t", "lost", QoS::No));
    let lost = Wait::forever().on(|cx| publish.as_mut().poll(cx)).unwrap().unwrap().unwrap_err();
    assert_eq!(lost.kind(), ErrorKind::ConnectionLost);
    assert!(started.elapsed() >= 2 * SHORT && started.elapsed() < SOON, "after {:?}", started.elapsed());
    let accepting = std::thread::spawn(move || {
        let mut broker = listener.accept();
        (broker.next().body, broker, listener)
    });
    let mut publish = pin!(client.publish("t", "sent", QoS::No));
    Wait::forever().on(|cx| publish.as_mut().poll(cx)).unwrap().unwrap().unwrap();
    assert_eq!(accepting.join().unwrap().0, b"t\0sent");
}

#[test]
fn a_plain_thread_sends_waits_for_room_and_flushes() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let listener = FakeListener::new();
    let config = listener.config().queue_size(4);
    let (client, mut broker, _listener) = runtime.block_on(connected(listener, &config));
    fill(&client);
    let mut room = client.room();
    assert!(!room.wait(Wait::at_most(SHORT)).unwrap());
    assert!(!client.flush().wait(Wait::at_most(SHORT)).unwrap());
    let mut checks = 0;
    let mut check = || {
        checks += 1;
        if checks == 2 { Err(ErrorKind::Other.into()) } else { Ok(()) }
    };
    let wait = Wait::forever().slice(Duration::from_millis(5)).check(&mut check);
    assert_eq!(room.wait(wait).unwrap_err().kind(), ErrorKind::Other);
    let reader = std::thread::spawn(move || {
        while !broker.next().body.starts_with(b"last\0") {}
        broker
    });
    assert!(room.wait(Wait::at_most(PATIENCE)).unwrap());
    let last = Request::publish("last", "payload", QoS::No).prefix(b"in parts: ");
    while !client.try_send(&last).unwrap().is_sent() {
        assert!(client.room().wait(Wait::at_most(PATIENCE)).unwrap());
    }
    assert!(client.flush().wait(Wait::at_most(PATIENCE)).unwrap());
    drop(reader.join().unwrap());
}

/// If the runtime does not run, only the callers write.
#[test]
fn frames_that_the_caller_writes_itself() {
    for (write_through, flushes) in [(true, false), (false, true), (false, false)] {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let listener = FakeListener::new();
        let config = listener.config().write_through(write_through);
        let (client, mut broker, _listener) = runtime.block_on(connected(listener, &config));
        for i in 0..200u32 {
            let sent = client.try_send(&Request::publish("t", &[i as u8; 91], QoS::No)).unwrap();
            assert!(sent.is_sent());
        }
        if flushes {
            assert!(client.flush().wait(Wait::at_most(PATIENCE)).unwrap());
        }
        let mut written = 0;
        while broker.next_within(SHORT).is_some() {
            written += 1;
        }
        // A frame has 102 bytes.
        assert!(written > 200 - 4096 / 102 - 2, "{written} written");
        assert!(written == 200 || !(write_through || flushes), "{written} written");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sending_in_order_is_accepted_beyond_the_bound() {
    let listener = FakeListener::new();
    let config = listener.config().queue_size(4);
    let (client, mut broker, _listener) = connected(listener, &config).await;
    fill(&client);
    assert!(!client.try_send(&Request::publish("t", "x", QoS::No)).unwrap().is_sent());
    for i in 0..100u8 {
        assert!(client.send_in_order(&Request::publish("t", &[i], QoS::No)).unwrap().is_sent());
    }
    let reading = tokio::task::spawn_blocking(move || {
        let mut numbers = vec![];
        while numbers.len() < 100 {
            let sent = broker.next();
            if sent.body.starts_with(b"t\0") {
                numbers.push(sent.body[2]);
            }
        }
        (numbers, broker)
    });
    client.room().ready().await.unwrap();
    client.flush().await.unwrap();
    let (numbers, _broker) = reading.await.unwrap();
    assert_eq!(numbers, (0..100).collect::<Vec<u8>>());
}

/// A future that is polled once and is pending has sent nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pending_submission_is_not_sent() {
    let bus = Bus::start(Options::default()).await;
    let (receiver, mut frames) = bus.listener("r").await;
    let client = bus.client("s").await;
    let pending = tokio::spawn(async move {
        let mut pending = 0;
        for _ in 0..1000 {
            let operation = Operation::Message { target: "r", payload: "x".into() };
            let submission = pin!(client.submit(operation, QoS::No));
            if submission.poll(&mut Context::from_waker(Waker::noop())).is_pending() {
                pending += 1;
            }
        }
        client.flush().await.unwrap();
        client.disconnect().await;
        pending
    });
    let pending = pending.await.unwrap();
    for _ in pending..1000 {
        next(&mut frames).await;
    }
    nothing_waits(&receiver, &mut frames).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_operation_has_its_own_deadline_or_none() {
    let listener = FakeListener::new();
    let config = listener.config().timeout(Duration::from_millis(300));
    let (client, mut broker, _listener) = connected(listener, &config).await;
    let request = Request::message("x", "y", QoS::Processed);
    let default = client.try_send(&request).unwrap().sent().unwrap();
    let long = client.try_send(&request.clone().deadline(PATIENCE)).unwrap().sent().unwrap();
    let never = request.clone().deadline(busrt::client::Deadline::Never);
    let never = client.try_send(&never).unwrap().sent().unwrap();
    let started = Instant::now();
    let short = client.try_send(&request.clone().deadline(SHORT)).unwrap().sent().unwrap();
    assert_eq!(short.await.unwrap_err().kind(), ErrorKind::Timeout);
    assert_eq!(default.await.unwrap_err().kind(), ErrorKind::Timeout);
    let elapsed = started.elapsed();
    assert!(elapsed > Duration::from_millis(250) && elapsed < SOON, "{elapsed:?}");
    assert!(!long.is_completed() && !never.is_completed());
    let (long, never) = tokio::task::spawn_blocking(move || {
        assert!(long.wait_timeout(SHORT).is_none() && never.wait_timeout(Duration::ZERO).is_none());
        let ids: Vec<u32> = (0..4).map(|_| broker.next().op_id).collect();
        broker.acknowledge(ids[1], 1);
        broker.acknowledge(ids[2], 0x71);
        long.wait_timeout(PATIENCE).unwrap().unwrap();
        let refused = never.wait_timeout(PATIENCE).unwrap().unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::NotRegistered);
        (long, never)
    })
    .await
    .unwrap();
    assert!(long.is_acknowledged() && never.is_completed() && !never.is_acknowledged());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledgements_come_to_a_queue() {
    common::on_every_transport(async |bus| {
        let (_receiver, mut frames) = bus.listener("r").await;
        let client = bus.client("s").await;
        let completions = busrt::client::CompletionQueue::new();
        for token in 0..64 {
            let target = if token % 2 == 0 { "r" } else { "nobody" };
            let request = Request::message(target, "payload", QoS::Processed);
            assert!(client.try_send_to(&request, &completions, token).unwrap().is_sent());
        }
        let mut batch = vec![];
        while batch.len() < 64 {
            completions.ready().await;
            completions.take(&mut batch, 10);
        }
        for (token, completion) in batch.iter().enumerate() {
            assert_eq!(completion.token, token as u64);
            let kind = completion.error().map(busrt::Error::kind);
            assert_eq!(kind, (token % 2 == 1).then_some(ErrorKind::NotRegistered));
            assert!(matches!(completion.result, Completed::Operation(_)));
        }
        for _ in 0..32 {
            assert_eq!(next(&mut frames).await.payload(), b"payload");
        }
    })
    .await;
}

/// Tasks that wait for room are woken when the program ends the client.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_wakes_waits_for_room() {
    for (reconnects, closes) in [(false, false), (false, true), (true, false), (true, true)] {
        let listener = FakeListener::new();
        let mut config = listener.config().queue_size(4);
        if reconnects {
            config = config.reconnect(Reconnect::new()).while_down(WhileDown::Wait(PATIENCE));
        }
        let (client, broker, _listener) = connected(listener, &config).await;
        let pending = client.submit(Operation::Message { target: "x", payload: "y".into() }, QoS::Processed);
        let pending = pending.await.unwrap();
        fill(&client);
        let sender = tokio::spawn({
            let client = client.clone();
            async move { client.publish("t", "x", QoS::No).await }
        });
        let blocking = tokio::task::spawn_blocking({
            let client = client.clone();
            move || client.room().wait(Wait::forever())
        });
        tokio::time::sleep(SHORT).await;
        let started = Instant::now();
        let end = tokio::spawn({
            let client = client.clone();
            async move { if closes { client.close() } else { client.disconnect().await } }
        });
        assert_eq!(sender.await.unwrap().unwrap_err().kind(), ErrorKind::ConnectionLost);
        assert_eq!(blocking.await.unwrap().unwrap_err().kind(), ErrorKind::ConnectionLost);
        if closes {
            assert_eq!(pending.await.unwrap_err().kind(), ErrorKind::ConnectionLost);
        }
        assert!(started.elapsed() < SOON, "after {:?}", started.elapsed());
        drop(broker);
        end.await.unwrap();
        assert!(client.try_send(&Request::publish("t", "x", QoS::No)).is_err());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operations_wait_for_a_connection_within_their_bounds() {
    let listener = FakeListener::new();
    let config = listener
        .config()
        .reconnect(Reconnect::new().delays(Duration::from_millis(20), Duration::from_millis(20)))
        .while_down(WhileDown::Wait(Duration::from_millis(300)));
    let (client, broker, listener) = connected(listener, &config).await;
    drop(broker);
    eventually("the loss of the connection is noticed", || !client.is_connected()).await;
    let request = Request::publish("t", "x", QoS::No);
    assert!(!client.try_send(&request).unwrap().is_sent());
    let started = Instant::now();
    let lost = client.submit_request(&request).await.unwrap_err();
    assert_eq!(lost.kind(), ErrorKind::ConnectionLost);
    assert!(started.elapsed() >= Duration::from_millis(250) && started.elapsed() < SOON);
    assert!(client.flush().await.is_err());
    let accepting = tokio::task::spawn_blocking(move || (listener.accept(), listener));
    client.room().ready().await.unwrap();
    assert!(client.try_send(&request).unwrap().is_sent());
    let (mut broker, _listener) = accepting.await.unwrap();
    assert_eq!(tokio::task::spawn_blocking(move || broker.next().body).await.unwrap(), b"t\0x");
}

/// In process, a publication is accepted although one receiver has no room for it; the next one finds no room.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_receiver_in_the_process() {
    let bus = Bus::start_for(common::Transport::Local, Options::default()).await;
    let slow = bus.broker.client_with(&bus.config("slow").inbox_bytes(4 * common::held_by(8))).await.unwrap();
    let mut slow_frames = slow.frames().unwrap();
    let (fast, mut fast_frames) = bus.listener("fast").await;
    for receiver in [&slow, &fast] {
        receiver.subscribe("t", QoS::Processed).await.unwrap();
    }
    let client = bus.client("s").await;
    let mut sent = 0u32;
    while client.try_send(&Request::publish("t", &sent.to_le_bytes(), QoS::No)).unwrap().is_sent() {
        sent += 1;
        assert!(sent < 1000, "no bound");
    }
    for i in 0..sent {
        assert_eq!(next(&mut fast_frames).await.payload(), i.to_le_bytes());
    }
    assert!(client.send_in_order(&Request::publish("t", &sent.to_le_bytes(), QoS::No)).unwrap().is_sent());
    let publish = tokio::spawn({
        let client = client.clone();
        async move { client.publish("t", (sent + 1).to_le_bytes().to_vec(), QoS::No).await }
    });
    for i in 0..sent + 2 {
        assert_eq!(next(&mut slow_frames).await.payload(), i.to_le_bytes());
    }
    publish.await.unwrap().unwrap();
    client.flush().await.unwrap();
    client.room().ready().await.unwrap();
}

/// In process, an operation whose receiver has no room has the deadline that the program sets.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadline_in_the_process() {
    let options = Options::default().hold(PATIENCE).stall(PATIENCE);
    let bus = Bus::start_for(common::Transport::Local, options).await;
    let slow = bus.broker.client_with(&bus.config("slow").inbox_bytes(4 * common::held_by(8))).await.unwrap();
    let mut frames = slow.frames().unwrap();
    let client = bus.client("s").await;
    let request = Request::message("slow", "x", QoS::Processed).deadline(SHORT);
    let completions = busrt::client::CompletionQueue::new();
    let (mut token, mut last) = (0, None);
    while let Some(pending) = client.try_send(&request).unwrap().sent() {
        last = Some(pending);
        assert!(token < 1000, "no bound");
        token += 1;
    }
    let sent = client.send_in_order_to(&request, &completions, token).unwrap();
    assert!(sent.is_sent());
    let started = Instant::now();
    assert_eq!(last.unwrap().await.unwrap_err().kind(), ErrorKind::Timeout);
    completions.ready().await;
    let completion = completions.try_take().unwrap();
    assert_eq!((completion.token, completion.error().unwrap().kind()), (token, ErrorKind::Timeout));
    assert!(started.elapsed() < SOON, "after {:?}", started.elapsed());
    // Accepted operations arrive nevertheless, and are reported once.
    for _ in 0..=token {
        assert_eq!(next(&mut frames).await.payload(), b"x");
    }
    client.flush().await.unwrap();
    assert!(completions.is_empty());
}

/// The last request of a burst is written although the program does nothing more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_is_written_completely() {
    let listener = FakeListener::new();
    let config = listener.config();
    let (client, mut broker, _listener) = connected(listener, &config).await;
    let threads = 4;
    for thread in 0..threads {
        let client = client.clone();
        std::thread::spawn(move || {
            for burst in 0..50u32 {
                for _ in 0..burst % 7 {
                    assert!(client.try_send(&Request::publish("t", "x", QoS::No)).unwrap().is_sent());
                }
                std::thread::sleep(Duration::from_micros(u64::from(burst) * (thread + 1)));
            }
        });
    }
    let wanted = threads * (0..50).map(|burst| burst % 7).sum::<u64>();
    let reading = tokio::task::spawn_blocking(move || {
        for _ in 0..wanted {
            broker.next();
        }
        broker.next_within(Duration::from_millis(20))
    });
    assert_eq!(reading.await.unwrap(), None);
}

/// Operations that wait for a connection are sent first when there is one, and flushing waits for them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flushing_waits_for_a_connection_and_queued_operations() {
    let listener = FakeListener::new();
    let config = listener
        .config()
        .reconnect(Reconnect::new().delays(Duration::from_millis(20), Duration::from_millis(20)))
        .while_down(WhileDown::Queue(1 << 20));
    let (client, broker, listener) = connected(listener, &config).await;
    drop(broker);
    eventually("the loss of the connection is noticed", || !client.is_connected()).await;
    for i in 0..10u8 {
        assert!(client.try_send(&Request::publish("t", &[i], QoS::No)).unwrap().is_sent());
    }
    // An operation that asks for an acknowledgement is not queued: it finds room only when there is a connection.
    assert!(!client.try_send(&Request::publish("t", &[10], QoS::Processed)).unwrap().is_sent());
    assert!(tokio::time::timeout(SHORT, client.flush()).await.is_err());
    let reading = tokio::task::spawn_blocking(move || {
        let mut broker = listener.accept();
        let bodies: Vec<Vec<u8>> = (0..11).map(|_| broker.next().body).collect();
        (bodies, broker, listener)
    });
    client.flush().await.unwrap();
    client.room().ready().await.unwrap();
    let acknowledged =
        client.try_send(&Request::publish("t", &[10], QoS::Processed)).unwrap().sent().unwrap();
    let (bodies, mut broker, _listener) = reading.await.unwrap();
    assert_eq!(bodies, (0..11u8).map(|i| vec![b't', 0, i]).collect::<Vec<_>>());
    broker.acknowledge(1, 1);
    acknowledged.await.unwrap();
}

/// Any number of threads may wait for one operation.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_threads_wait_for_one_operation() {
    let listener = FakeListener::new();
    let config = listener.config();
    let (client, mut broker, _listener) = connected(listener, &config).await;
    let request = Request::message("x", "y", QoS::Processed);
    let pending = std::sync::Arc::new(client.try_send(&request).unwrap().sent().unwrap());
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let pending = pending.clone();
            std::thread::spawn(move || pending.wait_timeout(PATIENCE).unwrap())
        })
        .collect();
    tokio::task::spawn_blocking(move || {
        let op_id = broker.next().op_id;
        std::thread::sleep(SHORT);
        broker.acknowledge(op_id, 1);
        for thread in threads {
            thread.join().unwrap().unwrap();
        }
    })
    .await
    .unwrap();
}
