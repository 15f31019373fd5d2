//! Decides whether a silent broker is alive. It reads no clock: the time is a parameter.

use std::time::Duration;
use tokio::time::Instant;

/// A timer that fires this much too late shows that the process was suspended.
const SUSPENDED_AFTER: Duration = Duration::from_millis(500);
/// The time that the reader gets after a suspension to read the data that arrived during it.
const CATCH_UP_TIME: Duration = Duration::from_millis(100);
/// Minimum time that a broker has to answer a probe. A program that sets a shorter timeout wants its operations to
/// fail sooner, not the connection.
const MIN_PROBE_TIMEOUT: Duration = Duration::from_millis(100);

/// Measures the time since the broker was last heard.
#[derive(Debug)]
pub(super) struct LivenessMonitor {
    /// The silence after which the broker is probed; `None`: it is never probed.
    silence: Option<Duration>,
    probe_timeout: Duration,
    /// The time of the last probe, until something is received.
    probed: Option<Instant>,
    /// True after the process was suspended, until the reader has had the time to catch up.
    is_catching_up: bool,
}

/// The next step for a connection.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Do nothing until that time; `None`: for ever.
    Wait(Option<Instant>),
    /// Send a probe to the broker now, and wait until that time.
    Probe(Instant),
    /// End the connection, because the broker has not answered.
    GiveUp,
}

impl LivenessMonitor {
    /// Creates a monitor that probes after `silence`, and gives up a broker that does not answer within `timeout`.
    pub(super) fn new(silence: Option<Duration>, timeout: Duration) -> LivenessMonitor {
        let probe_timeout = timeout.max(MIN_PROBE_TIMEOUT);
        LivenessMonitor { silence, probe_timeout, probed: None, is_catching_up: false }
    }

    /// Returns the next step at `now`, if the last byte arrived at `heard`.
    pub(super) fn poll(&mut self, now: Instant, heard: Instant) -> Action {
        if self.is_catching_up {
            return Action::Wait(Some(now + CATCH_UP_TIME));
        }
        let Some(silence) = self.silence else { return Action::Wait(None) };
        // Any byte after the probe is an answer.
        self.probed = self.probed.filter(|at| heard <= *at);
        match self.probed {
            None if now < heard + silence => Action::Wait(Some(heard + silence)),
            None => {
                self.probed = Some(now);
                Action::Probe(now + self.probe_timeout)
            }
            Some(at) if now < at + self.probe_timeout => Action::Wait(Some(at + self.probe_timeout)),
            Some(_) => Action::GiveUp,
        }
    }

    /// Notes that a timer set for `planned` has fired at `now`. If that shows that the process was suspended, the
    /// reader gets time to catch up, and the broker gets the whole time for its answer again.
    pub(super) fn timer_fired(&mut self, now: Instant, planned: Instant) {
        self.is_catching_up = !self.is_catching_up && now > planned + SUSPENDED_AFTER;
        if self.is_catching_up {
            self.probed = self.probed.map(|_| now);
        }
    }

    /// Notes that the task was woken before its timer fired.
    pub(super) fn woken_early(&mut self) {
        self.is_catching_up = false;
    }

    /// Returns true if the process was suspended and the reader has not had the time to catch up. Deadlines are not
    /// checked before that.
    pub(super) fn is_catching_up(&self) -> bool {
        self.is_catching_up
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn monitor() -> LivenessMonitor {
        LivenessMonitor::new(Some(5 * SECOND), 2 * SECOND)
    }

    #[test]
    fn silence_then_a_probe_then_the_end() {
        let start = Instant::now();
        let mut monitor = monitor();
        assert_eq!(monitor.poll(start + 4 * SECOND, start), Action::Wait(Some(start + 5 * SECOND)));
        assert_eq!(monitor.poll(start + 5 * SECOND, start), Action::Probe(start + 7 * SECOND));
        assert_eq!(monitor.poll(start + 6 * SECOND, start), Action::Wait(Some(start + 7 * SECOND)));
        assert_eq!(monitor.poll(start + 7 * SECOND, start), Action::GiveUp);
    }

    #[test]
    fn any_byte_is_an_answer() {
        let start = Instant::now();
        let mut monitor = monitor();
        assert_eq!(monitor.poll(start + 5 * SECOND, start), Action::Probe(start + 7 * SECOND));
        let heard = start + 6 * SECOND;
        assert_eq!(monitor.poll(start + 8 * SECOND, heard), Action::Wait(Some(heard + 5 * SECOND)));
        assert_eq!(monitor.poll(start + 11 * SECOND, heard), Action::Probe(start + 13 * SECOND));
    }

    #[test]
    fn after_a_suspension_the_broker_has_its_time_again() {
        let start = Instant::now();
        let mut monitor = monitor();
        assert_eq!(monitor.poll(start + 5 * SECOND, start), Action::Probe(start + 7 * SECOND));
        let resumed = start + 3600 * SECOND;
        monitor.timer_fired(resumed, start + 7 * SECOND);
        assert!(monitor.is_catching_up());
        let caught_up = resumed + CATCH_UP_TIME;
        assert_eq!(monitor.poll(resumed, start), Action::Wait(Some(caught_up)));
        monitor.timer_fired(caught_up, caught_up);
        assert!(!monitor.is_catching_up());
        assert_eq!(monitor.poll(caught_up, start), Action::Wait(Some(resumed + 2 * SECOND)));
        assert_eq!(monitor.poll(resumed + 2 * SECOND, start), Action::GiveUp);
    }

    #[test]
    fn the_time_to_catch_up_is_granted_once() {
        let start = Instant::now();
        let mut monitor = monitor();
        monitor.timer_fired(start + 10 * SECOND, start);
        assert!(monitor.is_catching_up());
        // Even if the timer is late again, the deadlines are checked now.
        monitor.timer_fired(start + 20 * SECOND, start + 10 * SECOND);
        assert!(!monitor.is_catching_up());
    }

    #[test]
    fn a_timer_that_is_a_little_late_shows_no_suspension() {
        let start = Instant::now();
        let mut monitor = monitor();
        monitor.timer_fired(start + SUSPENDED_AFTER, start);
        assert!(!monitor.is_catching_up());
        monitor.timer_fired(start + SUSPENDED_AFTER + Duration::from_nanos(1), start);
        assert!(monitor.is_catching_up());
        monitor.woken_early();
        assert!(!monitor.is_catching_up());
    }

    #[test]
    fn a_broker_has_time_to_answer_however_short_the_timeout() {
        let start = Instant::now();
        let mut monitor = LivenessMonitor::new(Some(SECOND), Duration::from_millis(1));
        let limit = start + SECOND + MIN_PROBE_TIMEOUT;
        assert_eq!(monitor.poll(start + SECOND, start), Action::Probe(limit));
        assert_eq!(monitor.poll(start + SECOND + Duration::from_millis(2), start), Action::Wait(Some(limit)));
        assert_eq!(monitor.poll(limit, start), Action::GiveUp);
    }

    #[test]
    fn it_can_be_switched_off() {
        let start = Instant::now();
        let mut monitor = LivenessMonitor::new(None, SECOND);
        assert_eq!(monitor.poll(start + 3600 * SECOND, start), Action::Wait(None));
    }
}
