//! The cost of a frame through a whole broker: from clients in this process, which consists of routing and queues,
//! and over socket pairs, which adds the kernel and a client's reader and writer.
//!
//! Everything runs on one thread, so that the figures show the work done and not the scheduling of threads.

#![cfg(feature = "broker")]
#![allow(clippy::expect_used, reason = "a benchmark that cannot go on ends")]

use busrt::QoS;
use busrt::broker::{Broker, Options};
use busrt::client::{Client, Config, Frames};
use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput};
use std::time::Duration;
use tokio::runtime::Runtime;

const TOPIC: &str = "plant/line/7/sensor/42/value";
/// Number of frames in progress at the same time, to or from one client: well below the bound of its queue.
const BATCH: usize = 256;

#[derive(Clone, Copy)]
enum Via {
    Process,
    #[cfg(unix)]
    Sockets,
}

impl Via {
    fn name(self) -> &'static str {
        match self {
            Via::Process => "in-process",
            #[cfg(unix)]
            Via::Sockets => "sockets",
        }
    }
}

/// A broker with one sender and some receivers.
struct Bed {
    // Keeps the broker running for the clients.
    _broker: Broker,
    sender: Client,
    // Each with the client that keeps it connected.
    receivers: Vec<(Client, Frames)>,
}

impl Bed {
    async fn new(via: Via, receivers: usize, topic: Option<&str>) -> Bed {
        // The timeout disables pings while criterion calculates.
        let broker = Broker::new(Options::default().timeout(Duration::from_secs(60)));
        let sender = connect(&broker, via, "sender").await;
        let mut all = Vec::with_capacity(receivers);
        for n in 0..receivers {
            let client = connect(&broker, via, &format!("receiver.{n}")).await;
            if let Some(topic) = topic {
                client.subscribe(topic, QoS::Processed).await.expect("to subscribe");
            }
            let frames = client.frames().expect("the frames");
            all.push((client, frames));
        }
        Bed { _broker: broker, sender, receivers: all }
    }

    /// Takes `count` frames from every receiver.
    async fn drain(&mut self, count: usize) {
        for (_, frames) in &mut self.receivers {
            for _ in 0..count {
                frames.recv().await.expect("a frame");
            }
        }
    }
}

async fn connect(broker: &Broker, via: Via, name: &str) -> Client {
    match via {
        Via::Process => broker.client(name).await.expect("a client"),
        #[cfg(unix)]
        Via::Sockets => {
            use busrt::transport::Socket;
            let (ours, theirs) = std::os::unix::net::UnixStream::pair().expect("a socket pair");
            broker.attach(Socket::from_unix(theirs).expect("a socket")).expect("an open broker");
            let config = Config::new("", name);
            let socket = Socket::from_unix(ours).expect("a socket");
            Client::connect_stream(socket, &config).await.expect("to register")
        }
    }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

fn vias() -> impl Iterator<Item = Via> {
    [
        Via::Process,
        #[cfg(unix)]
        Via::Sockets,
    ]
    .into_iter()
}

fn message(c: &mut Criterion) {
    let mut group = c.benchmark_group("message");
    group.throughput(Throughput::Elements(BATCH as u64));
    for via in vias() {
        for (name, size) in [("100 B", 100), ("16 KiB", 16 * 1024)] {
            let rt = runtime();
            let mut bed = rt.block_on(Bed::new(via, 1, None));
            let payload = Bytes::from(vec![0xee; size]);
            group.bench_function(BenchmarkId::new(via.name(), name), |b| {
                b.iter(|| {
                    rt.block_on(async {
                        for _ in 0..BATCH {
                            bed.sender.send("receiver.0", payload.clone(), QoS::No).await.expect("to send");
                        }
                        bed.drain(BATCH).await;
                    });
                });
            });
        }
        let rt = runtime();
        let mut bed = rt.block_on(Bed::new(via, 1, None));
        group.throughput(Throughput::Elements(1));
        group.bench_function(BenchmarkId::new(via.name(), "acknowledged"), |b| {
            b.iter(|| {
                rt.block_on(async {
                    let payload = Bytes::from_static(&[0xee; 100]);
                    bed.sender.send("receiver.0", payload, QoS::RealtimeProcessed).await.expect("to send");
                    bed.drain(1).await;
                });
            });
        });
        group.throughput(Throughput::Elements(BATCH as u64));
    }
}

/// Frames to many receivers; the figures are deliveries.
fn fan_out(c: &mut Criterion) {
    for (kind, topic) in [("publish", Some(TOPIC)), ("broadcast", None)] {
        let mut group = c.benchmark_group(kind);
        for via in vias() {
            for receivers in [1, 100, 1000] {
                // Each receiver needs two descriptors: a thousand receivers need more than a process may have open by
                // default.
                if receivers > 100 && !matches!(via, Via::Process) {
                    continue;
                }
                let rt = runtime();
                let mut bed = rt.block_on(Bed::new(via, receivers, topic));
                let payload = Bytes::from_static(&[0xee; 100]);
                let batch = (BATCH / receivers).max(4);
                group.throughput(Throughput::Elements((batch * receivers) as u64));
                group.bench_function(BenchmarkId::new(via.name(), receivers), |b| {
                    b.iter(|| {
                        rt.block_on(async {
                            for _ in 0..batch {
                                let sent = match topic {
                                    Some(topic) => bed.sender.publish(topic, payload.clone(), QoS::No).await,
                                    None => {
                                        bed.sender.broadcast("receiver.*", payload.clone(), QoS::No).await
                                    }
                                };
                                sent.expect("to send");
                            }
                            bed.drain(batch).await;
                        });
                    });
                });
            }
        }
    }
}

fn main() {
    let mut criterion = Criterion::default()
        .configure_from_args()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    message(&mut criterion);
    fan_out(&mut criterion);
    criterion.final_summary();
}
