//! The broker's own thread: it advances the clock, pings clients and ends silent ones, watches receivers that do not
//! keep up, removes the subscriptions of clients that have left, and delivers announcements that wait.
//!
//! It is not a task of a runtime, so that it runs while all workers of the runtime are busy.

use super::core::Core;
use super::keepalive;
use super::options::{Options, SlowPolicy};
use super::session::Session;
use super::slow_receiver::Change;
use crate::shown::shown;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// Maximum interval between two checks of all clients: short enough to disconnect a client in time, long enough to
/// cost almost nothing.
const SLOWEST_TICK: Duration = Duration::from_millis(250);
/// Maximum interval between two checks of receivers that do not keep up.
const WATCH_TICK: Duration = Duration::from_millis(50);
const FASTEST_TICK: Duration = Duration::from_millis(5);

/// Starts the thread. It ends when the broker is dropped.
///
/// # Errors
/// The system cannot start another thread.
pub(super) fn start(core: &Arc<Core>) -> std::io::Result<()> {
    let weak = Arc::downgrade(core);
    let thread = std::thread::Builder::new().name("busrt-broker".into()).spawn(move || run(&weak))?;
    core.supervisor.set_thread(thread.thread().clone());
    Ok(())
}

fn run(core: &Weak<Core>) {
    let Some(strong) = core.upgrade() else { return };
    let mut housekeeper = Housekeeper::new(&strong.options, Instant::now());
    drop(strong);
    loop {
        let pause = housekeeper.pause(Instant::now());
        match pause.is_zero() {
            true => std::thread::yield_now(),
            false => std::thread::park_timeout(pause),
        }
        let Some(core) = core.upgrade() else { return };
        housekeeper.poll(&core, Instant::now());
    }
}

/// What the thread does and when. It reads no clock: the time is a parameter.
pub(super) struct Housekeeper {
    /// The interval between two looks at all clients.
    tick: Duration,
    /// The interval between two looks at receivers that do not keep up.
    watch_tick: Duration,
    time: Time,
    /// The time since the last look at all clients.
    since_look: Duration,
    /// True while there are receivers that do not keep up.
    is_fast: bool,
    /// True if announcements, or subscriptions of clients that have left, wait for the next poll.
    has_more: bool,
}

impl Housekeeper {
    pub(super) fn new(options: &Options, now: Instant) -> Housekeeper {
        let shortest = options.hold.min(options.stall);
        Housekeeper {
            tick: (options.timeout / 16).clamp(FASTEST_TICK, SLOWEST_TICK),
            watch_tick: (shortest / 8).clamp(FASTEST_TICK, WATCH_TICK),
            time: Time { last: now, remainder: Duration::ZERO },
            since_look: Duration::ZERO,
            is_fast: false,
            has_more: false,
        }
    }

    fn interval(&self) -> Duration {
        if self.is_fast { self.watch_tick } else { self.tick }
    }

    /// The time until the next poll, unless the thread is woken before.
    fn pause(&self, now: Instant) -> Duration {
        match self.has_more {
            true => Duration::ZERO,
            false => self.interval().saturating_sub(now.saturating_duration_since(self.time.last)),
        }
    }

    /// Does what is due at `now`.
    pub(super) fn poll(&mut self, core: &Arc<Core>, now: Instant) {
        let announces = core.announcements.deliver_rest(&core.registry, &core.counters);
        let interval = self.interval();
        let was_fast = std::mem::replace(&mut self.is_fast, core.supervisor.has_watched());
        if now.saturating_duration_since(self.time.last) >= interval || self.is_fast != was_fast {
            let (step, milliseconds) = self.time.step(now, interval * 2);
            let now = core.clock.advance(milliseconds);
            if was_fast {
                look_at_receivers(core, milliseconds);
            }
            self.since_look += step;
            if self.since_look >= self.tick {
                self.since_look = Duration::ZERO;
                keepalive::look(core, now);
            }
        }
        // One part: clients that register get the lock before the next one.
        self.has_more = core.registry.sweep() || announces;
    }
}

/// Measures the time between ticks.
struct Time {
    last: Instant,
    /// Time that is not yet counted because it is less than a millisecond.
    remainder: Duration,
}

impl Time {
    /// Returns the time since the last step, also in milliseconds. The part that exceeds `most` does not count,
    /// because the process did not run in that time.
    fn step(&mut self, now: Instant, most: Duration) -> (Duration, u64) {
        let step = now.saturating_duration_since(self.last).min(most);
        self.last = now;
        self.remainder += step;
        let milliseconds = self.remainder.as_millis() as u64;
        self.remainder -= Duration::from_millis(milliseconds);
        (step, milliseconds)
    }
}

/// Looks at the receivers that do not keep up, and wakes the senders that wait for them.
fn look_at_receivers(core: &Arc<Core>, step: u64) {
    let watched = core.supervisor.take_watched();
    let mut stay = vec![];
    for session in watched {
        if session.has_ended() {
            session.outbox.wake_senders();
            continue;
        }
        // A client within this process sends no progress reports that could be unread.
        let held_back =
            session.liveness.waits_for_receivers.load(Relaxed) > 0 && !session.outbox.is_in_process();
        match session.outbox.look(step, held_back) {
            Change::None => {}
            Change::Lags => log::info!(
                "client lags: {} does not take what it is sent: publications and broadcasts that find its queue \
                 full are dropped",
                shown(session.name().as_bytes())
            ),
            Change::Recovered => {
                let (dropped, _) = session.outbox.dropped();
                log::info!(
                    "client keeps up again: {} ({dropped} frames were dropped for it so far)",
                    shown(session.name().as_bytes())
                );
            }
            Change::Stuck => stuck(core, &session),
            Change::Unwatched => {
                session.outbox.wake_senders();
                continue;
            }
        }
        // Each sender checks its own deadline, and whether its own client has ended.
        session.outbox.wake_senders();
        stay.push(session);
    }
    core.supervisor.put_back(&mut stay);
}

fn stuck(core: &Arc<Core>, session: &Arc<Session>) {
    let name = shown(session.name().as_bytes());
    let stall = core.options.stall;
    if core.options.slow != SlowPolicy::Disconnect || session.outbox.is_in_process() {
        log::warn!("client is stuck: {name} has read nothing for {stall:?}, policy {:?}", core.options.slow);
        return;
    }
    let load = session.outbox.load();
    let (dropped, _) = session.outbox.dropped();
    log::warn!(
        "client disconnected: {name} has taken nothing for {stall:?}: {} frames, {} bytes, are discarded, {dropped} \
         frames were dropped before",
        load.frames,
        load.bytes
    );
    session.outbox.count_dropped(load.frames as u64, load.bytes as u64);
    core.end(session, "stuck: it reads nothing");
}
