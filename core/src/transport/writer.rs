//! Writes a queue to a socket, from the thread that appended if no other thread is writing. When the socket would
//! block, a task takes over until everything is written.
//!
//! At most one party writes at a time (`handover`). It takes out the whole queue, writes it without holding the lock,
//! and checks the queue again before it stops, so that frames appended in between are written too. Wakers are woken,
//! and shared bytes dropped, without the lock.

mod last_write;

use super::handover::{Handover, NO_OWNER};
use super::pieces::Pieces;
use super::queue::{self, WriteBounds, WriteQueue, Written};
use super::queue_totals::QueueTotals;
use super::{Socket, WriteInterest};
use crate::prefetch::prefetch;
use bytes::Bytes;
use parking_lot::Mutex;
use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;

/// How many times one caller writes what was appended in between before a task takes over.
const MAX_ROUNDS: usize = 4;
/// The bytes that one caller writes before a task takes over, and that the task writes before it yields.
const FLUSH_BYTES: usize = 512 * 1024;

/// A write is tried again after this time even if the kernel does not report the socket as writable: the kernel does so
/// only when a good part of its buffer is free, and a slow but steady reader frees little at a time.
const RETRY_INTERVAL: Duration = Duration::from_millis(25);
/// A socket that was not writable for this long has a slow reader. It is then written in small pieces, because the
/// kernel frees only whole pieces.
const SLOW_READER: Duration = Duration::from_millis(10);
const SMALL_PIECE: usize = 4096;

/// The most that one system call is given: if the reader takes bytes at the same time, the kernel copies all of them.
const LARGE_PIECE: usize = 256 * 1024;

const ANY_SIZE: WriteBounds = WriteBounds { piece: LARGE_PIECE, most: FLUSH_BYTES };
const SMALL_PIECES: WriteBounds = WriteBounds { piece: SMALL_PIECE, most: FLUSH_BYTES };

/// The amount that waits to be written, including what is being written now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Load {
    /// Whole and partly written frames.
    pub frames: usize,
    /// Their bytes.
    pub bytes: usize,
}

impl Load {
    /// Returns whether both numbers are below those of `bound`.
    pub fn is_below(self, bound: Load) -> bool {
        self.frames < bound.frames && self.bytes < bound.bytes
    }

    fn of(queue: &WriteQueue) -> Load {
        Load { frames: queue.frames(), bytes: queue.bytes() }
    }
}

/// How much a receiver has taken since its connection began, and how many writes to it took nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Whole frames.
    pub frames: u64,
    /// Bytes.
    pub bytes: u64,
    /// Attempts in which not a byte was taken.
    pub refusals: u64,
}

impl Progress {
    fn took(&mut self, bytes: usize, frames: usize) {
        self.bytes += bytes as u64;
        self.frames += frames as u64;
        self.refusals += u64::from(bytes == 0);
    }
}

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
    /// In the order of their tickets.
    waiters: Vec<Waiter>,
}

/// Waits for a condition.
#[derive(Debug)]
struct Waiter {
    ticket: u64,
    condition: Condition,
    waker: Waker,
}

#[derive(Debug, Clone, Copy)]
enum Condition {
    /// The queue is below a bound.
    Below(Load),
    /// So many bytes have been written since the connection began.
    Written(u64),
}

/// A place in the order in which waiters are woken: earlier tickets first.
pub fn next_ticket() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Relaxed)
}

impl State {
    fn load(&self) -> Load {
        let queue = self.handover.waiting();
        Load {
            frames: self.in_flight.frames + queue.map_or(0, |queue| queue.frames()),
            bytes: self.in_flight.bytes + queue.map_or(0, |queue| queue.bytes()),
        }
    }

    fn holds(&self, load: Load, condition: Condition) -> bool {
        match condition {
            Condition::Below(bound) => load.is_below(bound),
            Condition::Written(position) => self.progress.bytes >= position,
        }
    }

