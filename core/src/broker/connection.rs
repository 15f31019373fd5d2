//! One connection: registration, the read loop, and the orderly end.

use super::core::Core;
use super::dispatcher::{Dispatch, Dispatcher, Rejection};
use super::handshake;
use super::long_text::PIECE;
use super::session::Session;
use super::unregister::unregister_soon;
use crate::proto::decoder::{Body, Decoder};
use crate::proto::op::{OP_BITS, OP_NOP};
use crate::proto::request::Header;
use crate::shown::shown;
use crate::transport::{Socket, Writer};
use bytes::Bytes;
use bytes::buf::BufMut;
use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::task::Poll;

/// The largest read buffer of a session; also the largest buffer that a thread keeps for reuse.
const MAX_READ: usize = 256 * 1024;
/// The maximum number of bytes that one read takes of a large body. The kernel continues to copy while the sender
/// writes, so that an unbounded read could go on for long.
const MAX_LARGE_READ: usize = 512 * 1024;
/// When a read returns at least this many bytes of an incomplete frame, its sender is expected to be writing the
/// rest.
const LARGE_PIECE: usize = 16 * 1024;
/// The kernel's send buffer for a client on a UNIX socket, unless the options set it. A large payload then fits in
/// one write. TCP adapts its buffers by itself.
const UNIX_SEND_BUFFER: usize = 1024 * 1024;
/// Maximum number of bytes that are read from a client that closed its connection while it was held back, to count
/// the frames that are lost.
const MOST_COUNTED: usize = 16 * 1024 * 1024;

/// The reason why the reading of a connection ended.
enum End {
    /// The client closed the connection.
    Closed,
    /// The client was unregistered.
    Unregistered,
    /// The broker is shutting down.
    Stopped,
    Failed(io::Error),
    Rejected(Rejection),
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            End::Closed => f.write_str("closed by the client"),
            End::Unregistered => f.write_str("unregistered"),
            End::Stopped => f.write_str("the broker is shutting down"),
            End::Failed(e) => e.fmt(f),
            End::Rejected(rejection) => rejection.fmt(f),
        }
    }
}

/// Unregisters the session when its task ends, also after a panic.
struct Registered {
    core: Arc<Core>,
    session: Arc<Session>,
    reason: String,
    reads: bool,
}

impl Registered {
    fn new(core: &Arc<Core>, session: &Arc<Session>) -> Registered {
        core.reading.fetch_add(1, SeqCst);
        let reason = "its task failed".to_owned();
        Registered { core: core.clone(), session: session.clone(), reason, reads: true }
    }

    /// Declares that nothing more is read from the client.
    fn stop_reading(&mut self) {
        if std::mem::take(&mut self.reads) {
            self.core.reading.fetch_sub(1, SeqCst);
            self.core.connection_changed.notify_waiters();
        }
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.stop_reading();
        unregister_soon(&self.core, self.session.clone(), std::mem::take(&mut self.reason));
    }
}

/// Serves a connection until it ends. `port` is the broker's address that the peer connected to, as given to the
/// broker.
pub(super) async fn serve(core: Arc<Core>, socket: Socket, port: Arc<str>) {
    let mut buffers = core.options.socket_buffers;
    if socket.peer().is_none() {
        buffers.send = buffers.send.or(Some(UNIX_SEND_BUFFER));
    }
    // If this fails, the connection works with the default buffers, but more slowly.
    if let Err(e) = socket.set_buffers(buffers) {
        log::debug!("cannot set the socket buffers of a connection from {}: {e}", handshake::origin(&socket));
    }
    let socket = Arc::new(socket);
    let writer = Writer::counted(socket.clone(), Some(core.limits.totals.clone()));
    match Box::pin(handshake::register(&core, &socket, &writer, port)).await {
        Ok((session, pipelined)) => {
            let mut registered = Registered::new(&core, &session);
            let end = read_frames(&core, &socket, &session, pipelined).await;
            registered.stop_reading();
            if let End::Rejected(rejection) = &end {
                log::warn!("client disconnected: {}: {rejection}", shown(session.name().as_bytes()));
            }
            registered.reason = end.to_string();
            if matches!(end, End::Stopped) {
                Box::pin(drain(&core, &socket, &writer)).await;
            }
        }
        Err(why) => {
            log::debug!("a connection from {} was not registered: {why}", handshake::origin(&socket));
            writer.close();
        }
    }
}

