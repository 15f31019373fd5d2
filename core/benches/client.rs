//! What a client costs its program: sending from a plain thread beside the async path, operations that await
//! acknowledgements, and calls. The broker and its runtime are in the same process, on two threads.

#![cfg(all(unix, feature = "broker", feature = "rpc"))]
#![allow(clippy::expect_used, reason = "a benchmark that cannot go on ends")]

use busrt::QoS;
use busrt::broker::{Broker, Options};
use busrt::client::{Client, CompletionQueue, Config, Frames, Request, Wait};
use busrt::proto::rpc::reply_header;
use busrt::rpc::{CallRequest, Caller};
use criterion::{Criterion, Throughput};
use std::time::Duration;
use tokio::runtime::Runtime;

const PAYLOAD: [u8; 100] = [b'x'; 100];
/// Operations of one iteration.
const OPERATIONS: u64 = 20_000;
/// Operations and calls under way at the same time.
const WINDOW: u64 = 64;

struct Bed {
    runtime: Runtime,
    _broker: Broker,
    path: String,
    _dir: tempfile::TempDir,
}

impl Bed {
    fn new() -> Bed {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("bus.sock").display().to_string();
        let broker = runtime.block_on(async {
            // No pings while criterion calculates.
            let broker = Broker::new(Options::default().timeout(Duration::from_secs(60)));
            broker.listen(&path).await.expect("to listen");
            broker
        });
        Bed { runtime, _broker: broker, path, _dir: dir }
    }

    fn client(&self, name: &str) -> Client {
        self.runtime.block_on(Client::connect(&Config::new(&self.path, name))).expect("to connect")
    }
}

/// Sends without acknowledgement, to no subscriber: encoding, queueing and writing.
fn send(c: &mut Criterion, bed: &Bed) {
    let client = bed.client("sender");
    let mut group = c.benchmark_group("send QoS 0, 100 B");
    group.throughput(Throughput::Elements(OPERATIONS));
    let request = Request::publish("plant/value", &PAYLOAD, QoS::No);
    group.bench_function("plain thread", |b| {
        b.iter(|| {
            for _ in 0..OPERATIONS {
                while !client.try_send(&request).expect("to send").is_sent() {
                    client.room().wait(Wait::forever()).expect("room");
                }
            }
            client.flush().wait(Wait::forever()).expect("to flush");
        });
    });
    group.bench_function("async", |b| {
        b.iter(|| {
            bed.runtime.block_on(async {
                for _ in 0..OPERATIONS {
                    client.submit_request(&request).await.map(drop).expect("to send");
                }
                client.flush().await.expect("to flush");
            });
        });
    });
    group.finish();
}

/// Acknowledged publications, some under way at any time.
fn acknowledged(c: &mut Criterion, bed: &Bed) {
    let client = bed.client("acknowledged");
    let mut group = c.benchmark_group("acknowledged, 64 in flight");
    group.throughput(Throughput::Elements(OPERATIONS));
    let request = Request::publish("plant/value", &PAYLOAD, QoS::Processed);
    group.bench_function("completions", |b| {
        let completions = CompletionQueue::new();
        let mut batch = Vec::new();
        b.iter(|| {
            let (mut sent, mut done) = (0, 0);
            while done < OPERATIONS {
                while sent < OPERATIONS && sent - done < WINDOW {
                    if !client.try_send_to(&request, &completions, sent).expect("to send").is_sent() {
                        break;
                    }
                    sent += 1;
                }
                completions.wait(Wait::forever()).expect("completions");
                done += completions.take(&mut batch, WINDOW as usize) as u64;
                assert!(batch.drain(..).all(|completion| completion.error().is_none()));
            }
        });
    });
    group.finish();
}

/// Answers calls on a plain thread until the client ends.
fn serve(client: &Client, mut frames: Frames) {
    while let Ok(Some(Some(frame))) = Wait::forever().on(|cx| frames.poll_recv(cx)) {
        let Some(id) = frame.payload().get(1..).and_then(|rest| rest.first_chunk()) else { continue };
        let header = reply_header(u32::from_le_bytes(*id));
        let reply = Request::message(frame.sender(), b"", QoS::No).prefix(&header);
        while client.send_in_order(&reply).is_ok_and(|sent| !sent.is_sent()) {}
    }
}

/// Calls under way, served by another thread of another client.
fn calls(c: &mut Criterion, bed: &Bed) {
    let server = bed.client("server");
    let frames = server.frames().expect("the frames");
    let serving = std::thread::spawn({
        let server = server.clone();
        move || serve(&server, frames)
    });
    let caller = Caller::new(bed.client("caller"));
    let mut group = c.benchmark_group("calls, 64 in flight");
    group.throughput(Throughput::Elements(OPERATIONS));
    let call = CallRequest::new("server", "echo", &PAYLOAD, QoS::No);
    group.bench_function("completions", |b| {
        let completions = CompletionQueue::new();
        let mut batch = Vec::new();
        b.iter(|| {
            let (mut sent, mut done) = (0, 0);
            while done < OPERATIONS {
                while sent < OPERATIONS && sent - done < WINDOW {
                    if !caller.try_call_to(&call, &completions, sent).expect("to call").is_sent() {
                        break;
                    }
                    sent += 1;
                }
                completions.wait(Wait::forever()).expect("completions");
                done += completions.take(&mut batch, WINDOW as usize) as u64;
                assert!(batch.drain(..).all(|completion| completion.error().is_none()));
            }
        });
    });
    group.finish();
    server.close();
    serving.join().expect("the server");
}

fn main() {
    let bed = Bed::new();
    let mut c = Criterion::default().configure_from_args();
    send(&mut c, &bed);
    acknowledged(&mut c, &bed);
    calls(&mut c, &bed);
    c.final_summary();
}
