//! Durations of any length. A program may pass `Duration::MAX`, but a point in time that far away cannot be
//! represented.

use std::time::Duration;

/// Longer than any program waits, and yet a duration that can be added to the present time.
pub(crate) const LONGEST_WAIT: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Timers are no finer than this. A task with a shorter interval would never rest.
pub(crate) const SHORTEST_WAIT: Duration = Duration::from_millis(1);

/// Returns the duration nearest to `wait` that can be used as an interval.
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
