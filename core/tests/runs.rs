//! Frames that are read together and have the same receivers are delivered as one batch. Clients must not notice any
//! difference.
#![cfg(all(unix, feature = "broker"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod common;

use busrt::QoS;
use busrt::broker::Options;
use common::{Bus, Peer, next};
use std::io::{ErrorKind, Read, Write};

/// Returns the frames of one write: many of a kind, changes of topic, kind and QoS, and a large frame in between.
fn batch(from: u32, count: u32) -> Vec<u8> {
    let mut bytes = vec![];
    for number in from..from + count {
        let (flags, head): (u8, &[u8]) = match number % 97 {
            0..60 => (0x01, b"news/a\0"),
            60..75 => (0x12, b"rx.0\0"),
            75..80 => (0x01, b"news/b\0"),
            80..85 => (0x13, b"rx.*\0"),
            85..88 => (0x41, b"news/a\0"),
            88..91 => (0x52, b"rx.0\0"),
            91..94 => (0x06, b"news/a\0rx.0\0"),
            _ => (0x81, b"news/a\0"),
        };
        let mut body = [head, &number.to_le_bytes()].concat();
        if number % 97 == 96 {
            body.resize(body.len() + 9000, 7);
        }
        bytes.extend(Peer::operation(number, flags, &body));
    }
    bytes
}

