//! The task that keeps the time for a connection: pings, deadlines, the liveness of the broker, and the close.

use super::acks::Waiter;
use super::alive::Alive;
use super::deadline::SHORTEST_WAIT;
use super::encode::EncodedRequest;
use super::inbox::End;
use super::liveness::{Action, LivenessMonitor};
use super::request::Request;
use super::shared::{Phase, Shared};
use crate::error::ErrorKind;
use crate::proto::op::QoS;
use crate::proto::request::{Operation, Topics};
use std::ops::ControlFlow;
use std::sync::Arc;
use tokio::time::{Instant, sleep_until, timeout};

/// A topic without subscribers. Unsubscribing from it changes nothing, but is acknowledged.
const PROBE_TOPIC: &str = ".busrt/alive";

/// The heartbeat of one connection.
pub(super) struct Heartbeat {
    shared: Arc<Shared>,
    monitor: LivenessMonitor,
    next_ping: Instant,
}

impl Heartbeat {
    pub(super) fn new(shared: Arc<Shared>) -> Heartbeat {
        let monitor = LivenessMonitor::new(shared.config.silence, shared.config.timeout);
        let next_ping = Instant::now() + shared.client.ping_interval();
        Heartbeat { shared, monitor, next_ping }
    }

    /// Runs until the connection ends. `alive` is held until everything is written.
    pub(super) async fn run(mut self, mut alive: Alive) {
        let shared = self.shared.clone();
        let mut phase = shared.phase.subscribe();
        loop {
            let ControlFlow::Continue(next) = self.look(Instant::now()) else { return };
            tokio::select! {
                () = sleep_until(next) => self.monitor.timer_fired(Instant::now(), next),
                () = shared.heartbeat_alarm.notified() => self.monitor.woken_early(),
                // This fails only if the sender was dropped, which cannot happen while it is shared.
                _ = phase.wait_for(|phase| *phase != Phase::Open) => break,
                () = alive.closing() => {
                    shared.begin_close("the runtime was shut down");
                    break;
                }
            }
            self.ping_if_due(Instant::now());
            // The reader notices the end by itself, unless it waits for the program.
            if shared.writer.is_closed() && shared.is_parked() {
                shared.abort(End::new(ErrorKind::ConnectionLost, "the connection broke"));
                return;
            }
        }
        if !shared.has_ended() {
            finish_writing(&shared).await;
        }
    }

    /// Fails operations whose deadline has passed, and probes a silent broker or gives it up. Returns the time of the
    /// next check, or `Break` if the connection was given up.
    fn look(&mut self, now: Instant) -> ControlFlow<(), Instant> {
        let shared = &self.shared;
        let mut next = self.next_ping;
        shared.heartbeat_looks();
        if !self.monitor.is_catching_up()
            && let Some(deadline) = shared.acks.expire(now)
        {
            // Deadlines that are close together are checked together.
            next = next.min(deadline.max(now + SHORTEST_WAIT));
        }
        match self.monitor.poll(now, shared.last_heard(now)) {
            Action::Wait(None) => {}
            Action::Wait(Some(until)) => next = next.min(until),
            Action::Probe(until) => {
                shared.probe(now);
                next = next.min(until);
            }
            Action::GiveUp => {
                shared.abort(End::new(ErrorKind::ConnectionLost, "the broker does not answer"));
                return ControlFlow::Break(());
            }
        }
        shared.heartbeat_sleeps(next);
        ControlFlow::Continue(next)
    }

    fn ping_if_due(&mut self, now: Instant) {
        if now < self.next_ping {
            return;
        }
        // Requests that wait to be written also show the broker that this client is alive.
        if self.shared.writer.load().frames == 0 {
            self.shared.ping();
        }
        self.next_ping = now + self.shared.client.ping_interval();
    }
}

/// Waits until everything is written and the broker has closed the connection, within the timeout.
async fn finish_writing(shared: &Shared) {
    let closed = async {
        shared.writer.drained().await;
        shared.socket.shutdown_write();
        shared.wait_ended().await;
    };
    if timeout(shared.config.timeout, closed).await.is_err() {
        log::debug!("the broker does not close the connection of {:?}: closing it", shared.config.name);
    }
    shared.writer.close();
}

impl Shared {
    /// Sends a probe, which the broker answers if it is alive.
    fn probe(&self, now: Instant) {
        let qos = QoS::RealtimeProcessed;
        let request = Request::new(Operation::Unsubscribe(Topics::Joined(PROBE_TOPIC)), qos);
        // This fails only for a topic with a NUL.
        let Ok(mut encoded) = EncodedRequest::new(&request, qos) else { return };
        let deadline = now.checked_add(self.config.timeout);
        self.writer.with(|backlog| {
            if let Ok(registered) = self.acks.register(deadline, Waiter::Probe) {
                encoded.push(registered.op_id, backlog.queue());
            }
        });
        self.writer.flush();
    }
}
