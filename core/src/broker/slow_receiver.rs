//! The state machine for receivers that do not keep up: it decides how long they hold their senders back, and what
//! happens after that (docs/protocol.md section 7).
//!
//! A receiver is watched after a frame has found its queue full. The supervisor looks at it at short intervals and
//! reports to this state machine how much the receiver has read. Senders ask the state machine whether to wait. All
//! times are intervals in which the broker itself ran: nothing here reads a clock.
//!
//! ```text
//!             hold time ran out, or          nothing taken for
//!             nothing taken for it           the stall time
//!   KeepingUp ──────────────────> Lagging ────────────────────> Stuck
//!      ^                          │  ^                            │
//!      └──────────────────────────┘  └────────────────────────────┘
//!        below half for the hold time     it takes something
//! ```

#[cfg(test)]
mod tests;

use super::options::{Options, SlowPolicy};
use crate::transport::{Load, Progress};

/// Milliseconds before a write attempt that count as time in which the broker tried to write. A blocked queue is
/// offered to its socket every 25 ms, so that a look without an offer may only have come between two offers. A longer
/// gap is time in which the broker did not try.
const BETWEEN_OFFERS: u64 = 50;

/// The state of a receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum ReceiverState {
    /// The receiver keeps up, or is slow and holds its senders back.
    #[default]
    KeepingUp,
    /// The receiver was slow for the hold time: publications and broadcasts do not wait for it.
    Lagging,
    /// The receiver has read nothing for the stall time: its policy applies.
    Stuck,
}

/// The kind of a frame that found the queue full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// A publication or a broadcast.
    ToMany,
    /// A one-to-one message whose sender did not ask for an acknowledgement.
    Message,
    /// A one-to-one message whose sender asked for an acknowledgement.
    AcknowledgedMessage {
        /// Time for which the message has waited so far, in milliseconds.
        waited: u64,
    },
}

/// The decision about a frame that found the queue full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The sender waits.
    Wait,
    /// The frame is dropped and counted; an acknowledgement has the code 77.
    Drop,
    /// The oldest publications and broadcasts are dropped to make room for it.
    DropOldest,
}

/// The bounds of one receiver.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Number of frames and bytes that may wait in its queue.
    pub(super) budget: Load,
    /// If it has read this much, or a quarter of its budget if that is less, it holds its senders of publications and
    /// broadcasts for another hold time.
    pub(super) keeps_up: Load,
    /// Hold time in milliseconds.
    pub(super) hold: u64,
    /// Stall time in milliseconds.
    pub(super) stall: u64,
    pub(super) policy: SlowPolicy,
}

impl Bounds {
    pub(super) fn new(options: &Options, budget: Load) -> Bounds {
        let milliseconds = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Bounds {
            budget,
            keeps_up: Load { frames: options.queue_size / 4, bytes: options.queue_bytes / 4 },
            hold: milliseconds(options.hold),
            stall: milliseconds(options.stall),
            policy: options.slow,
        }
    }

    /// Returns whether the receiver read enough between two points, in frames or in bytes.
    fn is_quarter(&self, since: Progress, now: Progress) -> bool {
        let frames = (self.budget.frames / 4).min(self.keeps_up.frames).max(1);
        let bytes = (self.budget.bytes / 4).min(self.keeps_up.bytes).max(1);
        now.frames.saturating_sub(since.frames) >= frames as u64
            || now.bytes.saturating_sub(since.bytes) >= bytes as u64
    }

    fn is_below_half(&self, load: Load) -> bool {
        load.frames <= self.budget.frames / 2 && load.bytes <= self.budget.bytes / 2
    }
}

/// The supervisor's observations at one look at a receiver.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sight {
    /// Milliseconds since the last look, without the time in which the broker did not run.
    pub(super) step: u64,
    pub(super) progress: Progress,
    /// Number of progress reports that it has sent.
    pub(super) reports: u64,
    pub(super) load: Load,
    /// Number of senders that wait for it.
    pub(super) waiting: usize,
    /// True if the broker does not read from it because a receiver of its frames is slow.
    pub(super) held_back: bool,
}

/// A change that a look has found, on which the supervisor acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// No change.
    None,
    /// The receiver began to lag: senders of publications and broadcasts no longer wait.
    Lags,
    /// The receiver got stuck: its policy applies.
    Stuck,
    /// The receiver keeps up again.
    Recovered,
    /// The receiver no longer needs to be watched.
    Unwatched,
}

/// The state of one receiver.
#[derive(Debug, Default)]
pub(super) struct SlowReceiver {
    watched: bool,
    state: ReceiverState,
    /// The progress at the last look.
    progress: Progress,
    /// The progress reports at the last look. A client whose inbox is full sends them while its program takes frames.
    /// They prove that it reads even if its socket accepts nothing, since the kernel frees the memory of frames in
    /// large pieces.
    reports: u64,
    /// Milliseconds for which it has read nothing although the broker tried to write.
    idle: u64,
    /// The part of `idle` in which the broker read from it. Only this part can make the client stuck: while the
    /// broker does not read, it cannot see the client's progress reports.
    heard_idle: u64,
    /// Milliseconds since the last look that saw an offer.
    unsure: u64,
    /// Milliseconds of the present hold window in which senders waited, and what had been read at its beginning.
    held: u64,
    held_since: Progress,
    /// Milliseconds for which its queue has been below half its budget.
    calm: u64,
    /// True if an acknowledged message has waited for the stall time. Others are refused until the queue is below
    /// half its budget.
    refuses: bool,
}

