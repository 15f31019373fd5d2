//! Pings clients that are due for a ping, and disconnects those that have been silent for too long (docs/protocol.md
//! section 6). This runs on the supervisor's thread, so that an idle client needs no timer.

use super::core::Core;
use super::outbox::Sink;
use super::session::Session;
use crate::proto::delivery::PING;
use crate::shown::shown;
use crate::transport::Writer;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// The interval at which a held client is pinged, in milliseconds. Existing client implementations give up when
/// nothing arrives for a second.
const HELD_PING: u64 = 1_000;
/// Time in milliseconds for which the frames of a held client may still be read after it has closed its connection.
const HANG_UP_GRACE: u64 = 300;
/// A client that has sent nothing for this many milliseconds releases its caches.
const IDLE: u64 = 1_000;
/// The batch number for pings, which are flushed immediately after they are queued.
const NO_BATCH: u32 = u32::MAX - 2;

/// Checks all clients.
pub(super) fn look(core: &Arc<Core>, now: u64) {
    for session in core.registry.clients() {
        if let Sink::Socket(writer) = session.outbox.sink() {
            look_at(core, &session, writer, now);
        }
    }
}

fn look_at(core: &Arc<Core>, session: &Arc<Session>, writer: &Arc<Writer>, now: u64) {
    let alive = &session.liveness;
    if alive.held_back.load(Relaxed) {
        return look_at_held(core, session, writer, now);
    }
    alive.hung_up.store(0, Relaxed);
    let timeout = core.options.timeout_milliseconds();
    let silent = now.saturating_sub(alive.seen.load(Relaxed));
    let allowed = if alive.mid_frame.load(Relaxed) { timeout } else { timeout.saturating_add(timeout / 4) };
    if silent > allowed && !core.is_closing() {
        // A client is not silent if the broker has not yet read what it sent.
        match writer.socket().is_some_and(|socket| socket.has_unread()) {
            true => alive.seen.store(now, Relaxed),
            false => {
                log::info!(
                    "client disconnected: {} was silent for too long",
                    shown(session.name().as_bytes())
                );
                core.end(session, "silent for too long");
                return;
            }
        }
    }
    if silent > IDLE && alive.has_caches.swap(false, Relaxed) {
        session.nudge.notify_one();
    }
    if now >= alive.next_ping.load(Relaxed) {
        alive.next_ping.store(now.saturating_add(core.options.ping_interval()), Relaxed);
        // If frames wait to be written, the client needs no ping.
        if writer.load().frames == 0 {
            ping(session, writer);
        }
    }
}

/// Checks a held client, from which nothing is read: its silence does not count, but a closed connection does.
fn look_at_held(core: &Arc<Core>, session: &Arc<Session>, writer: &Arc<Writer>, now: u64) {
    let alive = &session.liveness;
    let interval = HELD_PING.min(core.options.ping_interval());
    if alive.next_ping.load(Relaxed) > now.saturating_add(interval) {
        alive.next_ping.store(now.saturating_add(interval), Relaxed);
    }
    if now >= alive.next_ping.load(Relaxed) {
        alive.next_ping.store(now.saturating_add(interval), Relaxed);
        if writer.load().frames == 0 {
            ping(session, writer);
        }
    }
    // A write has failed if there is no socket any more: the connection is broken.
    if !writer.socket().is_none_or(|socket| socket.peer_has_hung_up()) {
        return;
    }
    match alive.hung_up.load(Relaxed) {
        0 => alive.hung_up.store(now.max(1), Relaxed),
        since if now.saturating_sub(since) >= HANG_UP_GRACE => {
            core.end(session, "closed by the client while it was held back");
        }
        _ => {}
    }
}

fn ping(session: &Session, writer: &Arc<Writer>) {
    if session.outbox.push_raw(&PING, 0, NO_BATCH) {
        writer.flush();
    }
}
