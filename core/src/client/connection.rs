//! One connection to a broker over a socket: the write path, the task that reads, the task that keeps
//! time.
//!
//! Requests are encoded on the caller's thread and written there too, unless a burst of small ones makes
//! it worth to let a task write them together. The reader completes acknowledgements and replies itself
//! and leaves frames in the inbox.
//!
//! The tasks hold [`Shared`], never the [`Connection`]: dropping that begins the end. What was sent is
//! written, our direction is ended, what the broker still sends is read until it closes too (closing
//! with unread bytes would make TCP discard what is on its way), all within the timeout.

use super::acks::{Acks, Confirmation, Waiter};
use super::config::Config;
use super::encode::encode_head;
use super::inbox::{End, Inbox};
use super::keep::keep;
use super::pace::Pace;
use super::reader::Reader;
use super::resume::{self, Topicbook};
use super::submission::{Request, Submission, Tell};
use crate::error::{Error, ErrorKind, Result};
use crate::fork::Process;
use crate::proto::decoder::Decoder;
use crate::proto::request::{self, Operation};
use crate::transport::{LARGE_PAYLOAD, Socket, Writer};
use bytes::Bytes;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

/// What a connection works for, and may be one of several to do so.
#[derive(Debug, Clone)]
pub(crate) struct Purpose {
    pub(crate) inbox: Arc<Inbox>,
    /// What was sent over all of them.
    pub(super) sent: Arc<Sent>,
    /// The topics of a client that reconnects; without it, the end of the connection is that of the inbox.
    pub(super) topics: Option<Arc<Topicbook>>,
}

/// Requests sent and the bytes of their bodies.
#[derive(Debug, Default)]
pub(super) struct Sent {
    frames: AtomicU64,
    bytes: AtomicU64,
}

/// Every sender lets the same task flush.
const FLUSHED_BY_TASK: u32 = 0;

impl Purpose {
    /// A client that ends with its connection, or one that does not.
    pub(super) fn new(inbox: Arc<Inbox>, reconnects: bool) -> Purpose {
        Purpose { inbox, sent: Arc::default(), topics: reconnects.then(Topicbook::new) }
    }

    /// Requests sent and the bytes of their bodies.
    pub(super) fn sent(&self) -> (u64, u64) {
        (self.sent.frames.load(Ordering::Relaxed), self.sent.bytes.load(Ordering::Relaxed))
    }
}

/// How far a connection has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Phase {
    Open,
    /// This side ends it: nothing more is sent.
    Closing,
    /// The reader has ended.
    Ended(End),
}

/// The end of a connection that the client holds.
#[derive(Debug)]
pub(crate) struct Connection {
    shared: Arc<Shared>,
    /// A child that inherited the connection through fork must not end its parent's.
    process: Process,
}

/// What the tasks of a connection share with it.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) socket: Arc<Socket>,
    pub(super) writer: Arc<Writer>,
    pub(super) purpose: Purpose,
    pub(super) acks: Acks,
    pub(super) config: Config,
    /// Set when the phase is no longer [`Phase::Open`]: a look at it costs less.
    closing: AtomicBool,
    pub(super) phase: watch::Sender<Phase>,
    /// Why this side has cut the connection.
    cut: Mutex<Option<End>>,
    /// Whether the reader waits for the program to take frames.
    pub(super) parked: AtomicBool,
    pub(super) born: Instant,
    /// When the last byte came, in ns since `born`.
    pub(super) heard: AtomicU64,
    /// Of the requests.
    pace: Pace,
}

impl Connection {
    /// Starts the tasks of a registered connection. `leftover` came after the registration.
    pub(crate) fn start(
        socket: Arc<Socket>,
        writer: Arc<Writer>,
        leftover: &[u8],
        purpose: Purpose,
        config: &Config,
    ) -> Connection {
        let shared = Arc::new(Shared {
            socket,
            writer,
            purpose,
            acks: Acks::new(),
            config: config.clone(),
            closing: AtomicBool::new(false),
            phase: watch::Sender::new(Phase::Open),
            cut: Mutex::new(None),
            parked: AtomicBool::new(false),
            born: Instant::now(),
            heard: AtomicU64::new(0),
            pace: Pace::default(),
        });
        let mut decoder = Decoder::new(u32::MAX);
        decoder.suspend(leftover);
        tokio::spawn(Reader { shared: shared.clone(), decoder }.run());
        tokio::spawn(keep(shared.clone()));
        Connection { shared, process: Process::current() }
    }

    /// Sends a request if there is room.
    #[inline]
    pub(super) fn try_submit(&self, request: Request<'_>) -> Result<Option<Confirmation>> {
        self.shared.try_submit(request)
    }

