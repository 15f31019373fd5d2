//! Writes a queue to a socket: from the thread that appended, if nobody else is writing; only when
//! the socket would block does a task take over, until it has drained.
//!
//! Exactly one party writes at a time (`handover`). It takes the whole queue out, writes it without
//! holding the lock, and looks again before it leaves, so that what was appended meanwhile is never
//! left behind.

use super::handover::Handover;
use super::queue::{self, WriteQueue, Written};
use super::{Socket, WriteInterest};
use parking_lot::Mutex;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::Notify;

/// How many times one caller writes what others append meanwhile before a task takes over.
const MAX_ROUNDS: usize = 4;

/// The kernel calls a socket writable only when a good part of its buffer is free. A peer that reads
/// slowly but steadily shows earlier to one who just tries.
const LOOK_AGAIN: Duration = Duration::from_millis(25);
/// A socket that was not writable for so long has a slow reader. What it is given comes in small pieces
/// from then on, since the kernel frees only whole pieces.
const SLOW_READER: Duration = Duration::from_millis(10);
const SMALL_PIECE: usize = 4096;

/// What waits to be written, queued or being written just now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Load {
    /// Whole and partly written frames.
    pub frames: usize,
    /// Their bytes.
    pub bytes: usize,
}

/// The queue in front of one socket. All methods may be called from any thread.
#[derive(Debug)]
pub struct Writer {
    runtime: Handle,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug)]
struct State {
    /// `None` once closed: the descriptor does not outlive the connection, whoever still holds the
    /// writer.
    socket: Option<Arc<Socket>>,
    handover: Handover<Box<WriteQueue>>,
    /// What the one who is writing has taken out.
    in_flight: Load,
    /// Whether somebody waits for room.
    awaited: bool,
    /// When the socket last took a byte of a queue that had to wait.
    progress: Option<Instant>,
    stuck: bool,
}

/// The critical section of [`Writer::with`].
pub struct Backlog<'a> {
    state: &'a mut State,
}

impl Backlog<'_> {
    /// What waits, in flight included.
    pub fn load(&self) -> Load {
        let queue = self.state.handover.waiting();
        Load {
            frames: self.state.in_flight.frames + queue.map_or(0, |queue| queue.frames()),
            bytes: self.state.in_flight.bytes + queue.map_or(0, |queue| queue.bytes()),
        }
    }

    /// The queue to append to.
    pub fn queue(&mut self) -> &mut WriteQueue {
        self.state.handover.waiting_mut().get_or_insert_with(queue::take)
    }

    /// Whether the caller is the first since the last flush: then the flush is its duty.
    pub fn promise_flush(&mut self) -> bool {
        self.state.handover.promise()
    }

    /// Whether this receiver was found stuck and has not taken a byte since.
    pub fn is_stuck(&self) -> bool {
        self.state.stuck
    }

    /// Declares this receiver stuck, until its socket takes a byte again.
    pub fn mark_stuck(&mut self) {
        self.state.stuck = true;
    }

    /// Whether frames are out of reach, because they are being written just now.
    pub fn is_being_written(&self) -> bool {
        self.state.in_flight.frames > 0
    }

    /// Drops the oldest frame that may be dropped and is not being written; its length.
    pub fn drop_oldest(&mut self) -> Option<usize> {
        self.state.handover.waiting_mut().as_mut()?.drop_oldest()
    }
}

