//! The cost of matching, from a thousand to a million subscriptions, in time and in memory.

use busrt::matching::cache::Cache;
use busrt::matching::names::NameTrie;
use busrt::matching::topics::TopicTrie;
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput};
use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Counts the bytes that are allocated.
struct Counting;

static ALLOCATED: AtomicUsize = AtomicUsize::new(0);

// SAFETY: all calls are forwarded to the system's allocator; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    // SAFETY: forwarded to the system's allocator under the caller's own guarantees.
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.fetch_add(layout.size(), Relaxed);
        // SAFETY: the caller's guarantees are passed on.
        unsafe { System.alloc(layout) }
    }

    // SAFETY: as above.
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        ALLOCATED.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's guarantees are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const SIZES: [(&str, u32); 4] = [("1k", 1_000), ("10k", 10_000), ("100k", 100_000), ("1M", 1_000_000)];
const CLIENTS: u32 = 100;

/// Returns the n-th of many topics: a hundred clients, each with its own series of sensors.
fn topic(n: u32) -> String {
    let (client, sensor) = (n % CLIENTS, n / CLIENTS);
    format!("plant{}/line{client}/sensor{sensor}/value", client % 10)
}

/// Returns a mask that matches the n-th topic and the others of its sensor.
fn mask(n: u32) -> String {
    let (client, sensor) = (n % CLIENTS, n / CLIENTS);
    match n % 2 {
        0 => format!("+/line{client}/sensor{sensor}/#"),
        _ => format!("plant{}/line{client}/sensor{sensor}/+", client % 10),
    }
}

/// Returns all topics in random order, or the same number of random topics among the first `distinct`.
fn shuffled(count: u32, distinct: u32) -> Vec<String> {
    let mut state = 0x1234_5678_9abc_def0_u64;
    let mut random = |below: u32| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) % u64::from(below)) as u32
    };
    let mut numbers: Vec<u32> = (0..count).collect();
    for at in (1..count).rev() {
        numbers.swap(at as usize, random(at + 1) as usize);
    }
    numbers.truncate(distinct as usize);
    numbers.into_iter().map(topic).collect()
}

fn filled(count: u32, mask: impl Fn(u32) -> String) -> TopicTrie {
    let mut trie = TopicTrie::new();
    for n in 0..count {
        trie.insert(&mask(n), n % CLIENTS);
    }
    trie
}

fn memory() {
    let measure = |what: &str, count: u32, make: &dyn Fn() -> Box<dyn std::any::Any>| {
        let before = ALLOCATED.load(Relaxed);
        let made = make();
        let bytes = ALLOCATED.load(Relaxed) - before;
        println!("memory/{what}/{count}: {:.1} bytes each", bytes as f64 / f64::from(count));
        drop(made);
        assert_eq!(ALLOCATED.load(Relaxed), before, "memory was not freed");
    };
    for (_, count) in SIZES {
        measure("topics", count, &|| Box::new(filled(count, topic)));
        measure("masks", count, &|| Box::new(filled(count, mask)));
    }
    measure("names", 10_000, &|| Box::new(named(10_000)));
}

fn named(count: u32) -> NameTrie {
    let mut names = NameTrie::new();
    for n in 0..count {
        names.insert(&format!("group{}.host{}.service{n}", n % 10, n % 100), n);
    }
    names
}

fn topics(c: &mut Criterion) {
    type MakeMask = fn(u32) -> String;
    let kinds: [(&str, MakeMask); 2] = [("exact", topic), ("wildcard", mask)];
    for (kind, make) in kinds {
        let mut group = c.benchmark_group(format!("match/{kind}"));
        for (name, count) in SIZES {
            let trie = filled(count, make);
            // With all topics, most are in no cache of the processor; with a thousand topics, all are.
            for (heat, distinct) in [("cold", count), ("hot", 1000)] {
                let topics = shuffled(count, distinct);
                let mut at = 0;
                let mut out = Vec::new();
                group.bench_function(BenchmarkId::new(heat, name), |b| {
                    b.iter(|| {
                        out.clear();
                        trie.matches(&topics[at], &mut out);
                        assert!(!out.is_empty());
                        at = if at + 1 == topics.len() { 0 } else { at + 1 };
                    });
                });
            }
        }
    }
}

fn insert(c: &mut Criterion) {
    let mut group = c.benchmark_group("insert");
    group.sample_size(10);
    for (name, count) in [("100k", 100_000), ("1M", 1_000_000)] {
        group.throughput(Throughput::Elements(count.into()));
        for (kind, masks) in [
            ("exact", (0..count).map(topic).collect::<Vec<_>>()),
            ("wildcard", (0..count).map(mask).collect()),
        ] {
            group.bench_function(BenchmarkId::new(kind, name), |b| {
                b.iter_with_large_drop(|| {
                    let mut trie = TopicTrie::new();
                    for (n, mask) in (0..).zip(&masks) {
                        trie.insert(mask, n % CLIENTS);
                    }
                    trie
                });
            });
        }
    }
    group.throughput(Throughput::Elements(1000));
    group.bench_function("remove_client/1000 of 100k", |b| {
        b.iter_batched_ref(|| filled(100_000, topic), |trie| trie.remove_client(42), BatchSize::LargeInput);
    });
}

fn names(c: &mut Criterion) {
    let names = named(10_000);
    let mut out = Vec::new();
    let mut group = c.benchmark_group("names/10k");
    for mask in ["group7.host7.service4107", "group7.host7.*", "?.host7.?", "*"] {
        group.bench_function(mask, |b| {
            b.iter(|| {
                out.clear();
                names.matches(black_box(mask), &mut out);
                assert!(!out.is_empty());
            });
        });
    }
}

fn cache(c: &mut Criterion) {
    let mut group = c.benchmark_group("cache");
    for (name, distinct) in [("same key", 1), ("50 keys", 50), ("never again", 100_000)] {
        let topics = shuffled(100_000, distinct);
        let mut cache = Cache::new(256, 1000);
        let mut at = 0;
        group.bench_function(name, |b| {
            b.iter(|| {
                let key = topics[at].as_bytes();
                if black_box(cache.get(1, key)).is_none() {
                    cache.insert(1, key, at as u64);
                }
                at = if at + 1 == topics.len() { 0 } else { at + 1 };
            });
        });
    }
}

fn main() {
    let mut criterion = Criterion::default()
        .configure_from_args()
        .warm_up_time(std::time::Duration::from_millis(500))
        .measurement_time(std::time::Duration::from_secs(2));
    if std::env::args().any(|argument| argument == "--bench") {
        memory();
    }
    topics(&mut criterion);
    insert(&mut criterion);
    names(&mut criterion);
    cache(&mut criterion);
    criterion.final_summary();
}
