//! Received frames that wait for the program.
//!
//! One budget of frames and bytes, and up to three lanes, so that with RPC a slow handler of one kind
//! of frame holds up only its kind. Whoever receives (the reader of a connection, or the broker itself
//! for a client within its process) appends; when the budget is used up it waits for room, except while
//! the program awaits an acknowledgement or a reply: what it awaits is behind the frames it cannot take
//! meanwhile.
//!
//! The program takes frames in small batches, so that the lock is taken once for many of them.

#[cfg(feature = "broker")]
mod local;
mod room;
mod state;
#[cfg(test)]
mod tests;

pub(crate) use state::{Amount, Mode};

use super::config::Config;
use super::effects::{DeferredEffects, contain, discard, wake_all};
use super::events::{Event, Hub};
use super::policy::Overflow;
use crate::error::{Error, ErrorKind};
use crate::fork::Process;
use crate::frame::Frame;
use parking_lot::Mutex;
use room::{Counted, Room};
use state::{Consumer, Queue, State};
use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use tokio::sync::Notify;

/// How many lanes there are: frames, notifications, calls.
pub(crate) const LANES: usize = 3;
/// Where frames go, and with handling in order everything else too.
pub(crate) const LANE_FRAMES: usize = 0;
/// What a lane's receiver takes at once: so many frames,
const BATCH_FRAMES: usize = 128;
/// or as many as reach so many bytes.
const BATCH_BYTES: usize = 64 * 1024;

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
    budget: Amount,
    /// The bound in bytes while something is awaited.
    overrun_bytes: usize,
    overflow: Overflow,
    state: Mutex<State>,
    /// In a child made by fork a lock may be held for ever, by a thread that only the parent has.
    process: Process,
    /// Names the present consumer: an older one gets nothing more.
    epoch: AtomicU64,
    /// What the program has taken from each lane.
    taken: [Taken; LANES],
    room: Room,
    ended: Notify,
    /// Whether nothing is left to happen before the listeners of events are told the end.
    may_tell_end: AtomicBool,
    /// How many operations of this client cannot go on before something has been received.
    blocked: AtomicUsize,
    pub(super) events: Arc<Hub>,
    #[cfg(feature = "rpc")]
    pub(super) work: super::drain::rpc::Work,
    #[cfg(feature = "rpc")]
    pub(crate) calls: super::calls::Calls,
}

/// Frames that the program has taken from a lane, and the bytes they held. The lane's receiver alone writes.
#[derive(Debug, Default)]
struct Taken {
    frames: AtomicU64,
    bytes: AtomicU64,
}

