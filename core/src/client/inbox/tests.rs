use super::super::lanes::Frames;
use super::*;
use crate::proto::delivery::Delivery;
use crate::proto::op::FrameKind;
use std::future::Future;
use std::pin::pin;
use std::task::Waker;

fn config() -> Config {
    Config::new("", "me")
}

fn message(payload: &[u8]) -> Frame {
    let kind = FrameKind::Message;
    let delivery = Delivery { kind, realtime: false, sender: "peer", topic: None, payload };
    Frame::copied(&delivery)
}

fn append(inbox: &Inbox, payloads: impl IntoIterator<Item = u8>) {
    inbox.append(&mut payloads.into_iter().map(|p| message(&[p])).collect());
}

fn drain(frames: &mut Frames) -> Vec<u8> {
    std::iter::from_fn(|| frames.try_recv()).map(|f| f.payload()[0]).collect()
}

fn is_ready(future: impl Future) -> bool {
    pin!(future).poll(&mut Context::from_waker(Waker::noop())).is_ready()
}

#[test]
fn the_budget_is_in_frames_and_in_bytes() {
    let by_frames = Inbox::new(&config().queue_size(3));
    let by_bytes = Inbox::new(&config().queue_bytes(3 * (size_of::<Frame>() + 6)));
    for inbox in [by_frames, by_bytes] {
        let mut frames = Frames::attach(&inbox).unwrap();
        append(&inbox, 0..2);
        assert!(!inbox.must_wait(|| false));
        append(&inbox, 2..3);
        assert!(inbox.must_wait(|| false));
        assert!(!inbox.must_wait(|| true));
        assert_eq!(drain(&mut frames), [0, 1, 2]);
        assert!(!inbox.must_wait(|| false));
    }
}

#[test]
fn an_empty_inbox_takes_a_frame_of_any_size() {
    let inbox = Inbox::new(&config().queue_bytes(1));
    let _frames = Frames::attach(&inbox).unwrap();
    assert!(!inbox.must_wait(|| false));
    inbox.append(&mut vec![message(&[0; 100_000])]);
    assert!(inbox.must_wait(|| false));
}

#[test]
fn what_is_awaited_extends_the_budget_up_to_a_bound() {
    let frame = size_of::<Frame>() + 6;
    let inbox = Inbox::new(&config().queue_size(2).queue_bytes(frame).overrun_bytes(5 * frame));
    let _frames = Frames::attach(&inbox).unwrap();
    append(&inbox, 0..3);
    assert!(inbox.must_wait(|| false));
    let blocked = inbox.block();
    assert!(!inbox.must_wait(|| false));
    append(&inbox, 3..5);
    assert!(inbox.must_wait(|| true));
    drop(blocked);
    assert!(inbox.must_wait(|| false));
}

