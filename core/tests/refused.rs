//! Operations that the client itself refuses: no part of them reaches the broker, for every operation, size and kind
//! of client.
#![cfg(all(unix, feature = "broker", feature = "rpc"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod common;

use busrt::broker::Options;
use busrt::client::{Client, CompletionQueue, Deadline, Reconnect, Request, WhileDown};
use busrt::proto::request::{Operation, Topics};
use busrt::rpc::{CallRequest, Caller, RpcError};
use busrt::{Error, ErrorKind, QoS};
use bytes::Bytes;
use common::fake::FakeListener;
use common::{Bus, TRANSPORTS, Transport, eventually, next, nothing_waits};
use std::time::Duration;

const WRONG: &str = "a\0b";
const TOPICS: [&str; 2] = ["fine", WRONG];

/// Sizes around the limit from which payloads are not copied.
const SIZES: [usize; 5] = [0, 1, 4095, 4096, 4097];
const ALL_QOS: [QoS; 4] = [QoS::No, QoS::Processed, QoS::Realtime, QoS::RealtimeProcessed];

/// Returns frames that forge a message to `victim`, with at least this length: pings fill them up.
fn forged(len: usize) -> Bytes {
    let mut frames = vec![];
    let operation = Operation::Message { target: "victim", payload: &b"forged"[..] };
    operation.encode_head(0, QoS::No, &mut frames).unwrap();
    frames.extend_from_slice(b"forged");
    while frames.len() < len {
        frames.extend_from_slice(&[0; 9]);
    }
    frames.into()
}

/// Asserts that the client, not the broker, refused an operation.
fn is_refused(result: Result<(), Error>, what: &str) {
    let error = result.expect_err(what);
    assert_eq!((error.kind(), error.is_refusal()), (ErrorKind::Data, false), "{what}: {error}");
}

fn is_call_refused<T: std::fmt::Debug>(result: Result<T, RpcError>, what: &str) {
    let error = result.expect_err(what);
    let bus = error.bus_error().expect(what);
    assert_eq!((error.code(), bus.kind(), bus.is_refusal()), (-32114, ErrorKind::Data, false), "{what}");
}

/// Returns every operation with a name that cannot be sent.
fn requests<'a>(payload: &'a Bytes, qos: QoS) -> Vec<Request<'a>> {
    let list = || Topics::List(&TOPICS);
    let mut requests = vec![];
    for prefix in [&b""[..], b"prefix"] {
        for request in [
            Request::message(WRONG, payload, qos),
            Request::message(WRONG, &payload[..], qos),
            Request::broadcast(WRONG, payload, qos),
            Request::publish(WRONG, payload, qos),
            Request::publish(WRONG, &payload[..], qos),
            Request::publish_for(WRONG, "victim", payload, qos),
            Request::publish_for("t", WRONG, payload, qos),
        ] {
            requests.push(request.prefix(prefix));
        }
    }
    for operation in [
        Operation::Subscribe(list()),
        Operation::Unsubscribe(list()),
        Operation::Exclude(list()),
        Operation::Unexclude(list()),
    ] {
        requests.push(Request::new(operation, qos));
    }
    requests
}

