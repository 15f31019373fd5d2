//! The frames that wait in an inbox, and the rules for arriving ones.

use super::bounds::{Amount, Bounds};
use super::end::End;
#[cfg(feature = "rpc")]
use super::held::Hand;
#[cfg(feature = "broker")]
use super::sorting::LANE_FRAMES;
use super::sorting::{LANES, Sorting};
use crate::client::effects::DeferredEffects;
use crate::client::policy::Overflow;
use crate::frame::Frame;
use crate::proto::op::FrameKind;
use std::collections::VecDeque;
#[cfg(feature = "rpc")]
use std::sync::Arc;
use std::task::Waker;

/// Maximum number of frames that arrived too late and are kept.
const MOST_LATE: usize = 1024;

/// The state of the program as the consumer of frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Consumer {
    /// The program has not begun to take frames: they are kept up to the bound of their lane, further ones are
    /// dropped.
    Never,
    Present,
    /// The program has stopped taking frames: they are dropped.
    Gone,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) sorting: Sorting,
    pub(super) consumer: Consumer,
    pub(super) lanes: [Queue; LANES],
    /// Lanes whose taker was dropped while the consumer exists: their frames are dropped.
    closed: [bool; LANES],
    pub(super) waiting: Amount,
    /// True if the receiving side has found no room since it was last woken for room.
    pub(super) starved: bool,
    /// Frames received, and the bytes of their bodies.
    pub(super) received: (u64, u64),
    pub(super) dropped: u64,
    /// Messages that the consumer could not handle.
    pub(super) unhandled: u64,
    /// Set when no more frames are queued: the waiting ones are the last. The function returns whether a frame that
    /// arrives later is kept for [`take_late`](super::Inbox::take_late).
    pub(super) sealed: Option<fn(&Frame) -> bool>,
    /// The frames that arrived later and are kept.
    pub(super) late: Vec<Frame>,
    /// The frames that a consumer has taken from each lane but not yet handled.
    #[cfg(feature = "rpc")]
    pub(super) hands: [Option<Arc<Hand>>; LANES],
    pub(super) end: Option<End>,
}

/// The frames of one lane.
#[derive(Debug, Default)]
pub(super) struct Queue {
    frames: VecDeque<Frame>,
    amount: Amount,
    /// Number of frames that are not messages.
    droppable: usize,
    /// At least this many of the first frames are messages, so that a search for other frames starts behind them.
    messages_first: usize,
    pub(super) waker: Option<Waker>,
}

fn is_message(frame: &Frame) -> bool {
    frame.kind() == FrameKind::Message
}

impl Queue {
    pub(super) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    fn push(&mut self, frame: Frame) {
        self.amount.add(Amount::of(&frame));
        self.droppable += usize::from(!is_message(&frame));
        self.frames.push_back(frame);
    }

    /// Puts a frame before all others.
    fn push_front(&mut self, frame: Frame) {
        self.amount.add(Amount::of(&frame));
        if is_message(&frame) {
            self.messages_first += 1;
        } else {
            self.droppable += 1;
            self.messages_first = 0;
        }
        self.frames.push_front(frame);
    }

    fn pop(&mut self) -> Option<(Frame, Amount)> {
        let frame = self.frames.pop_front()?;
        let amount = Amount::of(&frame);
        self.amount.sub(amount);
        self.droppable -= usize::from(!is_message(&frame));
        self.messages_first = self.messages_first.saturating_sub(1);
        Some((frame, amount))
    }

    /// Removes the first frame that is not a message and for which `may_go` returns true.
    #[cfg(feature = "broker")]
    fn remove_first(&mut self, may_go: impl Fn(&Frame) -> bool) -> Option<(Frame, Amount)> {
        if self.droppable == 0 {
            return None;
        }
        while self.frames.get(self.messages_first).is_some_and(is_message) {
            self.messages_first += 1;
        }
        let mut behind = self.frames.range(self.messages_first..);
        let index = self.messages_first + behind.position(|frame| !is_message(frame) && may_go(frame))?;
        let frame = self.frames.remove(index)?;
        let amount = Amount::of(&frame);
        self.amount.sub(amount);
        self.droppable -= 1;
        Some((frame, amount))
    }

