//! Takes frames out of an inbox: the consumer, and its batches.

use super::bounds::Amount;
use super::held::Held;
use super::sorting::{LANES, Sorting};
use super::state::{Consumer, Queue, State};
use super::{Inbox, Taken};
use crate::client::effects::{DeferredEffects, discard, wake_all};
use crate::client::register::{Registration, register};
use crate::frame::Frame;
use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::task::{Poll, Waker};

/// Maximum number of frames of one batch.
pub(crate) const BATCH_FRAMES: usize = 128;
/// A batch ends with the frame that reaches this many bytes.
const BATCH_BYTES: usize = 64 * 1024;

impl Inbox {
    /// Makes the caller the consumer of all lanes and returns its number. Returns `None` if there is a consumer and
    /// the caller does not want to take over, and in a child made by fork. The frames that a former consumer holds in
    /// shared hands are delivered again, before the others.
    pub(crate) fn attach(&self, sorting: Sorting, take_over: bool) -> Option<u64> {
        if self.is_inherited() {
            return None;
        }
        let mut effects = DeferredEffects::default();
        let mut state = self.state.lock();
        if state.consumer == Consumer::Present && !take_over {
            return None;
        }
        let epoch = self.epoch.fetch_add(1, Ordering::AcqRel) + 1;
        state.consumer = Consumer::Present;
        state.open_lanes();
        // The former consumer wakes up and notices that it has been replaced.
        state.take_wakers().for_each(|waker| effects.wake(waker));
        let was_plain = std::mem::replace(&mut state.sorting, sorting).is_plain();
        // A plain consumer has no shared hands, and its lane needs no sorting for another plain consumer.
        if !(was_plain && sorting.is_plain()) {
            let hands = take_hands(&mut state);
            state.waiting = Amount::default();
            for (hand, lane) in hands.into_iter().zip(std::mem::take(&mut state.lanes)) {
                let frames = hand.into_iter().chain(lane.into_frames());
                frames.for_each(|frame| state.enqueue(frame, &mut effects));
            }
        }
        drop(state);
        effects.settle();
        self.room.tell();
        Some(epoch)
    }

    /// Returns true if the consumer of that number is the current one.
    pub(crate) fn is_attached(&self, epoch: u64) -> bool {
        self.epoch.load(Ordering::Acquire) == epoch
    }

    /// Stops the consumer of that number: frames that wait and frames that arrive later are dropped.
    pub(crate) fn detach(&self, epoch: u64) {
        if self.is_inherited() {
            return;
        }
        let mut state = self.state.lock();
        if self.epoch.compare_exchange(epoch, epoch + 1, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            return;
        }
        state.consumer = Consumer::Gone;
        state.sorting = Sorting::PLAIN;
        state.waiting = Amount::default();
        let hands = take_hands(&mut state);
        let mut lanes = std::mem::take(&mut state.lanes);
        drop(state);
        wake_all(lanes.iter_mut().filter_map(|lane| lane.waker.take()));
        lanes.into_iter().flat_map(Queue::into_frames).chain(hands.into_iter().flatten()).for_each(discard);
        self.room.tell();
    }

    /// Closes a lane whose taker was dropped while the consumer exists. The frames of this lane, those that wait and
    /// those that arrive later, are dropped, so that they take no room from the other lanes.
    pub(crate) fn close_lane(&self, epoch: u64, lane: usize) {
        let mut state = self.state.lock();
        if !self.is_attached(epoch) || state.consumer != Consumer::Present {
            return;
        }
        let queue = state.close_lane(lane);
        drop(state);
        queue.into_frames().into_iter().for_each(discard);
        self.room.tell();
    }

    /// Gives back frames that a consumer has taken but not handled. If another consumer has taken over since, it gets
    /// them first; otherwise they are dropped. In a child made by fork they are leaked.
    pub(crate) fn give_back(&self, epoch: u64, frames: VecDeque<Frame>) {
        if self.is_inherited() {
            std::mem::forget(frames);
            return;
        }
        if frames.is_empty() {
            return;
        }
        let mut effects = DeferredEffects::default();
        let mut state = self.state.lock();
        if self.is_attached(epoch) || state.consumer != Consumer::Present {
            drop(state);
            frames.into_iter().for_each(discard);
            return;
        }
        state.put_back(frames.into_iter(), &mut effects);
        drop(state);
        effects.settle();
    }

    /// Moves the next frames of a lane to `held`, which must be empty, at most `frames` of them. Returns
    /// `Ready(false)` if there will be no more frames, if the caller is no longer the consumer, and in a child made
    /// by fork. If the lane is empty, `waker` is registered.
    pub(crate) fn poll_take(
        &self,
        epoch: u64,
        lane: usize,
        frames: usize,
        held: &mut impl Held,
        waker: Option<&Waker>,
    ) -> Poll<bool> {
        if self.is_inherited() {
            return Poll::Ready(false);
        }
        let mut take = |registration: Option<&mut Registration<'_>>| {
            let mut state = self.state.lock();
            if !self.is_attached(epoch) {
                return Some(Poll::Ready(false));
            }
            if held.fill(|batch| state.take(lane, batch, self.batch(frames))) > 0 {
                let tell = state.starved && state.has_room_worth_telling(lane, self.bounds);
                state.starved &= !tell;
                drop(state);
                if tell {
                    self.room.tell();
                }
                return Some(Poll::Ready(true));
            }
            if state.end.is_some() || state.sealed.is_some() {
                return Some(Poll::Ready(false));
            }
            match registration {
                Some(registration) => {
                    registration.put_in(&mut state.lanes[lane].waker).then_some(Poll::Pending)
                }
                None => Some(Poll::Pending),
            }
        };
        match waker {
            Some(waker) => register(waker, |registration| take(Some(registration))),
            None => take(None).unwrap_or(Poll::Pending),
        }
    }

    /// Returns the bounds of a batch. Even a small inbox is emptied in several batches.
    fn batch(&self, frames: usize) -> Amount {
        Amount { frames: frames.clamp(1, BATCH_FRAMES), bytes: (self.bounds.lane / 8).clamp(1, BATCH_BYTES) }
    }

    /// Registers the hand into which a consumer takes frames of a lane. Returns false if it is no longer the
    /// consumer.
    #[cfg(feature = "rpc")]
    pub(crate) fn register_hand(
        &self,
        epoch: u64,
        lane: usize,
        hand: &std::sync::Arc<super::held::Hand>,
    ) -> bool {
        if self.is_inherited() {
            return false;
        }
        let mut state = self.state.lock();
        let attached = self.is_attached(epoch);
        if attached {
            state.hands[lane] = Some(hand.clone());
        }
        attached
    }

    /// Counts a frame that the program has taken from `lane`. Only the lane's taker may call it.
    #[inline]
    pub(crate) fn took(&self, lane: usize, frame: &Frame) {
        let Taken { frames, bytes } = &self.taken[lane];
        frames.store(frames.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        let held = Amount::of(frame).bytes as u64;
        bytes.store(bytes.load(Ordering::Relaxed) + held, Ordering::Relaxed);
    }
}

/// Takes the frames that a consumer holds in shared hands. Nothing is added to these hands any more.
fn take_hands(
    #[cfg_attr(not(feature = "rpc"), expect(unused_variables))] state: &mut State,
) -> [VecDeque<Frame>; LANES] {
    #[cfg(feature = "rpc")]
    return std::mem::take(&mut state.hands).map(|hand| hand.map(|hand| hand.take()).unwrap_or_default());
    #[cfg(not(feature = "rpc"))]
    Default::default()
}
