//! Received frames that wait for the program.
//!
//! Frames wait in up to three lanes, so that with RPC a slow handler of one kind of frame holds up only its kind. The
//! receiving side appends frames: this is the reader of a connection, or the broker itself for a client within its
//! process. It waits for room when the bound is reached. The bound is in bytes, not in frames, so that a program that
//! spends some time on each of many small frames does not stop its connection for long.
//!
//! - In one lane (plain frames, RPC in order) `inbox_bytes` may wait.
//! - An RPC server that handles calls beside frames has three lanes. A reader cannot know where the next frame
//!   belongs, so it continues until twice `inbox_bytes` wait in all lanes together: a lane that is full leaves as
//!   much for the others. The broker knows: a frame for a client within its process waits for room in its own lane
//!   only.
//! - While the program awaits an acknowledgement, a reply or room to send, `inbox_awaiting_bytes` more may wait,
//!   since the answer comes behind frames that the program cannot take until then.
//!
//! The program takes frames in small batches, so that the lock is taken once for many of them.

mod bounds;
mod end;
mod held;
#[cfg(feature = "broker")]
mod local;
mod room;
mod sorting;
mod state;
mod taking;
#[cfg(test)]
mod tests;

pub(crate) use end::End;
#[cfg(feature = "rpc")]
pub(crate) use held::Hand;
pub(crate) use held::Held;
pub(crate) use sorting::{LANE_FRAMES, Sorting};
pub(crate) use taking::BATCH_FRAMES;

use super::config::Config;
use super::effects::{DeferredEffects, contain};
use super::policy::Overflow;
use super::reading_lease::ReadingLease;
use crate::error::Error;
use crate::fork::Process;
use crate::frame::Frame;
use bounds::Bounds;
use parking_lot::Mutex;
use room::Room;
use sorting::LANES;
use state::State;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use tokio::sync::Notify;

/// Received frames that wait for the program. All methods may be called from any thread.
#[derive(Debug)]
pub(crate) struct Inbox {
    bounds: Bounds,
    overflow: Overflow,
    state: Mutex<State>,
    /// Detects a fork: in a child, a lock may be held for ever by a thread that only exists in the parent.
    process: Process,
    /// The number of the current consumer: older consumers get nothing more.
    epoch: AtomicU64,
    /// The frames that the program has taken from each lane.
    taken: [Taken; LANES],
    room: Room,
    ended: Notify,
    /// The lease of the connection that fills the inbox.
    lease: Arc<ReadingLease>,
    /// Number of operations that cannot proceed until something has been received.
    blocked: AtomicUsize,
}

/// Frames that the program has taken from a lane, and the bytes that they held. Only the lane's taker writes.
#[derive(Debug, Default)]
struct Taken {
    frames: AtomicU64,
    bytes: AtomicU64,
}

/// Declares that an operation waits until something is received. The declaration ends when the value is dropped.
#[derive(Debug)]
pub(crate) struct Blocked(Arc<Inbox>);