impl Inbox {
    /// An inbox with the bounds of `config`.
    pub(crate) fn new(config: &Config) -> Arc<Inbox> {
        Arc::new(Inbox {
            budget: Amount { frames: config.queue_size, bytes: config.queue_bytes },
            overrun_bytes: config.overrun_bytes.max(config.queue_bytes),
            overflow: config.overflow,
            state: Mutex::new(State {
                mode: Mode::Plain,
                consumer: Consumer::Never,
                lanes: Default::default(),
                waiting: Amount::default(),
                starved: false,
                received: (0, 0),
                dropped: 0,
                sealed: false,
                #[cfg(feature = "rpc")]
                late: Vec::new(),
                end: None,
            }),
            process: Process::current(),
            epoch: AtomicU64::new(0),
            taken: Default::default(),
            room: Room::default(),
            ended: Notify::new(),
            may_tell_end: AtomicBool::new(false),
            blocked: AtomicUsize::new(0),
            events: Arc::default(),
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

    /// Ends the call that `frame` answers; hands it back if it answers none.
    #[inline]
    pub(crate) fn complete(&self, frame: Frame) -> Option<Frame> {
        #[cfg(feature = "rpc")]
        return match self.take_call(frame) {
            Ok((caller, frame)) => {
                contain("the waker of a caller", || caller.end(Ok(frame)));
                None
            }
            Err(frame) => Some(frame),
        };
        #[cfg(not(feature = "rpc"))]
        Some(frame)
    }

    /// Removes the call that `frame` answers, and counts the frame.
    #[cfg(feature = "rpc")]
    #[inline]
    fn take_call(&self, frame: Frame) -> Result<(super::calls::Caller, Frame), Frame> {
        if frame.kind() != crate::FrameKind::Message || !self.calls.is_awaited() {
            return Err(frame);
        }
        let (caller, frame) = self.calls.take(frame)?;
        let mut state = self.state.lock();
        state.received.0 += 1;
        state.received.1 += frame.body_len() as u64;
        drop(state);
        Ok((caller, frame))
    }

    /// Appends what one read brought, whatever the budget, and empties `frames`.
    pub(crate) fn append(&self, frames: &mut Vec<Frame>) {
        if frames.is_empty() {
            return;
        }
        let mut effects = DeferredEffects::default();
        let mut dropped = 0;
        let mut state = self.state.lock();
        for frame in frames.drain(..) {
            dropped += state.append(frame, self.budget, self.overflow, &mut effects);
        }
        drop(state);
        effects.tell_dropped(&self.events, dropped);
        effects.settle();
    }

    /// Whether whoever receives must wait. `awaited` says whether the program awaits something that
    /// only the caller knows of.
    pub(crate) fn must_wait(&self, awaited: impl FnOnce() -> bool) -> bool {
        if self.overflow != Overflow::Wait {
            return false;
        }
        let mut state = self.state.lock();
        if state.end.is_some()
            || state.sealed
            || state.consumer != Consumer::Present
            || !state.is_full(self.budget)
        {
            return false;
        }
        state.starved = true;
        let beyond = state.waiting.bytes >= self.overrun_bytes;
        drop(state);
        beyond || !(self.is_awaited() || awaited())
    }

    /// Waits until whoever receives may go on; `false` when the inbox has ended. `awaited` is as in
    /// [`must_wait`](Inbox::must_wait).
    pub(crate) async fn wait_room_unless(&self, awaited: impl Fn() -> bool) -> bool {
        if !self.must_wait(&awaited) {
            return !self.has_ended();
        }
        let _waiting = self.room.wait();
        loop {
            let room = self.room.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            if !self.must_wait(&awaited) {
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
    pub(crate) fn block(&self) -> impl Drop + use<'_> {
        let blocked = Counted::new(&self.blocked);
        self.unpark();
        blocked
    }

    /// Makes the caller the one who takes frames; its number. `None` when there is one already and
    /// the caller does not want to take over, and in a child made by fork.
    pub(crate) fn attach(&self, mode: Mode, take_over: bool) -> Option<u64> {
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
        // The former consumer wakes up and finds that it has been replaced.
        state.lanes.iter_mut().filter_map(|lane| lane.waker.take()).for_each(|waker| effects.wake(waker));
        if state.mode != mode {
            state.mode = mode;
            state.waiting = Amount::default();
            for lane in std::mem::take(&mut state.lanes) {
                lane.into_frames().into_iter().for_each(|frame| state.enqueue(frame, &mut effects));
            }
        }
        drop(state);
        effects.settle();
        self.room.tell();
        Some(epoch)
    }

    /// Whether the consumer of that number is the present one.
    pub(crate) fn is_attached(&self, epoch: u64) -> bool {
        self.epoch.load(Ordering::Acquire) == epoch
    }

    /// The consumer of that number goes: what waits is dropped, and so is what comes.
    pub(crate) fn detach(&self, epoch: u64) {
        if self.is_inherited() {
            return;
        }
        let mut state = self.state.lock();
        if self.epoch.compare_exchange(epoch, epoch + 1, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            return;
        }
        state.consumer = Consumer::Gone;
        state.mode = Mode::Plain;
        state.waiting = Amount::default();
        let mut lanes = std::mem::take(&mut state.lanes);
        drop(state);
        wake_all(lanes.iter_mut().filter_map(|lane| lane.waker.take()));
        lanes.into_iter().flat_map(Queue::into_frames).for_each(discard);
        self.room.tell();
    }

    /// Moves the next frames of a lane to `batch`, which is empty: `Ready(false)` when there will be none, or
    /// when the caller is not the consumer any more.
    pub(crate) fn poll_take(
        &self,
        epoch: u64,
        lane: usize,
        batch: &mut VecDeque<Frame>,
        cx: Option<&mut Context<'_>>,
    ) -> Poll<bool> {
        let most = Amount { frames: BATCH_FRAMES.min(self.budget.frames.div_ceil(8)), bytes: BATCH_BYTES };
        // Wakers are cloned and dropped without the lock.
        let mut own = None;
        loop {
            let mut state = self.state.lock();
            if !self.is_attached(epoch) {
                return Poll::Ready(false);
            }
            if state.take(lane, batch, most) > 0 {
                // What is left may belong to a lane that is not emptied.
                let tell = state.starved
                    && (state.lanes[lane].is_empty() || state.has_room_worth_telling(self.budget));
                state.starved &= !tell;
                drop(state);
                if tell {
                    self.room.tell();
                }
                return Poll::Ready(true);
            }
            if state.end.is_some() || state.sealed {
                return Poll::Ready(false);
            }
            let Some(cx) = cx.as_deref() else { return Poll::Pending };
            let registered = &mut state.lanes[lane].waker;
            if registered.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                return Poll::Pending;
            }
            if own.is_none() {
                drop(state);
                own = Some(cx.waker().clone());
                continue;
            }
            let former = std::mem::replace(registered, own);
            drop(state);
            drop(former);
            return Poll::Pending;
        }
    }

    /// Counts a frame that the program has taken from `lane`. Only the lane's receiver may call it.
    #[inline]
    pub(crate) fn took(&self, lane: usize, frame: &Frame) {
        let Taken { frames, bytes } = &self.taken[lane];
        frames.store(frames.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        let held = Amount::of(frame).bytes as u64;
        bytes.store(bytes.load(Ordering::Relaxed) + held, Ordering::Relaxed);
    }

    /// Frames received, their bytes, frames waiting, frames dropped.
    pub(crate) fn counters(&self) -> (u64, u64, usize, u64) {
        let state = self.state.lock();
        (state.received.0, state.received.1, state.waiting.frames, state.dropped)
    }

    /// Ends the inbox as [`stop`](Inbox::stop) and tells the listeners of events.
    #[cfg(any(test, feature = "broker"))]
    pub(crate) fn end(&self, end: End) {
        self.stop(end);
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
        state.lanes.iter_mut().filter_map(|lane| lane.waker.take()).for_each(|waker| effects.wake(waker));
        drop(state);
        effects.settle();
        self.room.tell();
        contain("a waker", || self.ended.notify_waiters());
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

    /// The connection is lost, but another may come: what waits for an answer fails.
    pub(crate) fn lose(&self) {
        #[cfg(feature = "rpc")]
        self.calls.lose();
    }

    /// Takes nothing more in: whoever takes frames gets what waits, then the end.
    pub(crate) fn seal(&self) {
        let mut effects = DeferredEffects::default();
        let mut state = self.state.lock();
        state.sealed = true;
        state.lanes.iter_mut().filter_map(|lane| lane.waker.take()).for_each(|waker| effects.wake(waker));
        drop(state);
        effects.settle();
        self.room.tell();
    }

    /// The requests that came too late to be taken in.
    #[cfg(feature = "rpc")]
    pub(crate) fn take_late(&self) -> Vec<Frame> {
        std::mem::take(&mut self.state.lock().late)
    }

    /// Whether nothing more is received.
    pub(crate) fn has_ended(&self) -> bool {
        self.state.lock().end.is_some()
    }

    /// Waits for the end and tells its reason.
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
