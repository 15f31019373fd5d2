//! A limit for log lines that any peer can cause: a few lines are logged in each window of time, the others are
//! counted, and the count is logged once.

use parking_lot::Mutex;
use std::time::{Duration, Instant};

/// Log lines of one kind that are written in each window.
const LINES_PER_WINDOW: u32 = 5;
const WINDOW: Duration = Duration::from_secs(10);

/// Decides for one kind of log line whether the next one is logged. It does not log itself, so that the caller can
/// log outside of all locks.
#[derive(Debug, Default)]
pub(crate) struct LogLimit(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    window_end: Option<Instant>,
    admitted: u32,
    suppressed: u64,
}

impl LogLimit {
    /// Returns whether a line may be logged now, and the number of lines that were suppressed in an earlier window.
    /// If that number is not 0, the caller must log it first.
    pub(crate) fn admit(&self, now: Instant) -> (bool, u64) {
        let mut state = self.0.lock();
        let suppressed = state.end_window(now);
        state.window_end.get_or_insert_with(|| now + WINDOW);
        if state.admitted < LINES_PER_WINDOW {
            state.admitted += 1;
            return (true, suppressed);
        }
        state.suppressed += 1;
        (false, suppressed)
    }

    /// Returns the number of lines that were suppressed in a window that has ended by `now`; 0 if there are none to
    /// report. A caller with a timer should call this regularly, so that the count is logged even if no further line
    /// comes.
    #[cfg(all(feature = "broker", unix))]
    pub(crate) fn take_ended(&self, now: Instant) -> u64 {
        self.0.lock().end_window(now)
    }

    /// Returns the number of suppressed lines that were not reported yet, for the end of the owner.
    #[cfg(all(feature = "broker", unix))]
    pub(crate) fn take_all(&self) -> u64 {
        std::mem::take(&mut *self.0.lock()).suppressed
    }
}

impl State {
    fn end_window(&mut self, now: Instant) -> u64 {
        match self.window_end {
            Some(end) if now >= end => std::mem::take(self).suppressed,
            _ => 0,
        }
    }
}

#[cfg(all(test, feature = "broker", unix))]
mod tests {
    use super::*;

    #[test]
    fn the_first_lines_are_admitted_and_the_rest_is_counted_once() {
        let limit = LogLimit::default();
        let start = Instant::now();
        let admitted = (0..20_000).filter(|_| limit.admit(start).0).count();
        assert_eq!(admitted, 5);
        assert_eq!(limit.take_ended(start + WINDOW / 2), 0);
        assert_eq!(limit.take_ended(start + WINDOW), 19_995);
        assert_eq!(limit.take_ended(start + WINDOW * 2), 0);
    }

    #[test]
    fn a_line_in_the_next_window_is_admitted_with_the_count() {
        let limit = LogLimit::default();
        let start = Instant::now();
        for _ in 0..8 {
            limit.admit(start);
        }
        assert_eq!(limit.admit(start + WINDOW), (true, 3));
        assert_eq!(limit.admit(start + WINDOW), (true, 0));
        assert_eq!(limit.take_all(), 0);
    }

    #[test]
    fn the_end_reports_the_remaining_count() {
        let limit = LogLimit::default();
        let start = Instant::now();
        for _ in 0..7 {
            limit.admit(start);
        }
        assert_eq!(limit.take_all(), 2);
        assert_eq!(limit.take_all(), 0);
    }
}