impl Drop for Blocked {
    fn drop(&mut self) {
        self.0.blocked.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Inbox {
    /// Creates an inbox with the bounds of `config`.
    pub(crate) fn new(config: &Config) -> Arc<Inbox> {
        Arc::new(Inbox {
            bounds: Bounds::new(config),
            overflow: config.overflow,
            state: Mutex::new(State::new()),
            process: Process::current(),
            epoch: AtomicU64::new(0),
            taken: Default::default(),
            room: Room::default(),
            ended: Notify::new(),
            lease: ReadingLease::new(config.busy_poll),
            blocked: AtomicUsize::new(0),
        })
    }

    /// Returns true if this process is a child of the one to which the inbox belongs, so that the inbox must not be
    /// used.
    #[inline]
    pub(crate) fn is_inherited(&self) -> bool {
        !self.process.is_current()
    }

    /// Returns the reading lease of the connection.
    pub(crate) fn lease(&self) -> &Arc<ReadingLease> {
        &self.lease
    }

    /// Returns true if the next frame will wake a task or a thread.
    pub(crate) fn is_awaited(&self) -> bool {
        self.state.lock().lanes.iter().any(|lane| lane.waker.is_some())
    }

    /// Returns the process to which the inbox belongs.
    pub(crate) fn process(&self) -> Process {
        self.process
    }

    /// Counts replies as received frames.
    #[cfg(feature = "rpc")]
    pub(crate) fn count_replies<'f>(&self, replies: impl Iterator<Item = &'f Frame>) {
        let mut state = self.state.lock();
        for frame in replies {
            state.received.0 += 1;
            state.received.1 += frame.body_len() as u64;
        }
    }

    /// Appends the frames of one read, even beyond the bound, and empties `frames`. Effects that must happen without
    /// a lock are added to `effects`. Returns the number of dropped frames.
    pub(super) fn append(&self, frames: &mut Vec<Frame>, effects: &mut DeferredEffects) -> u64 {
        if frames.is_empty() {
            return 0;
        }
        let mut dropped = 0;
        let mut state = self.state.lock();
        for frame in frames.drain(..) {
            dropped += state.append(frame, self.bounds, self.overflow, effects);
        }
        dropped
    }

    /// Returns the number of bytes that the reader of a connection may append now, 0 if it must wait. `awaited`
    /// returns whether the program awaits an answer.
    pub(crate) fn room(&self, awaited: impl FnOnce() -> bool) -> usize {
        if self.overflow != Overflow::Wait {
            return usize::MAX;
        }
        let mut state = self.state.lock();
        if !state.holds_back() {
            return usize::MAX;
        }
        let (bound, waiting) = (state.bound(self.bounds), state.waiting.bytes);
        if waiting < bound {
            return bound - waiting;
        }
        state.starved = true;
        drop(state);
        let beyond = bound.saturating_add(self.bounds.awaiting).saturating_sub(waiting);
        if beyond > 0 && (self.is_blocked() || awaited()) { beyond } else { 0 }
    }

    /// Waits until the reader of a connection may continue. Returns false if the inbox has ended. `awaited` is as in
    /// [`room`](Inbox::room).
    pub(crate) async fn wait_room_unless(&self, awaited: impl Fn() -> bool) -> bool {
        if self.room(&awaited) > 0 {
            return !self.has_ended();
        }
        let _waiting = self.room.wait();
        loop {
            let room = self.room.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            if self.room(&awaited) > 0 {
                return !self.has_ended();
            }
            room.await;
        }
    }

    fn is_blocked(&self) -> bool {
        self.blocked.load(Ordering::SeqCst) > 0
    }

    /// Makes receiving continue. It must be called after the program has begun to await an answer.
    pub(crate) fn unpark(&self) {
        if self.room.is_awaited() {
            self.room.tell();
        }
    }

    /// Declares that an operation waits until something is received. The declaration ends when the value is dropped.
    pub(crate) fn block(self: &Arc<Self>) -> Blocked {
        self.blocked.fetch_add(1, Ordering::SeqCst);
        self.unpark();
        Blocked(self.clone())
    }

    /// Returns the number of frames that the program has taken since the beginning, and the bytes that they held in
    /// the queue, measured like the bounds.
    pub(crate) fn taken(&self) -> (u64, u64) {
        self.taken.iter().fold((0, 0), |(frames, bytes), lane| {
            (frames + lane.frames.load(Ordering::Relaxed), bytes + lane.bytes.load(Ordering::Relaxed))
        })
    }

    /// Returns the frames received, their bytes, the frames waiting, and the frames dropped.
    pub(crate) fn counters(&self) -> (u64, u64, usize, u64) {
        let state = self.state.lock();
        (state.received.0, state.received.1, state.waiting.frames, state.dropped)
    }

    /// Returns the number of messages that the consumer could not handle.
    pub(crate) fn unhandled(&self) -> u64 {
        self.state.lock().unhandled
    }

    /// Counts a message that the consumer has taken but cannot handle.
    #[cfg(feature = "rpc")]
    pub(crate) fn count_unhandled(&self) {
        self.state.lock().unhandled += 1;
    }

    /// Ends the inbox: waiting frames can still be taken, nothing more is received. Returns false if it had already
    /// ended.
    pub(super) fn end(&self, end: End) -> bool {
        let mut effects = DeferredEffects::default();
        let mut state = self.state.lock();
        if state.end.is_some() {
            return false;
        }
        state.end = Some(end);
        state.take_wakers().for_each(|waker| effects.wake(waker));
        drop(state);
        effects.settle();
        self.room.tell();
        contain("a waker", || self.ended.notify_waiters());
        true
    }

    /// Returns the reason of the end, if it has ended.
    pub(super) fn reason(&self) -> Option<End> {
        self.state.lock().end.clone()
    }

    /// Stops queueing: the program gets the waiting frames, then the end. Of the frames that arrive later, some of
    /// those for which `is_kept` returns true are kept, the others are dropped.
    pub(crate) fn seal(&self, is_kept: fn(&Frame) -> bool) {
        let mut effects = DeferredEffects::default();
        let mut state = self.state.lock();
        state.sealed = Some(is_kept);
        state.take_wakers().for_each(|waker| effects.wake(waker));
        drop(state);
        effects.settle();
        self.room.tell();
    }

    /// Takes the frames that arrived after the inbox was sealed and were kept.
    #[cfg(feature = "rpc")]
    pub(crate) fn take_late(&self) -> Vec<Frame> {
        std::mem::take(&mut self.state.lock().late)
    }

    /// Returns true if nothing more is received.
    pub(crate) fn has_ended(&self) -> bool {
        self.state.lock().end.is_some()
    }

    /// Waits for the end. Returns its reason.
    pub(crate) async fn wait_end(&self) -> Error {
        loop {
            let ended = self.ended.notified();
            tokio::pin!(ended);
            ended.as_mut().enable();
            let end = self.state.lock().end.clone();
            match end {
                Some(end) => return end.error(),
                None => ended.await,
            }
        }
    }
}