async fn refuses(client: &Client, payload: &Bytes, qos: QoS) {
    let what = |name: &str| format!("{name} of {} bytes with {qos:?}", payload.len());
    let own = || payload.clone();
    is_refused(client.send(WRONG, own(), qos).await, &what("send"));
    is_refused(client.broadcast(WRONG, own(), qos).await, &what("broadcast"));
    is_refused(client.publish(WRONG, own(), qos).await, &what("publish"));
    is_refused(client.publish_for(WRONG, "victim", own(), qos).await, &what("publish_for"));
    is_refused(client.publish_for("t", WRONG, own(), qos).await, &what("publish_for"));
    is_refused(client.subscribe(&TOPICS[..], qos).await, &what("subscribe"));
    is_refused(client.unsubscribe(&TOPICS[..], qos).await, &what("unsubscribe"));
    is_refused(client.exclude(&TOPICS[..], qos).await, &what("exclude"));
    is_refused(client.unexclude(&TOPICS[..], qos).await, &what("unexclude"));
    let completions = CompletionQueue::new();
    for request in requests(payload, qos) {
        for deadline in [Deadline::Default, Deadline::Never, Deadline::After(Duration::ZERO)] {
            let request = request.clone().deadline(deadline);
            let what = format!("{request:?}");
            is_refused(client.submit_request(&request).await.map(drop), &what);
            is_refused(client.try_send(&request).map(drop), &what);
            is_refused(client.send_in_order(&request).map(drop), &what);
            is_refused(client.try_send_to(&request, &completions, 1).map(drop), &what);
            is_refused(client.send_in_order_to(&request, &completions, 1).map(drop), &what);
        }
    }
    let caller = Caller::new(client.clone());
    for (target, method) in [(WRONG, "m"), ("victim", WRONG)] {
        is_call_refused(caller.call(target, method, own(), qos).await, &what("call"));
        is_call_refused(caller.submit(target, method, own(), qos).await, &what("submit"));
        is_refused(caller.call0(target, method, own(), qos).await, &what("call0"));
        let call = CallRequest::new(target, method, payload, qos).prefix(b"prefix");
        is_call_refused(caller.try_call(&call), &what("try_call"));
        is_call_refused(caller.call_in_order(&call), &what("call_in_order"));
        is_call_refused(caller.try_call_to(&call, &completions, 1), &what("try_call_to"));
        is_call_refused(caller.call_in_order_to(&call, &completions, 1), &what("call_in_order_to"));
        is_refused(caller.try_call0(&call).map(drop), &what("try_call0"));
    }
    is_refused(caller.notify(WRONG, own(), qos).await, &what("notify"));
    is_refused(caller.try_notify(WRONG, payload, qos).map(drop), &what("try_notify"));
    assert!(completions.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_operations_are_not_sent() {
    for transport in TRANSPORTS {
        let bus = Bus::start_for(transport, Options::default()).await;
        let (victim, mut frames) = bus.listener("victim").await;
        let primary = bus.client("attacker").await;
        let mut clients = vec![primary.secondary().await.unwrap(), primary];
        if transport != Transport::Local {
            let config = bus.config("returning").reconnect(Reconnect::new());
            let config = config.while_down(WhileDown::Queue(1 << 20));
            clients.push(Client::connect(&config).await.unwrap());
        }
        for client in &clients {
            let before = client.stats();
            for qos in ALL_QOS {
                for payload in SIZES.map(|size| Bytes::from(vec![b'x'; size])) {
                    refuses(client, &payload, qos).await;
                }
                for len in [0, 4086, 4096, 20_000] {
                    refuses(client, &forged(len), qos).await;
                }
            }
            let after = client.stats();
            assert_eq!((after.w_frames, after.w_bytes), (before.w_frames, before.w_bytes), "{transport:?}");
            client.send("victim", "genuine", QoS::Processed).await.unwrap();
            assert_eq!(next(&mut frames).await.payload(), b"genuine");
            nothing_waits(&victim, &mut frames).await;
            assert!(client.is_connected());
        }
    }
}

/// Nor are they queued while the client is not connected.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_operations_do_not_wait_for_a_connection() {
    for policy in [WhileDown::Fail, WhileDown::Wait(Duration::from_secs(60)), WhileDown::Queue(1 << 20)] {
        let listener = FakeListener::new();
        let delay = Duration::from_millis(20);
        let config = listener.config().reconnect(Reconnect::new().delays(delay, delay)).while_down(policy);
        let accepting = tokio::task::spawn_blocking(move || (listener.accept(), listener));
        let client = Client::connect(&config).await.unwrap();
        let (broker, listener) = accepting.await.unwrap();
        drop(broker);
        eventually("the loss of the connection is noticed", || !client.is_connected()).await;
        for len in [0, 4095, 4096] {
            for request in requests(&forged(len), QoS::No) {
                let result = client.try_send(&request);
                // Without a queue, only the missing connection is reported.
                let kind = result.map(|sent| assert!(!sent.is_sent())).map_err(|e| e.kind());
                let topics = request_is_about_topics(&request);
                match policy {
                    WhileDown::Fail => assert_eq!(kind, Err(ErrorKind::ConnectionLost)),
                    WhileDown::Queue(_) if !topics => assert_eq!(kind, Err(ErrorKind::Data)),
                    _ => assert!(kind.is_ok() || kind == Err(ErrorKind::Data), "{kind:?}"),
                }
            }
        }
        let accepting = tokio::task::spawn_blocking(move || (listener.accept(), listener));
        let (mut broker, _listener) = accepting.await.unwrap();
        eventually("it is connected again", || client.is_connected()).await;
        client.publish("t", "genuine", QoS::No).await.unwrap();
        let first = tokio::task::spawn_blocking(move || broker.next().body).await.unwrap();
        assert_eq!(first, b"t\0genuine");
    }
}

fn request_is_about_topics(request: &Request<'_>) -> bool {
    format!("{request:?}").contains("List(")
}

/// The same for a program without a runtime.
#[cfg(feature = "blocking")]
#[test]
fn operations_that_a_blocking_client_refuses_are_not_sent() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let bus = runtime.block_on(Bus::start(Options::default()));
    let (victim, mut frames) = runtime.block_on(bus.listener("victim"));
    let client = busrt::blocking::Client::connect(&bus.config("attacker")).unwrap();
    let rpc = busrt::blocking::Rpc::new(client.clone(), ()).unwrap();
    let before = client.stats();
    for qos in ALL_QOS {
        for payload in [Bytes::new(), vec![b'x'; 4095].into(), forged(4096), forged(20_000)] {
            let own = || payload.clone();
            is_refused(client.send(WRONG, own(), qos), "send");
            is_refused(client.broadcast(WRONG, own(), qos), "broadcast");
            is_refused(client.publish(WRONG, own(), qos), "publish");
            is_refused(client.publish_for(WRONG, "victim", own(), qos), "publish_for");
            is_refused(client.publish_for("t", WRONG, own(), qos), "publish_for");
            is_refused(client.subscribe(&TOPICS[..], qos), "subscribe");
            is_refused(client.exclude(&TOPICS[..], qos), "exclude");
            is_call_refused(rpc.call(WRONG, "m", own(), qos), "call");
            is_call_refused(rpc.call("victim", WRONG, own(), qos), "call");
            is_refused(rpc.call0(WRONG, "m", own(), qos), "call0");
            is_refused(rpc.notify(WRONG, own(), qos), "notify");
        }
    }
    assert_eq!(client.stats(), before);
    client.send("victim", "genuine", QoS::Processed).unwrap();
    runtime.block_on(async {
        assert_eq!(next(&mut frames).await.payload(), b"genuine");
        nothing_waits(&victim, &mut frames).await;
    });
    assert!(client.is_connected());
}
