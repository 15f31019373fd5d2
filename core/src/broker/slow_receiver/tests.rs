//! Tests receivers of every state, without a clock.

use super::*;

const BOUNDS: Bounds = Bounds {
    budget: Load { frames: 100, bytes: 10_000 },
    keeps_up: Load { frames: usize::MAX, bytes: usize::MAX },
    hold: 750,
    stall: 5_000,
    policy: SlowPolicy::Disconnect,
};
const FULL: Load = Load { frames: 100, bytes: 5_000 };
const STEP: u64 = 50;

/// A receiver that is looked at every 50 ms.
struct Watched {
    receiver: SlowReceiver,
    progress: Progress,
    reports: u64,
    held_back: bool,
    bounds: Bounds,
}

impl Watched {
    fn new(bounds: Bounds) -> Watched {
        let mut receiver = SlowReceiver::default();
        assert!(receiver.note_full(Progress::default(), 0, &bounds));
        Watched { receiver, progress: Progress::default(), reports: 0, held_back: false, bounds }
    }

    /// Reads `bytes` at each look until `time` has passed. Returns the changes and their times.
    fn run(&mut self, time: u64, bytes: u64, load: Load, waiting: usize) -> Vec<(u64, Change)> {
        let mut changes = vec![];
        for at in (STEP..=time).step_by(STEP as usize) {
            self.progress.bytes += bytes;
            self.progress.refusals += 1;
            let (progress, reports, held_back) = (self.progress, self.reports, self.held_back);
            let sight = Sight { step: STEP, progress, reports, load, waiting, held_back };
            match self.receiver.look(sight, &self.bounds) {
                Change::None => {}
                change => changes.push((at, change)),
            }
        }
        changes
    }

    fn verdict(&mut self, wanted: Wanted) -> Verdict {
        self.receiver.verdict(wanted, self.progress, self.reports, FULL, &self.bounds)
    }
}

#[test]
fn a_receiver_that_takes_nothing_lags_and_then_is_stuck() {
    let mut it = Watched::new(BOUNDS);
    assert_eq!(it.verdict(Wanted::ToMany), Verdict::Wait);
    assert_eq!(it.verdict(Wanted::Message), Verdict::Wait);
    assert_eq!(it.run(750, 0, FULL, 1), [(750, Change::Lags)]);
    for wanted in [Wanted::ToMany, Wanted::Message, Wanted::AcknowledgedMessage { waited: 0 }] {
        assert_eq!(it.verdict(wanted), Verdict::Drop);
    }
    // The number of senders that wait does not matter any more.
    assert_eq!(it.run(4250, 0, FULL, 0), [(4250, Change::Stuck)]);
    assert_eq!(it.verdict(Wanted::ToMany), Verdict::Drop);
    // It reads again: messages wait from that moment on.
    it.progress.bytes += 1;
    assert_eq!(it.verdict(Wanted::Message), Verdict::Wait);
    assert_eq!(it.verdict(Wanted::ToMany), Verdict::Drop);
    assert_eq!(it.receiver.state(), ReceiverState::Lagging);
}

#[test]
fn a_quarter_of_the_budget_in_the_hold_time_is_enough() {
    let mut it = Watched::new(BOUNDS);
    assert_eq!(it.run(30_000, 2_500 / 15 + 1, FULL, 1), []);
    let mut it = Watched::new(BOUNDS);
    assert_eq!(it.run(30_000, 2_500 / 15 - 1, FULL, 1), [(750, Change::Lags)]);
    // It reads, so that messages wait for it, and it is never stuck.
    assert_eq!(it.verdict(Wanted::Message), Verdict::Wait);
    assert_eq!(it.verdict(Wanted::ToMany), Verdict::Drop);
}

