//! Frames that the broker passes to a client within its process.

use super::*;
use crate::client::register::CountingWaker;
use std::collections::VecDeque;
use std::task::Poll;

/// Returns a task that counts how often it is woken, and its waker.
fn task() -> (Arc<CountingWaker>, Waker) {
    CountingWaker::new()
}

fn full(config: &Config) -> (Client, Frames) {
    let inbox = Client::new(config);
    let frames = inbox.frames();
    while inbox.0.push(message(b"1")).is_ok() {}
    (inbox, frames)
}

fn poll_room(inbox: &Client, waker: &Waker) -> Poll<bool> {
    inbox.0.poll_room(FrameKind::Message, None, &mut Context::from_waker(waker))
}

#[test]
fn a_task_that_waits_for_many_inboxes_is_woken_by_each_once() {
    let mut inboxes: Vec<_> = (0..3).map(|_| full(&room_for(32))).collect();
    let (task, waker) = task();
    for (inbox, _) in &inboxes {
        for _ in 0..3 {
            assert!(poll_room(inbox, &waker).is_pending());
        }
    }
    // There is one waker for the task, one here, and one in each inbox.
    assert_eq!(Arc::strong_count(&task), 2 + inboxes.len());
    for (i, (inbox, frames)) in inboxes.iter_mut().enumerate() {
        drain(frames);
        assert_eq!(task.count(), i + 1);
        assert_eq!(poll_room(inbox, &waker), Poll::Ready(true));
    }
    assert_eq!(Arc::strong_count(&task), 2);
}

#[test]
fn several_tasks_wait_and_one_stops_waiting() {
    let (inbox, mut frames) = full(&room_for(4));
    let tasks: Vec<_> = (0..4).map(|_| task()).collect();
    for (_, waker) in &tasks {
        assert!(poll_room(&inbox, waker).is_pending());
    }
    inbox.forget_room(&tasks[1].1);
    inbox.forget_room(&tasks[1].1);
    drain(&mut frames);
    let woken: Vec<_> = tasks.iter().map(|(task, _)| task.count()).collect();
    // The task that stopped waiting was woken for that, because it may wait here for something else.
    assert_eq!(woken, [1, 1, 1, 1]);
    assert!(!inbox.room.is_awaited());
}

#[test]
fn room_is_reported_when_a_sixteenth_is_free() {
    let (inbox, _frames) = full(&room_for(160));
    assert_eq!(inbox.load().0, 160);
    let (task, waker) = task();
    assert!(poll_room(&inbox, &waker).is_pending());
    let mut batch = VecDeque::new();
    for (taken, told) in [(9, 0), (1, 1)] {
        for _ in 0..taken {
            assert_eq!(inbox.poll_take(1, LANE_FRAMES, 1, &mut batch, None), Poll::Ready(true));
        }
        assert_eq!(task.count(), told);
    }
    // An inbox with a small bound accepts one frame.
    let (inbox, mut frames) = full(&room_for(3));
    let (task, waker) = self::task();
    assert!(poll_room(&inbox, &waker).is_pending());
    frames.try_recv().unwrap();
    assert_eq!(task.count(), 1);
}

#[cfg(feature = "rpc")]
#[test]
fn a_frame_waits_for_room_in_its_own_lane() {
    let inbox = Client::new(&room_for(8));
    let mut lanes = super::lanes::attach(&inbox, false);
    let notification = || message(&[0]);
    let request = || message(&[1, 1, 0, 0, 0, b'm', 0]);
    while inbox.0.push(notification()).is_ok() {}
    inbox.0.push(request()).unwrap();
    while inbox.0.push(request()).is_ok() {}
    let (tasks, wakers): (Vec<_>, Vec<_>) = (0..2).map(|_| task()).unzip();
    let poll = |first, waker: &Waker| {
        inbox.0.poll_room(FrameKind::Message, Some(first), &mut Context::from_waker(waker))
    };
    assert!(poll(0, &wakers[0]).is_pending() && poll(1, &wakers[1]).is_pending());
    while lanes.calls.try_recv().is_some() {}
    assert_eq!(tasks[1].count(), 1);
    assert_eq!(poll(1, &wakers[1]), Poll::Ready(true));
    assert!(poll(0, &wakers[0]).is_pending());
    assert!(inbox.0.push(request()).is_ok() && inbox.0.push(notification()).is_err());
}

