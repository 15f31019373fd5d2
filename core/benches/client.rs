//! The cost of a client for its program: sending, acknowledgements, calls and receiving on plain threads, without a
//! runtime of the program; the async path is measured for comparison.
//!
//! The broker listens on a UNIX socket. It runs in this process, in its own runtime with two threads, or `BUSRTD`
//! names the program to run. `BENCH_ADDRESS` names a broker that is already running.

#![cfg(all(unix, feature = "broker", feature = "rpc", feature = "runtime"))]
#![allow(clippy::expect_used, reason = "a benchmark that cannot go on ends")]

use busrt::QoS;
use busrt::broker::{Broker, Options};
use busrt::client::{Client, CompletionQueue, Config, Frames, Request, Wait};
use busrt::rpc::{CallRequest, Caller, Incoming, Intake, Serving};
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput};
use std::process::{Child, Command};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

const PAYLOAD: [u8; 100] = [b'x'; 100];
/// Number of operations of one iteration.
const OPERATIONS: u64 = 20_000;
/// Number of operations and calls in progress at the same time.
const WINDOW: u64 = 64;
/// Number of frames of a batch.
const BATCH: usize = 256;
const BATCH_BYTES: usize = 1 << 20;

/// A running broker, which ends when the value is dropped.
enum Running {
    Here { _broker: Broker, _runtime: Runtime },
    Program(Child),
    Elsewhere,
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Running::Program(child) = self {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

struct Bed {
    _broker: Running,
    path: String,
    _dir: tempfile::TempDir,
}

impl Bed {
    fn new() -> Bed {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("bus.sock").display().to_string();
        if let Ok(path) = std::env::var("BENCH_ADDRESS") {
            return Bed { _broker: Running::Elsewhere, path, _dir: dir };
        }
        let broker = match std::env::var_os("BUSRTD") {
            Some(program) => {
                let child = Command::new(program).args(["-B", &path, "-t", "60"]).spawn().expect("busrtd");
                Running::Program(child)
            }
            None => Bed::here(&path),
        };
        let bed = Bed { _broker: broker, path, _dir: dir };
        let started = Instant::now();
        while Client::connect_blocking(&Config::new(&bed.path, "first")).is_err() {
            assert!(started.elapsed() < Duration::from_secs(10), "no broker");
            std::thread::sleep(Duration::from_millis(10));
        }
        bed
    }

    fn here(path: &str) -> Running {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        let broker = runtime.block_on(async {
            // The timeout disables pings while criterion calculates.
            let broker = Broker::new(Options::default().timeout(Duration::from_secs(60)));
            broker.listen(path).await.expect("to listen");
            broker
        });
        Running::Here { _broker: broker, _runtime: runtime }
    }

    /// Creates a client that lives in the runtime of the process, like those of plain threads.
    fn client(&self, name: &str) -> Client {
        Client::connect_blocking(&self.config(name)).expect("to connect")
    }

    fn config(&self, name: &str) -> Config {
        Config::new(&self.path, name)
    }
}

fn group<'a>(c: &'a mut Criterion, name: &str) -> BenchmarkGroup<'a, WallTime> {
    let mut group = c.benchmark_group(name);
    group.throughput(Throughput::Elements(OPERATIONS));
    group
}

/// Sends `count` requests on this thread, and waits for room if there is none.
fn send_all(client: &Client, request: &Request<'_>, count: u64) {
    for _ in 0..count {
        while !client.try_send(request).expect("to send").is_sent() {
            client.room().wait(Wait::forever()).expect("room");
        }
    }
}

/// Sends without acknowledgement, to no subscriber: encoding, queueing and writing.
fn send(c: &mut Criterion, bed: &Bed) {
    let client = bed.client("sender");
    let mut group = group(c, "send QoS 0, 100 B");
    let request = Request::publish("plant/value", &PAYLOAD, QoS::No);
    group.bench_function("plain thread", |b| {
        b.iter(|| {
            send_all(&client, &request, OPERATIONS);
            client.flush().wait(Wait::forever()).expect("to flush");
        });
    });
    let runtime = busrt::runtime::handle().expect("the runtime");
    group.bench_function("async", |b| {
        b.iter(|| {
            runtime.block_on(async {
                for _ in 0..OPERATIONS {
                    client.submit_request(&request).await.map(drop).expect("to send");
                }
                client.flush().await.expect("to flush");
            });
        });
    });
    group.finish();
}

/// Starts operations with `start` and takes their results, with several in progress at any time. `start` returns
/// false if there is no room.
fn in_flight(completions: &CompletionQueue, mut start: impl FnMut(u64) -> bool) {
    let mut batch = Vec::with_capacity(WINDOW as usize);
    let (mut sent, mut done) = (0, 0);
    while done < OPERATIONS {
        while sent < OPERATIONS && sent - done < WINDOW && start(sent) {
            sent += 1;
        }
        completions.wait(Wait::forever()).expect("completions");
        done += completions.take(&mut batch, WINDOW as usize) as u64;
        assert!(batch.drain(..).all(|completion| completion.error().is_none()));
    }
}

