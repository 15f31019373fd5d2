//! Notes which clients answer promptly when they receive something, and for how long it pays to poll for their
//! answers.

use crate::poll_tuner::PollTuner;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// The state that the busy poller keeps for one client. Times are nanoseconds since the poller began.
#[derive(Debug, Default)]
pub(super) struct ReplyTracker {
    /// The time at which the client was last given something; 0 after a stream, or after it has answered.
    given: AtomicU64,
    prompt: AtomicBool,
    /// Time to poll for its next answer, in nanoseconds.
    limit: AtomicU64,
    /// Only the task that reads from the client locks it.
    tuner: Mutex<PollTuner>,
}

pub(super) fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl ReplyTracker {
    /// Notes that the client is given something. If it has not answered what it was given before, it is no longer
    /// prompt.
    pub(super) fn given(&self, now: u64, bound: Duration) {
        let before = self.given.load(Relaxed);
        self.given.store(now, Relaxed);
        if before != 0 && now.saturating_sub(before) >= nanoseconds(bound) {
            self.prompt.store(false, Relaxed);
        }
    }

    /// Returns whether the client is likely to answer soon.
    pub(super) fn is_prompt(&self) -> bool {
        self.prompt.load(Relaxed)
    }

    /// Returns the time to poll for the client's next answer, in nanoseconds; 0 if polling does not pay.
    pub(super) fn limit(&self) -> u64 {
        if self.is_prompt() { self.limit.load(Relaxed) } else { 0 }
    }

    /// Notes that the client has sent something. An answer within `bound` is prompt.
    pub(super) fn spoke(&self, now: u64, bound: Duration) {
        let given = self.given.load(Relaxed);
        self.given.store(0, Relaxed);
        let prompt = given != 0 && now.saturating_sub(given) < nanoseconds(bound);
        self.prompt.store(prompt, Relaxed);
        if prompt {
            let mut tuner = self.tuner.lock();
            tuner.exchanged(now, 1);
            self.limit.store(tuner.limit(nanoseconds(bound)), Relaxed);
        }
    }

    /// Notes that the client sends or receives more than one frame at a time.
    pub(super) fn forget(&self) {
        self.given.store(0, Relaxed);
        if self.prompt.swap(false, Relaxed) {
            self.tuner.lock().interrupt();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUND: Duration = Duration::from_nanos(50);

    #[test]
    fn a_client_that_answers_soon_is_prompt() {
        let replies = ReplyTracker::default();
        let prompt_after = |given: Option<u64>, spoke: u64| {
            given.inspect(|at| replies.given(*at, BOUND));
            replies.spoke(spoke, BOUND);
            replies.is_prompt()
        };
        assert!(!prompt_after(None, 10));
        assert!(prompt_after(Some(20), 60));
        // Too late this time.
        assert!(!prompt_after(Some(70), 120));
        assert!(prompt_after(Some(130), 131));
        // Frames that it sends after that are no answers.
        assert!(!prompt_after(None, 132));
        assert!(prompt_after(Some(140), 141));
        // It receives one frame after another, and sends nothing.
        for now in [150, 160, 200, 250] {
            replies.given(now, BOUND);
            assert_eq!(replies.is_prompt(), now < 250);
        }
        assert!(prompt_after(Some(260), 270));
        replies.forget();
        assert!(!replies.is_prompt());
    }
}