/// The orderly end of a connection while the broker shuts down. Waits until no connection can queue more frames, and
/// until everything queued for the client is written, then ends the broker's direction of the connection. Input is
/// discarded until the client closes: when a TCP socket with unread input is closed, the kernel discards the output
/// that it has not sent yet.
async fn drain(core: &Core, socket: &Socket, writer: &Arc<Writer>) {
    // Input is discarded from the beginning: a client that blocks in a write would not read.
    let mut discarded = pin!(handshake::discard_input(socket));
    let mut written = pin!(async {
        loop {
            let changed = core.connection_changed.notified();
            let mut changed = pin!(changed);
            changed.as_mut().enable();
            if core.reading.load(SeqCst) == 0 {
                break;
            }
            changed.await;
        }
        writer.drained().await;
        socket.shutdown_write();
    });
    tokio::select! {
        () = &mut written => discarded.await,
        // The client has closed the connection: nothing can be written any more.
        () = &mut discarded => {}
    }
}

thread_local! {
    /// One read buffer per thread, so that sessions that wait for input hold none.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

fn take_buffer(size: usize) -> Vec<u8> {
    let mut buf = BUFFER.try_with(RefCell::take).unwrap_or_default();
    buf.reserve(size);
    buf
}

fn give_buffer(mut buf: Vec<u8>) {
    buf.clear();
    if buf.capacity() <= 2 * MAX_READ {
        // This fails only while the thread ends.
        let _ = BUFFER.try_with(|slot| slot.replace(buf));
    }
}

/// The event that ended a wait for input.
enum Event {
    /// Input can be read. `suspended` is true if the task had to wait for it.
    Readable {
        suspended: bool,
    },
    /// The session was notified through `Session::nudge`.
    Nudged,
    Failed(io::Error),
}

async fn next_event(socket: &Socket, session: &Session) -> Event {
    let mut readable = pin!(socket.readable());
    let mut nudged = pin!(session.nudge.notified());
    let mut suspended = false;
    poll_fn(|cx| {
        // While input can be read, the task does not register for the notification.
        match readable.as_mut().poll(cx) {
            Poll::Ready(Ok(())) => return Poll::Ready(Event::Readable { suspended }),
            Poll::Ready(Err(e)) => return Poll::Ready(Event::Failed(e)),
            Poll::Pending => {}
        }
        suspended = true;
        nudged.as_mut().poll(cx).map(|()| Event::Nudged)
    })
    .await
}

/// Reads and dispatches frames until the connection ends.
async fn read_frames(core: &Arc<Core>, socket: &Socket, session: &Arc<Session>, pipelined: Vec<u8>) -> End {
    let mut decoder = Decoder::<Header>::new(core.options.max_payload);
    let mut dispatcher = Dispatcher::new(core.clone(), session.clone());
    let least = core.options.buf_size.clamp(512, MAX_READ);
    let mut size = least;
    // Other connections may already have ended their streams: they do not wait for a client that was not counted yet.
    if core.is_closing() {
        return End::Stopped;
    }
    if !pipelined.is_empty()
        && let Err(end) = Box::pin(route(core, &mut decoder, &mut dispatcher, session, &pipelined)).await
    {
        return end;
    }
    loop {
        match next_event(socket, session).await {
            Event::Failed(e) => return End::Failed(e),
            Event::Nudged => dispatcher.release_caches(),
            Event::Readable { suspended: true } => dispatcher.renew_budget(),
            Event::Readable { suspended: false } => dispatcher.yield_if_exhausted().await,
        }
        if session.has_ended() {
            if session.liveness.hung_up.load(Relaxed) != 0 {
                count_unread(core, socket, session, &mut decoder);
            }
            return End::Unregistered;
        }
        if core.is_closing() {
            return End::Stopped;
        }
        let mut buf = take_buffer(size);
        decoder.resume(&mut buf);
        let room = size.saturating_sub(buf.len()).max(least);
        let read = match decoder.large_body() {
            Some(body) => socket.try_read_buf(&mut body.limit(MAX_LARGE_READ)),
            None => {
                buf.reserve(room);
                socket.try_read_buf(&mut (&mut buf).limit(room))
            }
        };
        match read {
            Ok(0) => return End::Closed,
            Ok(n) => {
                dispatcher.charge_read(n);
                session.liveness.seen.store(core.clock.now(), Relaxed);
                size = if n >= room { (size * 2).min(MAX_READ) } else { (size / 2).max(least).max(n) };
                // The future is boxed: it is several times larger than the task of an idle connection should be.
                if let Err(end) = Box::pin(route(core, &mut decoder, &mut dispatcher, session, &buf)).await {
                    return end;
                }
                if n >= LARGE_PIECE
                    && decoder.is_mid_frame()
                    && let Some(poller) = &core.options.busy_poller
                {
                    poller.rest_is_due();
                }
                session.liveness.has_caches.store(dispatcher.has_caches(), Relaxed);
            }
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                decoder.suspend(&buf);
            }
            Err(e) => return End::Failed(e),
        }
        give_buffer(buf);
    }
}

