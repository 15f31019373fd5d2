mod batches;
#[cfg(feature = "rpc")]
mod lanes;
#[cfg(feature = "broker")]
mod pushed;
mod schedules;

use super::super::client_state::ClientState;
use super::super::events::Event;
use super::super::lanes::Frames;
use super::*;
use crate::error::ErrorKind;
use crate::proto::delivery::Delivery;
use crate::proto::op::FrameKind;
use std::future::Future;
use std::ops::Deref;
use std::pin::pin;
use std::task::{Context, Waker};

/// A client whose inbox is tested, without a connection.
#[derive(Clone)]
struct Client(Arc<ClientState>);

impl Client {
    fn new(config: &Config) -> Client {
        Client(ClientState::new(config))
    }

    fn frames(&self) -> Frames {
        Frames::attach(&self.0.inbox).unwrap()
    }

    /// Appends frames as the reader of a connection does.
    fn append(&self, frames: &mut Vec<Frame>) {
        let mut effects = DeferredEffects::default();
        self.0.receive(frames, &mut effects);
        effects.settle();
    }

    fn end(&self, end: End) {
        self.0.end(end);
    }
}

impl Deref for Client {
    type Target = Arc<Inbox>;

    fn deref(&self) -> &Arc<Inbox> {
        &self.0.inbox
    }
}

fn config() -> Config {
    Config::new("", "me")
}

fn message(payload: &[u8]) -> Frame {
    let kind = FrameKind::Message;
    let delivery = Delivery { kind, realtime: false, sender: "peer", topic: None, payload };
    Frame::copied(&delivery)
}

/// The bytes that a message with a payload of one byte holds.
const SIZE: usize = size_of::<Frame>() + b"peer\0p".len();

/// Returns a configuration whose inbox holds this many of these messages.
fn room_for(frames: usize) -> Config {
    config().inbox_bytes(frames * SIZE)
}

fn append(inbox: &Client, payloads: impl IntoIterator<Item = u8>) {
    inbox.append(&mut payloads.into_iter().map(|p| message(&[p])).collect());
}

fn drain(frames: &mut Frames) -> Vec<u8> {
    std::iter::from_fn(|| frames.try_recv()).map(|f| f.payload()[0]).collect()
}

/// Returns whether the reader of a connection must wait.
fn must_wait(inbox: &Inbox) -> bool {
    inbox.room(|| false) == 0
}

fn is_ready(future: impl Future) -> bool {
    pin!(future).poll(&mut Context::from_waker(Waker::noop())).is_ready()
}

#[test]
fn the_bound_is_in_bytes() {
    let inbox = Client::new(&room_for(3));
    let mut frames = inbox.frames();
    append(&inbox, 0..2);
    assert_eq!(inbox.room(|| false), SIZE);
    append(&inbox, 2..3);
    assert!(must_wait(&inbox));
    assert!(inbox.room(|| true) > 0);
    assert_eq!(drain(&mut frames), [0, 1, 2]);
    assert_eq!(inbox.room(|| false), 3 * SIZE);
    assert_eq!(inbox.taken(), (3, 3 * SIZE as u64));
}

#[test]
fn an_empty_inbox_takes_a_frame_of_any_size() {
    let inbox = Client::new(&config().inbox_bytes(1));
    let _frames = inbox.frames();
    assert!(!must_wait(&inbox));
    inbox.append(&mut vec![message(&[0; 100_000])]);
    assert!(must_wait(&inbox));
}

#[test]
fn an_awaited_answer_extends_the_bound() {
    let inbox = Client::new(&room_for(2).inbox_awaiting_bytes(3 * SIZE));
    let _frames = inbox.frames();
    append(&inbox, 0..3);
    assert!(must_wait(&inbox));
    let blocked = inbox.block();
    assert_eq!(inbox.room(|| false), 2 * SIZE);
    append(&inbox, 3..5);
    assert_eq!(inbox.room(|| true), 0);
    drop(blocked);
    assert!(must_wait(&inbox));
}

