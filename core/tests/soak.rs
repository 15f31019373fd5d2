//! A random storm with restarts of the broker: bounded here, for `SOAK_SECONDS` with `make soak`.
#![cfg(all(target_os = "linux", feature = "broker", feature = "rpc"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod common;

use common::eventually;
use common::proxy::FAULTS;
use common::random::Random;
use common::storm::{Outcome, Storm};
use std::time::{Duration, Instant};

#[derive(Debug, Clone, Copy)]
struct Size {
    tasks: usize,
    descriptors: usize,
    memory: usize,
}

impl Size {
    fn now() -> Size {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        let pages: usize = statm.split_whitespace().nth(1).unwrap().parse().unwrap();
        Size {
            tasks: tokio::runtime::Handle::current().metrics().num_alive_tasks(),
            descriptors: std::fs::read_dir("/proc/self/fd").unwrap().count(),
            memory: pages * 4096,
        }
    }
}

async fn soak(length: Duration) {
    let mut random = Random::new("soak");
    let started = Instant::now();
    let mut storm = Storm::start(&FAULTS, random.fork()).await;
    let (mut total, mut rounds, mut first) = (Outcome::default(), 0, None);
    while started.elapsed() < length || rounds < 3 {
        total += storm.rage(Duration::from_millis(500 + random.below(1500))).await;
        storm.restart().await;
        rounds += 1;
        if rounds == 2 {
            first = Some(Size::now());
        }
    }
    let first = first.unwrap();
    // Connections of the last moments may still be ending.
    let few = |size: Size| size.tasks <= first.tasks + 8 && size.descriptors <= first.descriptors + 8;
    eventually("tasks and descriptors are as few as at first", || few(Size::now())).await;
    let last = Size::now();
    println!(
        "{rounds} brokers, {} faults, {total:?}, {first:?} at first, {last:?} at last",
        storm.injected()
    );
    assert!(last.memory < first.memory + (64 << 20), "memory grows");
    assert!(total.acknowledged > 0 && total.replies > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn for_a_moment() {
    soak(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "as long as SOAK_SECONDS says"]
async fn for_long() {
    let seconds = std::env::var("SOAK_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(300);
    soak(Duration::from_secs(seconds)).await;
}
