//! Decides how long to poll for the next answer. It learns from the answers so far, see `poll_tuner.rs`.

use crate::poll_tuner::PollTuner;
use std::time::{Duration, Instant};

/// A pause of this length between two checks of the socket counts as an interruption: another program wants the core.
const INTERRUPTION: Duration = Duration::from_micros(300);
/// Polling pauses for this many times the duration of an interruption, and twice as long after each further
/// interruption.
const PAUSE: u32 = 50;
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// After this many answers that were polled for without an interruption, the next pause is short again.
const UNDISTURBED: u32 = 256;
const MOST_DOUBLINGS: u32 = 8;
/// Maximum number of answers that are not polled for after unsuccessful polls.
const MOST_SKIPPED: u32 = 255;

/// The conditions that end a poll.
#[derive(Debug, Clone, Copy)]
pub(super) struct PollBounds {
    /// Maximum duration of the poll.
    pub(super) limit: Duration,
    /// A pause between two checks of the socket that is longer than this ends the poll: see
    /// [`PollPolicy::interrupted`].
    pub(super) interruption: Duration,
}

/// The results of one client's polls so far.
#[derive(Debug)]
pub(super) struct PollPolicy {
    /// Maximum limit, in nanoseconds; 0: never poll.
    most: u64,
    started: Instant,
    tuner: PollTuner,
    paused_until: Option<Instant>,
    /// The number of times the pause was doubled.
    doublings: u32,
    /// Answers that were polled for since the last interruption.
    undisturbed: u32,
    /// Number of waits that are not polled for after an unsuccessful poll, and how many of them are left.
    skipped: u32,
    skip: u32,
    /// Replaces all learned values.
    #[cfg(test)]
    fixed: Option<PollBounds>,
}

impl PollPolicy {
    /// Creates a policy that polls at most for `most`, and not at all on a machine with a single core or where
    /// sockets cannot be polled.
    pub(super) fn new(most: Duration) -> PollPolicy {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let can_poll = cores > 1 && cfg!(all(unix, not(busrt_portable)));
        let most = if can_poll { u64::try_from(most.as_nanos()).unwrap_or(u64::MAX) } else { 0 };
        PollPolicy {
            most,
            started: Instant::now(),
            tuner: PollTuner::default(),
            paused_until: None,
            doublings: 0,
            undisturbed: 0,
            skipped: 0,
            skip: 0,
            #[cfg(test)]
            fixed: None,
        }
    }

    /// Returns true if it never polls.
    pub(super) fn is_off(&self) -> bool {
        self.most == 0
    }

    /// Returns the bounds for the next wait; `None`: do not poll.
    pub(super) fn begin(&mut self) -> Option<PollBounds> {
        #[cfg(test)]
        if self.fixed.is_some() {
            return self.fixed;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return None;
        }
        if self.paused_until.is_some_and(|until| Instant::now() < until) {
            return None;
        }
        self.paused_until = None;
        match self.tuner.limit(self.most) {
            0 => None,
            limit => Some(PollBounds { limit: Duration::from_nanos(limit), interruption: INTERRUPTION }),
        }
    }

    /// Notes that this many answers have arrived, polled for or not.
    pub(super) fn answered(&mut self, count: u32) {
        if count > 0 {
            let now = u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX);
            self.tuner.exchanged(now.max(1), count);
        }
    }

    /// Notes that a poll has ended with an answer.
    pub(super) fn succeeded(&mut self) {
        self.skipped = 0;
        self.undisturbed = self.undisturbed.saturating_add(1);
    }

    /// Notes that a poll has ended without an answer.
    pub(super) fn failed(&mut self) {
        self.skipped = (self.skipped * 2 + 1).min(MOST_SKIPPED);
        self.skip = self.skipped;
        self.tuner.interrupt();
    }

    /// Notes that another program interrupted a poll for this long: polling pauses.
    pub(super) fn interrupted(&mut self, took: Duration) {
        if self.undisturbed >= UNDISTURBED {
            self.doublings = 0;
        }
        let pause = took.saturating_mul(PAUSE).saturating_mul(1 << self.doublings).min(LONGEST_PAUSE);
        self.paused_until = Some(Instant::now() + pause);
        self.doublings = (self.doublings + 1).min(MOST_DOUBLINGS);
        self.undisturbed = 0;
        self.tuner.interrupt();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl PollPolicy {
        /// Creates a policy that polls this long in every wait, even if other programs want the cores.
        pub(in super::super) fn fixed(limit: Duration) -> PollPolicy {
            let fixed = Some(PollBounds { limit, interruption: Duration::MAX });
            PollPolicy { fixed, ..policy() }
        }
    }

    fn policy() -> PollPolicy {
        PollPolicy { most: 500_000, ..PollPolicy::new(Duration::ZERO) }
    }

    #[test]
    fn unsuccessful_polls_become_rare() {
        let mut policy = policy();
        let polls = (0..10_000).filter(|_| policy.begin().map(|_| policy.failed()).is_some()).count();
        assert!(polls < 60, "{polls}");
        while policy.begin().is_none() {}
        policy.succeeded();
        assert!(policy.begin().is_some());
    }

    #[test]
    fn an_interruption_pauses_it() {
        let mut policy = policy();
        assert!(policy.begin().is_some());
        policy.interrupted(Duration::from_millis(3));
        assert!(policy.begin().is_none());
        let pause = policy.paused_until.unwrap() - Instant::now();
        assert!(pause <= Duration::from_millis(150) && pause > Duration::from_millis(50), "{pause:?}");
        policy.paused_until = Some(Instant::now());
        assert!(policy.begin().is_some());
        policy.interrupted(Duration::from_secs(3600));
        assert!(policy.paused_until.unwrap() <= Instant::now() + LONGEST_PAUSE);
    }
}