#[test]
fn time_in_which_no_sender_waits_or_nothing_is_offered_does_not_count() {
    let mut it = Watched::new(BOUNDS);
    assert_eq!(it.run(10_000, 1, Load { frames: 80, bytes: 10 }, 0), []);
    let mut it = Watched::new(BOUNDS);
    for _ in 0..1000 {
        let sight =
            Sight { step: STEP, progress: it.progress, reports: 0, load: FULL, waiting: 3, held_back: false };
        assert_eq!(it.receiver.look(sight, &BOUNDS), Change::None);
    }
}

#[test]
fn it_keeps_up_again_after_it_was_below_half_for_the_hold_time() {
    let mut it = Watched::new(BOUNDS);
    assert_eq!(it.run(750, 0, FULL, 1), [(750, Change::Lags)]);
    let half = Load { frames: 50, bytes: 5_000 };
    assert_eq!(it.run(700, 100, half, 0), []);
    assert_eq!(it.run(50, 100, FULL, 0), []);
    assert_eq!(it.run(750, 100, half, 0), [(750, Change::Recovered)]);
    assert_eq!(it.verdict(Wanted::ToMany), Verdict::Wait);
    assert_eq!(it.run(50, 100, half, 0), [(50, Change::Unwatched)]);
    assert!(it.receiver.note_full(it.progress, it.reports, &BOUNDS));
}

#[test]
fn an_acknowledged_message_waits_for_the_stall_time() {
    let mut it = Watched::new(BOUNDS);
    it.run(6_000, 1, FULL, 1);
    assert_eq!(it.verdict(Wanted::AcknowledgedMessage { waited: 4_999 }), Verdict::Wait);
    assert_eq!(it.verdict(Wanted::AcknowledgedMessage { waited: 5_000 }), Verdict::Drop);
    assert_eq!(it.verdict(Wanted::AcknowledgedMessage { waited: 0 }), Verdict::Drop);
    assert_eq!(it.verdict(Wanted::Message), Verdict::Wait);
    it.run(STEP, 1, Load { frames: 50, bytes: 0 }, 1);
    assert_eq!(it.verdict(Wanted::AcknowledgedMessage { waited: 0 }), Verdict::Wait);
}

#[test]
fn policies_of_a_stuck_receiver() {
    for (policy, verdict) in [
        (SlowPolicy::Disconnect, Verdict::Drop),
        (SlowPolicy::DropNew, Verdict::Drop),
        (SlowPolicy::DropOld, Verdict::DropOldest),
        (SlowPolicy::Block, Verdict::Wait),
    ] {
        let mut it = Watched::new(Bounds { policy, ..BOUNDS });
        let changes = it.run(20_000, 0, FULL, 1);
        assert_eq!(changes.is_empty(), policy == SlowPolicy::Block, "{policy:?}: {changes:?}");
        assert_eq!(it.verdict(Wanted::ToMany), verdict);
    }
}

#[test]
fn a_hold_of_zero_holds_no_sender() {
    let mut it = Watched::new(Bounds { hold: 0, ..BOUNDS });
    for wanted in [Wanted::ToMany, Wanted::Message, Wanted::AcknowledgedMessage { waited: 0 }] {
        assert_eq!(it.verdict(wanted), Verdict::Drop);
    }
    assert_eq!(it.run(5_000, 0, FULL, 0), [(5_000, Change::Stuck)]);
    it.progress.bytes += 1;
    assert_eq!(it.run(50, 0, Load::default(), 0), []);
}

#[test]
fn times_of_any_size() {
    let mut it = Watched::new(Bounds { hold: u64::MAX, stall: u64::MAX, ..BOUNDS });
    let progress = Progress::default();
    let sight = Sight { step: u64::MAX, progress, reports: 0, load: FULL, waiting: 1, held_back: false };
    it.receiver.look(sight, &it.bounds);
    it.receiver.look(sight, &it.bounds);
}

