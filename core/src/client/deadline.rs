//! Intervals of any length. A program may ask for `Duration::MAX`; a point in time that far away does not exist.

use std::time::Duration;

/// Longer than any program waits, and still a time from now that can be told.
pub(crate) const LONGEST_WAIT: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Timers are no finer than this. A task that repeats something after no time at all would never rest.
pub(crate) const SHORTEST_WAIT: Duration = Duration::from_millis(1);

/// The wait nearest to `wait` that can be repeated.
pub(crate) fn interval(wait: Duration) -> Duration {
    wait.clamp(SHORTEST_WAIT, LONGEST_WAIT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_duration_is_taken() {
        assert_eq!(interval(Duration::MAX), LONGEST_WAIT);
        assert_eq!(interval(Duration::ZERO), SHORTEST_WAIT);
    }
}
