//! The policies of a client: reconnection, operations without a connection, a full inbox.

use super::deadline::interval;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

/// The way in which a client reconnects: after increasing delays with jitter, without a limit or with a maximum
/// number of attempts.
///
/// ```
/// use busrt::client::{Config, Reconnect};
/// use std::time::Duration;
///
/// let config = Config::new("/tmp/busrt.sock", "plant.logger")
///     .reconnect(Reconnect::new().delays(Duration::from_millis(50), Duration::from_secs(5)));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reconnect {
    pub(super) min: Duration,
    pub(super) max: Duration,
    pub(super) tries: Option<u32>,
    pub(super) retries_first: bool,
}

impl Default for Reconnect {
    fn default() -> Reconnect {
        Reconnect {
            min: Duration::from_millis(100),
            max: Duration::from_secs(10),
            tries: None,
            retries_first: false,
        }
    }
}

impl Reconnect {
    /// Creates a policy without a limit of attempts, with delays from 100 ms to 10 s.
    pub fn new() -> Reconnect {
        Reconnect::default()
    }

    /// Sets the delay before the first attempt and the maximum delay, each at least 1 ms and at most ten years. Each
    /// delay is twice the one before. The client waits between half of it and the whole of it, so that the clients of
    /// a broker do not all connect at the same time.
    pub fn delays(mut self, min: Duration, max: Duration) -> Reconnect {
        self.min = interval(min);
        self.max = interval(max).max(self.min);
        self
    }

    /// Sets the number of attempts in a row, at least one, after which the client ends for good.
    pub fn tries(mut self, tries: u32) -> Reconnect {
        self.tries = Some(tries.max(1));
        self
    }

    /// Tries until the program ends the client. This is the default.
    pub fn forever(mut self) -> Reconnect {
        self.tries = None;
        self
    }

    /// Retries the first connection too: [`Client::connect`](super::Client::connect) then returns when the client is
    /// connected, or with the error of the last of [`tries`](Reconnect::tries) attempts. It is not retried after an
    /// error that another attempt cannot change: an invalid address or name, a peer that is not a broker, a name that
    /// the broker does not allow. Default: off, the first error is returned.
    ///
    /// ```no_run
    /// # async fn example() -> busrt::Result<()> {
    /// use busrt::client::{Client, Config, Reconnect};
    ///
    /// // Starts before its broker does.
    /// let config = Config::new("/tmp/busrt.sock", "plant.logger").reconnect(Reconnect::new().retry_first(true));
    /// let client = Client::connect(&config).await?;
    /// # Ok(()) }
    /// ```
    pub fn retry_first(mut self, retry: bool) -> Reconnect {
        self.retries_first = retry;
        self
    }

    /// Returns true if no further attempt is allowed after this many.
    pub(super) fn is_over(&self, attempts: u32) -> bool {
        self.tries.is_some_and(|tries| attempts >= tries)
    }

    /// Returns the delay before an attempt, after `step` others in a row.
    pub(super) fn delay(&self, step: u32) -> Duration {
        let whole = self.min.saturating_mul(1u32.checked_shl(step).unwrap_or(u32::MAX)).min(self.max);
        // Every `RandomState` has different keys, which is random enough for this purpose.
        let chance = RandomState::new().build_hasher().finish() as u32;
        whole / 2 + (whole / 2).mul_f64(f64::from(chance) / f64::from(u32::MAX))
    }
}

/// The treatment of operations while a client that [reconnects](Reconnect) is not connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WhileDown {
    /// They fail immediately with [`ConnectionLost`](crate::ErrorKind::ConnectionLost).
    #[default]
    Fail,
    /// They wait for the connection, at most for this long, and then fail with the same error.
    Wait(Duration),
    /// Operations without an acknowledgement are queued, up to this many bytes (of payloads and names, plus 64 bytes
    /// each), and sent first when the connection is back. Over the bound they fail with the same error. Operations
    /// with an acknowledgement, and changes of subscriptions, wait for the connection, at most for the client's
    /// [`timeout`](super::Config::timeout). An operation that was reported as failed is never sent later.
    Queue(usize),
}

/// The treatment of received frames when the inbox is full because the program does not take them. Every dropped
/// frame is counted ([`Stats::dropped`](super::Stats::dropped)) and reported
/// ([`Event::Dropped`](super::Event::Dropped)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Overflow {
    /// The client reads only as much as the program makes room for. For the broker it is then a slow receiver, which
    /// holds back its senders for some time. As long as the program takes frames, the client reports this to the
    /// broker, so that it does not count as a receiver that reads nothing. While an acknowledgement or a reply is
    /// awaited, the client reads on, up to [`inbox_awaiting_bytes`](super::Config::inbox_awaiting_bytes) more.
    #[default]
    Wait,
    /// The oldest frames of the same kind are dropped to make room.
    DropOld,
    /// New frames are dropped.
    DropNew,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_within_their_bounds() {
        let reconnect = Reconnect::new().delays(Duration::from_millis(100), Duration::from_secs(1));
        for (step, whole) in
            [(0, 100), (1, 200), (2, 400), (3, 800), (4, 1000), (31, 1000), (32, 1000), (99, 1000)]
        {
            for _ in 0..50 {
                let delay = reconnect.delay(step);
                assert!(delay >= Duration::from_millis(whole / 2), "{step}: {delay:?}");
                assert!(delay <= Duration::from_millis(whole), "{step}: {delay:?}");
            }
        }
        let many: std::collections::HashSet<_> = (0..50).map(|_| reconnect.delay(9)).collect();
        assert!(many.len() > 40, "no jitter");
    }

    #[test]
    fn delays_of_any_length_are_taken() {
        for (min, max) in [
            (Duration::MAX, Duration::MAX),
            (Duration::ZERO, Duration::MAX),
            (Duration::MAX, Duration::ZERO),
            (Duration::from_nanos(1), Duration::from_nanos(1)),
        ] {
            let reconnect = Reconnect::new().delays(min, max);
            for step in [0, 1, 31, 32, u32::MAX] {
                assert!(reconnect.delay(step) <= super::super::deadline::LONGEST_WAIT);
            }
        }
    }

    #[test]
    fn invalid_bounds_are_corrected() {
        let reconnect = Reconnect::new().delays(Duration::ZERO, Duration::ZERO).tries(0);
        assert_eq!((reconnect.min, reconnect.max), (Duration::from_millis(1), Duration::from_millis(1)));
        assert_eq!((reconnect.tries, reconnect.forever().tries), (Some(1), None));
    }
}