#[test]
fn a_hold_of_zero_comes_to_rest() {
    let mut it = Watched::new(Bounds { hold: 0, ..BOUNDS });
    assert_eq!(it.verdict(Wanted::ToMany), Verdict::Drop);
    let empty = Load::default();
    // It never holds a sender, also not between two looks, and is not watched for ever.
    assert_eq!(it.run(STEP, 100, empty, 0), [(STEP, Change::Unwatched)]);
    assert!(it.receiver.note_full(it.progress, it.reports, &it.bounds));
    assert_eq!(it.verdict(Wanted::ToMany), Verdict::Drop);
}

#[test]
fn looks_more_frequent_than_offers() {
    // The queue is offered every 25 ms, the looks come every 5 ms.
    let mut it = Watched::new(Bounds { hold: 0, ..BOUNDS });
    let mut stuck = None;
    for at in (5..=20_000).step_by(5) {
        it.progress.refusals += u64::from(at % 25 == 0);
        let progress = it.progress;
        let sight = Sight { step: 5, progress, reports: 0, load: FULL, waiting: 0, held_back: false };
        if it.receiver.look(sight, &it.bounds) == Change::Stuck {
            stuck = stuck.or(Some(at));
        }
    }
    assert_eq!(stuck, Some(5_000));
}

#[test]
fn a_receiver_below_half_its_budget_is_neither_lagging_nor_stuck() {
    let mut it = Watched::new(BOUNDS);
    let some = Load { frames: 10, bytes: 1000 };
    // It was full for a moment, has read most of it, and reads nothing more, which hinders no sender.
    assert_eq!(it.run(STEP, 100, FULL, 1), []);
    let changes = it.run(700, 0, some, 0);
    assert_eq!(changes, []);
    assert_eq!(it.run(STEP, 0, some, 0), [(STEP, Change::Unwatched)]);
    let mut it = Watched::new(BOUNDS);
    assert_eq!(it.run(750, 0, FULL, 1), [(750, Change::Lags)]);
    assert_eq!(it.run(STEP, 100, some, 0), []);
    assert_eq!(it.run(700, 0, some, 0), [(700, Change::Recovered)]);
    assert_eq!(it.run(STEP, 0, some, 0), [(STEP, Change::Unwatched)]);
}

#[test]
fn a_receiver_that_reports_progress_takes_something() {
    let mut it = Watched::new(BOUNDS);
    for _ in 0..40 {
        it.reports += 1;
        it.run(250, 0, FULL, 1);
    }
    // It is slow: messages wait for it, and it is not stuck after ten seconds.
    assert_eq!(it.receiver.state(), ReceiverState::Lagging);
    assert_eq!(it.verdict(Wanted::Message), Verdict::Wait);
    assert_eq!(it.verdict(Wanted::ToMany), Verdict::Drop);
    it.reports += 1;
    assert_eq!(it.run(5_050, 0, FULL, 1), [(5_050, Change::Stuck)]);
    it.reports += 1;
    assert_eq!(it.verdict(Wanted::Message), Verdict::Wait);
}

#[test]
fn a_receiver_that_is_held_back_cannot_report_and_is_not_stuck() {
    let mut it = Watched::new(BOUNDS);
    it.held_back = true;
    assert_eq!(it.run(20_000, 0, FULL, 1), [(750, Change::Lags)]);
    // Its senders do not wait for it, so that it holds none of them up.
    for wanted in [Wanted::ToMany, Wanted::Message, Wanted::AcknowledgedMessage { waited: 0 }] {
        assert_eq!(it.verdict(wanted), Verdict::Drop);
    }
    it.held_back = false;
    assert_eq!(it.run(5_000, 0, FULL, 1), [(5_000, Change::Stuck)]);
}

#[test]
fn progress_that_goes_back() {
    let mut it = Watched::new(BOUNDS);
    it.run(STEP, 100, FULL, 1);
    it.receiver.held_since = Progress { frames: 10, bytes: 10_000, refusals: 0 };
    it.run(1_000, 1, FULL, 1);
}
