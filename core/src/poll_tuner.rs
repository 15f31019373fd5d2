//! Learns how long it pays to poll for the next answer of a conversation before going to sleep.
//!
//! Waking a sleeping core costs more than everything else that is done with a small frame, so that a party that
//! expects an answer polls for a short time. How long this pays depends on the machine and on other programs: polling
//! for too short a time ends just before the answer comes, and polling for too long takes the core from the program
//! that is to answer. The tuner therefore compares: it tries a few limits in turn, each for an epoch of exchanges,
//! measures how long an exchange takes with each, and uses the fastest. A limit that has proved slower is tried again
//! less and less often.

/// The limits that are compared, as fractions of the maximum.
const PARTS: [(u64, u64); LIMITS] = [(0, 1), (1, 10), (2, 5), (1, 1)];
const LIMITS: usize = 4;

/// The first limit: 200 µs with the default maximum of 500 µs.
const FIRST: usize = 2;

/// Number of exchanges of an epoch. The first of them are not measured, because they still show the effects of the
/// previous limit.
const EPOCH: u32 = 40;
const UNMEASURED: u32 = 8;

/// An exchange that takes longer than this, in nanoseconds, counts as a pause of the conversation.
const LONGEST_EXCHANGE: u64 = 5_000_000;

/// A longer limit is only used if an exchange takes less than this percentage of the time that it takes with a
/// shorter one, because polling costs processor time.
const WORTHWHILE: u64 = 95;

/// Maximum number of epochs between two attempts with a limit that has proved slower.
const MOST_EPOCHS: u32 = 512;

/// The tuner of one conversation. Times are nanoseconds of any clock.
#[derive(Debug, Clone)]
pub(crate) struct PollTuner {
    /// The limit in use, as an index.
    current: usize,
    best: usize,
    /// Exchanges in this epoch.
    exchanges: u32,
    /// The time at which the last exchange ended; 0: the next one begins anew.
    last: u64,
    /// The duration of the measured exchanges of this epoch, and their number.
    sum: u64,
    measured: u32,
    limits: [Limit; LIMITS],
}

#[derive(Debug, Clone, Copy, Default)]
struct Limit {
    /// The mean duration of an exchange; 0: unknown.
    mean: u64,
    /// The number of epochs until it is tried again, and the number after that attempt.
    due: u32,
    interval: u32,
}

impl Default for PollTuner {
    fn default() -> PollTuner {
        let limits = [Limit { mean: 0, due: 2, interval: 2 }; LIMITS];
        PollTuner { current: FIRST, best: FIRST, exchanges: 0, last: 0, sum: 0, measured: 0, limits }
    }
}

impl PollTuner {
    /// Returns how long to poll now, if `most` is the maximum limit.
    #[inline]
    pub(crate) fn limit(&self, most: u64) -> u64 {
        let (part, of) = PARTS[self.current];
        most / of * part
    }

    /// Notes the end of this many exchanges: the other side has answered.
    pub(crate) fn exchanged(&mut self, now: u64, count: u32) {
        let took = now.saturating_sub(self.last);
        let is_first = self.last == 0 || took > LONGEST_EXCHANGE;
        self.last = now;
        if is_first {
            return;
        }
        if self.exchanges >= UNMEASURED {
            self.sum += took;
            self.measured += count;
        }
        self.exchanges += count;
        if self.exchanges >= EPOCH {
            self.end_epoch();
        }
    }

    /// Notes that the conversation has ended or has become a stream: the following exchanges are measured anew.
    pub(crate) fn interrupt(&mut self) {
        self.last = 0;
    }

    fn end_epoch(&mut self) {
        let mean = (self.sum / u64::from(self.measured.max(1))).max(1);
        (self.exchanges, self.sum, self.measured) = (0, 0, 0);
        let limit = &mut self.limits[self.current];
        // Conditions change: the new value has the weight of a quarter, or of a half if the limit was tried long ago.
        let old_part = if self.current == self.best { 3 } else { 1 };
        limit.mean = if limit.mean == 0 { mean } else { (limit.mean * old_part + mean) / (old_part + 1) };
        let best = self.fastest();
        if self.current != best {
            limit_tried_in_vain(&mut self.limits[self.current]);
        }
        if best != self.best {
            // A limit that was slower than the former best may be faster than this one.
            self.limits.iter_mut().for_each(|limit| limit.interval = limit.interval.min(8));
        }
        self.best = best;
        self.current = self.next();
    }

