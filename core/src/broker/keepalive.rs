//! Pings to clients that are due for one, and the end of those that have been silent for too long
//! (PROTOCOL.md section 6). One task for all clients: an idle one costs no timer.

use super::Core;
use super::options::Options;
use super::outbox::Outlet;
use crate::proto::delivery::PING;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// Milliseconds since the broker began, moved on by the keep-alive task alone: cheap to read. It never
/// jumps: when the whole process was suspended, its clients have not been silent, they have not been
/// listened to.
#[derive(Debug, Default)]
pub(super) struct Clock(AtomicU64);

impl Clock {
    pub(super) fn now(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// How often a client is pinged, in milliseconds.
pub(super) fn ping_interval(options: &Options) -> u64 {
    (options.timeout / 2).as_millis() as u64
}

/// How often is looked: often enough for a client to be closed in time, rarely enough to cost nothing.
fn tick(timeout: Duration) -> Duration {
    (timeout / 16).clamp(Duration::from_millis(5), Duration::from_millis(250))
}

/// Runs until the broker is gone.
pub(super) async fn run(core: Weak<Core>, timeout: Duration) {
    let tick = tick(timeout);
    let mut last = Instant::now();
    loop {
        tokio::time::sleep(tick).await;
        let Some(core) = core.upgrade() else { return };
        let step = last.elapsed().min(tick * 2);
        last = Instant::now();
        let now = core.clock.now() + (step.as_micros() as u64).div_ceil(1000);
        core.clock.0.store(now, Relaxed);
        look(&core, now);
    }
}

fn look(core: &Arc<Core>, now: u64) {
    let timeout = core.options.timeout.as_millis() as u64;
    for session in core.registry.sessions() {
        let Outlet::Socket(writer) = &session.outlet else { continue };
        let alive = &session.liveness;
        let silent = now.saturating_sub(alive.seen.load(Relaxed));
        let allowed = if alive.mid_frame.load(Relaxed) { timeout } else { timeout + timeout / 4 };
        if silent > allowed && !alive.held_back.load(Relaxed) {
            core.end(&session, "silent for too long");
            continue;
        }
        if now >= alive.next_ping.load(Relaxed) {
            alive.next_ping.store(now + ping_interval(&core.options), Relaxed);
            // With frames on their way to it, it hears from the broker anyway.
            if writer.load().frames == 0 && session.push_raw(&PING, 0) {
                writer.flush();
            }
        }
    }
}
