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
use super::batch::Batch;
use super::config::Config;
use super::encode::encode_head;
use super::inbox::{End, Inbox};
use crate::error::{Error, ErrorKind, Result};
use crate::proto::decoder::Decoder;
use crate::proto::delivery::Header;
use crate::proto::op::QoS;
use crate::proto::request::{self, Operation};
use crate::transport::{LARGE_PAYLOAD, Socket, Writer};
use bytes::Bytes;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

/// Requests that follow each other faster than this are a burst: a task writes them together.
const BURST: Duration = Duration::from_micros(5);

/// Who is told the answer to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tell {
    /// The program.
    Program,
    /// Nobody: a refusal is logged.
    #[cfg(feature = "rpc")]
    Log,
}

/// The end of a connection that the client holds.
#[derive(Debug)]
pub(crate) struct Connection {
    shared: Arc<Shared>,
    /// A child that inherited the connection through fork must not end its parent's.
    pid: u32,
}

/// What the tasks of a connection share with it.
#[derive(Debug)]
struct Shared {
    socket: Arc<Socket>,
    writer: Arc<Writer>,
    inbox: Arc<Inbox>,
    acks: Acks,
    config: Config,
    runtime: Handle,
    /// Set when the program ends the connection: nothing more is sent.
    closing: AtomicBool,
    /// Whether the reader has ended.
    ended: watch::Sender<bool>,
    born: Instant,
    /// When a request was last queued, in ns since `born`.
    last_request: AtomicU64,
    sent_frames: AtomicU64,
    sent_bytes: AtomicU64,
}

impl Connection {
    /// Starts the tasks of a registered connection. `leftover` came after the registration.
    pub(crate) fn start(
        socket: Arc<Socket>,
        writer: Arc<Writer>,
        leftover: &[u8],
        inbox: Arc<Inbox>,
        config: &Config,
    ) -> Connection {
        let shared = Arc::new(Shared {
            socket,
            writer,
            inbox,
            acks: Acks::new(),
            config: config.clone(),
            runtime: Handle::current(),
            closing: AtomicBool::new(false),
            ended: watch::Sender::new(false),
            born: Instant::now(),
            last_request: AtomicU64::new(0),
            sent_frames: AtomicU64::new(0),
            sent_bytes: AtomicU64::new(0),
        });
        let mut decoder = Decoder::new(u32::MAX);
        decoder.suspend(leftover);
        tokio::spawn(Reader { shared: shared.clone(), decoder }.run());
        tokio::spawn(keep(shared.clone()));
        Connection { shared, pid: std::process::id() }
    }

    /// Sends a request; waits only for room. The payload is `prefix` and the operation's own.
    pub(crate) async fn submit(
        &self,
        operation: Operation<'_, Bytes>,
        prefix: &[u8],
        qos: QoS,
        tell: Tell,
    ) -> Result<Confirmation> {
        let shared = &*self.shared;
        loop {
            if let Some(confirmation) = shared.try_submit(&operation, prefix, qos, tell)? {
                // A program that sends in a loop must let the task run that writes for it.
                tokio::task::coop::consume_budget().await;
                return Ok(confirmation);
            }
            // The broker may be waiting for this client to take frames before it reads on.
            let _blocked = shared.inbox.block();
            let (frames, bytes) = (shared.config.queue_size, shared.config.queue_bytes);
            timeout(shared.config.timeout, shared.writer.wait_below(frames, bytes))
                .await
                .map_err(|_| Error::new(ErrorKind::Timeout, "the broker takes no more from this client"))?;
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
        !self.shared.closing.load(Ordering::Relaxed) && !*self.shared.ended.borrow()
    }

    /// Requests sent and the bytes of their bodies.
    pub(crate) fn sent(&self) -> (u64, u64) {
        (self.shared.sent_frames.load(Ordering::Relaxed), self.shared.sent_bytes.load(Ordering::Relaxed))
    }

    /// Ends the connection when what was sent is written, within the timeout.
    pub(crate) async fn disconnect(&self) {
        self.shared.begin_close("disconnected by this client");
        // An error: the sender is gone, which it cannot be while it is borrowed.
        let _ = self.shared.ended.subscribe().wait_for(|ended| *ended).await;
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if self.pid == std::process::id() {
            self.shared.begin_close("the client was dropped");
        }
    }
}

impl Shared {
    /// Queues a request, and writes it or sees to it that it is written; `None` when there is no room.
    fn try_submit(
        &self,
        operation: &Operation<'_, Bytes>,
        prefix: &[u8],
        qos: QoS,
        tell: Tell,
    ) -> Result<Option<Confirmation>> {
        if self.closing.load(Ordering::Relaxed) {
            return Err(lost());
        }
        let now = Instant::now();
        let flush_at_once = qos.is_realtime() || !self.is_burst(now);
        let (mut waiter, confirmation) = match tell {
            _ if !qos.needs_ack() => (None, Confirmation::done(Ok(()))),
            Tell::Program => {
                let (waiter, confirmation) = Waiter::confirmation();
                (Some(waiter), confirmation)
            }
            #[cfg(feature = "rpc")]
            Tell::Log => (Some(Waiter::Reply), Confirmation::done(Ok(()))),
        };
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
                    backlog.queue().push_with(head, payload.clone())
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
                self.acks.unregister(op_id);
                return Err(e);
            }
            body += operation_payload(operation).map_or(0, Bytes::len);
            Ok(Some((body, !flush_at_once && backlog.promise_flush())))
        });
        let queued = queued.unwrap_or_else(|| Err(lost()));
        if queued.is_err() {
            // The queue counts a frame without bytes until it has been written.
            self.writer.flush();
        }
        let Some((body, flush_later)) = queued? else { return Ok(None) };
        self.sent_frames.fetch_add(1, Ordering::Relaxed);
        self.sent_bytes.fetch_add(body as u64, Ordering::Relaxed);
        if flush_at_once {
            self.writer.flush();
        } else if flush_later {
            let writer = self.writer.clone();
            self.runtime.spawn(async move { writer.flush() });
        }
        if qos.needs_ack() {
            self.inbox.unpark();
        }
        Ok(Some(confirmation))
    }

    /// Whether the last request was queued only just now.
    fn is_burst(&self, now: Instant) -> bool {
        let now = now.duration_since(self.born).as_nanos() as u64;
        let last = self.last_request.swap(now, Ordering::Relaxed);
        now.saturating_sub(last) < BURST.as_nanos() as u64
    }

    /// The program ends the connection: what can be written now is written on this thread.
    fn begin_close(&self, why: &'static str) {
        if self.closing.swap(true, Ordering::Relaxed) {
            return;
        }
        self.writer.flush();
        if self.writer.load().frames == 0 {
            self.socket.shutdown_write();
        }
        // Wakes up the task that sees to the rest.
        self.inbox.end(End::new(ErrorKind::ConnectionLost, why));
    }

    /// Tells the broker that this client is alive.
    fn ping(&self) {
        self.writer.with(|backlog| backlog.queue().push(|out| out.extend_from_slice(&request::PING)));
        self.writer.flush();
    }

    /// The connection has ended: everything that waits fails.
    fn finish(&self, end: End) {
        self.writer.close();
        self.inbox.end(end);
        self.acks.end();
        self.ended.send_replace(true);
    }
}

