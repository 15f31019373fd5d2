//! Received frames that wait for the program.
//!
//! Frames wait in up to three lanes, so that with RPC a slow handler of one kind of frame holds up only its kind. The
//! receiving side appends: the reader of a connection, or the broker itself for a client within its process. It waits
//! for room when the bound is reached. The bound is in bytes and not in frames: a program that is busy for a while with
//! each of many small frames must not stop its connection for long.
//!
//! - In one lane (plain frames, RPC in order) `inbox_bytes` may wait.
//! - An RPC server that handles calls beside frames has three lanes. A reader cannot know where the next frame belongs,
//!   so it continues until twice `inbox_bytes` wait in all lanes together: a lane that is full leaves as much for the
//!   others. The broker knows: a frame for a client within its process waits for room in its own lane only.
//! - While the program awaits an acknowledgement, a reply or room to send, `inbox_awaiting_bytes` more may wait, since
//!   the answer comes behind frames that the program cannot take until then.
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
    /// In a child made by fork a lock may be held for ever, by a thread that only the parent has.
    process: Process,
    /// The number of the present consumer: an older one gets nothing more.
    epoch: AtomicU64,
    /// The frames that the program has taken from each lane.
    taken: [Taken; LANES],
    room: Room,
    ended: Notify,
    /// The lease of the connection that fills the inbox.
    lease: Arc<ReadingLease>,
    /// The number of operations that cannot go on before something has been received.
    blocked: AtomicUsize,
}

/// Frames that the program has taken from a lane, and the bytes they held. Only the lane's taker writes.
#[derive(Debug, Default)]
struct Taken {
    frames: AtomicU64,
    bytes: AtomicU64,
}

/// An operation waits for something to be received, until the value is dropped.
#[derive(Debug)]
pub(crate) struct Blocked(Arc<Inbox>);

impl Drop for Blocked {
    fn drop(&mut self) {
        self.0.blocked.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Inbox {
    /// An inbox with the bounds of `config`.
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

    /// Returns true if this process is a child of the one that the inbox belongs to, so that it must not be used.
    #[inline]
    pub(crate) fn is_inherited(&self) -> bool {
        !self.process.is_current()
    }

    /// The lease of the connection.
    pub(crate) fn lease(&self) -> &Arc<ReadingLease> {
        &self.lease
    }

    /// Returns true if something is to be woken by the next frame.
    pub(crate) fn is_awaited(&self) -> bool {
        self.state.lock().lanes.iter().any(|lane| lane.waker.is_some())
    }

    /// The process that the inbox belongs to.
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

    /// Appends the frames of one read, whatever the bound, and empties `frames`. What has to happen without a lock is
    /// added to `effects`. Returns how many frames were dropped.
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

    /// The bytes that the reader of a connection may append now, 0 if it must wait. `awaited` returns whether the
    /// program awaits an answer.
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

    /// Waits until the reader of a connection may go on; false when the inbox has ended. `awaited` is as in
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

    /// To be called after the program has begun to await something: receiving continues.
    pub(crate) fn unpark(&self) {
        if self.room.is_awaited() {
            self.room.tell();
        }
    }

    /// Declares, until the value is dropped, that an operation waits for something to be received.
    pub(crate) fn block(self: &Arc<Self>) -> Blocked {
        self.blocked.fetch_add(1, Ordering::SeqCst);
        self.unpark();
        Blocked(self.clone())
    }

    /// How many frames the program has taken since the beginning, and the bytes that they held in the queue, in the
    /// measure of the bounds.
    pub(crate) fn taken(&self) -> (u64, u64) {
        self.taken.iter().fold((0, 0), |(frames, bytes), lane| {
            (frames + lane.frames.load(Ordering::Relaxed), bytes + lane.bytes.load(Ordering::Relaxed))
        })
    }

    /// Frames received, their bytes, frames waiting, frames dropped.
    pub(crate) fn counters(&self) -> (u64, u64, usize, u64) {
        let state = self.state.lock();
        (state.received.0, state.received.1, state.waiting.frames, state.dropped)
    }

    /// Messages that the consumer could not handle.
    pub(crate) fn unhandled(&self) -> u64 {
        self.state.lock().unhandled
    }

    /// Counts a message that the consumer has taken and cannot handle.
    #[cfg(feature = "rpc")]
    pub(crate) fn count_unhandled(&self) {
        self.state.lock().unhandled += 1;
    }

    /// Ends the inbox: what waits can still be taken, nothing more is received. Returns false if it has ended before.
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

    /// The reason of the end, if it has ended.
    pub(super) fn reason(&self) -> Option<End> {
        self.state.lock().end.clone()
    }

    /// Queues no more frames: the program gets those that wait, then the end. Of those that come, some for which
    /// `is_kept` returns true are kept, the others dropped.
    pub(crate) fn seal(&self, is_kept: fn(&Frame) -> bool) {
        let mut effects = DeferredEffects::default();
        let mut state = self.state.lock();
        state.sealed = Some(is_kept);
        state.take_wakers().for_each(|waker| effects.wake(waker));
        drop(state);
        effects.settle();
        self.room.tell();
    }

    /// The frames that came after the inbox was sealed and were kept.
    #[cfg(feature = "rpc")]
    pub(crate) fn take_late(&self) -> Vec<Frame> {
        std::mem::take(&mut self.state.lock().late)
    }

    /// Returns whether nothing more is received.
    pub(crate) fn has_ended(&self) -> bool {
        self.state.lock().end.is_some()
    }

    /// Waits for the end and returns its reason.
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
