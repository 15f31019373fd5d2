//! Writes a queue to a socket, from the thread that appended if no other thread is writing. When the socket would
//! block, a task takes over until everything is written.
//!
//! At most one party writes at a time (`handover`). It takes out the whole queue, writes it without holding the lock,
//! and checks the queue again before it stops, so that frames appended in between are written too. Wakers are woken,
//! and shared bytes dropped, without the lock.

mod last_write;
mod task;
mod wait;
mod waiters;

use super::Socket;
use super::handover::{Handover, NO_OWNER};
use super::load::{Load, Progress};
use super::pieces::Pieces;
use super::queue::{WriteBounds, WriteQueue, Written};
use super::queue_pool;
use super::queue_totals::QueueTotals;
use crate::prefetch::prefetch;
use bytes::Bytes;
use parking_lot::Mutex;
use std::sync::Arc;
use std::task::Waker;
use tokio::runtime::Handle;
use waiters::Waiters;

pub use waiters::next_ticket;

/// How many times one caller writes what was appended in between before a task takes over.
const MAX_ROUNDS: usize = 4;
/// The bytes that one caller writes before a task takes over, and that the task writes before it yields.
const FLUSH_BYTES: usize = 512 * 1024;

/// The most that one system call is given: if the reader takes bytes at the same time, the kernel copies all of them.
const LARGE_PIECE: usize = 256 * 1024;

const ANY_SIZE: WriteBounds = WriteBounds { piece: LARGE_PIECE, most: FLUSH_BYTES };

/// The queue in front of one socket. All methods may be called from any thread.
#[derive(Debug)]
pub struct Writer {
    runtime: Handle,
    totals: Option<Arc<QueueTotals>>,
    state: Mutex<State>,
    /// Locked by the writing party only.
    pieces: Mutex<Pieces>,
}

#[derive(Debug)]
struct State {
    /// `None` once closed, so that the descriptor is closed with the connection even if the writer lives longer.
    socket: Option<Arc<Socket>>,
    handover: Handover<Box<WriteQueue>>,
    /// The amount that the writing party has taken out.
    in_flight: Load,
    progress: Progress,
    /// The bytes of this queue that are counted in the totals.
    counted: usize,
    /// The callers that wait for room, or until something is written.
    waiters: Waiters,
}

impl State {
    fn load(&self) -> Load {
        let queue = self.handover.waiting();
        Load {
            frames: self.in_flight.frames + queue.map_or(0, |queue| queue.frames()),
            bytes: self.in_flight.bytes + queue.map_or(0, |queue| queue.bytes()),
        }
    }

    /// Takes out the wakers of those whose condition holds.
    fn take_due(&mut self) -> Vec<Waker> {
        if self.waiters.is_empty() {
            return Vec::new();
        }
        self.waiters.take_due(self.load(), self.progress.bytes)
    }
}

/// Wakes waiters. Their wakers may belong to any executor, whose panic must not reach the party that writes.
fn wake(wakers: impl IntoIterator<Item = Waker>) {
    crate::client::effects::wake_all(wakers);
}

/// The critical section of [`Writer::with`].
pub struct Backlog<'a> {
    state: &'a mut State,
}

impl Backlog<'_> {
    /// The amount that waits, including what is being written.
    pub fn load(&self) -> Load {
        self.state.load()
    }

    /// The queue to append to.
    pub fn queue(&mut self) -> &mut WriteQueue {
        self.state.handover.waiting_mut().get_or_insert_with(queue_pool::take)
    }

    /// Notes that `owner`, a batch, has appended. Returns true when it must remember to flush.
    pub fn promise_flush(&mut self, owner: u32) -> bool {
        self.state.handover.promise(owner)
    }

    /// Returns whether frames are being written now, so that they are not in the queue.
    pub fn is_being_written(&self) -> bool {
        self.state.in_flight.frames > 0
    }

    /// Drops the oldest frame that may be dropped and is not being written. Returns the shared bytes it had, to be
    /// dropped without the lock.
    pub fn drop_oldest(&mut self) -> Option<[Bytes; 2]> {
        self.state.handover.waiting_mut().as_mut()?.drop_oldest()
    }
}

