//! Received frames that wait for the program.
//!
//! Frames wait in up to three lanes, so that with RPC a slow handler of one kind of frame holds up only its kind. The
//! receiving side appends: the reader of a connection, or the broker itself for a client within its process. It waits
//! for room when the bound is reached. The bound is in bytes and not in frames: a program that is busy for a while with
//! each of many small frames must not stop its connection for long.
//!
//! - In one lane (plain frames, RPC in order) `inbox_bytes` may wait.
//! - An RPC server that handles calls beside frames has three lanes. A reader cannot know where the next frame belongs,
//!   so it goes on until twice `inbox_bytes` wait in all lanes together: a lane that is full leaves as much for the
//!   others. The broker knows: a frame for a client within its process waits for room in its own lane only.
//! - While the program awaits an acknowledgement, a reply or room to send, `inbox_awaiting_bytes` more may wait, since
//!   the answer comes behind frames that the program cannot take until then.
//!
//! The program takes frames in small batches, so that the lock is taken once for many of them.

mod bounds;
#[cfg(feature = "rpc")]
pub(crate) mod hand;
#[cfg(feature = "broker")]
mod local;
mod room;
mod state;
mod taking;
#[cfg(test)]
mod tests;

#[cfg(feature = "broker")]
pub(crate) use local::Finishing;
pub(crate) use state::Mode;
pub(crate) use taking::BATCH_FRAMES;

use super::config::Config;
use super::effects::{DeferredEffects, contain};
use super::events::{Event, Hub};
use super::policy::Overflow;
use crate::error::{Error, ErrorKind};
use crate::fork::Process;
use crate::frame::Frame;
use bounds::Bounds;
use parking_lot::Mutex;
use room::Room;
use state::State;
use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use tokio::sync::Notify;

/// The number of lanes: frames, notifications, calls.
pub(crate) const LANES: usize = 3;
/// The lane of publications and broadcasts, and of everything if there is one lane only.
pub(crate) const LANE_FRAMES: usize = 0;

/// Why there will be no more frames.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct End {
    kind: ErrorKind,
    context: Cow<'static, str>,
}

impl End {
    pub(crate) fn new(kind: ErrorKind, context: impl Into<Cow<'static, str>>) -> End {
        End { kind, context: context.into() }
    }

    pub(crate) fn error(&self) -> Error {
        Error::new(self.kind, self.context.clone())
    }
}

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
    /// Whether nothing is left to happen before the listeners of events are told the end.
    may_tell_end: AtomicBool,
    /// The number of operations that cannot go on before something has been received.
    blocked: AtomicUsize,
    /// The number of tasks that finish operations within the broker's process.
    #[cfg(feature = "broker")]
    finishing: AtomicUsize,
    pub(super) events: Arc<Hub>,
    pub(super) timer: super::timer::Timer,
    /// Those who wait for room to send within the broker's process.
    pub(super) senders: super::waiters::Waiters,
    #[cfg(feature = "rpc")]
    pub(super) work: super::drain::rpc::Work,
    #[cfg(feature = "rpc")]
    pub(crate) calls: super::calls::Calls,
}

/// Frames that the program has taken from a lane, and the bytes they held. Only the lane's taker writes.
#[derive(Debug, Default)]
struct Taken {
    frames: AtomicU64,
    bytes: AtomicU64,
}

