//! Reading a connection: by its task, or by threads that wait for an answer and poll the socket themselves.

use super::answer_poller::AnswerPoller;
use super::batch::Batch;
use super::connection::{Phase, Shared};
use super::effects::contain;
use super::inbox::End;
use super::reading_lease::{Look, Readable};
use crate::error::ErrorKind;
use crate::proto::decoder::Decoder;
use crate::proto::delivery::Header;
use crate::proto::request;
use crate::transport::Socket;
use bytes::BufMut;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// The longest time that the drop of a runtime waits for one connection, to write what its client has sent.
const LAST_WRITE: Duration = Duration::from_secs(1);
/// While the inbox has no room, the broker is told at most this often that the program takes frames.
const REPORT_INTERVAL: Duration = Duration::from_millis(100);
/// The least that is read at once, in bytes, however little room there is.
const LEAST_READ: usize = 4096;

/// The state of the incoming byte stream. The thread that holds its lock reads. The lock is only tried, never waited
/// for, and no foreign code runs under it.
#[derive(Debug)]
pub(super) struct Input {
    decoder: Decoder<Header>,
    /// Why nothing more can be read, found by a thread that is not the reader's task.
    end: Option<End>,
}

impl Input {
    /// The input after the registration; `leftover` has been read with it.
    pub(super) fn new(leftover: &[u8]) -> Input {
        let mut decoder = Decoder::new(u32::MAX);
        decoder.suspend(leftover);
        Input { decoder, end: None }
    }
}

/// How to read.
#[derive(Debug, Clone, Copy)]
enum Source<'a> {
    /// Nothing is read: whole frames may have come with the registration.
    Leftover,
    /// The socket, if the runtime has seen that it is readable.
    Runtime(&'a Socket),
    /// The socket, whatever the runtime has seen.
    Kernel,
}

impl Source<'_> {
    fn is_leftover(self) -> bool {
        matches!(self, Source::Leftover)
    }
}

/// The result of one read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Read {
    /// Bytes were read, and everything in them was queued or completed.
    Some,
    /// There is nothing to read.
    Nothing,
    /// Another thread is reading.
    Busy,
    /// The inbox has no room.
    NoRoom,
}

fn io_end(e: &io::Error) -> End {
    End::new(ErrorKind::ConnectionLost, format!("the connection broke: {e}"))
}

/// The task that reads.
pub(super) struct Reader {
    shared: Arc<Shared>,
    /// Registered for reading, unless reading is lent.
    socket: Socket,
    /// When the program was last looked at, and how many frames it had taken at the last report.
    reported: (Instant, u64),
    /// The position in the outgoing stream at which the last report ends.
    report_end: u64,
    poller: AnswerPoller,
}

impl Reader {
    pub(super) fn new(shared: Arc<Shared>, socket: Socket) -> Reader {
        let reported = (shared.born, shared.client.inbox.taken().0);
        let poller = AnswerPoller::new(shared.config.busy_poll_async);
        Reader { shared, socket, reported, report_end: 0, poller }
    }

    pub(super) async fn run(mut self) {
        let end = self.read().await;
        self.shared.finish(end);
    }

    async fn read(&mut self) -> End {
        let shared = self.shared.clone();
        let mut is_first = true;
        loop {
            let source = if is_first { Source::Leftover } else { Source::Runtime(&self.socket) };
            match shared.read(source) {
                Ok(Read::Busy) => tokio::task::yield_now().await,
                Ok(Read::NoRoom) => {
                    // Not reading is what holds back the broker, and through it the senders.
                    self.wait_room().await;
                }
                Ok(Read::Some | Read::Nothing) => {
                    is_first = false;
                    // While there is always something to read, this never waits: others must run all the same.
                    tokio::task::coop::consume_budget().await;
                    if let Err(end) = self.poller.poll(&shared).await {
                        return end;
                    }
                    let readable = match shared.client.inbox.lease().lend() {
                        true => self.lend().await,
                        false => self.socket.readable().await,
                    };
                    if let Err(e) = readable {
                        return io_end(&e);
                    }
                }
                Err(end) => return end,
            }
        }
    }

    /// Lets threads that wait for an answer read, until the task has to read again.
    async fn lend(&mut self) -> io::Result<()> {
        let shared = self.shared.clone();
        let lease = shared.client.inbox.lease();
        let mut phase = shared.phase.subscribe();
        self.socket.deregister();
        tokio::select! {
            () = lease.returned() => {}
            _ = phase.wait_for(|phase| *phase != Phase::Open) => {}
        }
        lease.hold();
        self.socket.register()?;
        self.socket.readable().await
    }

    /// Waits until the inbox has room, or the connection is to end. In the meantime the broker is told that the
    /// program takes frames, if it does: a socket cannot tell, since the kernel frees its memory in large pieces.
    ///
    /// A broker that holds this client back reads no reports. Then the socket has to tell, so that even little room is
    /// used at every look.
    async fn wait_room(&mut self) {
        let shared = self.shared.clone();
        let inbox = &shared.client.inbox;
        shared.parked.store(true, Ordering::Relaxed);
        let mut phase = shared.phase.subscribe();
        let mut room = std::pin::pin!(inbox.wait_room_unless(|| shared.awaits_answer()));
        let mut closing = std::pin::pin!(phase.wait_for(|phase| *phase != Phase::Open));
        loop {
            tokio::select! {
                _ = &mut room => break,
                _ = &mut closing => break,
                () = sleep_until(self.reported.0 + REPORT_INTERVAL) => {
                    let taken = inbox.taken().0;
                    self.reported.0 = Instant::now();
                    if taken != self.reported.1 && shared.writer.progress().bytes >= self.report_end {
                        self.report_end = shared.report_progress();
                        self.reported.1 = taken;
                    }
                    if inbox.room(|| shared.awaits_answer()) > 0 {
                        break;
                    }
                }
            }
        }
        shared.hear();
        shared.parked.store(false, Ordering::Relaxed);
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if self.shared.has_ended() {
            return;
        }
        // The runtime is being dropped, and no task runs any more. What was sent is written here, and everything that
        // waits fails.
        let shared = &*self.shared;
        shared.refuse();
        if !shared.writer.finish_on_this_thread(shared.config.timeout.min(LAST_WRITE)) {
            contain("the logger", || {
                log::warn!(
                    "the runtime of {:?} is gone: not all that was sent is written",
                    shared.config.name
                );
            });
        }
        shared.socket.shutdown_write();
        shared.finish(End::new(ErrorKind::ConnectionLost, "the runtime was shut down"));
    }
}

