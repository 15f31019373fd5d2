//! The addresses on which a broker in this process listens, and how clients reach it.
#![cfg(all(unix, feature = "broker", feature = "ipc"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod common;

use busrt::broker::{Broker, Options};
use busrt::client::{Client, Config};
use busrt::{ErrorKind, QoS};
use common::{Bus, PATIENCE, eventually};

async fn connect(address: &str) -> busrt::Result<Client> {
    Client::connect(&Config::new(address, "a").timeout(PATIENCE)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_path_that_is_too_long_is_an_error_for_broker_and_client() {
    let path = format!("/tmp/{}.sock", "x".repeat(110));
    let told = |e: &busrt::Error| e.to_string().contains("120 bytes") && e.to_string().contains("at most");
    let e = Broker::new(Options::new()).listen(&path).await.unwrap_err();
    assert!(e.kind() == ErrorKind::Data && told(&e), "{e}");
    let e = connect(&path).await.unwrap_err();
    assert!(told(&e), "{e}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_brokers_of_one_process_do_not_share_a_path() {
    let bus = Bus::start(Options::new()).await;
    let other = Broker::new(Options::new());
    let e = other.listen(&bus.path).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Busy);
    assert!(e.to_string().contains(&format!("in use by process {}", std::process::id())), "{e}");
    let fifo = format!("fifo:{}.fifo", bus.path);
    bus.broker.listen(&fifo).await.unwrap();
    assert_eq!(other.listen(&fifo).await.unwrap_err().kind(), ErrorKind::Busy);
    // Both paths are free as soon as the first broker has shut down.
    bus.broker.shutdown().await;
    other.listen(&bus.path).await.unwrap();
    other.listen(&fifo).await.unwrap();
    connect(&bus.path).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_in_the_backlog_of_a_deleted_socket_are_served() {
    let bus = Bus::start(Options::new()).await;
    for round in 0..2 {
        let path = bus.path.clone();
        let connecting: Vec<_> =
            (0..20).map(|_| std::os::unix::net::UnixStream::connect(&path).unwrap()).collect();
        std::fs::remove_file(&path).unwrap();
        eventually("the file is put back", || std::path::Path::new(&path).exists()).await;
        for mut stream in connecting {
            let greeted = tokio::task::spawn_blocking(move || {
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                std::io::Read::read_exact(&mut stream, &mut [0; 3])
            });
            greeted.await.unwrap().unwrap();
        }
        let client = Client::connect(&Config::new(&path, format!("c{round}"))).await.unwrap();
        client.publish("t", "x", QoS::Processed).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_is_reached_under_its_name() {
    let broker = Broker::new(Options::new());
    for host in ["localhost", "127.0.0.1", "[::ffff:127.0.0.1]"] {
        let address = broker.listen(&format!("{host}:0")).await.unwrap();
        assert!(address.starts_with(&format!("{host}:")) && !address.ends_with(":0"), "{address}");
        connect(&address).await.unwrap().disconnect().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn addresses_of_every_kind_are_errors_not_panics() {
    let broker = Broker::new(Options::new());
    for address in [
        "/",
        "/tmp/",
        "/tmp/..",
        "fifo:",
        "fifo:/",
        "fifo:/tmp/",
        "/tmp/a\0b.sock",
        "[fe80::1%nowhere]:1",
        "[::1%]:1",
        "\0:1",
    ] {
        broker.listen(address).await.expect_err(address);
        connect(address).await.expect_err(address);
    }
}