impl Writer {
    /// A writer of `socket`. Tasks it needs run on the current runtime.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn new(socket: Arc<Socket>) -> Arc<Writer> {
        Arc::new(Writer {
            runtime: Handle::current(),
            state: Mutex::new(State {
                socket: Some(socket),
                handover: Handover::default(),
                in_flight: Load::default(),
                awaited: false,
                progress: None,
                stuck: false,
            }),
            changed: Notify::new(),
        })
    }

    /// Looks at the backlog and appends to it, under the lock: `f` must be short. `None` when closed.
    pub fn with<R>(&self, f: impl FnOnce(&mut Backlog<'_>) -> R) -> Option<R> {
        let mut state = self.state.lock();
        state.socket.as_ref()?;
        Some(f(&mut Backlog { state: &mut state }))
    }

    /// Writes what waits, on this thread, unless somebody is writing already (who then writes this
    /// too). When the socket takes no more, a task goes on.
    pub fn flush(self: &Arc<Self>) {
        let Some((socket, mut queue)) = self.begin() else { return };
        for _ in 0..MAX_ROUNDS {
            let (_, result) = queue.write_to(&socket, usize::MAX);
            match result {
                Ok(Written::All) => match self.next_round(queue) {
                    Some(next) => queue = next,
                    None => return,
                },
                Ok(Written::Blocked) => break,
                Err(_) => return self.close(),
            }
        }
        self.put_back(queue, true);
        let writer = self.clone();
        self.runtime.spawn(async move {
            if writer.drain(&socket).await.is_err() {
                writer.close();
            }
        });
    }

    /// Lets a task flush: a burst of small frames becomes one write.
    pub fn flush_soon(self: &Arc<Self>) {
        let first = self.with(|backlog| backlog.promise_flush());
        if first == Some(true) {
            self.flush_by_task();
        }
    }

    /// Flushes from a task of its own: for who has promised to flush, but not at once.
    pub fn flush_by_task(self: &Arc<Self>) {
        let writer = self.clone();
        self.runtime.spawn(async move { writer.flush() });
    }

    /// Becomes the one who writes, if there is something to write and nobody does.
    fn begin(&self) -> Option<(Arc<Socket>, Box<WriteQueue>)> {
        let mut state = self.state.lock();
        // Nothing waits once it is closed.
        let queue = state.handover.begin()?;
        let socket = state.socket.clone()?;
        state.in_flight = Load { frames: queue.frames(), bytes: queue.bytes() };
        Some((socket, queue))
    }

    /// Gives `done` back and takes what was appended meanwhile; `None` when there is nothing, this
    /// writer then not being busy any more.
    fn next_round(&self, done: Box<WriteQueue>) -> Option<Box<WriteQueue>> {
        let mut state = self.state.lock();
        let next = state.handover.next_round();
        state.in_flight =
            next.as_ref().map_or(Load::default(), |q| Load { frames: q.frames(), bytes: q.bytes() });
        self.wake_waiters(&mut state);
        drop(state);
        queue::give(done);
        next
    }

    /// Writes until nothing waits any more, whenever the socket takes something.
    async fn drain(&self, socket: &Socket) -> io::Result<()> {
        let mut interest: Option<WriteInterest<'_>> = None;
        loop {
            let waited = Instant::now();
            if interest.is_none() {
                interest = socket.write_interest().ok();
            }
            match &interest {
                // Out of descriptors: the clock must do.
                None => tokio::time::sleep(SLOW_READER).await,
                Some(interest) => {
                    if let Ok(ready) = tokio::time::timeout(LOOK_AGAIN, interest.ready()).await {
                        ready?;
                    }
                }
            }
            let piece = if waited.elapsed() < SLOW_READER { usize::MAX } else { SMALL_PIECE };
            let Some(mut queue) = self.take_out() else { return Ok(()) };
            loop {
                let (n, result) = queue.write_to(socket, piece);
                match result? {
                    Written::All => match self.next_round(queue) {
                        Some(next) => {
                            queue = next;
                            self.progressed();
                        }
                        None => {
                            self.state.lock().stuck = false;
                            return Ok(());
                        }
                    },
                    Written::Blocked => {
                        self.put_back(queue, n > 0);
                        break;
                    }
                }
            }
        }
    }

    /// Takes out what waits, by the one who writes; `None` once closed.
    fn take_out(&self) -> Option<Box<WriteQueue>> {
        let mut state = self.state.lock();
        let queue = state.handover.waiting_mut().take()?;
        state.in_flight = Load { frames: queue.frames(), bytes: queue.bytes() };
        Some(queue)
    }

    /// Puts what could not be written before what has come meanwhile: all of it can be dropped there, if
    /// that is the policy. The caller is still the one who writes.
    fn put_back(&self, mut rest: Box<WriteQueue>, progress: bool) {
        let mut state = self.state.lock();
        state.in_flight = Load::default();
        if state.socket.is_none() {
            return;
        }
        if let Some(newer) = state.handover.waiting_mut().take() {
            rest.append(*newer);
        }
        *state.handover.waiting_mut() = Some(rest);
        if progress {
            state.progress = Some(Instant::now());
            state.stuck = false;
            self.wake_waiters(&mut state);
        }
    }

    fn progressed(&self) {
        let mut state = self.state.lock();
        state.progress = Some(Instant::now());
        state.stuck = false;
        self.wake_waiters(&mut state);
    }

    fn wake_waiters(&self, state: &mut State) {
        if std::mem::take(&mut state.awaited) {
            self.changed.notify_waiters();
        }
    }

    /// What waits, in flight included; nothing once closed.
    pub fn load(&self) -> Load {
        self.with(|backlog| backlog.load()).unwrap_or_default()
    }

    /// When the socket last took a byte of a backlog that had to wait.
    pub fn last_progress(&self) -> Option<Instant> {
        self.state.lock().progress
    }

    /// Waits until fewer than `frames` frames and fewer than `bytes` bytes wait; `false` when closed.
    pub async fn wait_below(&self, frames: usize, bytes: usize) -> bool {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let below = self.with(|backlog| {
                let load = backlog.load();
                let below = load.frames < frames && load.bytes < bytes;
                backlog.state.awaited |= !below;
                below
            });
            match below {
                None => return false,
                Some(true) => return true,
                Some(false) => changed.await,
            }
        }
    }

    /// Waits until everything is written, or the connection has ended.
    pub async fn drained(&self) {
        self.wait_below(1, 1).await;
    }

    /// Ends the connection: what waits is dropped, the socket shut down.
    pub fn close(&self) {
        let mut state = self.state.lock();
        let queue = state.handover.waiting_mut().take();
        state.in_flight = Load::default();
        let socket = state.socket.take();
        drop(state);
        drop(queue);
        if let Some(socket) = socket {
            socket.shutdown();
        }
        self.changed.notify_waiters();
    }

    /// Whether the connection has ended.
    pub fn is_closed(&self) -> bool {
        self.state.lock().socket.is_none()
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
    async fn a_task_goes_on_when_the_socket_is_full() {
        let (writer, mut peer) = pair();
        let mut wanted = vec![];
        for i in 0..200u32 {
            let payload: Vec<u8> = (0..20_000).map(|k| (k + i) as u8).collect();
            wanted.extend_from_slice(b"head");
            wanted.extend_from_slice(&payload);
            writer
                .with(|b| b.queue().push_with(|out| out.extend_from_slice(b"head"), Bytes::from(payload)))
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
}