    /// Sends a request at once if there is room.
    #[inline]
    pub(super) fn submit<'o>(&'o self, request: Request<'o>) -> Result<Submission<'o>> {
        Ok(match self.try_submit(request)? {
            Some(confirmation) => Submission::Sent(confirmation),
            None => Submission::Waits(Box::pin(self.submit_when_there_is_room(request))),
        })
    }

    /// Sends a request, once there is room.
    pub(super) async fn send(&self, request: Request<'_>) -> Result<Confirmation> {
        self.submit(request)?.sent().await
    }

    async fn submit_when_there_is_room(&self, request: Request<'_>) -> Result<Confirmation> {
        let shared = &*self.shared;
        loop {
            // The broker may be waiting for this client to take frames before it reads on.
            let _blocked = shared.purpose.inbox.block();
            let (frames, bytes) = (shared.config.queue_size, shared.config.queue_bytes);
            timeout(shared.config.timeout, shared.writer.wait_below(frames, bytes))
                .await
                .map_err(|_| Error::new(ErrorKind::Timeout, "the broker takes no more from this client"))?;
            if let Some(confirmation) = shared.try_submit(request)? {
                return Ok(confirmation);
            }
        }
    }

    /// Sends a ping.
    pub(crate) fn ping(&self) -> Result<()> {
        if !self.is_connected() {
            return Err(lost());
        }
        self.shared.ping();
        Ok(())
    }

    /// Whether requests can be sent.
    pub(crate) fn is_connected(&self) -> bool {
        !self.shared.closing.load(Ordering::Relaxed)
    }

    /// Requests sent and the bytes of their bodies.
    pub(crate) fn sent(&self) -> (u64, u64) {
        self.shared.purpose.sent()
    }

    /// Whether everything that was sent is in the kernel.
    #[cfg(feature = "blocking")]
    pub(super) fn is_written(&self) -> bool {
        self.shared.writer.load().frames == 0
    }

    /// Begins the end: see [`disconnect`](Connection::disconnect), which waits for it.
    pub(super) fn begin_close(&self, why: &'static str) {
        self.shared.begin_close(why);
    }

    /// Waits until the connection has ended and tells why.
    pub(super) async fn ended(&self) -> End {
        self.shared.wait_ended().await
    }

    /// Ends the connection when what was sent is written, within the timeout.
    pub(crate) async fn disconnect(&self) {
        self.shared.begin_close("disconnected by this client");
        self.shared.wait_ended().await;
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if self.process.is_current() {
            self.shared.begin_close("the client was dropped");
        }
        self.process.leak_if_inherited(&self.shared);
    }
}

impl Shared {
    /// Queues a request, and writes it or sees to it that it is written; `None` when there is no room.
    fn try_submit(&self, request: Request<'_>) -> Result<Option<Confirmation>> {
        let Request { operation, prefix, qos, tell } = request;
        if self.closing.load(Ordering::Relaxed) {
            return Err(lost());
        }
        let (now, program_waits) = (Instant::now(), qos.needs_ack());
        let flush_at_once = qos.is_realtime() || !self.pace.is_burst(now.duration_since(self.born));
        let book = self.purpose.topics.as_ref().filter(|_| resume::is_change(operation));
        let qos = if book.is_some() { qos.acknowledged() } else { qos };
        let (mut waiter, confirmation) = match tell {
            Tell::Program if book.is_some() => self.change(operation, program_waits),
            _ if !qos.needs_ack() => (None, Confirmation::done(Ok(()))),
            Tell::Program => {
                let (waiter, confirmation) = Waiter::confirmation();
                (Some(waiter), confirmation)
            }
            #[cfg(feature = "rpc")]
            Tell::Log => (Some(Waiter::Reply), Confirmation::done(Ok(()))),
        };
        let mut unsent = None;
        let queued = self.writer.with(|backlog| {
            let load = backlog.load();
            if load.frames >= self.config.queue_size || load.bytes >= self.config.queue_bytes {
                return Ok(None);
            }
            // The entry is made before the bytes can leave, and in their order.
            let op_id = match waiter.take() {
                None => 0,
                Some(waiter) => self.acks.register(now, waiter).ok_or_else(lost)?,
            };
            let mut encoded = Ok(());
            let mut body = 0;
            let mut head = |out: &mut Vec<u8>| {
                let start = out.len();
                encoded = encode_head(operation, prefix, op_id, qos, out);
                body = (out.len() - start).saturating_sub(request::HEADER_LEN);
            };
            match operation_payload(operation) {
                Some(payload) if payload.len() >= LARGE_PAYLOAD => {
                    backlog.queue().push_with(head, payload.clone(), false)
                }
                Some(payload) => backlog.queue().push(|out| {
                    let start = out.len();
                    head(out);
                    if out.len() > start {
                        out.extend_from_slice(payload);
                    }
                }),
                None => backlog.queue().push(head),
            }
            if let Err(e) = encoded {
                unsent = self.acks.unregister(op_id);
                return Err(e);
            }
            body += operation_payload(operation).map_or(0, Bytes::len);
            Ok(Some((body, !flush_at_once && backlog.promise_flush(FLUSHED_BY_TASK))))
        });
        drop(unsent);
        let queued = queued.unwrap_or_else(|| Err(lost()));
        if queued.is_err() {
            // The queue counts a frame without bytes until it has been written.
            self.writer.flush();
        }
        let Some((body, flush_later)) = queued? else { return Ok(None) };
        self.purpose.sent.frames.fetch_add(1, Ordering::Relaxed);
        self.purpose.sent.bytes.fetch_add(body as u64, Ordering::Relaxed);
        if flush_at_once {
            self.writer.flush();
        } else if flush_later {
            self.writer.flush_by_task();
        }
        if qos.needs_ack() {
            self.purpose.inbox.unpark();
        }
        Ok(Some(confirmation))
    }

