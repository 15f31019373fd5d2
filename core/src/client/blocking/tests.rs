use super::*;
use crate::proto::delivery::{Delivery, ack};
use crate::proto::op::{FrameKind, GREETING};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

fn connected() -> (Client, UnixStream) {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let broker = std::thread::spawn(move || {
        theirs.write_all(&GREETING).unwrap();
        theirs.read_exact(&mut [0; 3]).unwrap();
        theirs.write_all(b"\x01").unwrap();
        theirs.read_exact(&mut [0; 4]).unwrap();
        theirs.write_all(b"\x01").unwrap();
        theirs
    });
    let config = Config::new("", "me").ping_interval(Duration::from_secs(3600));
    let client = Client::connect_stream(|| Socket::from_unix(ours), &config).unwrap();
    (client, broker.join().unwrap())
}

fn message(payload: &[u8]) -> Vec<u8> {
    let mut out = vec![];
    let kind = FrameKind::Message;
    Delivery { kind, realtime: false, sender: "peer", topic: None, payload }.encode_head(&mut out);
    out.extend_from_slice(payload);
    out
}

#[test]
fn sends_and_receives() {
    let (client, mut broker) = connected();
    let mut frames = client.frames().unwrap();
    assert!(frames.try_recv().is_none());
    broker.write_all(&message(b"one")).unwrap();
    assert_eq!(frames.recv().unwrap().unwrap().payload(), b"one");
    let e = frames.recv_timeout(Duration::from_millis(1)).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Timeout);
    let pending =
        client.submit(Operation::Message { target: "b", payload: Bytes::new() }, QoS::Processed).unwrap();
    assert!(!pending.is_completed());
    broker.write_all(&ack(1, 0x71)).unwrap();
    assert_eq!(pending.wait().unwrap_err().kind(), ErrorKind::NotRegistered);
    client.publish("t", "last", QoS::No).unwrap();
    drop(client);
    let mut all = vec![];
    broker.read_to_end(&mut all).unwrap();
    assert!(all.ends_with(b"t\0last"));
    drop(broker);
    assert_eq!(frames.count(), 0);
}

#[test]
fn within_a_runtime_it_says_so() {
    let (client, _broker) = connected();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let e = client.send("b", "x", QoS::No).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::NotSupported);
        assert!(e.to_string().contains("async runtime"), "{e}");
        assert_eq!(Client::connect(&Config::new("/none", "x")).unwrap_err().kind(), ErrorKind::NotSupported);
    });
    client.send("b", "x", QoS::No).unwrap();
}

#[test]
fn what_another_process_connected_is_refused() {
    let (mut client, _broker) = connected();
    client.owner = Owner::of_another();
    let e = client.send("b", "x", QoS::No).unwrap_err();
    assert!(e.to_string().contains("fork"), "{e}");
    assert!(client.frames().is_err());
    assert!(!client.is_connected());
}