async fn all_arrives_in_order(options: Options) {
    const COUNT: u32 = 20_000;
    let bus = Bus::start(options).await;
    let mut peer = bus.peer("sender");
    // Two on sockets, one in the broker's process.
    let mut receivers = vec![];
    for index in 0..3 {
        let name = format!("rx.{index}");
        let client = match index {
            2 => bus.broker.client_with(&bus.config(&name)).await.unwrap(),
            _ => bus.client(&name).await,
        };
        client.subscribe("news/#", QoS::Processed).await.unwrap();
        receivers.push((client.frames().unwrap(), client));
    }
    let mut stream = peer.stream.try_clone().unwrap();
    let writing = std::thread::spawn(move || {
        for from in (1..=COUNT).step_by(1000) {
            stream.write_all(&batch(from, 1000)).unwrap();
        }
    });
    let reading = tokio::task::spawn_blocking(move || {
        let acknowledged = (1..=COUNT).filter(|number| (85..91).contains(&(number % 97)));
        for number in acknowledged {
            let [a, b, c, d] = number.to_le_bytes();
            assert_eq!(peer.next().0, [0xfe, a, b, c, d, 1]);
        }
    });
    let mut taking = vec![];
    for (index, (mut frames, client)) in receivers.into_iter().enumerate() {
        taking.push(tokio::spawn(async move {
            let only_first = |number: &u32| matches!(number % 97, 60..75 | 88..94);
            for number in (1..=COUNT).filter(|number| index == 0 || !only_first(number)) {
                let frame = loop {
                    let frame = next(&mut frames).await;
                    if frame.sender() == "sender" {
                        break frame;
                    }
                };
                assert_eq!(frame.payload()[..4], number.to_le_bytes(), "receiver {index}");
            }
            drop(client);
        }));
    }
    for taking in taking {
        taking.await.unwrap();
    }
    writing.join().unwrap();
    reading.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_room_for_everything() {
    all_arrives_in_order(Options::new().queue_size(100_000)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_room_for_less_than_a_run() {
    all_arrives_in_order(Options::new().queue_size(16).stall(common::PATIENCE)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_acknowledged_unsubscription_ends_earlier_publications() {
    let bus = Bus::start(Options::new().queue_size(16).stall(common::PATIENCE)).await;
    let mut peer = bus.peer("both");
    peer.send(1, 0x42, b"t");
    assert_eq!(peer.next().0, [0xfe, 1, 0, 0, 0, 1]);
    // More than the kernel accepts for a receiver that does not read yet.
    let payload = [b"t\0".as_slice(), &[7; 4000]].concat();
    let mut bytes: Vec<u8> = (2..1002).flat_map(|id| Peer::operation(id, 0x01, &payload)).collect();
    bytes.extend(Peer::operation(1002, 0x43, b"t"));
    bytes.extend(Peer::operation(1003, 0x41, b"t\0nobody"));
    let mut stream = peer.stream.try_clone().unwrap();
    let writing = std::thread::spawn(move || stream.write_all(&bytes).unwrap());
    let reading = tokio::task::spawn_blocking(move || {
        for _ in 0..1000 {
            assert_eq!(peer.next().0[0], 0x01);
        }
        assert_eq!(peer.next().0, [0xfe, 0xea, 3, 0, 0, 1]);
        assert_eq!(peer.next().0, [0xfe, 0xeb, 3, 0, 0, 1]);
    });
    reading.await.unwrap();
    writing.join().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unsubscribed_client_gets_no_more_frames_of_a_waiting_batch() {
    let bus = Bus::start(Options::new().queue_size(16).stall(common::PATIENCE)).await;
    let mut receiver = bus.peer("receiver");
    receiver.send(1, 0x42, b"t");
    assert_eq!(receiver.next().0, [0xfe, 1, 0, 0, 0, 1]);
    let sender = bus.peer("sender");
    let payload = [b"t\0".as_slice(), &[7; 4000]].concat();
    let bytes: Vec<u8> = (2..3002).flat_map(|id| Peer::operation(id, 0x01, &payload)).collect();
    let mut stream = sender.stream.try_clone().unwrap();
    let writing = std::thread::spawn(move || stream.write_all(&bytes).unwrap());
    common::eventually("the sender is held back", || {
        bus.broker.clients().clients.iter().any(|client| client.name == "receiver" && client.queue >= 16)
    })
    .await;
    receiver.send(2, 0x43, b"t");
    // The broker reads from it although it does not read; one frame may already be in transit.
    let reading = tokio::task::spawn_blocking(move || {
        let mut after = None;
        loop {
            match (receiver.next().0, after) {
                ([0xfe, ..], None) => after = Some(0),
                ([0xfe, ..], Some(frames)) => return frames,
                (_, Some(frames)) => after = Some(frames + 1),
                (_, None) => {}
            }
            if after == Some(0) {
                receiver.send(3, 0x43, b"never");
            }
        }
    });
    let after = reading.await.unwrap();
    assert!(after <= 1, "{after} frames after the end of the subscription");
    writing.join().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_comes_after_earlier_answers() {
    let bus = Bus::start(Options::new().queue_size(16).stall(common::PATIENCE)).await;
    let mut receiver = bus.peer("receiver");
    let flood = bus.peer("flood");
    let payload = [b"receiver\0".as_slice(), &[7; 4000]].concat();
    const FRAMES: u32 = 3000;
    let bytes: Vec<u8> = (0..FRAMES).flat_map(|id| Peer::operation(id, 0x12, &payload)).collect();
    let mut stream = flood.stream.try_clone().unwrap();
    let writing = std::thread::spawn(move || stream.write_all(&bytes).unwrap());
    // The flood must be held for many checks, not only while its socket is being written to.
    let (mut seen, mut looks) = (0, 0);
    common::eventually("the receiver is full", || {
        let clients = bus.broker.clients().clients;
        let read = clients.iter().find(|client| client.name == "flood").map_or(0, |client| client.r_frames);
        let full = clients.iter().any(|client| client.name == "receiver" && client.queue >= 16);
        looks = if full && read == seen { looks + 1 } else { 0 };
        seen = read;
        looks == 40
    })
    .await;
    // In one write: a message that has to wait, and one to an unknown client, whose refusal is answered.
    let mut sender = bus.peer("sender");
    let both = [Peer::operation(1, 0x12, b"receiver\0last"), Peer::operation(2, 0x52, b"nobody\0")].concat();
    sender.stream.write_all(&both).unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    sender.stream.set_nonblocking(true).unwrap();
    let early = sender.stream.read(&mut [0]).map_err(|e| e.kind());
    assert_eq!(early, Err(ErrorKind::WouldBlock), "the refusal came before the earlier answer");
    sender.stream.set_nonblocking(false).unwrap();
    let reading = tokio::task::spawn_blocking(move || {
        let mut last = 0;
        for _ in 0..=FRAMES {
            last += u32::from(receiver.next().1.ends_with(b"last"));
        }
        last
    });
    assert_eq!(reading.await.unwrap(), 1);
    let refused = tokio::task::spawn_blocking(move || sender.next().0);
    assert_eq!(refused.await.unwrap(), [0xfe, 2, 0, 0, 0, 0x71]);
    writing.join().unwrap();
}