fn lost() -> Error {
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

fn io_end(e: &io::Error) -> End {
    End::new(ErrorKind::ConnectionLost, format!("the connection broke: {e}"))
}

/// The task that reads.
struct Reader {
    shared: Arc<Shared>,
    decoder: Decoder<Header>,
}

impl Reader {
    async fn run(mut self) {
        let end = self.read().await;
        self.shared.finish(end);
    }

    async fn read(&mut self) -> End {
        let shared = self.shared.clone();
        // What came with the registration may be whole frames already.
        if let Err(end) = self.receive(false) {
            return end;
        }
        loop {
            // Not reading is what holds back the broker, and through it the senders.
            shared.inbox.wait_room_unless(|| shared.acks.is_awaited()).await;
            // While there is always something to read, this never waits: others must run all the same.
            tokio::task::coop::consume_budget().await;
            if let Err(e) = shared.socket.readable().await {
                return io_end(&e);
            }
            if let Err(end) = self.receive(true) {
                return end;
            }
        }
    }

    /// Reads once, unless told not to, and hands out what came.
    fn receive(&mut self, from_socket: bool) -> std::result::Result<(), End> {
        let shared = &*self.shared;
        let mut batch = Batch::take();
        let read = match self.decoder.large_body() {
            Some(mut room) if from_socket => shared.socket.try_read_buf(&mut room),
            _ => {
                self.decoder.resume(&mut batch.buf);
                if from_socket {
                    batch.buf.reserve(shared.config.buf_size);
                    shared.socket.try_read_buf(&mut batch.buf)
                } else {
                    Ok(batch.buf.len().max(1))
                }
            }
        };
        let result = match read {
            Ok(0) => Err(End::new(ErrorKind::ConnectionLost, "the broker closed the connection")),
            Ok(_) => {
                let decoded = batch.decode(&mut self.decoder, &shared.inbox);
                shared.acks.complete(&mut batch.acks, &mut batch.told);
                shared.inbox.append(&mut batch.frames);
                decoded.map_err(|e| {
                    End::new(ErrorKind::Data, format!("what the broker sent cannot be read: {e}"))
                })
            }
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                self.decoder.suspend(&batch.buf);
                Ok(())
            }
            Err(e) => Err(io_end(&e)),
        };
        batch.give();
        result
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if *self.shared.ended.borrow() {
            return;
        }
        // The runtime goes under the task. What was sent before is sent, and nobody may wait for what will
        // never come.
        self.shared.writer.flush();
        self.shared.finish(End::new(ErrorKind::ConnectionLost, "the runtime was shut down"));
    }
}

/// The task that keeps time: pings, deadlines, and the end.
async fn keep(shared: Arc<Shared>) {
    let (interval, limit) = (shared.config.ping_interval, shared.config.timeout);
    let mut next_ping = Instant::now() + interval;
    loop {
        let now = Instant::now();
        let oldest = now.checked_sub(limit).and_then(|then| shared.acks.expire(then));
        // A request that is made while this sleeps is late after the next look.
        let mut next = next_ping.min(now + limit);
        if let Some(oldest) = oldest {
            next = next.min(oldest + limit);
        }
        tokio::select! {
            () = sleep_until(next) => {}
            _ = shared.inbox.wait_end() => break,
        }
        if Instant::now() >= next_ping {
            // What waits to be written tells as much.
            if shared.writer.load().frames == 0 {
                shared.ping();
            }
            next_ping = Instant::now() + interval;
        }
    }
    if *shared.ended.borrow() {
        return;
    }
    let goodbye = async {
        shared.writer.drained().await;
        shared.socket.shutdown_write();
        let _ = shared.ended.subscribe().wait_for(|ended| *ended).await;
    };
    if timeout(limit, goodbye).await.is_err() {
        log::debug!("the broker does not end the connection of {:?}: closing it", shared.config.name);
    }
    shared.writer.close();
}