/// A reply that was received: the call that it ends, and its frame.
#[cfg(feature = "rpc")]
pub(super) type Reply = (super::calls::Caller, Frame);

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
            may_tell_end: AtomicBool::new(false),
            blocked: AtomicUsize::new(0),
            #[cfg(feature = "broker")]
            finishing: AtomicUsize::new(0),
            events: Arc::default(),
            timer: super::timer::Timer::default(),
            senders: super::waiters::Waiters::default(),
            #[cfg(feature = "rpc")]
            work: Default::default(),
            #[cfg(feature = "rpc")]
            calls: super::calls::Calls::new(),
        })
    }

    /// Whether this process is a child of the one that the inbox belongs to, so that it must not be used.
    #[inline]
    pub(crate) fn is_inherited(&self) -> bool {
        !self.process.is_current()
    }

    /// The process that the inbox belongs to.
    pub(crate) fn process(&self) -> Process {
        self.process
    }

    /// Removes the call that `frame` answers. The caller ends the call after the frames received before the reply are
    /// queued, and counts the reply with [`count_replies`](Inbox::count_replies).
    ///
    /// # Errors
    /// The frame itself when it answers no call.
    #[cfg(feature = "rpc")]
    #[inline]
    pub(super) fn take_call(&self, frame: Frame) -> Result<Reply, Frame> {
        if frame.kind() != crate::FrameKind::Message || !self.calls.expects_replies() {
            return Err(frame);
        }
        self.calls.take(frame)
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

    /// Appends the frames of one read, whatever the bound, and empties `frames`.
    pub(crate) fn append(&self, frames: &mut Vec<Frame>) {
        if frames.is_empty() {
            return;
        }
        let mut effects = DeferredEffects::default();
        let mut dropped = 0;
        let mut state = self.state.lock();
        for frame in frames.drain(..) {
            dropped += state.append(frame, self.bounds, self.overflow, &mut effects);
        }
        drop(state);
        effects.tell_dropped(&self.events, dropped);
        effects.settle();
    }

    /// The bytes that the reader of a connection may append now, 0 if it must wait. `awaited` returns whether the
    /// program awaits something that only the caller knows of.
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
        if beyond > 0 && (self.is_awaited() || awaited()) { beyond } else { 0 }
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

    fn is_awaited(&self) -> bool {
        #[cfg(feature = "rpc")]
        if self.calls.is_awaited() {
            return true;
        }
        self.blocked.load(Ordering::SeqCst) > 0
    }

    /// To be called after the program has begun to await something: receiving goes on.
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

    /// Ends the inbox as [`stop`](Inbox::stop) and tells the listeners of events, when operations that a task finishes
    /// have failed.
    #[cfg(any(test, feature = "broker"))]
    pub(crate) fn end(&self, end: End) {
        self.stop(end);
        #[cfg(feature = "broker")]
        if self.is_finishing() {
            return;
        }
        self.tell_end();
    }

    /// Ends the inbox, once: what waits can still be taken, nothing more is received, calls fail. A panic in one
    /// waker keeps no other from being woken.
    pub(crate) fn stop(&self, end: End) {
        let mut effects = DeferredEffects::default();
        let mut state = self.state.lock();
        if state.end.is_some() {
            return;
        }
        state.end = Some(end);
        state.take_wakers().for_each(|waker| effects.wake(waker));
        drop(state);
        effects.settle();
        self.room.tell();
        contain("a waker", || self.ended.notify_waiters());
        self.senders.wake_all();
        #[cfg(feature = "rpc")]
        self.calls.end();
        if self.may_tell_end.load(Ordering::SeqCst) {
            self.tell_end();
        }
    }

    /// Tells the listeners of events, once, that the inbox has ended. If it has not yet, [`stop`](Inbox::stop) tells
    /// them. Callbacks run on this thread.
    /// Everything that waited for an answer has failed before.
    pub(crate) fn tell_end(&self) {
        // Set before the lock is taken: `stop` reads it after it has set the end under the lock.
        self.may_tell_end.store(true, Ordering::SeqCst);
        let end = self.state.lock().end.clone();
        if let Some(end) = end {
            self.events.end(Some(&Event::disconnected(&end.error(), true)));
        }
    }

    /// The connection is lost, but another may come: calls under way fail.
    pub(crate) fn lose(&self) {
        #[cfg(feature = "rpc")]
        self.calls.lose();
    }

    /// Queues no more frames: the program gets those that wait, then the end.
    pub(crate) fn seal(&self) {
        let mut effects = DeferredEffects::default();
        let mut state = self.state.lock();
        state.sealed = true;
        state.take_wakers().for_each(|waker| effects.wake(waker));
        drop(state);
        effects.settle();
        self.room.tell();
    }

    /// The requests that came too late to be taken in.
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
