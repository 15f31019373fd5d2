//! Decides which party writes a queue to its socket: a state machine without a socket.
//!
//! Every sender appends to the queue and flushes it on its own thread. At most one party writes at a time: it takes
//! everything that is waiting, writes it without holding the lock, and checks the queue again before it stops. Every
//! method is one step under one lock, so that the test below can try every order of steps.

/// The owner of a promise that a task keeps, instead of the batch that appended.
pub(super) const NO_OWNER: u32 = u32::MAX;

/// The queue, whether a party is writing, and the batch that has promised to flush.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Handover<Q> {
    waiting: Option<Q>,
    busy: bool,
    /// The batch that appended last since the last flush. It will flush when it ends.
    promised: Option<u32>,
}

impl<Q> Default for Handover<Q> {
    fn default() -> Self {
        Handover { waiting: None, busy: false, promised: None }
    }
}

impl<Q> Handover<Q> {
    /// Returns the waiting queue.
    pub(super) fn waiting(&self) -> Option<&Q> {
        self.waiting.as_ref()
    }

    /// Returns the waiting queue, mutable.
    pub(super) fn waiting_mut(&mut self) -> &mut Option<Q> {
        &mut self.waiting
    }

    /// Notes that `owner` has appended. Returns true if `owner` must remember to flush: it has not promised yet, or
    /// another batch has appended or flushed since. No batch relies on the promise of another one, because that one
    /// may take long.
    pub(super) fn promise(&mut self, owner: u32) -> bool {
        self.promised.replace(owner) != Some(owner)
    }

    /// Makes the caller the writing party, if data is waiting and no other party is writing. Returns the data to
    /// write.
    pub(super) fn begin(&mut self) -> Option<Q> {
        self.promised = None;
        if self.busy {
            return None;
        }
        let next = self.waiting.take();
        self.busy = next.is_some();
        next
    }

    /// Called by the writing party when it has written everything that it took. Returns the data that was appended
    /// since, or `None`: the caller is then no longer the writing party.
    pub(super) fn next_round(&mut self) -> Option<Q> {
        self.busy = false;
        self.begin()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    /// Number of rounds that a party writes in the model before a task takes over.
    const ROUNDS: u8 = 2;

    type Frames = Vec<u8>;

    #[derive(Debug, Clone, PartialEq, Eq, Hash)]
    enum Actor {
        /// A batch that has these frames to append. `must_flush` is true if a promise told it to flush.
        Batch {
            frames: Frames,
            must_flush: bool,
        },
        /// Will append the second frame after it has flushed the first.
        AppendTwo {
            first: u8,
            second: u8,
        },
        /// Will append a frame, and let a task flush it unless one is about to.
        Coalesce {
            frame: u8,
        },
        /// Is about to check whether a task is about to flush.
        Schedule,
        /// The task that flushes for others, before it clears its flag.
        Task,
        /// Is about to flush, then to append another frame.
        Flush {
            then: Option<u8>,
        },
        /// Writes the frames that it has taken.
        Write {
            frames: Frames,
            round: u8,
            is_task: bool,
            then: Option<u8>,
        },
        /// Has written the frames, and is about to check again.
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
        /// True if a task is about to flush.
        scheduled: bool,
        appended: Frames,
        written: Frames,
    }

    fn after(then: Option<u8>) -> Actor {
        then.map_or(Actor::Done, |frame| Actor::Batch { frames: vec![frame], must_flush: true })
    }

    impl World {
        fn append(&mut self, frame: u8) {
            self.handover.waiting_mut().get_or_insert_with(Vec::new).push(frame);
            self.appended.push(frame);
        }

        /// Returns the worlds to which one step of that actor can lead.
        fn step(&self, index: usize) -> Vec<World> {
            let mut next = self.clone();
            let mut outcomes = vec![];
            next.actors[index] = match self.actors[index].clone() {
                Actor::Batch { mut frames, must_flush } => {
                    if frames.is_empty() {
                        match must_flush {
                            true => Actor::Flush { then: None },
                            false => Actor::Done,
                        }
                    } else {
                        next.append(frames.remove(0));
                        let must_flush = next.handover.promise(index as u32) || must_flush;
                        Actor::Batch { frames, must_flush }
                    }
                }
                Actor::AppendTwo { first, second } => {
                    next.append(first);
                    Actor::Flush { then: Some(second) }
                }
                Actor::Coalesce { frame } => {
                    next.append(frame);
                    Actor::Schedule
                }
                Actor::Schedule => {
                    if !std::mem::replace(&mut next.scheduled, true) {
                        next.actors.push(Actor::Task);
                    }
                    Actor::Done
                }
                Actor::Task => {
                    next.scheduled = false;
                    Actor::Flush { then: None }
                }
                Actor::Flush { then } => match next.handover.begin() {
                    Some(frames) => Actor::Write { frames, round: 1, is_task: false, then },
                    None => after(then),
                },
                Actor::Write { frames, round, is_task, then } => {
                    if !is_task {
                        // The socket accepts one frame or none, and then blocks: a task continues.
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
            assert!(
                self.actors.iter().filter(holds).count() <= 1,
                "two parties write at the same time: {self:?}"
            );
            assert!(self.appended.starts_with(&self.written), "out of order: {self:?}");
            if self.actors.iter().all(|actor| *actor == Actor::Done) {
                assert_eq!(self.written, self.appended, "frames were left behind: {self:?}");
                assert!(!self.scheduled, "a scheduled task never runs: {self:?}");
                assert_eq!(self.handover, Handover::default(), "not in the initial state: {self:?}");
            }
        }
    }

    /// Runs every order of the steps of all actors, with every way in which the socket may block.
    fn explore(actors: Vec<Actor>) -> usize {
        let start = World {
            handover: Handover::default(),
            actors,
            scheduled: false,
            appended: vec![],
            written: vec![],
        };
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
    fn no_frame_is_left_behind_in_any_order_of_steps() {
        let batch = |frames: &[u8]| Actor::Batch { frames: frames.to_vec(), must_flush: false };
        let two = |first, second| Actor::AppendTwo { first, second };
        let coalesce = |frame| Actor::Coalesce { frame };
        for actors in [
            vec![batch(&[1]), batch(&[2]), batch(&[3])],
            vec![batch(&[1, 2]), batch(&[3, 4])],
            vec![batch(&[1, 2]), two(3, 4)],
            vec![two(1, 2), batch(&[3]), batch(&[4])],
            vec![two(1, 2), two(3, 4)],
            vec![coalesce(1), coalesce(2), coalesce(3)],
            vec![coalesce(1), two(2, 3), coalesce(4)],
        ] {
            let states = explore(actors);
            assert!(states > 100, "only {states} states");
        }
    }

    #[test]
    fn no_batch_relies_on_the_promise_of_another() {
        let mut handover = Handover::<Frames>::default();
        assert!(handover.promise(1));
        assert!(!handover.promise(1));
        assert!(handover.promise(2));
        assert!(handover.promise(1), "batch 2 may have flushed or not: batch 1 flushes itself");
        handover.begin();
        assert!(handover.promise(1));
    }
}