    /// Moves the next frames to `batch`, which must be empty, until they reach `most`. Returns their number.
    fn take(&mut self, batch: &mut VecDeque<Frame>, most: Amount) -> Amount {
        if self.amount.frames <= most.frames && self.amount.bytes <= most.bytes && batch.is_empty() {
            std::mem::swap(&mut self.frames, batch);
            (self.droppable, self.messages_first) = (0, 0);
            return std::mem::take(&mut self.amount);
        }
        let mut taken = Amount::default();
        while taken.frames < most.frames && taken.bytes < most.bytes {
            let Some((frame, amount)) = self.pop() else { break };
            taken.add(amount);
            batch.push_back(frame);
        }
        taken
    }

    pub(super) fn into_frames(self) -> VecDeque<Frame> {
        self.frames
    }
}

impl State {
    pub(super) fn new() -> State {
        State {
            sorting: Sorting::PLAIN,
            consumer: Consumer::Never,
            lanes: Default::default(),
            closed: Default::default(),
            waiting: Amount::default(),
            starved: false,
            received: (0, 0),
            dropped: 0,
            unhandled: 0,
            sealed: None,
            late: Vec::new(),
            #[cfg(feature = "rpc")]
            hands: Default::default(),
            end: None,
        }
    }

    /// Returns the number of bytes at which the reader of a connection stops: the data that it reads next may belong
    /// to any lane. With several lanes, a full lane leaves as much room for the others.
    pub(super) fn bound(&self, bounds: Bounds) -> usize {
        if self.sorting.has_lanes() { bounds.lane.saturating_mul(2) } else { bounds.lane }
    }

    /// Returns true if frames that find no room wait, instead of being dropped or queued nevertheless.
    pub(super) fn holds_back(&self) -> bool {
        self.consumer == Consumer::Present && self.sealed.is_none() && self.end.is_none()
    }

    /// Returns the lane of a message, publication or broadcast whose payload begins with `first`; `None` if the
    /// consumer cannot handle it.
    #[inline]
    pub(super) fn lane_of(&self, kind: FrameKind, first: Option<u8>) -> Option<usize> {
        self.sorting.lane_of(kind, first)
    }

    /// Returns the number of bytes that wait in a lane.
    pub(super) fn lane_bytes(&self, lane: usize) -> usize {
        self.lanes[lane].amount.bytes
    }

    /// Returns true if enough room is free, after frames were taken from `lane`, for the receiving side to continue.
    pub(super) fn has_room_worth_telling(&self, lane: usize, bounds: Bounds) -> bool {
        let (room, lane) = (bounds.room(), &self.lanes[lane]);
        lane.is_empty()
            || lane.amount.bytes.saturating_add(room) <= bounds.lane
            || self.waiting.bytes.saturating_add(room) <= self.bound(bounds)
    }

    /// Queues a received frame, or drops it. Returns the number of dropped frames, which may include others.
    pub(super) fn append(
        &mut self,
        frame: Frame,
        bounds: Bounds,
        overflow: Overflow,
        effects: &mut DeferredEffects,
    ) -> u64 {
        self.received.0 += 1;
        self.received.1 += frame.body_len() as u64;
        if self.end.is_some() || self.consumer == Consumer::Gone {
            effects.discard(frame);
            return 0;
        }
        if let Some(is_kept) = self.sealed {
            self.dropped += 1;
            if self.late.len() < MOST_LATE && is_kept(&frame) {
                self.late.push(frame);
            } else {
                effects.discard(frame);
            }
            return 1;
        }
        let Some(lane) = self.lane_of(frame.kind(), frame.payload().first().copied()) else {
            self.reject(frame, effects);
            return 0;
        };
        if self.closed[lane] {
            effects.discard(frame);
            return 0;
        }
        let mut dropped = 0;
        if self.lane_bytes(lane) >= bounds.lane
            && (self.consumer == Consumer::Never || overflow != Overflow::Wait)
        {
            if self.dropped == 0 {
                effects.log_overflow();
            }
            if overflow != Overflow::DropOld {
                self.dropped += 1;
                effects.discard(frame);
                return 1;
            }
            // One large frame may need the room of many small ones.
            while self.lane_bytes(lane) >= bounds.lane
                && let Some(oldest) = self.drop_oldest(lane)
            {
                effects.discard(oldest);
                dropped += 1;
            }
        }
        self.enqueue_in(lane, frame, effects);
        dropped
    }

