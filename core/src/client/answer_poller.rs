//! Polls the socket of a connection for a moment while an answer is awaited, so that no sleeping core must be woken.

use super::connection::Shared;
use super::inbox::End;
use crate::poll_tuner::PollTuner;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// A look at the socket that takes this long was interrupted: another program wants the core.
const INTERRUPTED: Duration = Duration::from_micros(300);
/// Polling pauses this long after an interruption.
const PAUSE: Duration = Duration::from_millis(100);
/// The most answers that are not polled for after polls in vain.
const MOST_SKIPPED: u32 = 255;

/// Decides for how long the reader of a connection polls before it sleeps.
pub(super) struct AnswerPoller {
    /// The longest limit, in nanoseconds; 0: never poll.
    most: u64,
    started: Instant,
    tuner: PollTuner,
    /// The answers of the connection at the last look.
    answers: u64,
    paused_until: Option<Instant>,
    /// Waits that are not polled for, because the answer did not come in time before, and how many of them are left.
    skipped: u32,
    skip: u32,
}

impl AnswerPoller {
    pub(super) fn new(most: Duration) -> AnswerPoller {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let most = if cores > 1 { u64::try_from(most.as_nanos()).unwrap_or(u64::MAX) } else { 0 };
        AnswerPoller {
            most,
            started: Instant::now(),
            tuner: PollTuner::default(),
            answers: 0,
            paused_until: None,
            skipped: 0,
            skip: 0,
        }
    }

    /// Reads what comes while an answer is awaited and polling for it pays. Returns when the reader should sleep.
    ///
    /// # Errors
    /// Why nothing more can be read.
    pub(super) async fn poll(&mut self, shared: &Shared) -> Result<(), End> {
        if self.most == 0 {
            return Ok(());
        }
        self.note_answers(shared);
        while shared.awaits_answer() && self.wants_to_poll() {
            // While there is always something to read, the polls below never wait.
            tokio::task::coop::consume_budget().await;
            if !self.poll_once(shared).await? {
                self.skipped = (self.skipped * 2 + 1).min(MOST_SKIPPED);
                self.skip = self.skipped;
                self.tuner.interrupt();
                return Ok(());
            }
            self.skipped = 0;
            self.note_answers(shared);
        }
        Ok(())
    }

    /// Tells the tuner of answers that have come since the last call.
    fn note_answers(&mut self, shared: &Shared) {
        let answers = shared.answers.load(Ordering::Relaxed);
        let new = u32::try_from(answers - self.answers).unwrap_or(u32::MAX);
        self.answers = answers;
        if new > 0 {
            let now = u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX);
            self.tuner.exchanged(now.max(1), new);
        }
    }

    fn wants_to_poll(&mut self) -> bool {
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        if self.paused_until.is_some_and(|until| Instant::now() < until) {
            return false;
        }
        self.paused_until = None;
        self.tuner.limit(self.most) > 0
    }

    /// Polls until something has been read, up to the limit. Other tasks of the runtime and other programs run between
    /// two looks. Returns whether something was read.
    async fn poll_once(&mut self, shared: &Shared) -> Result<bool, End> {
        let limit = Duration::from_nanos(self.tuner.limit(self.most));
        let began = Instant::now();
        let mut last = began;
        loop {
            if shared.read_from_kernel()? {
                return Ok(true);
            }
            std::thread::yield_now();
            tokio::task::yield_now().await;
            let now = Instant::now();
            if now - last > INTERRUPTED {
                self.paused_until = Some(now + PAUSE);
                return Ok(false);
            }
            if now - began >= limit {
                return Ok(false);
            }
            last = now;
        }
    }
}
