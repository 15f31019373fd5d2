//! Faulty connections: cut, reset, delayed, trickling and stalled, at random positions of the stream.
#![cfg(all(target_os = "linux", feature = "server", feature = "rpc"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod common;

use common::proxy::{FAULTS, Fault};
use common::random::Random;
use common::storm::Storm;
use std::time::Duration;

async fn survive(faults: &[Fault]) {
    let mut storm = Storm::start(faults, Random::new(&format!("{faults:?}"))).await;
    let outcome = storm.rage(Duration::from_millis(1500), false).await;
    println!("{faults:?}: {} faults, {outcome:?}", storm.injected());
    assert!(storm.injected() > 0 && outcome.acknowledged > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cut_in_the_middle_of_frames() {
    survive(&[Fault::Cut]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reset() {
    survive(&[Fault::Reset]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn delayed_and_byte_by_byte() {
    survive(&[Fault::Delay, Fault::Trickle]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stalled_for_ever() {
    survive(&[Fault::Stall, Fault::Delay]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_at_once() {
    survive(&FAULTS).await;
}
