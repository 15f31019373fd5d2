//! The broker's side of the greeting and registration of a connection (docs/protocol.md section 2).

use super::core::Core;
use super::outbox::Sink;
use super::session::{ClientKind, Identity, Session};
use crate::error::ErrorKind;
use crate::proto::handshake::{Server, ServerStep};
use crate::proto::op::{GREETING, RESULT_OK};
use crate::shown::shown;
use crate::transport::{Socket, Writer};
use bytes::buf::BufMut;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// Time for which the input of a refused peer is discarded before the connection is closed. If it were closed
/// earlier, the peer might not receive the answer.
const LINGER: Duration = Duration::from_secs(1);
/// The batch number for the answers of a handshake, which are flushed immediately after they are queued.
const NO_BATCH: u32 = u32::MAX - 4;

/// Describes the origin of a connection for the log.
pub(super) fn origin(socket: &Socket) -> String {
    socket.peer().map_or_else(|| "this machine".to_owned(), |peer| peer.to_string())
}

/// Performs the handshake. Returns the session and the bytes that followed the name.
///
/// # Errors
/// The reason why the connection is not registered, as a text for the log.
pub(super) async fn register(
    core: &Arc<Core>,
    socket: &Socket,
    writer: &Arc<Writer>,
    port: Arc<str>,
) -> Result<(Arc<Session>, Vec<u8>), String> {
    let pending = core.handshakes.begin(writer);
    send(writer, &GREETING);
    let mut machine = Server::new();
    let mut buf = Vec::new();
    let mut step_timeout = core.options.timeout;
    loop {
        // Each step has the whole timeout, independent of the number of reads that it takes.
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
                    Err(_) => return Err("handshake timeout".into()),
                    Ok(Err(e)) => return Err(e.to_string()),
                    Ok(Ok(0)) => return Err("closed by the peer during the handshake".into()),
                    Ok(Ok(_)) => step_timeout = step_timeout.saturating_sub(started.elapsed()),
                }
            }
            ServerStep::Greeted if core.registry.is_full(&core.options) => {
                return Err(format!(
                    "too many connections: {}",
                    reject(socket, writer, ErrorKind::Other).await
                ));
            }
            ServerStep::Greeted => {
                send(writer, &[RESULT_OK]);
                step_timeout = core.options.timeout;
            }
            ServerStep::Reject(kind) => return Err(reject(socket, writer, kind).await),
            ServerStep::Register(name) => {
                core.announcements.wait_for_room().await;
                // Once registered, the connection must no longer be closed as one that has not registered yet.
                drop(pending);
                return match register_name(core, socket, writer, port, &name).await {
                    Ok(session) => Ok((session, buf)),
                    Err(kind) => {
                        let _pending = core.handshakes.begin(writer);
                        Err(format!("{}: {}", shown(name.as_bytes()), reject(socket, writer, kind).await))
                    }
                };
            }
        }
    }
}

async fn register_name(
    core: &Arc<Core>,
    socket: &Socket,
    writer: &Arc<Writer>,
    port: Arc<str>,
    name: &str,
) -> Result<Arc<Session>, ErrorKind> {
    if name.len() > core.options.max_name {
        return Err(ErrorKind::Data);
    }
    let kind = if socket.peer().is_some() { ClientKind::Tcp } else { ClientKind::LocalIpc };
    let identity = Identity { name: name.into(), kind, peer: socket.peer(), port: Some(port) };
    core.evict_secondaries(&identity).await;
    let session = core.register(identity, Sink::Socket(writer.clone()))?;
    if let Some(poller) = &core.options.busy_poller {
        poller.watch(socket);
    }
    writer.flush();
    Ok(session)
}

fn send(writer: &Arc<Writer>, bytes: &[u8]) {
    writer.with(|backlog| {
        backlog.queue().push(|out| out.extend_from_slice(bytes));
        backlog.promise_flush(NO_BATCH)
    });
    writer.flush();
}

/// Sends an error code and ends the broker's direction. Input is then discarded for a short time: when a TCP socket
/// with unread input is closed, the peer may not receive the code.
async fn reject(socket: &Socket, writer: &Arc<Writer>, kind: ErrorKind) -> String {
    send(writer, &[kind.code()]);
    let _ = timeout(LINGER, async {
        writer.drained().await;
        socket.shutdown_write();
        discard_input(socket).await;
    })
    .await;
    format!("refused ({kind})")
}

/// Reads and discards input until the peer closes.
pub(super) async fn discard_input(socket: &Socket) {
    let mut sink = Vec::with_capacity(4096);
    loop {
        sink.clear();
        match read(socket, &mut (&mut sink).limit(4096)).await {
            Ok(0) | Err(_) => break,
            // The task yields to others even if the peer sends faster than this task reads.
            Ok(_) => tokio::task::consume_budget().await,
        }
    }
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