#[test]
fn a_task_that_waits_is_woken_for_every_reason() {
    let acts: [fn(&Client); 5] = [
        |inbox| drop(inbox.block()),
        |inbox| inbox.0.close(ErrorKind::ConnectionLost),
        |inbox| inbox.detach(1),
        |inbox| inbox.seal(|_| false),
        |inbox| assert!(inbox.attach(Sorting::PLAIN, true).is_some()),
    ];
    for act in acts {
        let (inbox, _frames) = full(&room_for(1));
        let (task, waker) = task();
        assert!(poll_room(&inbox, &waker).is_pending());
        act(&inbox);
        assert_eq!(task.count(), 1);
    }
    let (inbox, _frames) = full(&room_for(1));
    inbox.0.close(ErrorKind::ConnectionLost);
    assert_eq!(poll_room(&inbox, Waker::noop()), Poll::Ready(false));
}

#[test]
fn effects_of_many_inboxes_happen_together() {
    let mut effects = DeferredEffects::default();
    let (task, waker) = task();
    let inboxes: Vec<_> = (0..3).map(|_| Client::new(&config())).collect();
    let mut all: Vec<_> = inboxes.iter().map(|inbox| inbox.frames()).collect();
    for (inbox, frames) in inboxes.iter().zip(&mut all) {
        assert!(frames.poll_recv(&mut Context::from_waker(&waker)).is_pending());
        inbox.0.push_deferred(message(b"1"), &mut effects).unwrap();
    }
    assert_eq!(task.count(), 0);
    effects.settle();
    assert_eq!(task.count(), 3);
}

#[test]
fn taken_frames_are_counted_in_frames_and_bytes() {
    let (inbox, mut frames) = full(&room_for(10));
    let (count, bytes) = inbox.load();
    assert_eq!(inbox.taken(), (0, 0));
    frames.try_recv().unwrap();
    assert_eq!(inbox.taken(), (1, (bytes / count) as u64));
    drain(&mut frames);
    assert_eq!(inbox.taken(), (count as u64, bytes as u64));
    assert_eq!(inbox.taken().0, count as u64);
}

#[test]
fn publications_and_broadcasts_are_dropped_and_messages_never() {
    let inbox = Client::new(&config());
    let mut frames = inbox.frames();
    let frame = |kind, payload: u8| {
        let topic = (kind == FrameKind::Publication).then_some("t");
        Frame::copied(&Delivery { kind, realtime: false, sender: "peer", topic, payload: &[payload] })
    };
    let kinds = [FrameKind::Message, FrameKind::Publication, FrameKind::Broadcast];
    for i in 0..9 {
        inbox.0.push(frame(kinds[usize::from(i) % 3], i)).unwrap();
    }
    assert!(inbox.0.drop_oldest_where(|_| true));
    assert!(inbox.0.drop_oldest_where(|frame| frame.kind() == FrameKind::Broadcast));
    assert!(inbox.0.drop_oldest_where(|frame| frame.payload()[0] == 7));
    assert!(!inbox.0.drop_oldest_where(|_| false));
    assert_eq!((inbox.load().0, inbox.counters().3), (6, 3));
    assert_eq!(frames.try_recv().unwrap().payload(), [0]);
    // The frames that the program already holds stay, too.
    for i in 9..12 {
        inbox.0.push(frame(kinds[usize::from(i) % 3], i)).unwrap();
    }
    while inbox.0.drop_oldest_where(|_| true) {}
    assert_eq!(drain(&mut frames), [3, 4, 5, 6, 8, 9]);
    assert_eq!(inbox.load(), (0, 0));
    assert!(!inbox.0.drop_oldest_where(|_| true));
}

#[test]
fn one_by_one_up_to_the_budget() {
    let inbox = Client::new(&room_for(2));
    let mut frames = inbox.frames();
    for i in 0..2 {
        inbox.0.push(message(&[i])).unwrap();
    }
    assert_eq!(inbox.0.push(message(&[2])).unwrap_err().payload(), [2]);
    assert!(!is_ready(inbox.wait_room_unless(|| false)));
    let blocked = inbox.block();
    inbox.0.push(message(&[2])).unwrap();
    drop(blocked);
    assert_eq!(inbox.load().0, 3);
    assert_eq!((drain(&mut frames), inbox.taken().0), (vec![0, 1, 2], 3));
    assert!(is_ready(inbox.wait_room_unless(|| false)));
    assert_eq!(inbox.counters().3, 0);
    inbox.0.close(ErrorKind::ConnectionLost);
    inbox.0.push(message(&[3])).unwrap();
    assert!(frames.try_recv().is_none());
}
