//! Wakers of those who wait for room in an inbox: futures, and dispatchers that register in many inboxes.

use crate::client::contain::{contain, wake_all};
#[cfg(feature = "broker")]
use crate::client::register::register;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Waker;
use tokio::sync::Notify;

/// The wakers of those who wait for room.
#[derive(Debug, Default)]
pub(super) struct Room {
    /// For futures, each of which has a place of its own there.
    notify: Notify,
    /// The number of futures that wait.
    futures: AtomicUsize,
    /// Registered by [`register`](Room::register), each once.
    wakers: Mutex<Vec<Waker>>,
    /// The number of registered wakers: to read it costs less than the lock.
    registered: AtomicUsize,
}

impl Room {
    /// Counts a future that waits, until the value is dropped. The future has to look for room once more after
    /// that: what happens in between either is seen by that look or sees the count.
    pub(super) fn wait(&self) -> impl Drop + use<'_> {
        Counted::new(&self.futures)
    }

    /// The condition that a future awaits.
    pub(super) fn notified(&self) -> tokio::sync::futures::Notified<'_> {
        self.notify.notified()
    }

    /// Returns true if anyone waits.
    pub(super) fn is_awaited(&self) -> bool {
        self.futures.load(Ordering::SeqCst) > 0 || self.registered.load(Ordering::SeqCst) > 0
    }

    /// Registers a waker, unless one that wakes the same task is registered. The caller has to look for room
    /// once more after that.
    #[cfg(feature = "broker")]
    pub(super) fn register(&self, waker: &Waker) {
        register(waker, |registration| {
            let mut wakers = self.wakers.lock();
            let is_registered = registration.push_to(&mut wakers);
            self.registered.store(wakers.len(), Ordering::SeqCst);
            is_registered.then_some(())
        });
    }

    /// Takes back the registration of a waker, and wakes its task: it may wait for something else here, for which the same
    /// waker is registered.
    #[cfg(feature = "broker")]
    pub(super) fn forget(&self, waker: &Waker) {
        if self.registered.load(Ordering::SeqCst) == 0 {
            return;
        }
        let mut wakers = self.wakers.lock();
        let Some(index) = wakers.iter().position(|registered| registered.will_wake(waker)) else { return };
        let former = wakers.swap_remove(index);
        self.registered.store(wakers.len(), Ordering::SeqCst);
        drop(wakers);
        wake_all(Some(former));
    }

    /// Wakes all that wait; registered wakers are not registered any more. The caller holds no lock.
    pub(super) fn tell(&self) {
        contain("a waker", || self.notify.notify_waiters());
        if self.registered.load(Ordering::SeqCst) == 0 {
            return;
        }
        let mut registered = self.wakers.lock();
        let wakers = std::mem::take(&mut *registered);
        self.registered.store(0, Ordering::SeqCst);
        drop(registered);
        wake_all(wakers);
    }
}

/// A count that goes down again when the value is dropped.
pub(super) struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    pub(super) fn new(count: &'a AtomicUsize) -> Counted<'a> {
        count.fetch_add(1, Ordering::SeqCst);
        Counted(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