    /// Drops the oldest frame of a lane.
    fn drop_oldest(&mut self, lane: usize) -> Option<Frame> {
        let (frame, amount) = self.lanes[lane].pop()?;
        self.waiting.sub(amount);
        self.dropped += 1;
        Some(frame)
    }

    /// Removes the oldest publication or broadcast for which `may_go` returns true. Messages are never removed.
    #[cfg(feature = "broker")]
    pub(super) fn drop_oldest_where(&mut self, may_go: impl Fn(&Frame) -> bool) -> Option<Frame> {
        // The other lanes hold only messages.
        let (frame, amount) = self.lanes[LANE_FRAMES].remove_first(may_go)?;
        self.waiting.sub(amount);
        self.dropped += 1;
        Some(frame)
    }

    /// Moves the next frames of a lane to `batch` until they reach `most`. Returns their number.
    pub(super) fn take(&mut self, lane: usize, batch: &mut VecDeque<Frame>, most: Amount) -> usize {
        if self.lanes[lane].is_empty() {
            return 0;
        }
        let taken = self.lanes[lane].take(batch, most);
        self.waiting.sub(taken);
        taken.frames
    }

    /// Queues a frame in the lane to which it belongs.
    pub(super) fn enqueue(&mut self, frame: Frame, effects: &mut DeferredEffects) {
        match self.lane_of(frame.kind(), frame.payload().first().copied()) {
            Some(lane) => self.enqueue_in(lane, frame, effects),
            None => self.reject(frame, effects),
        }
    }

    /// Discards a message that the consumer cannot handle.
    fn reject(&mut self, frame: Frame, effects: &mut DeferredEffects) {
        self.unhandled += 1;
        effects.unhandled(frame);
    }

    fn enqueue_in(&mut self, lane: usize, frame: Frame, effects: &mut DeferredEffects) {
        let lane = &mut self.lanes[lane];
        self.waiting.add(Amount::of(&frame));
        lane.push(frame);
        if let Some(waker) = lane.waker.take() {
            effects.wake(waker);
        }
    }

    /// Puts frames that were taken but not handled back in front of the waiting ones.
    pub(super) fn put_back(
        &mut self,
        frames: impl DoubleEndedIterator<Item = Frame>,
        effects: &mut DeferredEffects,
    ) {
        for frame in frames.rev() {
            let Some(lane) = self.lane_of(frame.kind(), frame.payload().first().copied()) else {
                self.reject(frame, effects);
                continue;
            };
            if self.closed[lane] {
                effects.discard(frame);
                continue;
            }
            let lane = &mut self.lanes[lane];
            self.waiting.add(Amount::of(&frame));
            lane.push_front(frame);
            if let Some(waker) = lane.waker.take() {
                effects.wake(waker);
            }
        }
    }

    /// Opens all lanes, for a new consumer.
    pub(super) fn open_lanes(&mut self) {
        self.closed = Default::default();
    }

    /// Drops the frames of a lane from now on. Returns the waiting ones.
    pub(super) fn close_lane(&mut self, lane: usize) -> Queue {
        self.closed[lane] = true;
        let queue = std::mem::take(&mut self.lanes[lane]);
        self.waiting.sub(queue.amount);
        queue
    }

    /// Removes the wakers of all lanes.
    pub(super) fn take_wakers(&mut self) -> impl Iterator<Item = Waker> + use<'_> {
        self.lanes.iter_mut().filter_map(|lane| lane.waker.take())
    }
}