    /// Takes out the wakers of those whose condition holds. The one with the earliest ticket comes last: a task
    /// that is woken last runs first on the worker that wakes it.
    fn take_due(&mut self) -> Vec<Waker> {
        if self.waiters.is_empty() {
            return Vec::new();
        }
        let load = self.load();
        let mut waiters = std::mem::take(&mut self.waiters);
        let mut due: Vec<Waker> = waiters
            .extract_if(.., |waiter| self.holds(load, waiter.condition))
            .map(|waiter| waiter.waker)
            .collect();
        self.waiters = waiters;
        if due.len() > 1 {
            due.rotate_left(1);
        }
        due
    }
}

/// Wakes senders: those of clients in this process may belong to any executor, whose panic is not this queue's.
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
        self.state.handover.waiting_mut().get_or_insert_with(queue::take)
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
                waiters: Vec::new(),
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

    /// Lets a task write the rest. `blocked` says that the socket takes no more for now.
    fn drain_by_task(self: &Arc<Self>, socket: Arc<Socket>, blocked: bool) {
        let writer = self.clone();
        self.runtime.spawn(async move {
            if writer.drain(&socket, blocked).await.is_err() {
                writer.close();
            }
        });
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
        queue::give(done);
        wake(due);
        next
    }

    /// Writes until nothing waits any more, whenever the socket takes something.
    async fn drain(&self, socket: &Socket, mut blocked: bool) -> io::Result<()> {
        let mut interest: Option<WriteInterest<'_>> = None;
        loop {
            let waited = Instant::now();
            if blocked && interest.is_none() {
                interest = socket.write_interest().ok();
            }
            match &interest {
                _ if !blocked => tokio::task::yield_now().await,
                // Out of descriptors: readiness cannot be awaited, so a write is tried again after a pause.
                None => tokio::time::sleep(SLOW_READER).await,
                Some(interest) => {
                    if let Ok(ready) = tokio::time::timeout(RETRY_INTERVAL, interest.ready()).await {
                        ready?;
                    }
                }
            }
            let bounds = if waited.elapsed() < SLOW_READER { ANY_SIZE } else { SMALL_PIECES };
            let Some(mut queue) = self.take_out() else { return Ok(()) };
            let mut total = 0;
            loop {
                let frames = queue.frames();
                let (n, result) = queue.write_to(socket, bounds, &mut self.pieces.lock());
                total += n;
                match result? {
                    Written::All => match self.next_round(queue, n, frames) {
                        Some(next) if total < FLUSH_BYTES => queue = next,
                        Some(next) => {
                            blocked = false;
                            self.put_back_unwritten(next);
                            break;
                        }
                        None => return Ok(()),
                    },
                    written @ (Written::Blocked | Written::Enough) => {
                        blocked = written == Written::Blocked;
                        self.put_back(queue, n, frames);
                        break;
                    }
                }
            }
        }
    }

    /// Takes out what waits; only for the writing party. `None` once closed.
    fn take_out(&self) -> Option<Box<WriteQueue>> {
        let mut state = self.state.lock();
        let queue = state.handover.waiting_mut().take()?;
        state.in_flight = Load::of(&queue);
        Some(queue)
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

    /// Ready with true when less than `below` waits, and with false once closed. Else the waker is woken when one of
    /// these may be so, and by [`wake_waiters`](Writer::wake_waiters). A caller that no longer waits must call
    /// [`forget_waiter`](Writer::forget_waiter).
    pub fn poll_below(&self, ticket: u64, below: Load, cx: &mut Context<'_>) -> Poll<bool> {
        self.poll_condition(ticket, Condition::Below(below), cx)
    }

    /// The position in the stream, in bytes since the connection began, at which everything appended so far ends. Means
    /// nothing if frames are dropped from the queue.
    pub fn position(&self) -> u64 {
        let state = self.state.lock();
        state.progress.bytes + state.load().bytes as u64
    }

    /// Ready with true when everything before that position is written, and with false once closed before. Else as
    /// [`poll_below`](Writer::poll_below).
    pub fn poll_written(&self, ticket: u64, position: u64, cx: &mut Context<'_>) -> Poll<bool> {
        self.poll_condition(ticket, Condition::Written(position), cx)
    }

    fn poll_condition(&self, ticket: u64, condition: Condition, cx: &mut Context<'_>) -> Poll<bool> {
        // Cloning a waker and dropping a replaced one run the executor's code: both are done without the lock.
        let waker = cx.waker().clone();
        let mut state = self.state.lock();
        let is_open = state.socket.is_some();
        // A closed queue is empty, but not because there is room.
        let holds = state.holds(state.load(), condition);
        if !is_open || holds {
            return Poll::Ready(holds && (is_open || matches!(condition, Condition::Written(_))));
        }
        let waiter = Waiter { ticket, condition, waker };
        let replaced = match state.waiters.binary_search_by_key(&ticket, |waiter| waiter.ticket) {
            Ok(at) => Some(std::mem::replace(&mut state.waiters[at], waiter)),
            Err(at) => {
                state.waiters.insert(at, waiter);
                None
            }
        };
        drop(state);
        drop(replaced);
        Poll::Pending
    }

    /// Forgets the waiter with that ticket, if it waits.
    pub fn forget_waiter(&self, ticket: u64) {
        let mut state = self.state.lock();
        let at = state.waiters.binary_search_by_key(&ticket, |waiter| waiter.ticket);
        let removed = at.ok().map(|at| state.waiters.remove(at));
        drop(state);
        drop(removed);
    }

    /// Wakes all waiters, because the condition that they wait for may have changed.
    pub fn wake_waiters(&self) {
        let waiters = std::mem::take(&mut self.state.lock().waiters);
        wake(waiters.into_iter().map(|waiter| waiter.waker));
    }

    /// Waits until fewer than `frames` frames and fewer than `bytes` bytes wait; `false` when closed.
    pub async fn wait_below(&self, frames: usize, bytes: usize) -> bool {
        let waiting = Waiting { writer: self, ticket: next_ticket() };
        poll_fn(|cx| self.poll_below(waiting.ticket, Load { frames, bytes }, cx)).await
    }

    /// Waits until everything is written, or the connection has ended.
    pub async fn drained(&self) {
        self.wait_below(1, 1).await;
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
        wake(waiters.into_iter().map(|waiter| waiter.waker));
        if socket.is_some() { dropped } else { Load::default() }
    }

    /// Returns whether the connection has ended.
    pub fn is_closed(&self) -> bool {
        self.state.lock().socket.is_none()
    }
}

