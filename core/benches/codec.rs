//! The cost of decoding requests and encoding deliveries, without sockets.

use busrt::proto::decoder::Decoder;
use busrt::proto::delivery::Delivery;
use busrt::proto::request::{Header, Operation};
use busrt::{FrameKind, QoS};
use criterion::{BenchmarkId, Criterion, Throughput};
use std::hint::black_box;

const TOPIC: &str = "plant/line/7/sensor/42/value";
const SIZES: [(&str, usize); 3] = [("100 B", 100), ("1 KiB", 1024), ("64 KiB", 64 * 1024)];
/// Number of bytes that a read may bring: a batch of requests is about this long, or consists of one request if that
/// is longer.
const BATCH_BYTES: usize = 64 * 1024;

fn batch_len(payload: usize) -> usize {
    (BATCH_BYTES / payload).max(1)
}

/// Returns requests one after the other, as a broker reads them.
fn requests(operation: &Operation<'_, &[u8]>, count: usize) -> Vec<u8> {
    let mut batch = vec![];
    for id in 0..count {
        let encoded = operation.encode_head(id as u32, QoS::Processed, &mut batch);
        assert!(encoded.is_ok(), "{encoded:?}");
        batch.extend_from_slice(operation.payload().unwrap_or_default());
    }
    batch
}

/// Decodes and parses every request of a batch. Returns their number.
fn decode_all(mut input: &[u8]) -> usize {
    let mut decoder = Decoder::<Header>::new(u32::MAX);
    let mut count = 0;
    while let Ok(Some((header, body))) = decoder.next(&mut input) {
        assert!(black_box(Operation::parse(header.flags, &body)).is_ok());
        count += 1;
    }
    count
}

fn decode(c: &mut Criterion) {
    for kind in ["message", "publication"] {
        let mut group = c.benchmark_group(format!("decode/{kind}"));
        for (name, size) in SIZES {
            let count = batch_len(size);
            let bytes = vec![0xee; size];
            let payload = &bytes[..];
            let operation = match kind {
                "message" => Operation::Message { target: "plant.line.7", payload },
                _ => Operation::Publish { topic: TOPIC, payload },
            };
            let batch = requests(&operation, count);
            assert_eq!(decode_all(&batch), count);
            group.throughput(Throughput::Elements(count as u64));
            group.bench_function(BenchmarkId::from_parameter(name), |b| {
                b.iter(|| decode_all(black_box(&batch)));
            });
        }
    }
}

/// Encoding in the client: requests are encoded into a buffer that is written when it is full.
fn encode_requests(c: &mut Criterion) {
    let mut group = c.benchmark_group("encode/message");
    for (name, size) in SIZES {
        let count = batch_len(size);
        let payload = vec![0xee; size];
        let operation = Operation::Message { target: "plant.line.7", payload: &payload[..] };
        let mut out = Vec::new();
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(BenchmarkId::from_parameter(name), |b| {
            b.iter(|| {
                out.clear();
                for id in 0..count {
                    let encoded = black_box(&operation).encode_head(id as u32, QoS::No, &mut out);
                    assert!(encoded.is_ok());
                    out.extend_from_slice(&payload);
                }
                black_box(&out).len()
            });
        });
    }
}

/// Encoding in the broker: small deliveries are encoded completely, of large ones only the head (the payload is
/// shared).
fn encode_deliveries(c: &mut Criterion) {
    for (kind, topic) in [(FrameKind::Message, None), (FrameKind::Publication, Some(TOPIC))] {
        let mut group = c.benchmark_group(format!("encode/delivery/{kind:?}"));
        for (name, size) in SIZES {
            let count = batch_len(size);
            let payload = vec![0xee; size];
            let delivery =
                Delivery { kind, realtime: false, sender: "plant.line.8", topic, payload: &payload };
            let mut out = Vec::new();
            group.throughput(Throughput::Elements(count as u64));
            for (part, whole) in [("flat", true), ("head", false)] {
                group.bench_function(BenchmarkId::new(part, name), |b| {
                    b.iter(|| {
                        out.clear();
                        for _ in 0..count {
                            black_box(&delivery).encode_head(&mut out);
                            if whole {
                                out.extend_from_slice(&payload);
                            }
                        }
                        black_box(&out).len()
                    });
                });
            }
        }
    }
}

fn main() {
    let mut criterion = Criterion::default()
        .configure_from_args()
        .warm_up_time(std::time::Duration::from_millis(500))
        .measurement_time(std::time::Duration::from_secs(2));
    decode(&mut criterion);
    encode_requests(&mut criterion);
    encode_deliveries(&mut criterion);
    criterion.final_summary();
}