    /// Whoever waits for a change of topics: the book of a client that reconnects, and maybe the program.
    fn change(
        &self,
        operation: &Operation<'_, Bytes>,
        program_waits: bool,
    ) -> (Option<Waiter>, Confirmation) {
        let (told, confirmation) = match program_waits {
            true => {
                let (told, confirmation) = Confirmation::pending();
                (Some(told), confirmation)
            }
            false => (None, Confirmation::done(Ok(()))),
        };
        let change = self.purpose.topics.as_ref().and_then(|book| book.change(operation, told));
        (change.map(|change| Waiter::Topics(Box::new(change))), confirmation)
    }

    /// The program ends the connection: what can be written now is written on this thread.
    pub(super) fn begin_close(&self, why: &'static str) {
        if self.closing.swap(true, Ordering::Relaxed) {
            return;
        }
        self.writer.flush();
        if self.writer.load().frames == 0 {
            self.socket.shutdown_write();
        }
        // Wakes up the task that sees to the rest.
        self.advance(Phase::Closing);
        if self.purpose.topics.is_none() {
            self.purpose.inbox.stop(End::new(ErrorKind::ConnectionLost, why));
        }
    }

    /// The broker is given up.
    pub(super) fn cut(&self, end: End) {
        *self.cut.lock() = Some(end);
        self.closing.store(true, Ordering::Relaxed);
        self.writer.close();
        self.advance(Phase::Closing);
    }

    /// Nothing more is sent.
    pub(super) fn refuse(&self) {
        self.closing.store(true, Ordering::Relaxed);
    }

    fn advance(&self, to: Phase) {
        self.phase.send_if_modified(|phase| {
            let ahead = !matches!(phase, Phase::Ended(_));
            if ahead {
                *phase = to;
            }
            ahead
        });
    }

    /// Whether nothing more is read.
    pub(super) fn has_ended(&self) -> bool {
        matches!(*self.phase.borrow(), Phase::Ended(_))
    }

    /// Whether the reader waits for the program to take frames.
    pub(super) fn is_parked(&self) -> bool {
        self.parked.load(Ordering::Relaxed)
    }

    pub(super) async fn wait_ended(&self) -> End {
        let mut phase = self.phase.subscribe();
        match phase.wait_for(|phase| matches!(phase, Phase::Ended(_))).await.as_deref() {
            Ok(Phase::Ended(end)) => end.clone(),
            // The sender is gone, which it cannot be while it is borrowed.
            _ => End::new(ErrorKind::ConnectionLost, "the client is gone"),
        }
    }

    /// Tells the broker that this client is alive.
    pub(super) fn ping(&self) {
        self.writer.with(|backlog| backlog.queue().push(|out| out.extend_from_slice(&request::PING)));
        self.writer.flush();
    }

    /// The broker is alive, or nobody has listened so far.
    pub(super) fn hear(&self) {
        self.heard.store(self.born.elapsed().as_nanos() as u64, Ordering::Relaxed);
    }

    /// The connection has ended: everything that waits fails.
    pub(super) fn finish(&self, end: End) {
        self.closing.store(true, Ordering::Relaxed);
        self.writer.close();
        let end = self.cut.lock().take().unwrap_or(end);
        match self.purpose.topics {
            None => self.purpose.inbox.stop(end.clone()),
            Some(_) => self.purpose.inbox.lose(),
        }
        self.acks.end();
        if self.purpose.topics.is_none() {
            self.purpose.inbox.tell_end();
        }
        self.advance(Phase::Ended(end));
    }
}

pub(super) fn lost() -> Error {
    Error::new(ErrorKind::ConnectionLost, "the client is not connected")
}

fn operation_payload<'a>(operation: &'a Operation<'_, Bytes>) -> Option<&'a Bytes> {
    match operation {
        Operation::Publish { payload, .. }
        | Operation::PublishFor { payload, .. }
        | Operation::Message { payload, .. }
        | Operation::Broadcast { payload, .. } => Some(payload),
        _ => None,
    }
}
