//! Who writes: the hand-over between those that append and flush on their own threads and the task that goes
//! on when the socket takes no more.
//!
//! Exactly one party writes at a time: it takes all that waits, writes it without the lock, and looks again
//! before it leaves. Every method here is one step under one lock, so that the test below can try every order
//! of steps.

/// What waits, and whether somebody writes or has promised to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Handover<Q> {
    waiting: Option<Q>,
    busy: bool,
    /// Whether somebody has promised to flush.
    promised: bool,
}

impl<Q> Default for Handover<Q> {
    fn default() -> Self {
        Handover { waiting: None, busy: false, promised: false }
    }
}

impl<Q> Handover<Q> {
    /// What waits.
    pub(super) fn waiting(&self) -> Option<&Q> {
        self.waiting.as_ref()
    }

    /// The same, to be changed.
    pub(super) fn waiting_mut(&mut self) -> &mut Option<Q> {
        &mut self.waiting
    }

    /// Whether the caller is the first since the last flush: then the flush is its duty.
    pub(super) fn promise(&mut self) -> bool {
        !std::mem::replace(&mut self.promised, true)
    }

    /// Becomes the one who writes, if there is something to write and nobody does: what to write.
    pub(super) fn begin(&mut self) -> Option<Q> {
        self.promised = false;
        if self.busy {
            return None;
        }
        let next = self.waiting.take();
        self.busy = next.is_some();
        next
    }

    /// The one who writes has written all it took: what has come meanwhile, or `None`, and it is not the one
    /// any more.
    pub(super) fn next_round(&mut self) -> Option<Q> {
        self.busy = false;
        self.begin()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    /// How many times one flushes in the model before a task takes over.
    const ROUNDS: u8 = 2;

    type Frames = Vec<u8>;

    #[derive(Debug, Clone, PartialEq, Eq, Hash)]
    enum Actor {
        /// Will append that frame, and flush at once or leave it to whoever has promised.
        Append {
            frame: u8,
            at_once: bool,
        },
        /// Will append the second one after it is done with the first.
        AppendTwo {
            first: u8,
            second: u8,
        },
        /// Has a flush before it, then another frame to append.
        Flush {
            then: Option<u8>,
        },
        /// Holds what it has taken out.
        Write {
            frames: Frames,
            round: u8,
            is_task: bool,
            then: Option<u8>,
        },
        /// Has written it.
        Look {
            round: u8,
            is_task: bool,
            then: Option<u8>,
        },
        Done,
    }

    #[derive(Debug, Clone, PartialEq, Eq, Hash)]
    struct World {
        handover: Handover<Frames>,
        actors: Vec<Actor>,
        appended: Frames,
        written: Frames,
    }

    fn after(then: Option<u8>) -> Actor {
        then.map_or(Actor::Done, |frame| Actor::Append { frame, at_once: true })
    }

    impl World {
        fn append(&mut self, frame: u8) {
            self.handover.waiting_mut().get_or_insert_with(Vec::new).push(frame);
            self.appended.push(frame);
        }

        /// What may become of it by one step of that actor. `tasks` are those it starts.
        fn step(&self, index: usize) -> Vec<World> {
            let mut next = self.clone();
            let mut outcomes = vec![];
            next.actors[index] = match self.actors[index].clone() {
                Actor::Append { frame, at_once } => {
                    next.append(frame);
                    match at_once || next.handover.promise() {
                        true => Actor::Flush { then: None },
                        false => Actor::Done,
                    }
                }
                Actor::AppendTwo { first, second } => {
                    next.append(first);
                    Actor::Flush { then: Some(second) }
                }
                Actor::Flush { then } => match next.handover.begin() {
                    Some(frames) => Actor::Write { frames, round: 1, is_task: false, then },
                    None => after(then),
                },
                Actor::Write { frames, round, is_task, then } => {
                    if !is_task {
                        // The socket takes one frame, or none, and no more for now: a task goes on.
                        for taken in 0..frames.len().min(2) {
                            let mut blocked = self.clone();
                            blocked.written.extend_from_slice(&frames[..taken]);
                            let rest = frames[taken..].to_vec();
                            blocked.actors[index] = after(then);
                            blocked.actors.push(Actor::Write {
                                frames: rest,
                                round,
                                is_task: true,
                                then: None,
                            });
                            outcomes.push(blocked);
                        }
                    }
                    next.written.extend(frames);
                    Actor::Look { round, is_task, then }
                }
                Actor::Look { round, is_task, then } => match next.handover.next_round() {
                    Some(frames) if is_task || round < ROUNDS => {
                        Actor::Write { frames, round: round + 1, is_task, then }
                    }
                    Some(frames) => {
                        next.actors.push(Actor::Write { frames, round, is_task: true, then: None });
                        after(then)
                    }
                    None => after(then),
                },
                Actor::Done => return outcomes,
            };
            outcomes.push(next);
            outcomes
        }

        fn check(&self) {
            let holds = |actor: &&Actor| matches!(actor, Actor::Write { .. } | Actor::Look { .. });
            assert!(self.actors.iter().filter(holds).count() <= 1, "two write at once: {self:?}");
            assert!(self.appended.starts_with(&self.written), "out of order: {self:?}");
            if self.actors.iter().all(|actor| *actor == Actor::Done) {
                assert_eq!(self.written, self.appended, "something was left behind: {self:?}");
                assert_eq!(self.handover, Handover::default(), "not as it was: {self:?}");
            }
        }
    }

    /// Every order of the steps of all actors, and every way in which the socket may block.
    fn explore(actors: Vec<Actor>) -> usize {
        let start = World { handover: Handover::default(), actors, appended: vec![], written: vec![] };
        let mut seen = HashSet::new();
        let mut open = vec![start];
        while let Some(world) = open.pop() {
            world.check();
            for index in 0..world.actors.len() {
                for next in world.step(index) {
                    if seen.insert(next.clone()) {
                        open.push(next);
                    }
                }
            }
        }
        seen.len()
    }

    #[test]
    fn nothing_is_left_behind_in_any_order_of_steps() {
        let at_once = |frame| Actor::Append { frame, at_once: true };
        let later = |frame| Actor::Append { frame, at_once: false };
        for actors in [
            vec![at_once(1), at_once(2), at_once(3)],
            vec![later(1), later(2), at_once(3)],
            vec![later(1), later(2), later(3), later(4)],
            vec![Actor::AppendTwo { first: 1, second: 2 }, later(3), at_once(4)],
            vec![Actor::AppendTwo { first: 1, second: 2 }, Actor::AppendTwo { first: 3, second: 4 }],
        ] {
            let states = explore(actors);
            assert!(states > 100, "only {states} states");
        }
    }
}
