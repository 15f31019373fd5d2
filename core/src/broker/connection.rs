//! One connected socket: registration, then the read loop.

use super::Core;
use super::courier::Courier;
use super::options::Options;
use super::outbox::Outlet;
use super::outgoing::Origin;
use super::run::Run;
use super::session::{ClientKind, Identity, Session};
use crate::error::ErrorKind;
use crate::proto::DecodeError;
use crate::proto::decoder::{Body, Decoder};
use crate::proto::handshake::{Server, ServerStep};
use crate::proto::op::{GREETING, RESULT_OK};
use crate::proto::request::Header;
use crate::transport::{Socket, Writer};
use bytes::buf::BufMut;
use std::cell::RefCell;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::time::timeout;

/// The largest read buffer of a session; also what a thread keeps one of.
const MAX_READ: usize = 256 * 1024;
/// Who sends so fast that its socket is never found empty lets others run on its worker after so many bytes. Not
/// after every read: the pause wakes another worker, which takes the task over.
const TURN: usize = 2 * 1024 * 1024;
/// So much read at once of a frame that has not ended comes from somebody who is writing just now.
const PIECE: usize = 16 * 1024;
/// What the kernel may buffer towards a client over a UNIX socket, unless set: a large payload at once. TCP finds
/// its own sizes.
const UNIX_SEND_BUFFER: usize = 1024 * 1024;
/// What is still read from a peer that was refused, so that closing does not take the answer away.
const LINGER: Duration = Duration::from_secs(1);

/// Serves a connection until it ends. `port` is what it connected to, as given to the broker.
pub(super) async fn serve(core: Arc<Core>, socket: Socket, port: Arc<str>) {
    let mut buffers = core.options.socket_buffers;
    if socket.peer().is_none() {
        buffers.send = buffers.send.or(Some(UNIX_SEND_BUFFER));
    }
    // Slower perhaps, but a connection.
    if let Err(e) = socket.set_buffers(buffers) {
        log::debug!("the buffers of a connection from {} stay as they are: {e}", origin(&socket));
    }
    let socket = Arc::new(socket);
    let writer = Writer::new(socket.clone());
    match Box::pin(register(&core, &socket, &writer, port)).await {
        Ok((session, pipelined)) => {
            let reason = match read_frames(&core, &socket, &session, pipelined).await {
                Ok(()) => "closed by the client".to_owned(),
                Err(e) => e.to_string(),
            };
            core.end(&session, &reason);
        }
        Err(why) => {
            log::debug!("a connection from {} was not registered: {why}", origin(&socket));
            writer.close();
        }
    }
}

fn origin(socket: &Socket) -> String {
    socket.peer().map_or_else(|| "this machine".to_owned(), |peer| peer.to_string())
}

/// The handshake. Returns the session and the bytes that followed its name.
async fn register(
    core: &Arc<Core>,
    socket: &Socket,
    writer: &Arc<Writer>,
    port: Arc<str>,
) -> Result<(Arc<Session>, Vec<u8>), String> {
    send(writer, &GREETING);
    let mut machine = Server::new();
    let mut buf = Vec::new();
    let mut step_timeout = core.options.timeout;
    loop {
        // Each step has the whole timeout, however many reads it takes.
        let started = tokio::time::Instant::now();
        let mut input = &buf[..];
        let step = machine.next(&mut input);
        let used = buf.len() - input.len();
        buf.drain(..used);
        match step {
            ServerStep::Read => {
                buf.reserve(256);
                let mut room = (&mut buf).limit(256);
                match timeout(step_timeout, read(socket, &mut room)).await {
                    Err(_) => return Err("it did not finish its handshake in time".into()),
                    Ok(Err(e)) => return Err(e.to_string()),
                    Ok(Ok(0)) => return Err("it ended within its handshake".into()),
                    Ok(Ok(_)) => step_timeout = step_timeout.saturating_sub(started.elapsed()),
                }
            }
            ServerStep::Greeted => {
                send(writer, &[RESULT_OK]);
                step_timeout = core.options.timeout;
            }
            ServerStep::Refuse(kind) => return Err(refuse(socket, writer, kind).await),
            ServerStep::Register(name) => {
                let kind = if socket.peer().is_some() { ClientKind::Tcp } else { ClientKind::LocalIpc };
                let identity = Identity {
                    name: name.as_str().into(),
                    kind,
                    peer: socket.peer(),
                    port: Some(port.clone()),
                };
                let registered = core.register(identity, Outlet::Socket(writer.clone()));
                return match registered {
                    Ok(session) => {
                        if let Some(lookout) = &core.options.lookout {
                            lookout.watch(socket);
                        }
                        writer.flush();
                        Ok((session, buf))
                    }
                    Err(kind) => Err(format!("{name:?}: {}", refuse(socket, writer, kind).await)),
                };
            }
        }
    }
}

fn send(writer: &Arc<Writer>, bytes: &[u8]) {
    writer.with(|backlog| backlog.queue().push(|out| out.extend_from_slice(bytes)));
    writer.flush();
}

