//! Polls the socket of a connection for a short time while an answer is awaited, so that no sleeping core must be
//! woken. The reader's task does this; plain threads that wait poll by themselves, see `reading_lease.rs`.

use super::inbox::End;
use super::poll_policy::{PollBounds, PollPolicy};
use super::shared::Shared;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Decides how long the reader of a connection polls before it sleeps.
pub(super) struct AnswerPoller {
    policy: PollPolicy,
    /// Number of answers of the connection at the last check.
    answers: u64,
}

impl AnswerPoller {
    pub(super) fn new(most: Duration) -> AnswerPoller {
        AnswerPoller { policy: PollPolicy::new(most), answers: 0 }
    }

    /// Reads while an answer is awaited and polling for it pays. Returns when the reader should sleep.
    ///
    /// # Errors
    ///
    /// The reason why nothing more can be read.
    pub(super) async fn poll(&mut self, shared: &Shared) -> Result<(), End> {
        if self.policy.is_off() {
            return Ok(());
        }
        self.note_answers(shared);
        while shared.awaits_answer()
            && let Some(bounds) = self.policy.begin()
        {
            // While there is always something to read, the polls below never wait, so that this task must yield here.
            tokio::task::coop::consume_budget().await;
            if !self.poll_once(shared, bounds).await? {
                return Ok(());
            }
            self.policy.succeeded();
            self.note_answers(shared);
        }
        Ok(())
    }

    /// Reports the answers since the last call to the policy.
    fn note_answers(&mut self, shared: &Shared) {
        let answers = shared.answers.load(Ordering::Relaxed);
        self.policy.answered(u32::try_from(answers - self.answers).unwrap_or(u32::MAX));
        self.answers = answers;
    }

    /// Polls until something has been read, up to the limit. Other tasks of the runtime and other programs can run
    /// between two checks. Returns whether something was read.
    async fn poll_once(&mut self, shared: &Shared, bounds: PollBounds) -> Result<bool, End> {
        let began = Instant::now();
        let mut last = began;
        loop {
            if shared.read_from_kernel()? {
                return Ok(true);
            }
            std::thread::yield_now();
            tokio::task::yield_now().await;
            let now = Instant::now();
            if now - last > bounds.interruption {
                self.policy.interrupted(now - last);
                return Ok(false);
            }
            if now - began >= bounds.limit {
                self.policy.failed();
                return Ok(false);
            }
            last = now;
        }
    }
}
