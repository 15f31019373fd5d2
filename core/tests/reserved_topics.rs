//! Topics under `.broker/` belong to the broker: a publication there by another client is refused with 79.
#![cfg(all(unix, feature = "broker", feature = "ipc"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod common;

use busrt::broker::{AccessList, ClientAccess, Options};
use busrt::{ErrorKind, QoS};
use common::raw::{PUBLISH, PUBLISH_FOR, Raw, SUBSCRIBE};
use common::{Bus, PATIENCE};

const RESERVED: [&str; 4] = [".broker/info", ".broker/warn", ".broker/", ".broker/a/b"];
const FREE: [&str; 4] = [".broker", ".brokers/info", "a/.broker/info", "/.broker/info"];

/// Clients on sockets, with and without an acknowledgement, with and without access rules.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_on_sockets() {
    for rules in [false, true] {
        let bus = Bus::start(Options::new().timeout(PATIENCE)).await;
        if rules {
            let all = ClientAccess::all;
            bus.broker
                .set_access(Some(AccessList::new().client("subscriber", all()).client("publisher", all())))
                .await;
        }
        let mut subscriber = Raw::register(&bus.path, "subscriber");
        for topic in RESERVED.iter().chain(&FREE).chain(&[".broker/#"]) {
            assert_eq!(subscriber.ask(SUBSCRIBE, topic.as_bytes()), 1, "subscribing to {topic} is allowed");
        }
        let mut publisher = Raw::register(&bus.port, "publisher");
        for topic in RESERVED {
            assert_eq!(publisher.ask(PUBLISH, format!("{topic}\0x").as_bytes()), 0x79, "{topic}");
            assert_eq!(
                publisher.ask(PUBLISH_FOR, format!("{topic}\0subscriber\0x").as_bytes()),
                0x79,
                "{topic}"
            );
            publisher.send(PUBLISH, format!("{topic}\0x").as_bytes());
            publisher.send(PUBLISH_FOR, format!("{topic}\0subscriber\0x").as_bytes());
        }
        for topic in FREE {
            assert_eq!(publisher.ask(PUBLISH, format!("{topic}\0free").as_bytes()), 1, "{topic}");
        }
        let received: Vec<_> =
            subscriber.rest().into_iter().filter(|delivery| delivery.sender() != b".broker").collect();
        assert_eq!(received.len(), FREE.len(), "{received:?}");
    }
}

/// The restriction also applies to clients within the process, although access rules do not. The broker itself still
/// announces.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_within_the_process() {
    let bus = Bus::start(Options::new().timeout(PATIENCE)).await;
    let mut subscriber = Raw::register(&bus.path, "subscriber");
    assert_eq!(subscriber.ask(SUBSCRIBE, b".broker/#"), 1);
    let local = bus.broker.client("local").await.unwrap();
    let remote = bus.client("remote").await;
    for client in [&local, &remote] {
        for topic in RESERVED {
            let e = client.publish(topic, "x", QoS::Processed).await.unwrap_err();
            assert_eq!(e.kind(), ErrorKind::AccessDenied, "{topic}");
            let e = client.publish_for(topic, "subscriber", "x", QoS::Processed).await.unwrap_err();
            assert_eq!(e.kind(), ErrorKind::AccessDenied, "{topic}");
        }
        client.subscribe(".broker/#", QoS::Processed).await.unwrap();
        client.publish(FREE[1], "x", QoS::Processed).await.unwrap();
    }
    let senders: Vec<Vec<u8>> = subscriber.rest().iter().map(|delivery| delivery.sender().to_vec()).collect();
    assert_eq!(senders, [b".broker", b".broker"], "two registrations were announced");
}
