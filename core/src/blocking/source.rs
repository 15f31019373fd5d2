//! An intake that several threads share. One thread at a time takes from it, and holds no lock while it does so,
//! because taking may run foreign code.

use crate::client::effects::contain;
use crate::rpc::{Incoming, Intake, Working};
use parking_lot::Mutex;
use std::task::Waker;

/// An intake, if no thread is taking from it now.
#[derive(Debug)]
pub(super) struct Source(Mutex<State>);

#[derive(Debug)]
enum State {
    Open(Box<Intake>),
    /// A thread is taking from it. `again` is true if something may have arrived since it began.
    Taken {
        again: bool,
    },
    /// Nothing more is taken.
    Closed,
}

impl Source {
    /// Creates a source without an intake.
    pub(super) fn new() -> Source {
        Source(Mutex::new(State::Taken { again: false }))
    }

    /// Sets the intake and the waker that is woken when something can be taken. Returns true if something can be
    /// taken now.
    pub(super) fn open(&self, mut intake: Intake, waker: Waker) -> bool {
        intake.set_wake_up(waker);
        self.give_back(Box::new(intake), true)
    }

    /// Appends waiting items to `batch`, at most `most()` of them. Returns true if more may be waiting; the waker is
    /// not woken for these, so that some thread must take again. `count` is called with the number of items before
    /// another thread can take. `working` is set to the value that a draining client waits for.
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
            // Taking drops payloads and logs. A panic there must not leave the intake checked out.
            contain("taking what was received", || taken = intake.take_batch(batch, most));
        }
        count(taken.unwrap_or_default());
        let again = self.give_back(intake, taken.is_some());
        again || taken.is_some_and(|taken| taken == most && most > 0)
    }

    /// Closes the source. The intake is dropped now, or by the thread that is taking from it.
    pub(super) fn close(&self) {
        let former = std::mem::replace(&mut *self.0.lock(), State::Closed);
        drop(former);
    }

    /// Checks the intake out for this thread. If another thread has it, that thread is told to take again.
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

    /// Puts the intake back, or closes the source if nothing more will come. Returns true if the thread must take
    /// again.
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
