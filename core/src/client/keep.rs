//! The task that keeps time for a connection: pings, deadlines, silence, and the end.

use super::acks::Waiter;
use super::alive::Alive;
use super::connection::{Phase, Shared};
use super::deadline::SHORTEST_WAIT;
use super::encode::EncodedRequest;
use super::inbox::End;
use super::request::Request;
use crate::error::ErrorKind;
use crate::proto::op::QoS;
use crate::proto::request::{Operation, Topics};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::{Instant, sleep_until, timeout};

/// A topic without subscribers: unsubscribing from it changes nothing and is acknowledged.
const PROBE_TOPIC: &str = ".busrt/alive";
/// A task that wakes up so much too late belongs to a process that was suspended.
const OVERSLEPT: Duration = Duration::from_millis(500);
/// The time that the reader has then to read what came while the process was suspended.
const EXCUSE: Duration = Duration::from_millis(100);
/// The least time that a broker has to answer a probe. A program that wants its operations to fail sooner
/// than that does not mean the connection.
const MIN_PROBE_TIMEOUT: Duration = Duration::from_millis(100);

/// The liveness of a broker that sends nothing.
struct Watch {
    silence: Option<Duration>,
    limit: Duration,
    probed: Option<Instant>,
}

/// What to do about a silent broker.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// Nothing, before that time.
    Wait(Option<Instant>),
    Probe,
    Dead,
}

impl Watch {
    fn new(silence: Option<Duration>, timeout: Duration) -> Watch {
        Watch { silence, limit: timeout.max(MIN_PROBE_TIMEOUT), probed: None }
    }

    fn look(&mut self, now: Instant, heard: Instant) -> Verdict {
        let Some(silence) = self.silence else { return Verdict::Wait(None) };
        // Anything that came since is an answer.
        self.probed = self.probed.filter(|at| heard <= *at);
        match self.probed {
            None if now < heard + silence => Verdict::Wait(Some(heard + silence)),
            None => {
                self.probed = Some(now);
                Verdict::Probe
            }
            Some(at) if now < at + self.limit => Verdict::Wait(Some(at + self.limit)),
            Some(_) => Verdict::Dead,
        }
    }

    /// The process did not read for a while: the broker has the whole time again.
    fn excuse(&mut self, now: Instant) {
        self.probed = self.probed.map(|_| now);
    }
}

/// `alive` is held until everything is written.
pub(super) async fn keep(shared: Arc<Shared>, mut alive: Alive) {
    let limit = shared.config.timeout;
    let mut phase = shared.phase.subscribe();
    let mut next_ping = Instant::now() + shared.client.ping_interval();
    let mut watch = Watch::new(shared.config.silence, limit);
    let mut excused = false;
    loop {
        let now = Instant::now();
        let mut next = next_ping;
        shared.heartbeat_looks();
        if excused {
            next = next.min(now + EXCUSE);
        } else {
            if let Some(deadline) = shared.acks.expire(now) {
                // Deadlines that are close together are looked at together.
                next = next.min(deadline.max(now + SHORTEST_WAIT));
            }
            match watch.look(now, shared.heard(now)) {
                Verdict::Wait(Some(at)) => next = next.min(at),
                Verdict::Wait(None) => {}
                Verdict::Probe => {
                    shared.probe(now);
                    next = next.min(now + watch.limit);
                }
                Verdict::Dead => {
                    shared.cut(End::new(ErrorKind::ConnectionLost, "the broker does not answer"));
                    return;
                }
            }
        }
        shared.heartbeat_sleeps(next);
        let mut is_earlier = false;
        tokio::select! {
            () = sleep_until(next) => {}
            () = shared.alarm.notified() => is_earlier = true,
            // An error: the sender is gone, which it cannot be while it is shared.
            _ = phase.wait_for(|phase| *phase != Phase::Open) => break,
            () = alive.closing() => {
                shared.begin_close("the runtime was shut down");
                break;
            }
        }
        let now = Instant::now();
        excused = !excused && !is_earlier && now > next + OVERSLEPT;
        if excused {
            watch.excuse(now);
        }
        if now >= next_ping {
            // What waits to be written tells as much.
            if shared.writer.load().frames == 0 {
                shared.ping();
            }
            next_ping = now + shared.client.ping_interval();
        }
        // The reader sees the end by itself, unless it waits for the program.
        if shared.writer.is_closed() && shared.is_parked() {
            shared.cut(End::new(ErrorKind::ConnectionLost, "the connection broke"));
            return;
        }
    }
    if shared.has_ended() {
        return;
    }
    let goodbye = async {
        shared.writer.drained().await;
        shared.socket.shutdown_write();
        shared.wait_ended().await;
    };
    if timeout(limit, goodbye).await.is_err() {
        log::debug!("the broker does not end the connection of {:?}: closing it", shared.config.name);
    }
    shared.writer.close();
}