#[tokio::test]
async fn whoever_waits_for_room_goes_on() {
    type Act = fn(&Arc<Inbox>, &mut Frames);
    let acts: [Act; 4] = [
        |_, frames| assert!(frames.try_recv().is_some()),
        |inbox, _| std::mem::forget(inbox.block()),
        |inbox, _| inbox.end(End::new(ErrorKind::ConnectionLost, "")),
        |inbox, _| inbox.detach(1),
    ];
    for act in acts {
        let inbox = Inbox::new(&config().queue_size(1));
        let mut frames = Frames::attach(&inbox).unwrap();
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
fn whatever_is_over_the_budget_is_dropped_and_told() {
    for (overflow, kept) in [(Overflow::DropOld, [7, 8, 9]), (Overflow::DropNew, [0, 1, 2])] {
        let inbox = Inbox::new(&config().queue_size(3).overflow(overflow));
        let mut events = inbox.events.subscribe();
        let mut frames = Frames::attach(&inbox).unwrap();
        append(&inbox, 0..10);
        assert!(!inbox.must_wait(|| false));
        assert_eq!(drain(&mut frames), kept);
        assert_eq!(inbox.counters(), (10, 60, 0, 7));
        assert_eq!(events.try_recv(), Some(Event::Dropped { frames: 7 }));
        append(&inbox, 0..1);
        assert_eq!((drain(&mut frames), events.try_recv()), (vec![0], None));
    }
}

#[test]
fn a_sealed_one_yields_what_waits() {
    let inbox = Inbox::new(&config().queue_size(2));
    let mut frames = Frames::attach(&inbox).unwrap();
    append(&inbox, 0..2);
    inbox.seal();
    assert!(!inbox.must_wait(|| false));
    append(&inbox, 2..4);
    assert_eq!((drain(&mut frames), inbox.counters().3), (vec![0, 1], 2));
    assert!(is_ready(frames.recv()) && !inbox.has_ended());
}

#[test]
fn nobody_takes_frames() {
    let inbox = Inbox::new(&config().queue_size(3));
    append(&inbox, 0..10);
    assert!(!inbox.must_wait(|| false));
    assert_eq!(inbox.counters(), (10, 60, 3, 7));
    let mut frames = Frames::attach(&inbox).unwrap();
    assert_eq!(drain(&mut frames), [0, 1, 2]);
    drop(frames);
    append(&inbox, 0..10);
    assert_eq!(inbox.counters(), (20, 120, 0, 7));
}

#[test]
fn the_end_leaves_what_was_received() {
    let inbox = Inbox::new(&config());
    let mut frames = Frames::attach(&inbox).unwrap();
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
    let inbox = Inbox::new(&config().queue_size(10_000));
    let mut frames = Frames::attach(&inbox).unwrap();
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

#[cfg(feature = "rpc")]
mod rpc {
    use super::super::super::lanes::rpc::attach;
    use super::*;

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
        let inbox = Inbox::new(&config());
        // What waits already is sorted too.
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
        let inbox = Inbox::new(&config());
        let mut lanes = attach(&inbox, true);
        inbox.append(&mut one_of_each());
        let kinds: Vec<_> =
            std::iter::from_fn(|| lanes.frames.try_recv()).map(|f| f.payload().first().copied()).collect();
        assert_eq!(kinds, [None, Some(1), Some(0)]);
        assert!(lanes.calls.try_recv().is_none());
    }

    #[test]
    fn a_lane_that_nobody_empties_does_not_keep_others_waiting() {
        let inbox = Inbox::new(&config().queue_size(10));
        let mut lanes = attach(&inbox, false);
        inbox.append(&mut (0..9).map(|_| publication()).collect());
        inbox.append(&mut vec![message(&[0])]);
        let mut waiting = pin!(inbox.wait_room_unless(|| false));
        assert!(!is_ready(&mut waiting));
        lanes.notifications.try_recv().unwrap();
        assert!(is_ready(&mut waiting));
    }

    #[test]
    fn taking_over_and_giving_up() {
        let inbox = Inbox::new(&config());
        let mut frames = Frames::attach(&inbox).unwrap();
        let mut first = attach(&inbox, false);
        assert!(is_ready(frames.recv()));
        let mut second = attach(&inbox, false);
        assert!(is_ready(first.calls.recv()) && !first.calls.is_attached());
        // Neither of the former ones takes anything with it.
        drop((frames, first.attached));
        inbox.append(&mut vec![message(&[1, 1, 0, 0, 0, b'm', 0])]);
        assert!(second.calls.is_attached() && second.calls.try_recv().is_some());
        drop(second.attached);
        assert!(is_ready(second.calls.recv()));
        assert!(Frames::attach(&inbox).is_ok());
    }
}

#[cfg(feature = "broker")]
mod pushed {
    use super::*;
    use crate::client::effects::DeferredEffects;
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    /// A task that counts how often it is woken.
    struct Task(AtomicUsize);

    impl Wake for Task {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn task() -> (Arc<Task>, Waker) {
        let task = Arc::new(Task(AtomicUsize::new(0)));
        (task.clone(), task.into())
    }

    fn full(config: &Config) -> (Arc<Inbox>, Frames) {
        let inbox = Inbox::new(config);
        let frames = Frames::attach(&inbox).unwrap();
        while inbox.push(message(b"1")).is_ok() {}
        (inbox, frames)
    }

    fn poll_room(inbox: &Inbox, waker: &Waker) -> Poll<bool> {
        inbox.poll_room(&mut Context::from_waker(waker))
    }

    #[test]
    fn a_task_that_waits_for_many_inboxes_is_woken_by_each_once() {
        let mut inboxes: Vec<_> = (0..3).map(|_| full(&config().queue_size(32))).collect();
        let (task, waker) = task();
        for (inbox, _) in &inboxes {
            for _ in 0..3 {
                assert!(poll_room(inbox, &waker).is_pending());
            }
        }
        // One for the task, one for the waker here, and one in each inbox.
        assert_eq!(Arc::strong_count(&task), 2 + inboxes.len());
        for (i, (inbox, frames)) in inboxes.iter_mut().enumerate() {
            drain(frames);
            assert_eq!(task.0.load(Ordering::SeqCst), i + 1);
            assert_eq!(poll_room(inbox, &waker), Poll::Ready(true));
        }
        assert_eq!(Arc::strong_count(&task), 2);
    }

    #[test]
    fn several_tasks_wait_and_some_no_longer() {
        let (inbox, mut frames) = full(&config().queue_size(4));
        let tasks: Vec<_> = (0..4).map(|_| task()).collect();
        for (_, waker) in &tasks {
            assert!(poll_room(&inbox, waker).is_pending());
        }
        inbox.forget_room(&tasks[1].1);
        inbox.forget_room(&tasks[1].1);
        drain(&mut frames);
        let woken: Vec<_> = tasks.iter().map(|(task, _)| task.0.load(Ordering::SeqCst)).collect();
        assert_eq!(woken, [1, 0, 1, 1]);
        assert!(!inbox.room.is_awaited());
    }

    #[test]
    fn room_is_told_when_a_sixteenth_is_free() {
        let size = Amount::of(&message(b"1")).bytes;
        for config in [config().queue_size(160), config().queue_bytes(160 * size)] {
            let (inbox, _frames) = full(&config);
            assert_eq!(inbox.load().0, 160);
            let (task, waker) = task();
            assert!(poll_room(&inbox, &waker).is_pending());
            let mut batch = VecDeque::new();
            for (taken, told) in [(9, 0), (1, 1)] {
                let mut state = inbox.state.lock();
                for _ in 0..taken {
                    state.take(LANE_FRAMES, &mut batch, Amount { frames: 1, bytes: 1 });
                }
                let tell = state.has_room_worth_telling(inbox.budget);
                drop(state);
                if tell {
                    inbox.room.tell();
                }
                assert_eq!(task.0.load(Ordering::SeqCst), told);
                batch.clear();
            }
        }
        // Of a small budget, one frame.
        let (inbox, mut frames) = full(&config().queue_size(3));
        let (task, waker) = task();
        assert!(poll_room(&inbox, &waker).is_pending());
        frames.try_recv().unwrap();
        assert_eq!(task.0.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn a_task_that_waits_is_woken_for_every_reason() {
        let acts: [fn(&Arc<Inbox>); 5] = [
            |inbox| drop(inbox.block()),
            |inbox| inbox.close(ErrorKind::ConnectionLost),
            |inbox| inbox.detach(1),
            |inbox| inbox.seal(),
            |inbox| assert!(inbox.attach(Mode::Plain, true).is_some()),
        ];
        for act in acts {
            let (inbox, _frames) = full(&config().queue_size(1));
            let (task, waker) = task();
            assert!(poll_room(&inbox, &waker).is_pending());
            act(&inbox);
            assert_eq!(task.0.load(Ordering::SeqCst), 1);
        }
        let (inbox, _frames) = full(&config().queue_size(1));
        inbox.close(ErrorKind::ConnectionLost);
        assert_eq!(poll_room(&inbox, Waker::noop()), Poll::Ready(false));
    }

    #[test]
    fn effects_of_many_inboxes_happen_together() {
        let mut effects = DeferredEffects::default();
        let (task, waker) = task();
        let inboxes: Vec<_> = (0..3).map(|_| Inbox::new(&config())).collect();
        let mut all: Vec<_> = inboxes.iter().map(|inbox| Frames::attach(inbox).unwrap()).collect();
        for (inbox, frames) in inboxes.iter().zip(&mut all) {
            assert!(frames.poll_recv(&mut Context::from_waker(&waker)).is_pending());
            inbox.push_deferred(message(b"1"), &mut effects).unwrap();
        }
        assert_eq!(task.0.load(Ordering::SeqCst), 0);
        effects.settle();
        assert_eq!(task.0.load(Ordering::SeqCst), 3);
    }

    #[test]
    fn what_the_program_takes_is_counted_in_frames_and_bytes() {
        let (inbox, mut frames) = full(&config().queue_size(10));
        let (count, bytes) = inbox.load();
        assert_eq!(inbox.taken(), (0, 0));
        frames.try_recv().unwrap();
        assert_eq!(inbox.taken(), (1, (bytes / count) as u64));
        drain(&mut frames);
        assert_eq!(inbox.taken(), (count as u64, bytes as u64));
        assert_eq!(inbox.taken().0, count as u64);
    }

    #[test]
    fn publications_and_broadcasts_make_room_and_messages_never() {
        let inbox = Inbox::new(&config());
        let mut frames = Frames::attach(&inbox).unwrap();
        let frame = |kind, payload: u8| {
            let topic = (kind == FrameKind::Publication).then_some("t");
            Frame::copied(&Delivery { kind, realtime: false, sender: "peer", topic, payload: &[payload] })
        };
        let kinds = [FrameKind::Message, FrameKind::Publication, FrameKind::Broadcast];
        for i in 0..9 {
            inbox.push(frame(kinds[usize::from(i) % 3], i)).unwrap();
        }
        assert!(inbox.drop_oldest_where(|_| true));
        assert!(inbox.drop_oldest_where(|frame| frame.kind() == FrameKind::Broadcast));
        assert!(inbox.drop_oldest_where(|frame| frame.payload()[0] == 7));
        assert!(!inbox.drop_oldest_where(|_| false));
        assert_eq!((inbox.load().0, inbox.counters().3), (6, 3));
        assert_eq!(frames.try_recv().unwrap().payload(), [0]);
        // Those in the program's hands already stay, too.
        for i in 9..12 {
            inbox.push(frame(kinds[usize::from(i) % 3], i)).unwrap();
        }
        while inbox.drop_oldest_where(|_| true) {}
        assert_eq!(drain(&mut frames), [3, 4, 5, 6, 8, 9]);
        assert_eq!(inbox.load(), (0, 0));
        assert!(!inbox.drop_oldest_where(|_| true));
    }

    #[test]
    fn one_by_one_up_to_the_budget() {
        let inbox = Inbox::new(&config().queue_size(2));
        let mut frames = Frames::attach(&inbox).unwrap();
        for i in 0..2 {
            inbox.push(message(&[i])).unwrap();
        }
        assert_eq!(inbox.push(message(&[2])).unwrap_err().payload(), [2]);
        assert!(!is_ready(inbox.wait_room_unless(|| false)));
        let blocked = inbox.block();
        inbox.push(message(&[2])).unwrap();
        drop(blocked);
        assert_eq!(inbox.load().0, 3);
        assert_eq!((drain(&mut frames), inbox.taken().0), (vec![0, 1, 2], 3));
        assert!(is_ready(inbox.wait_room_unless(|| false)));
        assert_eq!(inbox.counters().3, 0);
        inbox.close(ErrorKind::ConnectionLost);
        inbox.push(message(&[3])).unwrap();
        assert!(frames.try_recv().is_none());
    }
}
