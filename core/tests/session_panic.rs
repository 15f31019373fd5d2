//! A panic in the task of a session ends that session immediately: its name is free again.
#![cfg(all(unix, feature = "broker", feature = "ipc"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod common;

use busrt::broker::Options;
use common::{Bus, eventually};
use std::io::Write;

/// Panics when the broker logs the reason of a disconnection, which it does in the task of the session.
struct PanickingLogger;

impl log::Log for PanickingLogger {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let text = record.args().to_string();
        assert!(!text.contains("disconnected: bomb"), "a logger that panics");
    }

    fn flush(&self) {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_in_the_task_of_a_session_ends_the_session() {
    static LOGGER: PanickingLogger = PanickingLogger;
    log::set_logger(&LOGGER).unwrap();
    log::set_max_level(log::LevelFilter::Warn);
    let bus = Bus::start(Options::default()).await;
    let bystander = bus.client("bystander").await;
    let mut peer = bus.peer("bomb");
    // An operation that does not exist.
    peer.stream.write_all(&[1, 0, 0, 0, 0x3f, 0, 0, 0, 0]).unwrap();
    let is_registered = || bus.broker.clients().clients.iter().any(|client| client.name == "bomb");
    eventually("the session has ended", || !is_registered()).await;
    drop(bus.client("bomb").await);
    assert!(bystander.is_connected());
}