#[tokio::test]
async fn a_reader_that_waits_for_room_continues() {
    type Act = fn(&Client, &mut Frames);
    let acts: [Act; 4] = [
        |_, frames| assert!(frames.try_recv().is_some()),
        |inbox, _| std::mem::forget(inbox.block()),
        |inbox, _| inbox.end(End::new(ErrorKind::ConnectionLost, "")),
        |inbox, _| inbox.detach(1),
    ];
    for act in acts {
        let inbox = Client::new(&room_for(1));
        let mut frames = inbox.frames();
        append(&inbox, 0..1);
        let waiting = tokio::spawn({
            let inbox = inbox.clone();
            async move { inbox.wait_room_unless(|| false).await }
        });
        while !inbox.room.is_awaited() {
            tokio::task::yield_now().await;
        }
        act(&inbox, &mut frames);
        assert_eq!(waiting.await.unwrap(), !inbox.has_ended());
        assert!(!inbox.room.is_awaited());
    }
}

#[test]
fn frames_over_the_budget_are_dropped_and_reported() {
    for (overflow, kept) in [(Overflow::DropOld, [7, 8, 9]), (Overflow::DropNew, [0, 1, 2])] {
        let inbox = Client::new(&room_for(3).overflow(overflow));
        let mut events = inbox.0.events.subscribe();
        let mut frames = inbox.frames();
        append(&inbox, 0..10);
        assert!(!must_wait(&inbox));
        assert_eq!(drain(&mut frames), kept);
        assert_eq!(inbox.counters(), (10, 60, 0, 7));
        assert_eq!(events.try_recv(), Some(Event::Dropped { frames: 7 }));
        append(&inbox, 0..1);
        assert_eq!((drain(&mut frames), events.try_recv()), (vec![0], None));
    }
}

#[test]
fn a_sealed_inbox_yields_the_waiting_frames() {
    let inbox = Client::new(&room_for(2));
    let mut frames = inbox.frames();
    append(&inbox, 0..2);
    inbox.seal(|_| false);
    assert!(!must_wait(&inbox));
    append(&inbox, 2..4);
    assert_eq!((drain(&mut frames), inbox.counters().3), (vec![0, 1], 2));
    assert!(is_ready(frames.recv()) && !inbox.has_ended());
}

#[test]
fn frames_without_a_consumer_are_bounded_or_dropped() {
    let inbox = Client::new(&room_for(3));
    append(&inbox, 0..10);
    assert!(!must_wait(&inbox));
    assert_eq!(inbox.counters(), (10, 60, 3, 7));
    let mut frames = inbox.frames();
    assert_eq!(drain(&mut frames), [0, 1, 2]);
    drop(frames);
    append(&inbox, 0..10);
    assert_eq!(inbox.counters(), (20, 120, 0, 7));
}

#[test]
fn received_frames_can_be_taken_after_the_end() {
    let inbox = Client::new(&config());
    let mut frames = inbox.frames();
    append(&inbox, 0..2);
    inbox.end(End::new(ErrorKind::Data, "first"));
    inbox.end(End::new(ErrorKind::Io, "second"));
    append(&inbox, 2..4);
    assert_eq!(drain(&mut frames), [0, 1]);
    assert!(is_ready(frames.recv()));
    assert!(is_ready(inbox.wait_end()));
    assert_eq!(inbox.state.lock().end.as_ref().unwrap().error().to_string(), "data error: first");
}

#[test]
fn batches_keep_the_order() {
    let inbox = Client::new(&config());
    let mut frames = inbox.frames();
    let mut wanted = vec![];
    for round in 0..20u8 {
        append(&inbox, (0..150).map(|i| i ^ round));
        wanted.extend((0..150).map(|i| i ^ round));
        if round % 3 == 0 {
            assert_eq!(frames.try_recv().unwrap().payload()[0], wanted.remove(0));
        }
    }
    assert_eq!(drain(&mut frames), wanted);
}
