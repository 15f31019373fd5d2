//! Effects of a locked section, which happen after the lock is released.
//!
//! Foreign code never runs under a lock of this crate: wakers, event callbacks, loggers, and the drops of values that
//! frames and callbacks own may all call the same client or the broker. Locked sections collect such effects in
//! [`DeferredEffects`].

pub(crate) use super::contain::{contain, discard, wake_all};
use super::events::{Event, Hub};
use crate::frame::Frame;
use crate::shown::shown;
use std::sync::Arc;
use std::task::Waker;

/// Effects of a locked section. They happen when the value is dropped. Declare it before the lock guard, so that it
/// is dropped after the guard, also on early returns and panics.
///
/// One value may collect the effects of many inboxes.
#[derive(Default)]
#[must_use = "the effects happen when this is dropped, which must be after the lock is released"]
pub(crate) struct DeferredEffects {
    wakers: Few<Waker>,
    #[cfg(feature = "rpc")]
    replies: Few<super::calls::Reply>,
    discarded: Few<Frame>,
    /// Messages that the consumer cannot handle.
    unhandled: Few<Frame>,
    /// The numbers of dropped frames, for the listeners of a client's events.
    dropped: Vec<(Arc<Hub>, u64)>,
    queue_overflowed: bool,
}

impl DeferredEffects {
    /// Wakes a task.
    pub(super) fn wake(&mut self, waker: Waker) {
        self.wakers.push(waker);
    }

    /// Completes a call.
    #[cfg(all(feature = "rpc", feature = "broker"))]
    pub(super) fn reply(&mut self, reply: super::calls::Reply) {
        self.replies.push(reply);
    }

    /// Drops a frame. The owner of its payload may run code in its drop.
    pub(super) fn discard(&mut self, frame: Frame) {
        self.discarded.push(frame);
    }

    /// Logs and drops a message that the consumer cannot handle.
    pub(super) fn unhandled(&mut self, frame: Frame) {
        self.unhandled.push(frame);
    }

    /// Reports to the listeners of a client that frames were dropped.
    pub(super) fn tell_dropped(&mut self, events: &Arc<Hub>, frames: u64) {
        if frames > 0 && events.is_heard() {
            self.dropped.push((events.clone(), frames));
        }
    }

    /// Logs that a client drops frames for the first time.
    pub(super) fn log_overflow(&mut self) {
        self.queue_overflowed = true;
    }

    /// Performs the effects. The caller must hold no lock.
    pub(crate) fn settle(mut self) {
        self.settle_now();
    }

    /// Performs the effects collected so far. The caller must hold no lock.
    pub(super) fn settle_now(&mut self) {
        if !self.wakers.is_empty() {
            wake_all(self.wakers.take());
        }
        if self.has_more() {
            self.settle_more();
        }
    }

    /// Returns true if there are effects other than wake-ups.
    fn has_more(&self) -> bool {
        #[cfg(feature = "rpc")]
        let has_replies = !self.replies.is_empty();
        #[cfg(not(feature = "rpc"))]
        let has_replies = false;
        has_replies
            || !self.discarded.is_empty()
            || !self.unhandled.is_empty()
            || !self.dropped.is_empty()
            || self.queue_overflowed
    }

    #[inline(never)]
    fn settle_more(&mut self) {
        #[cfg(feature = "rpc")]
        super::calls::answer_all(self.replies.take());
        if std::mem::take(&mut self.queue_overflowed) {
            contain("the logger", || {
                log::warn!("client inbox full: frames are dropped until the program takes some");
            });
        }
        for (events, frames) in self.dropped.drain(..) {
            events.tell(Event::Dropped { frames });
        }
        let mut unhandled = self.unhandled.take();
        if let Some(frame) = unhandled.next() {
            let more = unhandled.len();
            contain("the logger", || {
                let sender = shown(frame.sender());
                log::debug!("message discarded: no handler for it: from {sender} (and {more} more)");
            });
            discard(frame);
            unhandled.for_each(discard);
        }
        self.discarded.take().for_each(discard);
    }
}

impl Drop for DeferredEffects {
    fn drop(&mut self) {
        self.settle_now();
    }
}

/// A collection that usually has no value or one; these need no allocation.
struct Few<T> {
    first: Option<T>,
    rest: Vec<T>,
}

impl<T> Default for Few<T> {
    fn default() -> Few<T> {
        Few { first: None, rest: Vec::new() }
    }
}

impl<T> Few<T> {
    fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    fn push(&mut self, value: T) {
        match self.first {
            None => self.first = Some(value),
            Some(_) => self.rest.push(value),
        }
    }

    fn take(&mut self) -> FewIter<T> {
        FewIter { first: self.first.take(), rest: std::mem::take(&mut self.rest).into_iter() }
    }
}

/// The values in the order in which they were pushed.
struct FewIter<T> {
    first: Option<T>,
    rest: std::vec::IntoIter<T>,
}

impl<T> Iterator for FewIter<T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        self.first.take().or_else(|| self.rest.next())
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let len = usize::from(self.first.is_some()) + self.rest.len();
        (len, Some(len))
    }
}

impl<T> ExactSizeIterator for FewIter<T> {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    struct Panics(AtomicUsize);

    impl Wake for Panics {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
            panic!("a foreign waker");
        }
    }

    #[test]
    fn a_panic_keeps_no_effect_from_happening() {
        let wakers = Arc::new(Panics(AtomicUsize::new(0)));
        let events = Arc::new(Hub::default());
        let mut listener = events.subscribe();
        let mut effects = DeferredEffects::default();
        for _ in 0..3 {
            effects.wake(wakers.clone().into());
        }
        effects.tell_dropped(&events, 2);
        effects.settle();
        assert_eq!(wakers.0.load(Ordering::SeqCst), 3);
        assert_eq!(listener.try_recv(), Some(Event::Dropped { frames: 2 }));
    }

    #[test]
    fn they_happen_after_the_guard_is_released() {
        struct Unlocked(Arc<Mutex<()>>, AtomicUsize);
        impl Wake for Unlocked {
            fn wake(self: Arc<Self>) {
                self.1.fetch_add(usize::from(self.0.try_lock().is_ok()), Ordering::SeqCst);
            }
        }
        let lock = Arc::new(Mutex::new(()));
        let waker = Arc::new(Unlocked(lock.clone(), AtomicUsize::new(0)));
        let section = |early: bool| {
            let mut effects = DeferredEffects::default();
            let guard = lock.lock().unwrap();
            effects.wake(waker.clone().into());
            if early {
                return;
            }
            drop(guard);
        };
        section(true);
        section(false);
        assert_eq!(waker.1.load(Ordering::SeqCst), 2);
    }
}