/// A waiter that is forgotten when the value is dropped.
struct Waiting<'a> {
    writer: &'a Writer,
    ticket: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.writer.forget_waiter(self.ticket);
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use bytes::Bytes;
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    fn pair() -> (Arc<Writer>, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Writer::new(Arc::new(Socket::from_unix(ours).unwrap())), theirs)
    }

    fn push(writer: &Arc<Writer>, bytes: &[u8]) {
        writer.with(|b| b.queue().push(|out| out.extend_from_slice(bytes))).unwrap();
    }

    #[tokio::test]
    async fn writes_on_the_callers_thread() {
        let (writer, mut peer) = pair();
        push(&writer, b"abc");
        assert_eq!(writer.load(), Load { frames: 1, bytes: 3 });
        writer.flush();
        if cfg!(busrt_portable) {
            // tokio's sockets write nothing before the runtime has seen them writable once.
            writer.drained().await;
        }
        assert_eq!(writer.load(), Load::default());
        let mut got = [0; 3];
        peer.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"abc");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_task_takes_over_when_the_socket_is_full() {
        let (writer, mut peer) = pair();
        let mut wanted = vec![];
        for i in 0..200u32 {
            let payload: Vec<u8> = (0..20_000).map(|k| (k + i) as u8).collect();
            wanted.extend_from_slice(b"head");
            wanted.extend_from_slice(&payload);
            writer
                .with(|b| {
                    b.queue().push_with(|out| out.extend_from_slice(b"head"), Bytes::from(payload), false)
                })
                .unwrap();
            writer.flush();
        }
        assert!(writer.load().frames > 100);
        let reader = tokio::task::spawn_blocking(move || {
            let mut got = vec![0; wanted.len()];
            peer.read_exact(&mut got).unwrap();
            assert!(got == wanted);
            peer
        });
        assert!(writer.wait_below(50, usize::MAX).await);
        writer.drained().await;
        assert_eq!(writer.load(), Load::default());
        let mut peer = reader.await.unwrap();
        push(&writer, b"after");
        writer.flush();
        let mut got = [0; 5];
        peer.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"after");
    }

    /// The kernel frees what a reader has taken in whole pieces: those of small frames hold few of them.
    #[cfg(all(target_os = "linux", not(busrt_portable)))]
    #[tokio::test]
    async fn a_slow_reader_of_small_frames_is_seen_to_take_some() {
        const BYTES: usize = 25;
        let (writer, mut peer) = pair();
        for _ in 0..100_000 {
            push(&writer, &[7; BYTES]);
        }
        writer.flush();
        tokio::time::sleep(Duration::from_millis(50)).await;
        for _ in 0..10 {
            let before = writer.progress().bytes;
            peer.read_exact(&mut [0; 256 * BYTES]).unwrap();
            let started = Instant::now();
            while writer.progress().bytes == before {
                assert!(
                    started.elapsed() < Duration::from_secs(2),
                    "256 frames were taken, and it is not seen"
                );
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }

    #[tokio::test]
    async fn a_larger_buffer_takes_more_at_once() {
        let taken = |buffers| {
            let (ours, theirs) = UnixStream::pair().unwrap();
            let socket = Socket::from_unix(ours).unwrap();
            socket.set_buffers(buffers).unwrap();
            let writer = Writer::new(Arc::new(socket));
            push(&writer, &[0; 1 << 20]);
            writer.flush();
            let taken = (1 << 20) - writer.load().bytes;
            drop(theirs);
            taken
        };
        if cfg!(not(busrt_portable)) {
            let small = taken(super::super::Buffers { send: Some(4096), receive: None });
            assert!(small < taken(super::super::Buffers { send: Some(128 * 1024), receive: None }));
        }
    }

    #[tokio::test]
    async fn a_position_is_reached_when_everything_before_it_is_written() {
        let (writer, mut peer) = pair();
        writer.with(|b| b.queue().push_with(|_| {}, Bytes::from(vec![1; 4_000_000]), false)).unwrap();
        writer.flush();
        let middle = writer.position();
        push(&writer, &[2; 1_000_000]);
        writer.flush();
        let end = writer.position();
        assert_eq!((middle, end), (4_000_000, 5_000_000));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(writer.poll_written(1, middle, &mut cx).is_pending());
        writer.forget_waiter(1);
        let reader = tokio::task::spawn_blocking(move || {
            peer.read_exact(&mut vec![0; 5_000_000]).unwrap();
            peer
        });
        assert!(poll_fn(|cx| writer.poll_written(1, end, cx)).await);
        writer.close();
        assert_eq!(writer.poll_written(2, middle, &mut cx), Poll::Ready(true));
        assert_eq!(writer.poll_written(2, end + 1, &mut cx), Poll::Ready(false));
        drop(reader.await.unwrap());
    }

    #[tokio::test]
    async fn closing_ends_waits_and_the_peer_sees_it() {
        let (writer, mut peer) = pair();
        push(&writer, b"lost");
        let waiting = tokio::spawn({
            let writer = writer.clone();
            async move { writer.wait_below(1, 1).await }
        });
        tokio::task::yield_now().await;
        writer.close();
        assert!(!waiting.await.unwrap());
        assert!(writer.with(|_| ()).is_none());
        assert_eq!(peer.read(&mut [0; 8]).unwrap(), 0);
    }

    #[tokio::test]
    async fn a_peer_that_is_gone_closes_the_writer() {
        let (writer, peer) = pair();
        drop(peer);
        push(&writer, b"x");
        writer.flush();
        writer.drained().await;
        assert!(writer.is_closed());
    }

    #[tokio::test]
    async fn a_waker_that_panics_is_contained() {
        struct Panics;
        impl std::task::Wake for Panics {
            fn wake(self: Arc<Self>) {
                panic!("a foreign waker");
            }
        }
        let (writer, _peer) = pair();
        push(&writer, b"x");
        let waker = Arc::new(Panics).into();
        let mut cx = Context::from_waker(&waker);
        let below = Load { frames: 1, bytes: 1 };
        assert_eq!(writer.poll_below(1, below, &mut cx), Poll::Pending);
        writer.wake_waiters();
        assert_eq!(writer.poll_below(2, below, &mut cx), Poll::Pending);
        if cfg!(not(busrt_portable)) {
            writer.flush();
            assert_eq!(writer.load(), Load::default());
        }
        writer.close();
    }
}
