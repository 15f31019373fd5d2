//! Registers a waker in a place that a lock guards. Cloning and dropping a waker may run code of the program, so that
//! neither happens under the lock.

use super::contain::wake_all;
use super::waker_set::WakerSet;
use std::task::Waker;

/// A waker that is being registered, and the wakers that it displaces.
pub(crate) struct Registration<'a> {
    waker: &'a Waker,
    /// The clone, made when it is first needed.
    clone: Option<Waker>,
    /// Wakers of the same taker as `waker`, or of a taker that no longer exists.
    replaced: Option<Waker>,
    /// A waker that must be woken because its place is needed for another one.
    evicted: Option<Waker>,
}

impl Registration<'_> {
    /// Registers the waker as the only one. Returns false if `look` must be called again.
    pub(crate) fn put_in(&mut self, place: &mut Option<Waker>) -> bool {
        if place.as_ref().is_some_and(|registered| registered.will_wake(self.waker)) {
            return true;
        }
        let Some(clone) = self.clone.take() else { return false };
        self.replaced = place.replace(clone);
        true
    }

    /// Registers the waker in addition to others. Returns false if `look` must be called again.
    pub(crate) fn add_to(&mut self, set: &mut WakerSet) -> bool {
        if set.contains(self.waker) {
            return true;
        }
        let Some(clone) = self.clone.take() else { return false };
        self.evicted = set.insert(clone);
        true
    }

    /// Does the same as [`add_to`](Registration::add_to), without a bound.
    #[cfg(feature = "broker")]
    pub(crate) fn push_to(&mut self, wakers: &mut Vec<Waker>) -> bool {
        if wakers.iter().any(|registered| registered.will_wake(self.waker)) {
            return true;
        }
        let Some(clone) = self.clone.take() else { return false };
        wakers.push(clone);
        true
    }
}

/// Calls `look` until it returns a value. `look` locks the awaited state, and registers the waker if there is no
/// value yet; it returns `None` if it needs a clone of the waker first. The lock is released when it returns. The
/// caller of this function must hold no lock.
pub(crate) fn register<T>(waker: &Waker, mut look: impl FnMut(&mut Registration<'_>) -> Option<T>) -> T {
    let mut registration = Registration { waker, clone: None, replaced: None, evicted: None };
    loop {
        if let Some(result) = look(&mut registration) {
            wake_all(registration.evicted.take());
            return result;
        }
        registration.clone = Some(waker.clone());
    }
}

/// A waker that counts how often it is woken.
#[cfg(test)]
#[derive(Debug, Default)]
pub(crate) struct CountingWaker(std::sync::atomic::AtomicUsize);

#[cfg(test)]
impl CountingWaker {
    /// Returns the counter and the waker.
    pub(crate) fn new() -> (std::sync::Arc<CountingWaker>, Waker) {
        let counter = std::sync::Arc::new(CountingWaker::default());
        (counter.clone(), counter.into())
    }

    pub(crate) fn count(&self) -> usize {
        self.0.load(std::sync::atomic::Ordering::SeqCst)
    }
}

#[cfg(test)]
impl std::task::Wake for CountingWaker {
    fn wake(self: std::sync::Arc<Self>) {
        self.0.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::Mutex;

    #[test]
    fn a_waker_is_cloned_and_dropped_without_the_lock() {
        let place = Mutex::new(None);
        let registered = |waker: &Waker| {
            register(waker, |registration| registration.put_in(&mut place.lock()).then_some(()));
        };
        let (first, second) = (CountingWaker::new(), CountingWaker::new());
        registered(&first.1);
        registered(&first.1);
        assert_eq!(std::sync::Arc::strong_count(&first.0), 3);
        registered(&second.1);
        assert_eq!(std::sync::Arc::strong_count(&first.0), 2);
        place.lock().take().unwrap().wake();
        assert_eq!((first.0.count(), second.0.count()), (0, 1));
    }

    #[test]
    fn an_evicted_waker_is_woken() {
        let set = Mutex::new(WakerSet::default());
        let wakers: Vec<_> = (0..300).map(|_| CountingWaker::new()).collect();
        for (_, waker) in &wakers {
            register(waker, |registration| registration.add_to(&mut set.lock()).then_some(()));
        }
        let woken = wakers.iter().take_while(|(counter, _)| counter.count() == 1).count();
        assert!(woken > 0 && wakers[woken..].iter().all(|(counter, _)| counter.count() == 0));
    }
}
