//! What waits in an inbox, and the rules for what comes.

use super::{End, LANE_FRAMES, LANES};
use crate::client::events::{Event, Hub};
use crate::client::policy::Overflow;
use crate::frame::Frame;
use std::collections::VecDeque;
use std::task::Waker;

/// How many requests that come too late are told so.
#[cfg(feature = "rpc")]
const MOST_LATE: usize = 1024;

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

    pub(super) fn half(self) -> Amount {
        Amount { frames: self.frames.div_ceil(2), bytes: self.bytes.div_ceil(2) }
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

#[derive(Debug, Default)]
pub(super) struct Queue {
    frames: VecDeque<Frame>,
    amount: Amount,
    pub(super) waker: Option<Waker>,
}

impl Queue {
    pub(super) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    fn push(&mut self, frame: Frame) {
        self.amount.add(Amount::of(&frame));
        self.frames.push_back(frame);
    }

    fn pop(&mut self) -> Option<(Frame, Amount)> {
        let frame = self.frames.pop_front()?;
        let amount = Amount::of(&frame);
        self.amount.sub(amount);
        Some((frame, amount))
    }

    /// Moves the next frames to `batch`, which is empty, until they reach `most`; how many they are.
    fn take(&mut self, batch: &mut VecDeque<Frame>, most: Amount) -> Amount {
        if self.amount.frames <= most.frames && self.amount.bytes <= most.bytes && batch.is_empty() {
            std::mem::swap(&mut self.frames, batch);
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

/// What happened under the lock and is to be done without it.
#[derive(Default)]
pub(super) struct Aftermath {
    wakers: [Option<Waker>; LANES],
    first_drop: bool,
    dropped: u64,
    not_rpc: Option<Frame>,
}

impl Aftermath {
    pub(super) fn settle(self, events: &Hub) {
        for waker in self.wakers.into_iter().flatten() {
            waker.wake();
        }
        if self.first_drop {
            log::warn!("the queue is full and nobody takes the frames: they are dropped");
        }
        if self.dropped > 0 && events.is_heard() {
            events.tell(Event::Dropped { frames: self.dropped });
        }
        if let Some(frame) = self.not_rpc {
            log::debug!("a message of {} is no RPC frame, or a reply that nobody awaits", frame.sender());
        }
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

    pub(super) fn append(&mut self, frame: Frame, budget: Amount, overflow: Overflow, after: &mut Aftermath) {
        self.received.0 += 1;
        self.received.1 += frame.body_len() as u64;
        if self.end.is_some() || self.consumer == Consumer::Gone {
            return;
        }
        if self.sealed {
            self.dropped += 1;
            after.dropped += 1;
            #[cfg(feature = "rpc")]
            if self.late.len() < MOST_LATE && crate::client::lanes::rpc::is_request(&frame) {
                self.late.push(frame);
            }
            return;
        }
        if self.is_full(budget) && (self.consumer == Consumer::Never || overflow != Overflow::Wait) {
            after.first_drop |= self.dropped == 0;
            after.dropped += 1;
            if overflow != Overflow::DropOld {
                self.dropped += 1;
                return;
            }
            after.dropped -= 1;
            // One large frame may take the room of many.
            while self.is_full(budget) && self.drop_oldest().is_some() {
                after.dropped += 1;
            }
        }
        self.enqueue(frame, after);
    }

    /// Drops the oldest frame of the longest lane.
    pub(super) fn drop_oldest(&mut self) -> Option<Frame> {
        let lane = self.lanes.iter_mut().max_by_key(|lane| lane.amount.frames)?;
        let (frame, amount) = lane.pop()?;
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

    pub(super) fn enqueue(&mut self, frame: Frame, after: &mut Aftermath) {
        let Some(index) = self.lane_of(&frame) else {
            after.not_rpc = Some(frame);
            return;
        };
        let lane = &mut self.lanes[index];
        self.waiting.add(Amount::of(&frame));
        lane.push(frame);
        if lane.waker.is_some() {
            after.wakers[index] = lane.waker.take();
        }
    }
}