/// Acknowledged operations: messages to another client, like the row `ack64` of the load generator, and publications
/// without a receiver.
fn acknowledged(c: &mut Criterion, bed: &Bed) {
    let client = bed.client("acknowledged");
    let receiver = bed.client("receiver.acknowledged");
    let mut frames = receiver.frames().expect("the frames");
    let receiving = std::thread::spawn(move || {
        let mut batch = Vec::with_capacity(BATCH);
        while frames.wait_batch(&mut batch, BATCH, BATCH_BYTES, Wait::forever()).expect("no check").is_some()
        {
            batch.clear();
        }
    });
    let mut group = group(c, "acknowledged, 64 in flight");
    for (name, request) in [
        ("messages", Request::message("receiver.acknowledged", &PAYLOAD, QoS::Processed)),
        ("publications", Request::publish("plant/value", &PAYLOAD, QoS::Processed)),
    ] {
        group.bench_function(name, |b| {
            let completions = CompletionQueue::new();
            b.iter(|| {
                in_flight(&completions, |token| {
                    client.try_send_to(&request, &completions, token).expect("to send").is_sent()
                });
            });
        });
    }
    group.finish();
    receiver.close();
    receiving.join().expect("the receiver");
}

/// Answers calls on this thread until the client ends.
fn serve(mut requests: Intake) {
    let mut batch = Vec::with_capacity(BATCH);
    while requests.wait_batch(&mut batch, BATCH, Wait::forever()).expect("no check").is_some() {
        for incoming in batch.drain(..) {
            if let Incoming::Request(call, responder) = incoming {
                responder.reply(call.params_bytes());
            }
        }
    }
}

/// Calls that another thread of another client serves.
fn calls(c: &mut Criterion, bed: &Bed) {
    let server = bed.client("server");
    let requests = Serving::new(&server).requests;
    let serving = std::thread::spawn(move || serve(requests));
    let caller = Caller::new(bed.client("caller"));
    let mut group = group(c, "calls, 64 in flight");
    for (name, qos) in [("QoS 0", QoS::No), ("QoS 1", QoS::Processed)] {
        let call = CallRequest::new("server", "echo", &PAYLOAD, qos);
        group.bench_function(name, |b| {
            let completions = CompletionQueue::new();
            b.iter(|| {
                in_flight(&completions, |token| {
                    caller.try_call_to(&call, &completions, token).expect("to call").is_sent()
                });
            });
        });
    }
    group.finish();
    server.close();
    serving.join().expect("the server");
}

/// Frames from another thread of another client, received in batches and one by one.
fn receive(c: &mut Criterion, bed: &Bed) {
    let sender = bed.client("publisher");
    let receiver = bed.client("receiver");
    let mut frames = receiver.frames().expect("the frames");
    let request = Request::message("receiver", &PAYLOAD, QoS::No);
    let runtime = busrt::runtime::handle().expect("the runtime");
    type Take<'a> = &'a dyn Fn(&mut Frames);
    let batches: Take<'_> = &|frames| {
        let (mut batch, mut left) = (Vec::with_capacity(BATCH), OPERATIONS as usize);
        while left > 0 {
            let wait = Wait::forever();
            let taken = frames.wait_batch(&mut batch, BATCH, BATCH_BYTES, wait).expect("no check");
            left -= taken.expect("a connection");
            batch.clear();
        }
    };
    let recv: Take<'_> = &|frames| {
        runtime.block_on(async {
            for _ in 0..OPERATIONS {
                frames.recv().await.expect("a frame");
            }
        });
    };
    let mut group = group(c, "receive, 100 B, as they come");
    for (name, take) in [("batches", batches), ("recv", recv)] {
        group.bench_function(name, |b| {
            b.iter(|| {
                std::thread::scope(|scope| {
                    scope.spawn(|| send_all(&sender, &request, OPERATIONS));
                    take(&mut frames);
                });
            });
        });
    }
    group.finish();
    let mut group = self::group(c, "receive, 100 B, from a full inbox");
    for (name, take) in [("batches", batches), ("recv", recv)] {
        group.bench_function(name, |b| {
            b.iter_custom(|iterations| {
                let mut taking = Duration::ZERO;
                for _ in 0..iterations {
                    send_all(&sender, &request, OPERATIONS);
                    while (receiver.stats().queue as u64) < OPERATIONS {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                    let began = Instant::now();
                    take(&mut frames);
                    taking += began.elapsed();
                }
                taking
            });
        });
    }
    group.finish();
}

fn main() {
    let bed = Bed::new();
    let mut c = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .without_plots()
        .configure_from_args();
    send(&mut c, &bed);
    acknowledged(&mut c, &bed);
    calls(&mut c, &bed);
    receive(&mut c, &bed);
    c.final_summary();
}