/// Frames that were read together, and the bytes of their bodies.
#[derive(Default)]
struct Counted {
    frames: u64,
    bytes: u64,
    /// All frames of the read, including those that are already in the session's counters.
    total: u64,
}

impl Counted {
    /// Pings and progress reports do not count.
    #[inline]
    fn add(&mut self, header: &Header, body: usize) {
        if header.flags & OP_BITS != OP_NOP {
            self.frames += 1;
            self.bytes += body as u64;
            self.total += 1;
        }
    }

    fn store(&mut self, session: &Session) {
        session.traffic.r_frames.add(std::mem::take(&mut self.frames));
        session.traffic.r_bytes.add(std::mem::take(&mut self.bytes));
    }
}

/// Dispatches every complete frame in `bytes`, then flushes the queues to which frames were appended.
///
/// # Errors
///
/// The reason why the connection must end.
async fn route(
    core: &Arc<Core>,
    decoder: &mut Decoder<Header>,
    dispatcher: &mut Dispatcher,
    session: &Session,
    bytes: &[u8],
) -> Result<(), End> {
    let mut input = bytes;
    let mut counted = Counted::default();
    let mut batch = dispatcher.begin(session.name(), core);
    let result = loop {
        let (header, body) = match decoder.next(&mut input) {
            Ok(Some(frame)) => frame,
            Ok(None) => {
                decoder.suspend(input);
                break Ok(());
            }
            Err(e) => break Err(Rejection::Malformed(e)),
        };
        counted.add(&header, body.len());
        let rejected = match body {
            Body::Inline(body) => match batch.dispatch(&header, body) {
                Dispatch::Done => None,
                Dispatch::Rejected(rejection) => Some(rejection),
                Dispatch::Deferred(deferred) => {
                    counted.store(session);
                    Box::pin(batch.resume(deferred, None)).await.err()
                }
            },
            Body::Shared(body) => {
                batch.deliver().await;
                drop(batch);
                counted.store(session);
                let rejected = dispatch_shared(core, dispatcher, session, &header, &body).await;
                batch = dispatcher.begin(session.name(), core);
                rejected
            }
        };
        if let Some(rejection) = rejected {
            break Err(rejection);
        }
        // The session has ended. A new client may have its name, and frames of the old client must not follow those
        // of the new one.
        if session.has_ended() {
            break Ok(());
        }
        if batch.is_exhausted() {
            batch.pause().await;
        }
    };
    if session.has_ended() && session.liveness.hung_up.load(Relaxed) != 0 {
        core.counters.count_lost(count_frames(decoder, &mut input));
    }
    counted.store(session);
    session.liveness.mid_frame.store(decoder.is_mid_frame(), Relaxed);
    batch.finish(counted.total).await;
    result.map_err(End::Rejected)
}

/// Dispatches a frame with a large body.
async fn dispatch_shared(
    core: &Arc<Core>,
    dispatcher: &mut Dispatcher,
    session: &Session,
    header: &Header,
    body: &Bytes,
) -> Option<Rejection> {
    let mut batch = dispatcher.begin(session.name(), core);
    if header.changes_topics() && body.len() > PIECE {
        return Box::pin(batch.change_many_topics(header, body)).await.err();
    }
    let done = match Box::pin(batch.check_long_text(header, body)).await {
        Some(done) => done,
        None => batch.dispatch_shared(header, body),
    };
    match done {
        Dispatch::Done => None,
        Dispatch::Rejected(rejection) => Some(rejection),
        Dispatch::Deferred(deferred) => Box::pin(batch.resume(deferred, Some(body))).await.err(),
    }
}

fn count_frames(decoder: &mut Decoder<Header>, input: &mut &[u8]) -> u64 {
    let mut frames = 0;
    while let Ok(Some((header, _))) = decoder.next(input) {
        frames += u64::from(header.flags & OP_BITS != OP_NOP);
    }
    decoder.suspend(input);
    frames
}

/// Counts the unread frames of a client as dropped, after it closed its connection while it was held back.
fn count_unread(core: &Core, socket: &Socket, session: &Session, decoder: &mut Decoder<Header>) {
    let (mut frames, mut bytes) = (0, 0);
    let mut buf = Vec::with_capacity(MAX_READ);
    while bytes < MOST_COUNTED {
        buf.clear();
        decoder.resume(&mut buf);
        buf.reserve(MAX_READ);
        match socket.try_read_buf(&mut (&mut buf).limit(MAX_READ)) {
            Ok(n) if n > 0 => bytes += n,
            _ => break,
        }
        frames += count_frames(decoder, &mut &buf[..]);
    }
    core.counters.count_lost(frames);
    log::warn!(
        "client closed its connection while it was held back: {}: {frames} frames, {bytes} bytes, were not read and \
         are lost",
        shown(session.name().as_bytes())
    );
}
