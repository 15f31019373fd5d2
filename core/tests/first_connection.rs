//! The first connection of a client that reconnects, which is retried if the program asks for it. The clock is
//! paused, so that the delays take no time.
#![cfg(all(unix, feature = "broker"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

use busrt::ErrorKind;
use busrt::broker::{Broker, Options};
use busrt::client::{Client, Config, Reconnect};
use std::time::Duration;
use tokio::time::Instant;

/// Returns the path of a socket that does not exist yet, in a directory that is deleted with the value.
fn path() -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bus.sock").display().to_string();
    (dir, path)
}

fn plan() -> Reconnect {
    Reconnect::new().delays(Duration::from_secs(1), Duration::from_secs(8)).retry_first(true)
}

#[tokio::test(start_paused = true)]
async fn a_client_may_start_before_its_broker() {
    let (_dir, path) = path();
    let config = Config::new(&path, "early").reconnect(plan());
    let broker = Broker::new(Options::default());
    let start = Instant::now();
    let listen = async {
        tokio::time::sleep(Duration::from_secs(60)).await;
        broker.listen(&path).await.unwrap();
    };
    let (client, ()) = tokio::join!(Client::connect(&config), listen);
    assert!(client.unwrap().is_connected());
    let waited = start.elapsed();
    assert!(waited >= Duration::from_secs(60) && waited < Duration::from_secs(69), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn the_number_of_attempts_is_bounded() {
    let (_dir, path) = path();
    let start = Instant::now();
    let config = Config::new(&path, "early").reconnect(plan().tries(4));
    let error = Client::connect(&config).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
    // The delays are between half of 1 s, 2 s and 4 s and the whole of them.
    let waited = start.elapsed();
    assert!(waited >= Duration::from_millis(3500) && waited <= Duration::from_millis(7010), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn permanent_errors_are_returned_immediately() {
    let start = Instant::now();
    let config = Config::new("no address", "early").reconnect(plan());
    assert_eq!(Client::connect(&config).await.unwrap_err().kind(), ErrorKind::Data);
    let (_dir, path) = path();
    let broker = Broker::new(Options::default());
    broker.listen(&path).await.unwrap();
    let config = Config::new(&path, ".early").reconnect(plan());
    let error = Client::connect(&config).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Data, "{error}");
    assert!(start.elapsed() < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn without_retries_the_first_error_is_returned() {
    let (_dir, path) = path();
    let start = Instant::now();
    for config in [
        Config::new(&path, "early"),
        Config::new(&path, "early").reconnect(Reconnect::new()),
        Config::new(&path, "early").reconnect(plan().retry_first(false)),
    ] {
        assert_eq!(Client::connect(&config).await.unwrap_err().kind(), ErrorKind::Io);
    }
    assert_eq!(start.elapsed(), Duration::ZERO);
}
