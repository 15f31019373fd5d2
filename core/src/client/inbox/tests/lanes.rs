//! Several lanes, sorted like those of an RPC server.

use super::*;
use crate::client::lane::{Attached, Lane};

type Shared = Lane<Arc<Hand>>;

pub(super) struct Lanes {
    pub(super) frames: Shared,
    pub(super) notifications: Shared,
    pub(super) calls: Shared,
    attached: Attached,
}

fn lane_of(kind: FrameKind, first: Option<u8>) -> Option<usize> {
    match (kind, first) {
        (FrameKind::Message, Some(0)) => Some(1),
        (FrameKind::Message, Some(1)) => Some(2),
        (FrameKind::Message, _) => None,
        _ => Some(LANE_FRAMES),
    }
}

pub(super) fn attach(inbox: &Client, in_order: bool) -> Lanes {
    let attached = Attached::take_over(inbox, Sorting::by(lane_of, in_order));
    Lanes {
        frames: Lane::shared(&attached, LANE_FRAMES),
        notifications: Lane::shared(&attached, 1),
        calls: Lane::shared(&attached, 2),
        attached,
    }
}

fn publication() -> Frame {
    let kind = FrameKind::Publication;
    let delivery = Delivery { kind, realtime: false, sender: "peer", topic: Some("t"), payload: b"" };
    Frame::copied(&delivery)
}

fn one_of_each() -> Vec<Frame> {
    let kinds = [0x01, 0x00, 0x11, 0x12, 0x77].map(|kind| message(&[kind, 1, 0, 0, 0, b'm', 0]));
    [vec![publication()], kinds.to_vec(), vec![message(b"")]].concat()
}

#[test]
fn each_kind_has_its_lane() {
    let inbox = Client::new(&config());
    // Frames that are already waiting are sorted too.
    inbox.append(&mut one_of_each());
    let mut lanes = attach(&inbox, false);
    inbox.append(&mut one_of_each());
    for _ in 0..2 {
        assert_eq!(lanes.frames.try_recv().unwrap().topic(), Some("t"));
        assert_eq!(lanes.notifications.try_recv().unwrap().payload()[0], 0);
        assert_eq!(lanes.calls.try_recv().unwrap().payload()[0], 1);
    }
    for lane in [&mut lanes.frames, &mut lanes.notifications, &mut lanes.calls] {
        assert!(lane.try_recv().is_none());
    }
    assert_eq!(inbox.counters().2, 0);
}

#[test]
fn in_order_there_is_one() {
    let inbox = Client::new(&config());
    let mut lanes = attach(&inbox, true);
    inbox.append(&mut one_of_each());
    let kinds: Vec<_> =
        std::iter::from_fn(|| lanes.frames.try_recv()).map(|f| f.payload().first().copied()).collect();
    assert_eq!(kinds, [None, Some(1), Some(0)]);
    assert!(lanes.calls.try_recv().is_none());
}

#[test]
fn a_full_lane_leaves_as_much_for_the_others() {
    let inbox = Client::new(&room_for(10));
    let mut lanes = attach(&inbox, false);
    inbox.append(&mut (0..15).map(|_| publication()).collect());
    assert!(!must_wait(&inbox));
    inbox.append(&mut (0..5).map(|_| message(&[0])).collect());
    let mut waiting = pin!(inbox.wait_room_unless(|| false));
    assert!(!is_ready(&mut waiting));
    while lanes.notifications.try_recv().is_some() {}
    assert!(is_ready(&mut waiting));
    assert_eq!(inbox.counters().2, 15);
}

#[test]
fn overflow_drops_within_the_lane_that_is_full() {
    let inbox = Client::new(&room_for(2).overflow(Overflow::DropOld));
    let mut lanes = attach(&inbox, false);
    inbox.append(&mut vec![message(&[1, 1, 0, 0, 0, b'm', 0])]);
    inbox.append(&mut (0..100).map(|_| publication()).collect());
    assert!(lanes.calls.try_recv().is_some());
    assert_eq!(inbox.counters().2, 2);
}

#[test]
fn a_server_that_takes_over_gets_the_frames_held_by_the_former_one() {
    let notification = |number| message(&[0, number]);
    let numbers = |lane: &mut Shared| {
        std::iter::from_fn(|| lane.try_recv()).map(|frame| frame.payload()[1]).collect::<Vec<_>>()
    };
    for in_order in [false, true] {
        let inbox = Client::new(&config());
        let mut first = attach(&inbox, false);
        inbox.append(&mut (0..10).map(notification).collect());
        assert_eq!(first.notifications.try_recv().unwrap().payload()[1], 0);
        inbox.append(&mut (10..12).map(notification).collect());
        let mut second = attach(&inbox, in_order);
        assert!(is_ready(first.notifications.recv()));
        let lane = if in_order { &mut second.frames } else { &mut second.notifications };
        assert_eq!(numbers(lane), (1..12).collect::<Vec<_>>());
        drop(first);
        inbox.append(&mut vec![notification(12)]);
        assert_eq!(numbers(lane), [12]);
        assert_eq!((inbox.counters().2, inbox.counters().3), (0, 0));
    }
}

#[test]
fn frames_that_are_dropped_after_a_take_over_give_back_their_batch() {
    let inbox = Client::new(&config());
    let mut frames = inbox.frames();
    inbox.append(&mut (0..4).map(|number| message(&[0, number])).collect());
    frames.try_recv().unwrap();
    let mut server = attach(&inbox, false);
    inbox.append(&mut vec![message(&[0, 4])]);
    drop(frames);
    let got: Vec<_> =
        std::iter::from_fn(|| server.notifications.try_recv()).map(|f| f.payload()[1]).collect();
    assert_eq!(got, [1, 2, 3, 4]);
}

#[test]
fn a_dropped_server_drops_the_frames_that_it_holds() {
    let inbox = Client::new(&config());
    let mut server = attach(&inbox, false);
    inbox.append(&mut (0..4).map(|number| message(&[0, number])).collect());
    server.notifications.try_recv().unwrap();
    let Lanes { mut notifications, attached, .. } = server;
    drop(attached);
    assert!(notifications.try_recv().is_none());
}

#[test]
fn taking_over_and_giving_up() {
    let inbox = Client::new(&config());
    let mut frames = inbox.frames();
    let mut first = attach(&inbox, false);
    assert!(is_ready(frames.recv()));
    let mut second = attach(&inbox, false);
    assert!(is_ready(first.calls.recv()));
    // Neither of the former consumers takes any frames with it.
    drop((frames, first.attached));
    inbox.append(&mut vec![message(&[1, 1, 0, 0, 0, b'm', 0])]);
    assert!(second.calls.try_recv().is_some());
    drop(second.attached);
    assert!(is_ready(second.calls.recv()));
    assert!(Frames::attach(&inbox).is_ok());
}
