//! What waits in an inbox, and the rules for what comes.

use super::{End, LANE_FRAMES, LANES};
use crate::client::effects::DeferredEffects;
use crate::client::policy::Overflow;
use crate::frame::Frame;
use crate::proto::op::FrameKind;
use std::collections::VecDeque;
use std::task::Waker;

/// How many requests that come too late are told so.
#[cfg(feature = "rpc")]
const MOST_LATE: usize = 1024;

/// Those who wait for room are told when this part of the budget is free. Telling at the first free place would
/// wake them for a handful of frames each time.
const ROOM_SHARE: usize = 16;

/// How frames are spread over the lanes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Everything in one.
    Plain,
    /// Publications and broadcasts, notifications, requests; or all in one, to keep their order.
    #[cfg(feature = "rpc")]
    Rpc {
        /// All in one.
        in_order: bool,
    },
}

/// Who takes frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Consumer {
    /// Nobody so far: frames are kept up to the budget, what comes then is dropped.
    Never,
    Present,
    /// Nobody any more: frames are dropped.
    Gone,
}

/// Frames and the bytes they hold in memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Amount {
    pub(crate) frames: usize,
    pub(crate) bytes: usize,
}

impl Amount {
    pub(super) fn of(frame: &Frame) -> Amount {
        Amount { frames: 1, bytes: frame.body_len() + size_of::<Frame>() }
    }

    /// How much of this budget has to be free before those who wait for room are told.
    pub(super) fn worth_telling(self) -> Amount {
        Amount { frames: (self.frames / ROOM_SHARE).max(1), bytes: (self.bytes / ROOM_SHARE).max(1) }
    }

    pub(super) fn add(&mut self, other: Amount) {
        self.frames += other.frames;
        self.bytes += other.bytes;
    }

    pub(super) fn sub(&mut self, other: Amount) {
        self.frames -= other.frames;
        self.bytes -= other.bytes;
    }
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) mode: Mode,
    pub(super) consumer: Consumer,
    pub(super) lanes: [Queue; LANES],
    pub(super) waiting: Amount,
    /// Whether whoever receives has found no room since it was last told that there is some.
    pub(super) starved: bool,
    pub(super) received: (u64, u64),
    pub(super) dropped: u64,
    /// Nothing more is taken in: what waits is the last.
    pub(super) sealed: bool,
    /// RPC requests that came after that, to be refused.
    #[cfg(feature = "rpc")]
    pub(super) late: Vec<Frame>,
    pub(super) end: Option<End>,
}

/// The frames of one lane.
#[derive(Debug, Default)]
pub(super) struct Queue {
    frames: VecDeque<Frame>,
    amount: Amount,
    /// How many of the frames are no messages.
    droppable: usize,
    /// At least so many of the first frames are messages: a search for something else starts behind them.
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

    fn pop(&mut self) -> Option<(Frame, Amount)> {
        let frame = self.frames.pop_front()?;
        let amount = Amount::of(&frame);
        self.amount.sub(amount);
        self.droppable -= usize::from(!is_message(&frame));
        self.messages_first = self.messages_first.saturating_sub(1);
        Some((frame, amount))
    }

    /// Removes the first frame that is no message and `may_go`.
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

    /// Moves the next frames to `batch`, which is empty, until they reach `most`; how many they are.
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
    pub(super) fn is_full(&self, budget: Amount) -> bool {
        self.waiting.frames >= budget.frames || self.waiting.bytes >= budget.bytes
    }

    /// The lane of a frame; `None` if it belongs nowhere.
    fn lane_of(
        &self,
        #[cfg_attr(not(feature = "rpc"), expect(unused_variables))] frame: &Frame,
    ) -> Option<usize> {
        match self.mode {
            Mode::Plain => Some(LANE_FRAMES),
            #[cfg(feature = "rpc")]
            Mode::Rpc { in_order } => {
                let lane = crate::client::lanes::rpc::lane_of(frame)?;
                Some(if in_order { LANE_FRAMES } else { lane })
            }
        }
    }

    /// Whether enough is free to tell those who wait for room.
    pub(super) fn has_room_worth_telling(&self, budget: Amount) -> bool {
        let share = budget.worth_telling();
        self.waiting.frames.saturating_add(share.frames) <= budget.frames
            && self.waiting.bytes.saturating_add(share.bytes) <= budget.bytes
    }

    /// Queues a received frame, or drops it. Returns how many frames were dropped, others among them.
    pub(super) fn append(
        &mut self,
        frame: Frame,
        budget: Amount,
        overflow: Overflow,
        effects: &mut DeferredEffects,
    ) -> u64 {
        self.received.0 += 1;
        self.received.1 += frame.body_len() as u64;
        if self.end.is_some() || self.consumer == Consumer::Gone {
            effects.discard(frame);
            return 0;
        }
        if self.sealed {
            self.dropped += 1;
            self.keep_late(frame, effects);
            return 1;
        }
        let mut dropped = 0;
        if self.is_full(budget) && (self.consumer == Consumer::Never || overflow != Overflow::Wait) {
            if self.dropped == 0 {
                effects.log_overflow();
            }
            if overflow != Overflow::DropOld {
                self.dropped += 1;
                effects.discard(frame);
                return 1;
            }
            // One large frame may take the room of many.
            while self.is_full(budget)
                && let Some(oldest) = self.drop_oldest()
            {
                effects.discard(oldest);
                dropped += 1;
            }
        }
        self.enqueue(frame, effects);
        dropped
    }

    /// Keeps a request that comes too late, to be answered at the end. Every other frame is freed.
    fn keep_late(&mut self, frame: Frame, effects: &mut DeferredEffects) {
        #[cfg(feature = "rpc")]
        if self.late.len() < MOST_LATE && crate::client::lanes::rpc::is_request(&frame) {
            self.late.push(frame);
            return;
        }
        effects.discard(frame);
    }

    /// Drops the oldest frame of the longest lane.
    pub(super) fn drop_oldest(&mut self) -> Option<Frame> {
        let lane = self.lanes.iter_mut().max_by_key(|lane| lane.amount.frames)?;
        let (frame, amount) = lane.pop()?;
        self.waiting.sub(amount);
        self.dropped += 1;
        Some(frame)
    }

    /// Removes the oldest publication or broadcast that `may_go`. Messages stay.
    #[cfg(feature = "broker")]
    pub(super) fn drop_oldest_where(&mut self, may_go: impl Fn(&Frame) -> bool) -> Option<Frame> {
        // The other lanes hold messages alone.
        let (frame, amount) = self.lanes[LANE_FRAMES].remove_first(may_go)?;
        self.waiting.sub(amount);
        self.dropped += 1;
        Some(frame)
    }

    /// Moves the next frames of a lane to `batch`, which is empty, until they reach `most`; how many they are.
    pub(super) fn take(&mut self, lane: usize, batch: &mut VecDeque<Frame>, most: Amount) -> usize {
        let taken = self.lanes[lane].take(batch, most);
        self.waiting.sub(taken);
        taken.frames
    }

    pub(super) fn enqueue(&mut self, frame: Frame, effects: &mut DeferredEffects) {
        let Some(index) = self.lane_of(&frame) else {
            effects.not_rpc(frame);
            return;
        };
        let lane = &mut self.lanes[index];
        self.waiting.add(Amount::of(&frame));
        lane.push(frame);
        if let Some(waker) = lane.waker.take() {
            effects.wake(waker);
        }
    }
}
