//! Connections that stay open, end, or are attached as streams.

use busrt::client::Config;
use busrt_ref::client::AsyncClient;
use busrt_ref::rpc::Rpc as _;
use interop::{Bed, Kind, Maker, Op, PATIENCE, Peer, RpcKind, RpcPeer, Transport, until};
use std::time::Duration;

/// Returns twice the time after which a broker closes a silent client.
fn long_enough(bed: &Bed) {
    for name in ["silent.1", "silent.2"] {
        let silent = Peer::connect(bed, Kind::Theirs, name).unwrap();
        until("a silent client is closed", || (!silent.is_connected()).then_some(()));
    }
}

fn idle_clients_stay(maker: Maker, transport: Transport) {
    // Our client pings once a second, independent of the broker's timeout.
    let bed = Bed::with_timeout(maker, transport, Duration::from_secs(2));
    let mut ours = Peer::connect(&bed, Kind::Ours, "ours").unwrap();
    let mut blocking = Peer::connect(&bed, Kind::OursBlocking, "blocking").unwrap();
    let mut secondary = ours.secondary().unwrap();
    // Theirs pings at half its own timeout, and only if it uses RPC.
    let theirs = bed.wait(async {
        let config = busrt_ref::ipc::Config::new(&bed.address, "theirs").timeout(Duration::from_secs(1));
        busrt_ref::rpc::RpcClient::new0(busrt_ref::ipc::Client::connect(&config).await.unwrap())
    });
    long_enough(&bed);
    for peer in [&mut ours, &mut blocking, &mut secondary] {
        assert!(peer.is_connected() && peer.is_quiet());
    }
    assert!(theirs.is_connected());
    bed.wait(async {
        let reply = theirs.call(".broker", "test", (&[][..]).into(), busrt_ref::QoS::Processed).await;
        assert_eq!(reply.unwrap().payload(), b"\x81\xa2ok\xc3");
    });
}

#[test]
fn idle_clients_outlive_our_brokers_timeout() {
    idle_clients_stay(Maker::Ours, Transport::Unix);
}

#[test]
fn idle_clients_outlive_our_brokers_timeout_over_tcp() {
    idle_clients_stay(Maker::Ours, Transport::Tcp);
}

#[test]
fn idle_clients_outlive_their_brokers_timeout() {
    idle_clients_stay(Maker::Theirs, Transport::Unix);
}

#[test]
fn idle_clients_outlive_their_brokers_timeout_over_tcp() {
    idle_clients_stay(Maker::Theirs, Transport::Tcp);
}

#[test]
fn a_client_that_pings_by_hand_stays() {
    let bed = Bed::with_timeout(Maker::Ours, Transport::Unix, Duration::from_millis(400));
    for kind in [Kind::Theirs, Kind::TheirsSync] {
        let mut pinging = Peer::connect(&bed, kind, "pinging").unwrap();
        let silent = Peer::connect(&bed, Kind::Theirs, "silent").unwrap();
        until("the silent client is closed", || {
            pinging.ping().unwrap();
            (!silent.is_connected()).then_some(())
        });
        assert!(pinging.is_connected() && pinging.is_quiet());
    }
}

#[test]
fn clients_notice_that_the_broker_is_gone() {
    for (maker, kind) in [
        (Maker::Ours, Kind::Theirs),
        (Maker::Ours, Kind::TheirsSync),
        (Maker::Theirs, Kind::Ours),
        (Maker::Theirs, Kind::OursBlocking),
    ] {
        let broker = Bed::new(maker, Transport::Unix);
        // The clients use another runtime than the broker that ends.
        let elsewhere = Bed::without_broker(&broker.address);
        let peer = Peer::connect(&elsewhere, kind, "x").unwrap();
        drop(broker);
        until("the loss of the connection is noticed", || (!peer.is_connected()).then_some(()));
    }
}

#[test]
fn pending_operations_fail_when_their_broker_ends() {
    let bed = Bed::new(Maker::Theirs, Transport::Unix);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (client, call) = interop::wait(&runtime, async {
        let client = busrt::Client::connect(&Config::new(&bed.address, "x").timeout(PATIENCE)).await.unwrap();
        // No program takes the messages that this client sends to itself: the call is never answered.
        let caller = busrt::rpc::Caller::new(client.clone());
        (client, caller.submit("x", "method", "", busrt::QoS::Processed).await.unwrap())
    });
    drop(bed);
    let e = interop::wait(&runtime, call).unwrap_err();
    assert_eq!(e.code(), -32115);
    assert!(!client.is_connected());
    let sent = interop::wait(&runtime, client.send("x", "x", busrt::QoS::No));
    assert_eq!(sent.unwrap_err().kind(), busrt::ErrorKind::ConnectionLost);
}