impl SlowReceiver {
    pub(super) fn state(&self) -> ReceiverState {
        self.state
    }

    /// Returns whether acknowledged messages are refused until the queue is below half the budget.
    pub(super) fn refuses(&self) -> bool {
        self.refuses
    }

    /// Notes that a frame found the queue full. Returns true when the supervisor must begin to watch the receiver.
    pub(super) fn note_full(&mut self, progress: Progress, reports: u64, bounds: &Bounds) -> bool {
        if self.watched {
            return false;
        }
        let state = match bounds.hold == 0 && bounds.policy != SlowPolicy::Block {
            true => ReceiverState::Lagging,
            false => ReceiverState::KeepingUp,
        };
        *self = SlowReceiver {
            watched: true,
            state,
            progress,
            reports,
            held_since: progress,
            ..SlowReceiver::default()
        };
        true
    }

    /// Decides about a frame that found the queue full. `progress`, `reports` and `load` are the current values.
    pub(super) fn verdict(
        &mut self,
        wanted: Wanted,
        progress: Progress,
        reports: u64,
        load: Load,
        bounds: &Bounds,
    ) -> Verdict {
        if bounds.policy == SlowPolicy::Block {
            return Verdict::Wait;
        }
        if progress.bytes != self.progress.bytes || reports != self.reports {
            // The receiver reads something. This counts before the supervisor's next look.
            (self.idle, self.heard_idle) = (0, 0);
            if self.state == ReceiverState::Stuck {
                self.state = ReceiverState::Lagging;
            }
        }
        if self.state == ReceiverState::Stuck {
            return match bounds.policy {
                SlowPolicy::DropOld => Verdict::DropOldest,
                _ => Verdict::Drop,
            };
        }
        self.refuses &= !bounds.is_below_half(load);
        let waits = match wanted {
            Wanted::ToMany => self.state == ReceiverState::KeepingUp,
            Wanted::Message => self.idle < bounds.hold,
            Wanted::AcknowledgedMessage { waited } => {
                self.refuses |= waited >= bounds.stall;
                self.idle < bounds.hold && !self.refuses
            }
        };
        if waits { Verdict::Wait } else { Verdict::Drop }
    }

    /// Updates the state after the supervisor has looked at the receiver.
    pub(super) fn look(&mut self, sight: Sight, bounds: &Bounds) -> Change {
        let Sight { step, progress, reports, load, waiting, held_back } = sight;
        let moved = progress.bytes != self.progress.bytes || reports != self.reports || load.frames == 0;
        let refused = progress.refusals != self.progress.refusals;
        (self.progress, self.reports) = (progress, reports);
        // Time in which the broker offered the receiver nothing does not count against it.
        self.unsure = self.unsure.saturating_add(step).min(step.max(BETWEEN_OFFERS));
        let counted = if moved || refused { std::mem::take(&mut self.unsure) } else { 0 };
        let is_calm = bounds.is_below_half(load);
        if moved {
            (self.idle, self.heard_idle) = (0, 0);
        } else if !is_calm || waiting > 0 {
            // A receiver whose queue is below half its budget hinders no sender, even if it reads nothing.
            self.idle = self.idle.saturating_add(counted);
            if !held_back {
                self.heard_idle = self.heard_idle.saturating_add(counted);
            }
        }
        if is_calm {
            self.calm = self.calm.saturating_add(step);
            self.refuses = false;
        } else {
            self.calm = 0;
        }
        match self.state {
            _ if bounds.policy == SlowPolicy::Block => self.rest(waiting, bounds),
            ReceiverState::KeepingUp => {
                if waiting > 0 {
                    self.held = self.held.saturating_add(counted);
                }
                if self.idle < bounds.hold && self.held < bounds.hold {
                    return self.rest(waiting, bounds);
                }
                if self.idle < bounds.hold && bounds.is_quarter(self.held_since, progress) {
                    (self.held, self.held_since) = (0, progress);
                    return Change::None;
                }
                self.state = ReceiverState::Lagging;
                self.calm = 0;
                Change::Lags
            }
            ReceiverState::Lagging if self.heard_idle >= bounds.stall => {
                self.state = ReceiverState::Stuck;
                Change::Stuck
            }
            ReceiverState::Lagging if bounds.hold == 0 => self.rest(waiting, bounds),
            ReceiverState::Lagging if self.calm > 0 && self.calm >= bounds.hold => {
                self.state = ReceiverState::KeepingUp;
                (self.idle, self.heard_idle) = (0, 0);
                (self.held, self.held_since) = (0, progress);
                Change::Recovered
            }
            ReceiverState::Stuck if moved => {
                self.state = ReceiverState::Lagging;
                Change::None
            }
            ReceiverState::Lagging | ReceiverState::Stuck => Change::None,
        }
    }

    /// Ends the watch of a receiver if no sender waits for it and its queue has been below half for the hold time.
    fn rest(&mut self, waiting: usize, bounds: &Bounds) -> Change {
        if waiting > 0 || self.calm < bounds.hold.max(1) {
            return Change::None;
        }
        (self.watched, self.state) = (false, ReceiverState::KeepingUp);
        Change::Unwatched
    }
}
