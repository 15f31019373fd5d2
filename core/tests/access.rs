//! The security model: registration, permissions, and rules that change while clients are connected.
#![cfg(all(unix, feature = "broker", feature = "ipc"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod common;

use busrt::broker::{AccessList, ClientAccess, Options};
use busrt::{ErrorKind, QoS};
use common::{Bus, Transport, eventually, next, nothing_waits};

fn kind(result: busrt::Result<()>) -> Option<ErrorKind> {
    result.err().map(|e| e.kind())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn registration_by_name_and_address() {
    for transport in [Transport::Unix, Transport::Tcp] {
        let bus = Bus::start_for(transport, Options::default()).await;
        let list = AccessList::new()
            .client("anywhere", ClientAccess::all())
            .client("local", ClientAccess::all().hosts(["127.0.0.0/8".parse().unwrap()]))
            .client("far", ClientAccess::all().hosts(["10.0.0.0/8".parse().unwrap()]));
        bus.broker.set_access(Some(list)).await;
        let e = bus.try_client("unknown").await.unwrap_err();
        assert_eq!(e.kind(), ErrorKind::AccessDenied);
        let anywhere = bus.client("anywhere").await;
        anywhere.secondary().await.unwrap();
        bus.client("local").await;
        // Hosts are checked for TCP only.
        let far = bus.try_client("far").await.map(drop).map_err(|e| e.kind());
        let wanted = if transport == Transport::Tcp { Err(ErrorKind::AccessDenied) } else { Ok(()) };
        assert_eq!(far, wanted);
        // Clients in the broker's own process are trusted.
        bus.broker.client("unknown").await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn permissions_are_masks() {
    let bus = Bus::start(Options::default()).await;
    let rules =
        ClientAccess::none().messages(["b"]).broadcasts(["g.*"]).publications(["p/#"]).subscriptions(["s/+"]);
    bus.broker.set_access(Some(AccessList::new().client("a", rules).client("b", ClientAccess::all()))).await;
    let a = bus.client("a").await;
    let (b, mut frames) = bus.listener("b").await;
    let second = b.secondary().await.unwrap();
    let denied = Some(ErrorKind::AccessDenied);
    let q = QoS::Processed;
    assert_eq!(kind(a.send("b", "x", q).await), None);
    assert_eq!(kind(a.send(second.name(), "x", q).await), None, "a name covers its secondaries");
    assert_eq!(kind(a.send("c", "x", q).await), denied, "denied before it is looked up");
    assert_eq!(kind(a.send(".broker", "x", q).await), denied);
    assert_eq!(kind(a.broadcast("g.x", "x", q).await), None);
    assert_eq!(kind(a.broadcast("*", "x", q).await), denied);
    assert_eq!(kind(a.publish("p/x/y", "x", q).await), None);
    assert_eq!(kind(a.publish("p", "x", q).await), denied);
    assert_eq!(kind(a.publish_for("q", "b", "x", q).await), denied);
    assert_eq!(kind(a.subscribe("s/#", q).await), denied, "everything the mask could match must be allowed");
    assert_eq!(kind(a.exclude("#", q).await), None, "excluding needs no permission");
    assert_eq!(kind(a.unexclude("#", q).await), None);
    // There is one answer, and the allowed topics are subscribed nevertheless.
    let mut a_frames = a.frames().unwrap();
    assert_eq!(kind(a.subscribe(["s/1", "t/1", "s/+"].as_slice(), q).await), denied);
    b.publish("s/2", "here", q).await.unwrap();
    b.publish("t/1", "not here", q).await.unwrap();
    assert_eq!(next(&mut a_frames).await.payload(), b"here");
    assert_eq!(next(&mut frames).await.sender(), "a");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_change_for_connected_clients() {
    let bus = Bus::start(Options::default()).await;
    let (a, mut frames) = bus.listener("a").await;
    let b = bus.client("b").await;
    a.subscribe(["keep/+", "lose/+", "#"].as_slice(), QoS::Processed).await.unwrap();
    b.send("a", "1", QoS::Processed).await.unwrap();
    next(&mut frames).await;
    let rules = ClientAccess::none().subscriptions(["keep/#"]).messages(["a"]);
    bus.broker
        .set_access(Some(AccessList::new().client("a", rules.clone()).client("b", ClientAccess::all())))
        .await;
    b.publish("lose/1", "x", QoS::Processed).await.unwrap();
    b.publish("keep/1", "kept", QoS::Processed).await.unwrap();
    assert_eq!(next(&mut frames).await.payload(), b"kept");
    nothing_waits(&a, &mut frames).await;
    // Earlier lookups are not remembered.
    b.send("a", "allowed", QoS::Processed).await.unwrap();
    next(&mut frames).await;
    bus.broker.set_access(Some(AccessList::new().client("a", rules).client("b", ClientAccess::none()))).await;
    assert_eq!(kind(b.send("a", "x", QoS::Processed).await), Some(ErrorKind::AccessDenied));
    // A client that is no longer in the list is disconnected; the broker's shutdown is still announced to the others.
    bus.broker.set_access(Some(AccessList::new().client("a", ClientAccess::none()))).await;
    tokio::time::timeout(common::PATIENCE, b.closed()).await.unwrap();
    assert!(a.is_connected());
    bus.broker.shutdown().await;
    assert_eq!(next(&mut frames).await.topic(), Some(".broker/warn"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_owner_disconnects_a_client_by_name() {
    let bus = Bus::start(Options::default()).await;
    let a = bus.client("a").await;
    let second = a.secondary().await.unwrap();
    assert!(!bus.broker.disconnect("b"));
    assert!(bus.broker.disconnect("a"));
    tokio::time::timeout(common::PATIENCE, a.closed()).await.unwrap();
    tokio::time::timeout(common::PATIENCE, second.closed()).await.unwrap();
    eventually("no client is left", || bus.broker.stats().clients == 0).await;
    bus.client("a").await;
}
