//! Determines the size of the batches that a consumer of frames takes, and when it yields to other tasks. Both are
//! bounded by time, since a program may need anything from nanoseconds to seconds for a frame.

use super::inbox::BATCH_FRAMES;
use std::time::{Duration, Instant};

/// A batch that took the program longer than this is followed by a smaller one. Frames that the program holds do not
/// count against the inbox; with small batches its room grows in small steps.
const LONG_BATCH: Duration = Duration::from_millis(5);
/// A batch that took less than this is followed by a larger one.
const SHORT_BATCH: Duration = Duration::from_millis(1);
const FIRST_BATCH: usize = 16;
/// A task that has not waited for this long yields.
const SLICE: Duration = Duration::from_millis(1);
/// Maximum number of frames between two readings of the clock.
const MOST_UNTIMED: u32 = 16;

/// The pace of one taker.
#[derive(Debug)]
pub(crate) struct Tempo {
    batch: usize,
    batch_began: Option<Instant>,
    /// The time at which the task last waited or yielded, as far as it is known.
    slice_began: Option<Instant>,
    /// Number of frames that may be taken before the clock is read.
    untimed: u32,
    most_untimed: u32,
}

impl Default for Tempo {
    fn default() -> Tempo {
        Tempo { batch: FIRST_BATCH, batch_began: None, slice_began: None, untimed: 0, most_untimed: 1 }
    }
}

impl Tempo {
    /// Returns the number of frames of the next batch. The caller then calls [`took_batch`](Tempo::took_batch) or
    /// [`found_none`](Tempo::found_none).
    pub(crate) fn next_batch(&mut self) -> usize {
        if let Some(began) = self.batch_began {
            let now = Instant::now();
            self.adapt(now.duration_since(began));
            self.batch_began = Some(now);
        }
        self.batch
    }

    /// Notes that a batch was taken.
    pub(crate) fn took_batch(&mut self) {
        self.batch_began.get_or_insert_with(Instant::now);
    }

    /// Notes that no frame was there. The time until there is one does not count for the program.
    pub(crate) fn found_none(&mut self) {
        self.batch_began = None;
    }

    fn adapt(&mut self, took: Duration) {
        if took > LONG_BATCH {
            self.batch = (self.batch / 4).max(1);
            // The clock may have gone unread for the whole batch.
            self.most_untimed = 1;
        } else if took < SHORT_BATCH {
            self.batch = (self.batch * 2).min(BATCH_FRAMES);
        }
    }

    /// Notes that the task has waited, so that other tasks have run, and has taken at most one batch since.
    pub(crate) fn has_waited(&mut self) {
        self.slice_began = self.batch_began;
        self.untimed = self.most_untimed - 1;
    }

    fn has_yielded(&mut self, now: Instant) {
        self.slice_began = Some(now);
        self.untimed = 0;
    }

    /// Yields if the task has run for its slice. It must be called before each frame is taken.
    #[inline]
    pub(crate) async fn yield_if_due(&mut self) {
        if self.untimed > 0 {
            self.untimed -= 1;
        } else if self.is_due(Instant::now()) {
            tokio::task::yield_now().await;
            self.has_yielded(Instant::now());
        }
    }

    fn is_due(&mut self, now: Instant) -> bool {
        let Some(began) = self.slice_began else {
            self.slice_began = Some(now);
            self.untimed = self.most_untimed - 1;
            return false;
        };
        let ran = now.duration_since(began);
        if ran >= SLICE {
            self.most_untimed = (self.most_untimed / 4).max(1);
            return true;
        }
        if ran < SLICE / 4 {
            self.most_untimed = (self.most_untimed * 2).min(MOST_UNTIMED);
        }
        self.untimed = self.most_untimed - 1;
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_follow_the_time_they_take() {
        let mut tempo = Tempo::default();
        (0..10).for_each(|_| tempo.adapt(Duration::ZERO));
        assert_eq!(tempo.batch, BATCH_FRAMES);
        tempo.adapt(Duration::from_millis(3));
        assert_eq!(tempo.batch, BATCH_FRAMES);
        let sizes: Vec<_> = (0..5)
            .map(|_| {
                tempo.adapt(Duration::from_secs(1));
                tempo.batch
            })
            .collect();
        assert_eq!(sizes, [32, 8, 2, 1, 1]);
    }

    #[test]
    fn slow_batches_between_waits_are_timed_too() {
        let mut tempo = Tempo { most_untimed: MOST_UNTIMED, ..Tempo::default() };
        tempo.has_waited();
        assert_eq!(tempo.untimed, MOST_UNTIMED - 1);
        // The task waits before the clock is read for the first time.
        tempo.adapt(Duration::from_millis(150));
        tempo.has_waited();
        assert_eq!(tempo.untimed, 0);
    }

    #[test]
    fn slow_frames_are_timed_one_by_one() {
        let mut tempo = Tempo::default();
        let mut now = Instant::now();
        let mut frames = |tempo: &mut Tempo, each: Duration, count: u32| {
            let mut longest = 0;
            let mut since = 0;
            for _ in 0..count {
                since += 1;
                let due = match tempo.untimed {
                    0 => tempo.is_due(now),
                    _ => {
                        tempo.untimed -= 1;
                        false
                    }
                };
                if due {
                    tempo.has_yielded(now);
                    longest = longest.max(since);
                    since = 0;
                }
                now += each;
            }
            longest
        };
        assert!(frames(&mut tempo, Duration::from_micros(1), 10_000) <= 1100);
        // The first slow frames are taken before the clock is read again.
        assert!(frames(&mut tempo, Duration::from_millis(10), 100) <= MOST_UNTIMED + 1);
        assert!(frames(&mut tempo, Duration::from_millis(10), 100) <= 1);
    }
}