impl Shared {
    /// When the broker was last heard. While the reader waits for the program, that is now.
    fn heard(&self, now: Instant) -> Instant {
        if self.is_parked() {
            now
        } else {
            self.born + Duration::from_nanos(self.heard.load(Ordering::Relaxed))
        }
    }

    /// Asks the broker for any answer at all.
    fn probe(&self, now: Instant) {
        let qos = QoS::RealtimeProcessed;
        let request = Request::new(Operation::Unsubscribe(Topics::Joined(PROBE_TOPIC)), qos);
        // An error: the topic has a NUL, which it has not.
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

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn watch() -> Watch {
        Watch::new(Some(5 * SECOND), 2 * SECOND)
    }

    #[test]
    fn silence_then_a_probe_then_the_end() {
        let start = Instant::now();
        let mut watch = watch();
        assert_eq!(watch.look(start + 4 * SECOND, start), Verdict::Wait(Some(start + 5 * SECOND)));
        assert_eq!(watch.look(start + 5 * SECOND, start), Verdict::Probe);
        assert_eq!(watch.look(start + 6 * SECOND, start), Verdict::Wait(Some(start + 7 * SECOND)));
        assert_eq!(watch.look(start + 7 * SECOND, start), Verdict::Dead);
    }

    #[test]
    fn any_byte_is_an_answer() {
        let start = Instant::now();
        let mut watch = watch();
        assert_eq!(watch.look(start + 5 * SECOND, start), Verdict::Probe);
        let heard = start + 6 * SECOND;
        assert_eq!(watch.look(start + 8 * SECOND, heard), Verdict::Wait(Some(heard + 5 * SECOND)));
        assert_eq!(watch.look(start + 11 * SECOND, heard), Verdict::Probe);
    }

    #[test]
    fn a_process_that_was_suspended_gives_the_broker_its_time() {
        let start = Instant::now();
        let mut watch = watch();
        assert_eq!(watch.look(start + 5 * SECOND, start), Verdict::Probe);
        watch.excuse(start + 3600 * SECOND);
        assert_eq!(watch.look(start + 3601 * SECOND, start), Verdict::Wait(Some(start + 3602 * SECOND)));
        assert_eq!(watch.look(start + 3602 * SECOND, start), Verdict::Dead);
    }

    #[test]
    fn a_broker_has_time_to_answer_however_short_the_timeout() {
        let start = Instant::now();
        let mut watch = Watch::new(Some(SECOND), Duration::from_millis(1));
        assert_eq!(watch.look(start + SECOND, start), Verdict::Probe);
        let limit = start + SECOND + MIN_PROBE_TIMEOUT;
        assert_eq!(watch.look(start + SECOND + Duration::from_millis(2), start), Verdict::Wait(Some(limit)));
        assert_eq!(watch.look(limit, start), Verdict::Dead);
    }

    #[test]
    fn it_can_be_switched_off() {
        let start = Instant::now();
        let mut watch = Watch { silence: None, ..watch() };
        assert_eq!(watch.look(start + 3600 * SECOND, start), Verdict::Wait(None));
    }
}
