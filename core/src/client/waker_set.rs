//! The wakers of all tasks and threads that wait for the same condition.

use std::task::Waker;

/// Maximum number of wakers. When there are more, the oldest is woken and must register again.
const MAX_WAKERS: usize = 256;

/// Wakers of different tasks and threads, in the order of their registration. A single one needs no allocation.
#[derive(Debug, Default)]
pub(crate) struct WakerSet {
    first: Option<Waker>,
    rest: Vec<Waker>,
}

impl WakerSet {
    /// Returns true if a waker of the same task or thread is in the set.
    pub(crate) fn contains(&self, waker: &Waker) -> bool {
        self.first.iter().chain(&self.rest).any(|known| known.will_wake(waker))
    }

    /// Returns true if the set is empty.
    pub(crate) fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    /// Adds a waker that is not in the set. Returns an evicted waker, which the caller must wake without holding a
    /// lock.
    pub(crate) fn insert(&mut self, waker: Waker) -> Option<Waker> {
        if self.first.is_none() {
            self.first = Some(waker);
            return None;
        }
        self.rest.push(waker);
        if self.rest.len() < MAX_WAKERS {
            return None;
        }
        let next = self.rest.remove(0);
        self.first.replace(next)
    }

    /// Takes all wakers, which the caller must wake without holding a lock.
    pub(crate) fn take(&mut self) -> WakerSet {
        std::mem::take(self)
    }
}

impl IntoIterator for WakerSet {
    type Item = Waker;
    type IntoIter = std::iter::Chain<std::option::IntoIter<Waker>, std::vec::IntoIter<Waker>>;

    fn into_iter(self) -> Self::IntoIter {
        self.first.into_iter().chain(self.rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::task::Wake;

    struct Task;

    impl Wake for Task {
        fn wake(self: Arc<Self>) {}
    }

    #[test]
    fn the_oldest_is_evicted_when_there_are_too_many() {
        let wakers: Vec<Waker> = (0..=MAX_WAKERS).map(|_| Arc::new(Task).into()).collect();
        let mut set = WakerSet::default();
        for waker in &wakers[..MAX_WAKERS] {
            assert!(!set.contains(waker));
            assert!(set.insert(waker.clone()).is_none());
            assert!(set.contains(waker));
        }
        assert!(set.insert(wakers[MAX_WAKERS].clone()).unwrap().will_wake(&wakers[0]));
        let left: Vec<Waker> = set.take().into_iter().collect();
        assert!(left.iter().zip(&wakers[1..]).all(|(left, waker)| left.will_wake(waker)));
        assert_eq!((left.len(), set.into_iter().count()), (MAX_WAKERS, 0));
    }
}
