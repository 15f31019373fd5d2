//! Tests every order of the steps of receiving threads, of a taker and of the end, on a real inbox: no frame is left
//! behind without a wake-up, and the order of the frames is kept. Wake-ups happen as late as the steps allow, as with
//! the reader of a connection, which wakes after it has unlocked its input.

use super::*;
use std::collections::VecDeque;
use std::sync::atomic::AtomicBool;
use std::task::{Poll, Wake};

/// The descriptor of a taker: see `client/wake.rs`.
#[derive(Default)]
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

enum Actor {
    /// Is about to queue frames.
    Receive(Vec<u8>),
    /// Has queued them, and is about to perform the effects.
    Settle(Box<DeferredEffects>),
    /// Is about to end the client.
    End,
    /// Is about to take without a waker.
    Try,
    /// Has found nothing, and is about to reset its descriptor.
    Reset,
    /// Is about to take, or to register its waker.
    Arm,
    /// Sleeps until its descriptor is readable.
    Sleep,
    Done,
}

struct World {
    client: Client,
    actors: Vec<Actor>,
    flag: Arc<Flag>,
    received: Vec<u8>,
    taken: Vec<u8>,
}

impl World {
    fn new(actors: Vec<Actor>) -> World {
        let client = Client::new(&config());
        client.attach(Sorting::PLAIN, false).unwrap();
        World { client, actors, flag: Arc::default(), received: vec![], taken: vec![] }
    }

    fn can_step(&self, index: usize) -> bool {
        match self.actors[index] {
            Actor::Done => false,
            Actor::Sleep => self.flag.0.load(Ordering::SeqCst),
            _ => true,
        }
    }

    fn step(&mut self, index: usize) {
        self.actors[index] = match std::mem::replace(&mut self.actors[index], Actor::Done) {
            Actor::Receive(payloads) => {
                let mut effects = Box::<DeferredEffects>::default();
                self.client.0.receive(&mut payloads.iter().map(|p| message(&[*p])).collect(), &mut effects);
                self.received.extend(payloads);
                Actor::Settle(effects)
            }
            Actor::Settle(effects) => {
                drop(effects);
                Actor::Done
            }
            Actor::End => {
                self.client.end(End::new(ErrorKind::ConnectionLost, ""));
                Actor::Done
            }
            Actor::Try => match self.take(None) {
                Poll::Ready(true) => Actor::Try,
                Poll::Ready(false) => Actor::Done,
                Poll::Pending => Actor::Reset,
            },
            Actor::Reset => {
                self.flag.0.store(false, Ordering::SeqCst);
                Actor::Arm
            }
            Actor::Arm => match self.take(Some(&self.flag.clone().into())) {
                Poll::Ready(true) => Actor::Arm,
                Poll::Ready(false) => Actor::Done,
                Poll::Pending => Actor::Sleep,
            },
            Actor::Sleep => Actor::Try,
            Actor::Done => Actor::Done,
        };
    }

    fn take(&mut self, waker: Option<&Waker>) -> Poll<bool> {
        let mut batch = VecDeque::new();
        let taken = self.client.poll_take(1, LANE_FRAMES, 1, &mut batch, waker);
        self.taken.extend(batch.iter().map(|frame| frame.payload()[0]));
        taken
    }

    fn check_end(&self, schedule: &[usize]) {
        let ends = self.client.has_ended();
        for actor in &self.actors {
            let is_over = matches!(actor, Actor::Done) || (!ends && matches!(actor, Actor::Sleep));
            assert!(is_over, "an actor waits for ever after {schedule:?}");
        }
        // A frame that comes after the end is not queued.
        assert!(self.received.starts_with(&self.taken), "{schedule:?}");
        assert!(ends || self.received == self.taken, "{schedule:?}: {:?}", self.taken);
    }
}

/// Runs every schedule that begins with `schedule`. Returns how many there are.
fn explore(actors: &dyn Fn() -> Vec<Actor>, schedule: &mut Vec<usize>) -> usize {
    let mut world = World::new(actors());
    schedule.iter().for_each(|index| world.step(*index));
    let next: Vec<usize> = (0..world.actors.len()).filter(|index| world.can_step(*index)).collect();
    if next.is_empty() {
        world.check_end(schedule);
        return 1;
    }
    let mut count = 0;
    for index in next {
        schedule.push(index);
        count += explore(actors, schedule);
        schedule.pop();
    }
    count
}

#[test]
fn no_frame_is_left_behind_in_any_order_of_steps() {
    let cases: [&dyn Fn() -> Vec<Actor>; 3] = [
        &|| vec![Actor::Try, Actor::Receive(vec![1]), Actor::Receive(vec![2])],
        &|| vec![Actor::Arm, Actor::Receive(vec![1, 2]), Actor::Receive(vec![3])],
        &|| vec![Actor::Try, Actor::Receive(vec![1]), Actor::End],
    ];
    for actors in cases {
        let schedules = explore(actors, &mut vec![]);
        assert!(schedules > 50, "only {schedules} schedules");
    }
}