    /// Returns the shortest limit that is not clearly slower than another one.
    fn fastest(&self) -> usize {
        let mut best = None;
        for (index, limit) in self.limits.iter().enumerate().filter(|(_, limit)| limit.mean > 0) {
            let is_faster =
                best.is_none_or(|best: usize| limit.mean * 100 < self.limits[best].mean * WORTHWHILE);
            if is_faster {
                best = Some(index);
            }
        }
        best.unwrap_or(FIRST)
    }

    /// Returns the limit of the next epoch: usually the best one, sometimes another.
    fn next(&mut self) -> usize {
        let best = self.best;
        for limit in &mut self.limits {
            limit.due = limit.due.saturating_sub(1);
        }
        let due = (0..LIMITS).find(|index| *index != best && self.limits[*index].due == 0);
        // Two attempts never follow each other, so that the best limit is measured in between.
        match due {
            Some(index) if self.current == best => index,
            _ => best,
        }
    }
}

/// Doubles the interval until a limit is tried again.
fn limit_tried_in_vain(limit: &mut Limit) {
    limit.interval = (limit.interval * 2).min(MOST_EPOCHS);
    limit.due = limit.interval;
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: u64 = 500_000;

    /// Runs a conversation in which `took` returns the duration of an exchange for the limit in use. Returns how
    /// often each limit was used in the last part of it.
    fn converse(
        tuner: &mut PollTuner,
        now: &mut u64,
        exchanges: u32,
        took: impl Fn(u64) -> u64,
    ) -> [u32; LIMITS] {
        let mut used = [0; LIMITS];
        for exchange in 0..exchanges {
            let limit = tuner.limit(MOST);
            if exchange >= exchanges / 2 {
                let index = [0, 50_000, 200_000, 500_000].iter().position(|known| *known == limit).unwrap();
                used[index] += 1;
            }
            *now += took(limit);
            tuner.exchanged(*now, 1);
        }
        used
    }

    #[test]
    fn the_fastest_limit_is_found_and_kept() {
        for fastest in [0, 50_000, 200_000, 500_000] {
            let (mut tuner, mut now) = (PollTuner::default(), 1);
            let used = converse(
                &mut tuner,
                &mut now,
                40_000,
                |limit| if limit == fastest { 30_000 } else { 90_000 },
            );
            let index = used.iter().position(|uses| *uses > 19_000);
            assert_eq!(index.map(|index| tuner.limits.len() > index), Some(true), "{fastest}: {used:?}");
            let (part, of) = PARTS[index.unwrap()];
            assert_eq!(MOST / of * part, fastest);
        }
    }

    #[test]
    fn the_shortest_of_equal_limits_is_used() {
        let (mut tuner, mut now) = (PollTuner::default(), 1);
        let used = converse(&mut tuner, &mut now, 40_000, |limit| 50_000 - limit / 1_000);
        assert!(used[0] > 19_000, "{used:?}");
    }

    #[test]
    fn a_change_is_noticed() {
        let (mut tuner, mut now) = (PollTuner::default(), 1);
        converse(&mut tuner, &mut now, 4_000, |limit| if limit == 500_000 { 30_000 } else { 90_000 });
        let used = converse(&mut tuner, &mut now, 40_000, |limit| if limit == 0 { 100_000 } else { 300_000 });
        assert!(used[0] > 18_000, "{used:?}");
    }

    #[test]
    fn pauses_are_not_measured() {
        let (mut tuner, mut now) = (PollTuner::default(), 1);
        for exchange in 0..10_000_u64 {
            // Every other exchange comes after a pause, which is longer with the otherwise better limit.
            let limit = tuner.limit(MOST);
            now += match exchange % 2 {
                0 if limit == 50_000 => 900_000_000,
                0 => 10_000_000,
                _ if limit == 50_000 => 20_000,
                _ => 60_000,
            };
            tuner.exchanged(now, 1);
        }
        assert_eq!(tuner.best, 1);
    }
}
