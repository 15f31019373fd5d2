use super::owner::Owner;
use super::*;
use crate::client::{Config, Deadline, Request, Wait};
use crate::error::{Error, ErrorKind};
use crate::proto::delivery::{Delivery, ack};
use crate::proto::op::{FrameKind, GREETING, QoS};
use crate::proto::request::Operation;
use crate::transport::Socket;
use bytes::Bytes;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

fn connected() -> (Client, UnixStream) {
    connected_with(|config| config)
}

fn connected_with(set: impl FnOnce(Config) -> Config) -> (Client, UnixStream) {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let broker = std::thread::spawn(move || {
        theirs.write_all(&GREETING).unwrap();
        theirs.read_exact(&mut [0; 3]).unwrap();
        theirs.write_all(b"\x01").unwrap();
        theirs.read_exact(&mut [0; 4]).unwrap();
        theirs.write_all(b"\x01").unwrap();
        theirs
    });
    let config = set(Config::new("", "me").ping_interval(Duration::from_secs(3600)));
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
fn waiting_within_a_runtime_is_an_error() {
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
fn a_client_of_another_process_is_refused() {
    let (mut client, _broker) = connected();
    client.owner = Owner::of_another();
    let e = client.send("b", "x", QoS::No).unwrap_err();
    assert!(e.to_string().contains("fork"), "{e}");
    assert!(client.frames().is_err());
    assert!(!client.is_connected());
}

fn interrupt() -> crate::Result<()> {
    Err(Error::new(ErrorKind::Other, "interrupted"))
}

/// Returns a wait that its check ends after a millisecond.
fn interrupted(check: &mut fn() -> crate::Result<()>) -> Wait<'_> {
    Wait::forever().slice(Duration::from_millis(1)).check(check)
}

fn briefly() -> Wait<'static> {
    Wait::at_most(Duration::from_millis(20))
}

#[test]
fn waits_end_after_their_time_or_by_their_check() {
    let (client, mut broker) = connected();
    let check: &mut fn() -> crate::Result<()> = &mut (interrupt as _);
    let mut frames = client.frames().unwrap();
    assert_eq!(frames.recv_with(briefly()).unwrap_err().kind(), ErrorKind::Timeout);
    assert_eq!(frames.recv_with(interrupted(check)).unwrap_err().context(), "interrupted");
    assert_eq!(frames.wait_batch(&mut vec![], 1, 1, briefly()).unwrap(), Some(0));
    assert_eq!(
        frames.wait_batch(&mut vec![], 1, 1, interrupted(check)).unwrap_err().context(),
        "interrupted"
    );
    let mut events = client.events().unwrap();
    assert!(events.recv().unwrap().is_some());
    assert_eq!(events.recv_timeout(Duration::from_millis(1)).unwrap_err().kind(), ErrorKind::Timeout);
    assert!(client.closed_with(briefly()).unwrap().is_none());
    assert_eq!(client.closed_with(interrupted(check)).unwrap_err().context(), "interrupted");
    let request = Request::message("b", b"x", QoS::Processed);
    assert_eq!(client.run_with(&request, briefly()).unwrap_err().kind(), ErrorKind::Timeout);
    assert_eq!(client.run_with(&request, interrupted(check)).unwrap_err().context(), "interrupted");
    let late = client.run(&request.clone().deadline(Duration::from_millis(20))).unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Timeout);
    let pending = client.submit_request(&request.deadline(Deadline::Never), Wait::forever()).unwrap();
    assert!(pending.wait_timeout(Duration::from_millis(1)).is_none());
    assert_eq!(pending.wait_with(interrupted(check)).unwrap_err().context(), "interrupted");
    // The operations before this one have timed out.
    broker.write_all(&ack(4, 1)).unwrap();
    pending.wait().unwrap();
    assert!(pending.is_acknowledged());
    assert!(!client.disconnect_with(briefly()).unwrap());
    drop(broker);
    client.disconnect().unwrap();
    assert!(client.closed_with(briefly()).unwrap().is_some());
}

/// The broker reads nothing for a while. An operation that is given up is not sent, neither then nor later.
#[test]
fn a_wait_for_room_times_out() {
    const BYTES: usize = 100_000;
    let (client, mut broker) = connected_with(|config| config.queue_size(1));
    let mut sent = 0usize;
    let payload = Bytes::from(vec![1; BYTES]);
    let request = Request::message("b", &payload, QoS::No);
    while client.run_with(&request, briefly()).is_ok() {
        sent += 1;
    }
    let ended = client.run_with(&request, interrupted(&mut (interrupt as _)));
    assert_eq!(ended.unwrap_err().context(), "interrupted");
    assert_eq!(client.submit_request(&request, briefly()).unwrap_err().kind(), ErrorKind::Timeout);
    assert!(!client.flush_with(briefly()).unwrap());
    let waiting = std::thread::spawn({
        let client = client.clone();
        move || client.send("b", "last", QoS::No)
    });
    std::thread::sleep(Duration::from_millis(20));
    assert!(!waiting.is_finished());
    let reading = std::thread::spawn(move || {
        let mut all = vec![];
        broker.read_to_end(&mut all).unwrap();
        all
    });
    waiting.join().unwrap().unwrap();
    client.flush().unwrap();
    drop(client);
    let all = reading.join().unwrap();
    assert!(all.ends_with(b"b\0last"));
    assert_eq!(all.iter().filter(|byte| **byte == 1).count() / BYTES, sent);
}
