//! A result that one side delivers and for which the holders of a handle wait.

use super::register::register;
use super::waker_set::WakerSet;
use parking_lot::Mutex;
use std::sync::Arc;
use std::task::{Context, Poll};

/// The place for the result of one operation.
#[derive(Debug)]
pub(crate) struct Slot<T>(Mutex<State<T>>);

#[derive(Debug)]
enum State<T> {
    Waiting(WakerSet),
    Completed(T),
}

impl<T: Clone> Slot<T> {
    pub(crate) fn new() -> Arc<Slot<T>> {
        Arc::new(Slot(Mutex::new(State::Waiting(WakerSet::default()))))
    }

    /// Sets the result, unless there is one. Returns the wakers of the waiting tasks, which the caller must wake
    /// without holding a lock.
    pub(crate) fn complete(&self, result: T) -> WakerSet {
        let mut state = self.0.lock();
        let rejected = match &mut *state {
            State::Waiting(wakers) => {
                let wakers = wakers.take();
                *state = State::Completed(result);
                return wakers;
            }
            State::Completed(_) => result,
        };
        drop(state);
        drop(rejected);
        WakerSet::default()
    }

    /// Returns the result, if there is one.
    pub(crate) fn get(&self) -> Option<T> {
        match &*self.0.lock() {
            State::Waiting(_) => None,
            State::Completed(result) => Some(result.clone()),
        }
    }

    pub(crate) fn is_completed(&self) -> bool {
        matches!(*self.0.lock(), State::Completed(_))
    }

    /// Returns the result. Pending until there is one; afterwards it always returns the same. Any number of tasks and
    /// threads may wait.
    pub(crate) fn poll(&self, cx: &mut Context<'_>) -> Poll<T> {
        register(cx.waker(), |registration| match &mut *self.0.lock() {
            State::Completed(result) => Some(Poll::Ready(result.clone())),
            State::Waiting(wakers) => registration.add_to(wakers).then_some(Poll::Pending),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::contain::wake_all;
    use super::super::register::CountingWaker;
    use super::*;

    #[test]
    fn the_first_result_stays() {
        let (count, waker) = CountingWaker::new();
        let mut cx = Context::from_waker(&waker);
        let slot = Slot::new();
        assert!(slot.poll(&mut cx).is_pending() && slot.poll(&mut cx).is_pending() && slot.get().is_none());
        let (other, second) = CountingWaker::new();
        assert!(slot.poll(&mut Context::from_waker(&second)).is_pending());
        wake_all(slot.complete(1));
        assert_eq!(slot.complete(2).into_iter().count(), 0);
        assert_eq!((slot.poll(&mut cx), slot.get(), slot.is_completed()), (Poll::Ready(1), Some(1), true));
        assert_eq!((count.count(), other.count()), (1, 1));
    }
}
