//! Random traffic and faults around a `busrtd` that is killed again and again, then left alone. A short run by
//! default; `make soak` runs it for `SOAK_SECONDS`.
#![cfg(all(target_os = "linux", feature = "server", feature = "rpc"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod common;

use common::daemon::Size;
use common::eventually;
use common::proxy::FAULTS;
use common::random::Random;
use common::storm::Storm;
use common::traffic::Outcome;
use std::time::{Duration, Instant};

/// Returns the size of the test's own process, and the number of its tasks.
fn own_size() -> (Size, usize) {
    let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    (Size::of(std::process::id()), tasks)
}

async fn soak(length: Duration) {
    let mut random = Random::new("soak");
    let started = Instant::now();
    let mut storm = Storm::start(&FAULTS, random.fork()).await;
    let (mut total, mut rounds, mut kills) = (Outcome::default(), 0, 0);
    let (mut own, mut broker) = (None, None);
    // In the second half, a single broker runs, which must not grow.
    while broker.is_none() || started.elapsed() < length {
        let killing = rounds < 2 || started.elapsed() < length / 2;
        let kill = killing && (rounds == 0 || random.below(3) > 0);
        total += storm.rage(Duration::from_millis(300 + random.below(700)), kill).await;
        (rounds, kills) = (rounds + 1, kills + u32::from(kill));
        if rounds == 2 {
            own = Some(own_size());
        }
        if !killing && broker.is_none() {
            broker = Some(storm.daemon.size());
        }
    }
    let ((own, tasks), broker) = (own.unwrap(), broker.unwrap());
    // The last connections may still be closing.
    let few = || {
        let (size, now) = own_size();
        now <= tasks + 8 && size.descriptors <= own.descriptors + 8
    };
    eventually("tasks and descriptors are as few as at first", few).await;
    let few = || storm.daemon.size().descriptors <= broker.descriptors + 8;
    eventually("the broker's descriptors are as few as at first", few).await;
    let (last, last_broker) = (own_size().0, storm.daemon.size());
    println!(
        "{rounds} rounds, {kills} kills, {} faults, {total:?}, {tasks} tasks, {own:?} at first, {last:?} at last; \
         the broker: {broker:?} at first, {last_broker:?} at last",
        storm.injected()
    );
    assert!(last.memory < own.memory + (64 << 20), "memory grows");
    assert!(last_broker.memory < broker.memory + (32 << 20), "the broker's memory grows");
    assert!(total.acknowledged > 0 && total.replies > 0 && total.changes > 0 && total.visits > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn for_a_moment() {
    soak(Duration::from_secs(3)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "as long as SOAK_SECONDS says"]
async fn for_long() {
    let seconds = std::env::var("SOAK_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(300);
    soak(Duration::from_secs(seconds)).await;
}