#[test]
fn connected_streams() {
    // Their client on a stream that is attached to our broker.
    let bed = Bed::new(Maker::Ours, Transport::Unix);
    bed.wait(async {
        let broker = busrt::broker::Broker::new(busrt::broker::Options::new());
        let (one, other) = tokio::net::UnixStream::pair().unwrap();
        broker.attach(busrt::transport::Socket::from_unix(one.into_std().unwrap()).unwrap()).unwrap();
        let config = busrt_ref::ipc::Config::new("/a/stream.sock", "theirs").timeout(PATIENCE);
        let mut theirs = busrt_ref::ipc::Client::connect_stream(other, &config).await.unwrap();
        let frames = theirs.take_event_channel().unwrap();
        let local = broker.client("local").await.unwrap();
        local.send("theirs", "hello", busrt::QoS::Processed).await.unwrap();
        let frame = frames.recv().await.unwrap();
        assert_eq!((frame.sender(), frame.payload()), ("local", &b"hello"[..]));
    });
    // Our client on a stream of theirs, over a relay.
    let bed = Bed::new(Maker::Theirs, Transport::Unix);
    bed.wait(async {
        let stream = std::os::unix::net::UnixStream::connect(&bed.address).unwrap();
        let socket = busrt::transport::Socket::from_unix(stream).unwrap();
        let client = busrt::Client::connect_stream(socket, &Config::new("", "ours")).await.unwrap();
        let mut frames = client.frames().unwrap();
        client.send("ours", "hello", busrt::QoS::Processed).await.unwrap();
        assert_eq!(frames.recv().await.unwrap().payload(), b"hello");
    });
}

#[test]
fn clients_within_the_brokers_process_meet_those_outside() {
    let bed = Bed::new(Maker::Ours, Transport::Unix);
    let broker = bed.ours();
    let theirs = RpcPeer::serve(&bed, RpcKind::Theirs, "theirs");
    let local = bed.wait(broker.client("local")).unwrap();
    let rpc = {
        let _entered = bed.runtime.enter();
        busrt::rpc::Rpc::new(local, ())
    };
    let reply = bed.wait(rpc.call("theirs", "who", "", busrt::QoS::Processed)).unwrap();
    assert_eq!(reply.payload(), b"local");
    assert_eq!(theirs.call("local", "x", b"", 1).unwrap_err().0, -32601);
    assert_eq!(theirs.notify("local", b"x", 1), Ok(()));
}

#[test]
fn the_end_is_announced() {
    let bed = Bed::new(Maker::Ours, Transport::Unix);
    let mut peers: Vec<_> = [Kind::Theirs, Kind::TheirsSync, Kind::Ours]
        .into_iter()
        .enumerate()
        .map(|(i, kind)| Peer::connect(&bed, kind, &format!("x{i}")).unwrap())
        .collect();
    bed.wait(bed.ours().shutdown());
    for peer in &mut peers {
        let seen = peer.take();
        assert_eq!(seen.topic.as_deref(), Some(".broker/warn"));
        let event: busrt_ref::broker::BrokerEvent = rmp_serde::from_slice(&seen.payload).unwrap();
        assert_eq!((event.subject(), event.data()), ("shutdown", None));
        until("the connection ends", || (!peer.is_connected()).then_some(()));
    }
}

#[test]
fn frames_sent_before_the_shutdown_arrive() {
    for (maker, from, to) in [
        (Maker::Ours, Kind::TheirsSync, Kind::Ours),
        (Maker::Ours, Kind::Ours, Kind::Theirs),
        (Maker::Ours, Kind::OursBlocking, Kind::Theirs),
        (Maker::Theirs, Kind::Ours, Kind::Theirs),
        (Maker::Theirs, Kind::OursBlocking, Kind::Ours),
    ] {
        let bed = Bed::new(maker, Transport::Tcp);
        let mut receiver = Peer::connect(&bed, to, "receiver").unwrap();
        for number in 0..5 {
            let mut sender = Peer::connect(&bed, from, &format!("sender{number}")).unwrap();
            for i in 0..200u32 {
                sender.run(Op::Send("receiver", &i.to_le_bytes()), 0).unwrap();
            }
            drop(sender);
            for i in 0..200u32 {
                assert_eq!(receiver.take().payload, i.to_le_bytes(), "{from:?} on {maker:?}");
            }
        }
    }
}