/// Answers an error code and ends our direction. Data that the peer still sends is thrown away for a
/// moment: closing a TCP socket with unread data would take the code away from it.
async fn refuse(socket: &Socket, writer: &Arc<Writer>, kind: ErrorKind) -> String {
    send(writer, &[kind.code()]);
    let _ = timeout(LINGER, async {
        writer.drained().await;
        socket.shutdown_write();
        let mut sink = Vec::with_capacity(4096);
        loop {
            sink.clear();
            match read(socket, &mut (&mut sink).limit(4096)).await {
                Ok(0) | Err(_) => break,
                Ok(_) => {}
            }
        }
    })
    .await;
    format!("refused ({kind})")
}

async fn read(socket: &Socket, buf: &mut impl BufMut) -> io::Result<usize> {
    loop {
        socket.readable().await?;
        match socket.try_read_buf(buf) {
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            result => return result,
        }
    }
}

thread_local! {
    /// One read buffer for each thread: sessions that wait for something to read hold none.
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
        // Fails only while the thread ends.
        let _ = BUFFER.try_with(|slot| slot.replace(buf));
    }
}

/// Reads and routes until the connection ends.
///
/// # Errors
/// Bytes that are not the protocol, or what the operating system says.
async fn read_frames(
    core: &Arc<Core>,
    socket: &Socket,
    session: &Arc<Session>,
    pipelined: Vec<u8>,
) -> crate::Result<()> {
    let mut decoder = Decoder::<Header>::new(core.options.max_payload);
    let mut courier = Courier::new(core.clone(), session.clone());
    let least = core.options.buf_size.clamp(512, MAX_READ);
    let mut size = least;
    let mut turn = 0;
    if !pipelined.is_empty() {
        Box::pin(route(&core.options, &mut decoder, &mut courier, session, &pipelined)).await?;
    }
    loop {
        socket.readable().await?;
        if session.has_ended() {
            return Ok(());
        }
        let mut buf = take_buffer(size);
        decoder.resume(&mut buf);
        let room = size.saturating_sub(buf.len()).max(least);
        let (offered, read) = match decoder.large_body() {
            Some(mut body) => (body.remaining_mut(), socket.try_read_buf(&mut body)),
            None => {
                buf.reserve(room);
                (room, socket.try_read_buf(&mut (&mut buf).limit(room)))
            }
        };
        match read {
            Ok(0) => return Ok(()),
            Ok(n) => {
                turn = if n < offered { 0 } else { turn + n };
                session.liveness.seen.store(core.clock.now(), Relaxed);
                size = if n >= room { (size * 2).min(MAX_READ) } else { (size / 2).max(least).max(n) };
                // On the heap: what a batch needs is several times what an idle connection should hold.
                Box::pin(route(&core.options, &mut decoder, &mut courier, session, &buf)).await?;
                if n >= PIECE
                    && decoder.is_mid_frame()
                    && let Some(lookout) = &core.options.lookout
                {
                    lookout.rest_is_due();
                }
            }
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                decoder.suspend(&buf);
            }
            Err(e) => return Err(e.into()),
        }
        give_buffer(buf);
        if turn >= TURN {
            turn = 0;
            tokio::task::yield_now().await;
        }
    }
}

/// Routes every whole frame in `bytes`, then writes out what that made.
async fn route(
    options: &Options,
    decoder: &mut Decoder<Header>,
    courier: &mut Courier,
    session: &Session,
    bytes: &[u8],
) -> Result<(), DecodeError> {
    let mut input = bytes;
    let mut run = Run::new(session.name(), options);
    let (mut frames, mut body_bytes) = (0, 0);
    let result = loop {
        let (header, body) = match decoder.next(&mut input) {
            Ok(Some(frame)) => frame,
            Ok(None) => {
                decoder.suspend(input);
                break Ok(());
            }
            Err(e) => break Err(e),
        };
        if header.flags != 0 {
            frames += 1;
            body_bytes += body.len() as u64;
        }
        let (handled, owner) = match &body {
            Body::Inline(body) => (courier.handle(&header, body, &mut Origin::Batch(&mut run)), None),
            Body::Shared(body) => {
                courier.deliver(&mut run).await;
                let mut origin = Origin::Apart(session.name(), Some(body));
                (courier.handle(&header, body, &mut origin), Some(body))
            }
        };
        if let Err(held) = handled {
            courier.deliver(&mut run).await;
            if let Err(e) = Box::pin(courier.go_on(held, owner)).await {
                break Err(e);
            }
        }
        // Its name may belong to a newcomer by now, whose frames nothing may come after.
        if session.has_ended() {
            break Ok(());
        }
    };
    courier.deliver(&mut run).await;
    session.traffic.r_frames.add(frames);
    session.traffic.r_bytes.add(body_bytes);
    session.liveness.mid_frame.store(decoder.is_mid_frame(), Relaxed);
    courier.finish_batch(frames).await;
    result
}
