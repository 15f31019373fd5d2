//! A result that one party delivers and one handle waits for.

use parking_lot::Mutex;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

/// The place where the result of one operation is left.
#[derive(Debug)]
pub(crate) struct Slot<T>(Mutex<State<T>>);

#[derive(Debug)]
enum State<T> {
    Waiting(Option<Waker>),
    Completed(T),
}

impl<T: Clone> Slot<T> {
    pub(crate) fn new() -> Arc<Slot<T>> {
        Arc::new(Slot(Mutex::new(State::Waiting(None))))
    }

    /// Leaves the result, unless there is one. Returns the waker of the handle, to be woken when no lock is held.
    pub(crate) fn complete(&self, result: T) -> Option<Waker> {
        let mut state = self.0.lock();
        let rejected = match &mut *state {
            State::Waiting(waker) => {
                let waker = waker.take();
                *state = State::Completed(result);
                return waker;
            }
            State::Completed(_) => result,
        };
        drop(state);
        drop(rejected);
        None
    }

    /// The result, if there is one.
    pub(crate) fn get(&self) -> Option<T> {
        match &*self.0.lock() {
            State::Waiting(_) => None,
            State::Completed(result) => Some(result.clone()),
        }
    }

    pub(crate) fn is_completed(&self) -> bool {
        matches!(*self.0.lock(), State::Completed(_))
    }

    /// The result; pending until there is one, and then for good the same.
    pub(crate) fn poll(&self, cx: &mut Context<'_>) -> Poll<T> {
        // Wakers are cloned and dropped without the lock.
        let mut own = None;
        loop {
            let mut state = self.0.lock();
            let registered = match &mut *state {
                State::Completed(result) => return Poll::Ready(result.clone()),
                State::Waiting(registered) => registered,
            };
            if registered.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                return Poll::Pending;
            }
            if own.is_none() {
                drop(state);
                own = Some(cx.waker().clone());
                continue;
            }
            let former = std::mem::replace(registered, own);
            drop(state);
            drop(former);
            return Poll::Pending;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn the_first_result_stays() {
        let count = Arc::new(Count(AtomicUsize::new(0)));
        let waker = Waker::from(count.clone());
        let mut cx = Context::from_waker(&waker);
        let slot = Slot::new();
        assert!(slot.poll(&mut cx).is_pending() && slot.poll(&mut cx).is_pending() && slot.get().is_none());
        slot.complete(1).unwrap().wake();
        assert!(slot.complete(2).is_none());
        assert_eq!((slot.poll(&mut cx), slot.get(), slot.is_completed()), (Poll::Ready(1), Some(1), true));
        assert_eq!(count.0.load(Ordering::SeqCst), 1);
    }
}
