//! Wakers for room in an inbox: those of futures, and those of dispatchers that register in many inboxes.

use crate::client::contain::{contain, wake_all};
#[cfg(feature = "broker")]
use crate::client::register::register;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Waker;
use tokio::sync::Notify;

/// The wakers of the tasks that wait for room.
#[derive(Debug, Default)]
pub(super) struct Room {
    /// Wakes futures, each of which has its own place in the list of the `Notify`.
    notify: Notify,
    /// Number of waiting futures.
    futures: AtomicUsize,
    /// Wakers registered by [`register`](Room::register), each once.
    wakers: Mutex<Vec<Waker>>,
    /// Number of registered wakers. Reading it costs less than taking the lock.
    registered: AtomicUsize,
}

impl Room {
    /// Counts a waiting future until the value is dropped. The future must check for room once more after this call:
    /// room that appears in between is either seen by that check, or its notification sees the count.
    pub(super) fn wait(&self) -> impl Drop + use<'_> {
        Counted::new(&self.futures)
    }

    /// Returns the notification that a future awaits.
    pub(super) fn notified(&self) -> tokio::sync::futures::Notified<'_> {
        self.notify.notified()
    }

    /// Returns true if a task waits.
    pub(super) fn is_awaited(&self) -> bool {
        self.futures.load(Ordering::SeqCst) > 0 || self.registered.load(Ordering::SeqCst) > 0
    }

    /// Registers a waker, unless one that wakes the same task is registered. The caller must check for room once more
    /// after this call.
    #[cfg(feature = "broker")]
    pub(super) fn register(&self, waker: &Waker) {
        register(waker, |registration| {
            let mut wakers = self.wakers.lock();
            let is_registered = registration.push_to(&mut wakers);
            self.registered.store(wakers.len(), Ordering::SeqCst);
            is_registered.then_some(())
        });
    }

    /// Removes the registration of a waker, and wakes its task, because the task may wait here for something else
    /// with the same waker.
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

    /// Wakes all waiting tasks and removes their wakers. The caller must hold no lock.
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

/// A count that is decremented when the value is dropped.
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
