//! An intake that several threads share. One at a time takes from it, and holds no lock while it does: what is taken
//! may run foreign code.

use crate::client::effects::contain;
use crate::rpc::{Incoming, Intake, Working};
use parking_lot::Mutex;
use std::task::Waker;

/// An intake, unless a thread takes from it now.
#[derive(Debug)]
pub(super) struct Source(Mutex<State>);

#[derive(Debug)]
enum State {
    Open(Box<Intake>),
    /// A thread takes from it. `again`: something has come in that time, as far as is known.
    Taken {
        again: bool,
    },
    /// Nothing more is taken.
    Closed,
}

impl Source {
    /// A source that has no intake so far.
    pub(super) fn new() -> Source {
        Source(Mutex::new(State::Taken { again: false }))
    }

    /// Sets the intake, and the waker that is woken when something can be taken. Returns whether to take now.
    pub(super) fn open(&self, mut intake: Intake, waker: Waker) -> bool {
        intake.set_wake_up(waker);
        self.give_back(Box::new(intake), true)
    }

    /// Appends what waits to `batch`, at most `most()` items. Returns true if there may be more, for which the waker is
    /// not woken: some thread has to take again. `count` is called with the number of items before another thread can
    /// take. `working` is set to what a client that drains waits for.
    pub(super) fn take(
        &self,
        batch: &mut Vec<Incoming>,
        working: &mut Option<Working>,
        most: impl FnOnce() -> usize,
        count: impl FnOnce(usize),
    ) -> bool {
        let Some(mut intake) = self.check_out() else { return false };
        working.get_or_insert_with(|| intake.working());
        let most = most();
        let mut taken = Some(0);
        if most > 0 {
            // It drops payloads and logs: a panic there must not keep the intake.
            contain("taking what was received", || taken = intake.take_batch(batch, most));
        }
        count(taken.unwrap_or_default());
        let again = self.give_back(intake, taken.is_some());
        again || taken.is_some_and(|taken| taken == most && most > 0)
    }

    /// Ends it: the intake is dropped, now or by the thread that takes from it.
    pub(super) fn close(&self) {
        let former = std::mem::replace(&mut *self.0.lock(), State::Closed);
        drop(former);
    }

    /// The intake, for this thread alone. If another thread has it, that one is told to take again.
    fn check_out(&self) -> Option<Box<Intake>> {
        let mut state = self.0.lock();
        match std::mem::replace(&mut *state, State::Taken { again: true }) {
            State::Open(intake) => {
                *state = State::Taken { again: false };
                Some(intake)
            }
            State::Taken { .. } => None,
            State::Closed => {
                *state = State::Closed;
                None
            }
        }
    }

    /// Puts the intake back, or ends the source if there will be nothing more. Returns whether to take again.
    fn give_back(&self, intake: Box<Intake>, goes_on: bool) -> bool {
        let mut state = self.0.lock();
        let mut dropped = Some(intake);
        let mut to_take = false;
        match &*state {
            State::Taken { again } if goes_on => {
                to_take = *again;
                if let Some(intake) = dropped.take() {
                    *state = State::Open(intake);
                }
            }
            _ => *state = State::Closed,
        }
        drop(state);
        drop(dropped);
        to_take
    }
}