/// Any thread may read, without a runtime: frames are queued, then acknowledgements and replies are told. When the
/// connection has ended, the reader's task tells so.
impl Readable for Shared {
    fn read_now(&self) -> Look {
        if self.client.inbox.is_inherited() || self.has_ended() {
            return Look::Over;
        }
        match self.read(Source::Kernel) {
            Ok(Read::Some) => Look::Some,
            Ok(Read::Nothing | Read::Busy) => Look::Nothing,
            Ok(Read::NoRoom) => Look::Over,
            Err(end) => {
                // The end of the stream is found again by the reader's task; an error is reported only once.
                if let Some(mut input) = self.input.try_lock() {
                    input.end.get_or_insert(end);
                }
                self.socket.shutdown();
                Look::Over
            }
        }
    }

    fn is_awaited(&self) -> bool {
        self.awaits_answer() || self.client.inbox.is_awaited()
    }
}

impl Shared {
    /// Reads once from the socket, whatever the runtime has seen. Returns whether bytes were read.
    ///
    /// # Errors
    /// Why nothing more can be read.
    pub(super) fn read_from_kernel(&self) -> Result<bool, End> {
        Ok(self.read(Source::Kernel)? == Read::Some)
    }

    /// Whether the program awaits an acknowledgement or a reply.
    pub(super) fn awaits_answer(&self) -> bool {
        self.client.awaits_reply() || self.acks.is_awaited()
    }

    /// Reads once and hands out what came. Runs wakers and loggers: the caller holds no lock.
    fn read(&self, source: Source<'_>) -> Result<Read, End> {
        let mut batch = Batch::take();
        let result = self.read_locked(source, &mut batch);
        if matches!(result, Ok(Read::Some) | Err(_)) {
            batch.settle();
        }
        batch.give();
        result
    }

    /// Reads once and hands out what came. The input is locked until this returns: `batch` keeps what has to happen then.
    fn read_locked(&self, source: Source<'_>, batch: &mut Batch) -> Result<Read, End> {
        let Some(mut input) = self.input.try_lock() else { return Ok(Read::Busy) };
        if let Some(end) = &input.end {
            return Err(end.clone());
        }
        let room = match source {
            Source::Leftover => usize::MAX,
            // A connection that ends is read to its end.
            _ if self.is_closing() => usize::MAX,
            _ => match self.client.inbox.room(|| self.awaits_answer()) {
                0 => return Ok(Read::NoRoom),
                room => room,
            },
        };
        self.read_at_most(&mut input.decoder, batch, source, room.max(LEAST_READ))
    }

    fn read_at_most(
        &self,
        decoder: &mut Decoder<Header>,
        batch: &mut Batch,
        source: Source<'_>,
        most: usize,
    ) -> Result<Read, End> {
        let read = match decoder.large_body() {
            Some(body) if !source.is_leftover() => self.read_socket(source, body.limit(most)),
            _ => {
                decoder.resume(&mut batch.buf);
                if source.is_leftover() {
                    Ok(batch.buf.len().max(1))
                } else {
                    let most = most.min(self.config.buf_size);
                    batch.buf.reserve(most);
                    self.read_socket(source, (&mut batch.buf).limit(most))
                }
            }
        };
        match read {
            Ok(0) => Err(End::new(ErrorKind::ConnectionLost, "the broker closed the connection")),
            Ok(_) => {
                self.hear();
                let decoded = batch.decode(decoder, &self.client);
                self.answers.fetch_add(batch.answers(), Ordering::Relaxed);
                batch.hand_out(&self.client, &self.acks);
                let unreadable =
                    |e| End::new(ErrorKind::Data, format!("the broker sent bytes that cannot be read: {e}"));
                decoded.map(|()| Read::Some).map_err(unreadable)
            }
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                decoder.suspend(&batch.buf);
                Ok(Read::Nothing)
            }
            Err(e) => Err(io_end(&e)),
        }
    }

    fn read_socket(&self, source: Source<'_>, mut room: impl BufMut) -> io::Result<usize> {
        match source {
            Source::Runtime(socket) => socket.try_read_buf(&mut room),
            _ => self.socket.read_now(&mut room),
        }
    }

    /// Tells the broker that the program takes frames although nothing is read (docs/protocol.md section 3). The
    /// report is sent whatever the bound of the queue is. Returns the position in the outgoing stream that is reached
    /// with it: before that, another report would say no more.
    fn report_progress(&self) -> u64 {
        self.writer.with(|backlog| backlog.queue().push(|out| out.extend_from_slice(&request::PROGRESS)));
        let end = self.writer.position();
        self.writer.flush();
        end
    }
}