impl Writer {
    /// A writer of `socket`. Its tasks run on the current runtime.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn new(socket: Arc<Socket>) -> Arc<Writer> {
        Writer::counted(socket, None)
    }

    /// Does the same as [`new`](Writer::new); the bytes of the queue are counted in `totals`.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn counted(socket: Arc<Socket>, totals: Option<Arc<QueueTotals>>) -> Arc<Writer> {
        Arc::new(Writer {
            runtime: Handle::current(),
            totals,
            state: Mutex::new(State {
                socket: Some(socket),
                handover: Handover::default(),
                in_flight: Load::default(),
                progress: Progress::default(),
                counted: 0,
                waiters: Waiters::default(),
            }),
            pieces: Mutex::default(),
        })
    }

    /// Runs `f` with the backlog, under the lock: `f` must be short, wake nothing and drop nothing that belongs to
    /// others. Returns `None` when closed.
    pub fn with<R>(&self, f: impl FnOnce(&mut Backlog<'_>) -> R) -> Option<R> {
        let mut state = self.state.lock();
        state.socket.as_ref()?;
        let result = f(&mut Backlog { state: &mut state });
        self.count(&mut state);
        Some(result)
    }

    /// Starts to load what [`with`](Writer::with) will touch.
    #[inline]
    pub fn prefetch(&self) {
        prefetch(&self.state);
    }

    #[inline]
    fn count(&self, state: &mut State) {
        if let Some(totals) = &self.totals {
            let bytes = state.load().bytes;
            totals.update(&mut state.counted, bytes);
        }
    }

    /// Writes what waits, on this thread. If another party is writing, that party writes it. When the socket takes no
    /// more, or much has been written, a task continues. Returns how many bytes this call has written.
    pub fn flush(self: &Arc<Self>) -> usize {
        let Some((socket, mut queue)) = self.begin() else { return 0 };
        let mut total = 0;
        for _ in 0..MAX_ROUNDS {
            let frames = queue.frames();
            let (n, result) = queue.write_to(&socket, ANY_SIZE, &mut self.pieces.lock());
            total += n;
            match result {
                Ok(Written::All) => match self.next_round(queue, n, frames) {
                    Some(next) => queue = next,
                    None => return total,
                },
                Ok(written @ (Written::Blocked | Written::Enough)) => {
                    self.put_back(queue, n, frames);
                    self.drain_by_task(socket, written == Written::Blocked);
                    return total;
                }
                Err(_) => {
                    self.close();
                    return total;
                }
            }
        }
        self.put_back_unwritten(queue);
        self.drain_by_task(socket, false);
        total
    }

    /// Lets a task flush: a burst of small frames becomes one write.
    pub fn flush_soon(self: &Arc<Self>) {
        let first = self.with(|backlog| backlog.promise_flush(NO_OWNER));
        if first == Some(true) {
            self.flush_by_task();
        }
    }

    /// The runtime that the tasks of this writer run on.
    pub fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// Flushes from a task, for a batch that has promised to flush but need not do so immediately.
    pub fn flush_by_task(self: &Arc<Self>) {
        let writer = self.clone();
        self.runtime.spawn(async move { writer.flush() });
    }

    /// Makes the caller the writing party, if something waits and no other party is writing.
    fn begin(&self) -> Option<(Arc<Socket>, Box<WriteQueue>)> {
        let mut state = self.state.lock();
        // Nothing waits once it is closed.
        let queue = state.handover.begin()?;
        let socket = state.socket.clone()?;
        state.in_flight = Load::of(&queue);
        Some((socket, queue))
    }

    /// Gives back `done`, whose `frames` frames have all been written, the last `n` bytes by this write. Takes what was
    /// appended in between. `None` when there is nothing: the caller is then no longer the writing party.
    fn next_round(&self, done: Box<WriteQueue>, n: usize, frames: usize) -> Option<Box<WriteQueue>> {
        let mut state = self.state.lock();
        state.progress.took(n, frames);
        let next = state.handover.next_round();
        state.in_flight = next.as_deref().map_or(Load::default(), Load::of);
        self.count(&mut state);
        let due = state.take_due();
        drop(state);
        queue_pool::give(done);
        wake(due);
        next
    }

    /// Puts what was not written back in front of what was appended since: frames in the queue can be dropped, if that
    /// is the policy. `n` bytes of `rest`, which had `frames` frames before, have been written. The caller is still the
    /// writing party.
    fn put_back(&self, rest: Box<WriteQueue>, n: usize, frames: usize) {
        let taken = frames - rest.frames();
        self.put_back_after(rest, |progress| progress.took(n, taken));
    }

    fn put_back_unwritten(&self, rest: Box<WriteQueue>) {
        self.put_back_after(rest, |_| {});
    }

    fn put_back_after(&self, mut rest: Box<WriteQueue>, note: impl FnOnce(&mut Progress)) {
        let mut state = self.state.lock();
        note(&mut state.progress);
        state.in_flight = Load::default();
        if state.socket.is_none() {
            drop(state);
            return;
        }
        if let Some(newer) = state.handover.waiting_mut().take() {
            rest.append(*newer);
        }
        *state.handover.waiting_mut() = Some(rest);
        self.count(&mut state);
        let due = state.take_due();
        drop(state);
        wake(due);
    }

    /// The amount that waits, including what is being written; zero once closed.
    pub fn load(&self) -> Load {
        self.with(|backlog| backlog.load()).unwrap_or_default()
    }

    /// The socket; `None` once closed.
    pub fn socket(&self) -> Option<Arc<Socket>> {
        self.state.lock().socket.clone()
    }

    /// How much the socket has taken so far.
    pub fn progress(&self) -> Progress {
        self.state.lock().progress
    }

    /// Ends the connection: drops what waits and shuts down the socket. Returns how many frames and bytes were dropped.
    pub fn close(&self) -> Load {
        let mut state = self.state.lock();
        let dropped = state.load();
        let queue = state.handover.waiting_mut().take();
        state.in_flight = Load::default();
        let socket = state.socket.take();
        self.count(&mut state);
        let waiters = std::mem::take(&mut state.waiters);
        drop(state);
        drop(queue);
        if let Some(socket) = &socket {
            socket.shutdown();
        }
        wake(waiters.into_wakers());
        if socket.is_some() { dropped } else { Load::default() }
    }

    /// Returns whether the connection has ended.
    pub fn is_closed(&self) -> bool {
        self.state.lock().socket.is_none()
    }
}

#[cfg(all(test, unix))]
mod tests;
