//! How the broker of a session treats receivers that do not keep up, and how what they received is compared.

use super::model::{Delivery, Outcome};
use super::wire::{NOT_DELIVERED, OK, Received};
use crate::choices::Choices;
use busrt::broker::{Options, SlowPolicy};
use busrt::transport::Buffers;
use std::time::Duration;

/// The queues of a broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Queues {
    /// They hold everything that a session sends.
    Roomy,
    /// They are small. Senders wait, so that everything arrives.
    Block,
    /// They are small. What finds them full is dropped and counted; senders never wait.
    Drop(SlowPolicy),
}

impl Queues {
    pub fn choose(choices: &mut Choices<'_>) -> Queues {
        match choices.below(6) {
            3 => Queues::Block,
            4 => Queues::Drop(SlowPolicy::DropNew),
            5 => Queues::Drop(SlowPolicy::DropOld),
            _ => Queues::Roomy,
        }
    }

    pub fn are_small(self) -> bool {
        self != Queues::Roomy
    }

    pub fn options(self, choices: &mut Choices<'_>) -> Options {
        let options = Options::default();
        let policy = match self {
            Queues::Roomy => return options,
            Queues::Block => SlowPolicy::Block,
            Queues::Drop(policy) => policy,
        };
        let size = 1 + choices.below(6);
        options
            .slow(policy)
            .queue_size(size)
            .queue_bytes(size * 2048)
            .socket_buffers(Buffers { send: Some(8192), receive: None })
            .hold(Duration::ZERO)
            // A receiver that is looked at is stuck, or never.
            .stall(if choices.below(2) == 0 { Duration::ZERO } else { Duration::from_secs(3600) })
    }

    /// Checks the acknowledgements that the sender of an outcome received. The connection may have ended before all of
    /// them came.
    pub fn check_acks(self, sender: &str, outcome: &Outcome, acks: &[(u32, u8)], has_ended: bool) {
        let wanted = &outcome.acks;
        let is_complete = acks.len() == wanted.len() || has_ended && acks.len() < wanted.len();
        let fits = |at: usize| {
            let (got, (op_id, code)) = (acks[at], wanted[at]);
            got == (op_id, code)
                || got == (op_id, NOT_DELIVERED) && code == OK && self.may_be_refused(outcome, at)
        };
        let fit = (0..acks.len().min(wanted.len())).all(fits);
        assert!(is_complete && fit, "acknowledgements to {sender}: {acks:?} instead of {wanted:?}");
    }

    /// Returns true if the acknowledgement with that index may say that a message was not delivered.
    fn may_be_refused(self, outcome: &Outcome, ack: usize) -> bool {
        let mut deliveries = outcome.deliveries.values().flatten();
        matches!(self, Queues::Drop(_)) && deliveries.any(|delivery| delivery.ack == Some(ack))
    }

    /// Checks what a receiver got from one sender, who received `acks`. Returns how many frames it did not get.
    pub fn check_deliveries(
        self,
        wanted: &[Delivery],
        got: &[&[u8]],
        acks: &[(u32, u8)],
        who: &str,
    ) -> usize {
        let frames = || wanted.iter().map(|delivery| &delivery.frame[..]);
        if !matches!(self, Queues::Drop(_)) {
            assert!(frames().eq(got.iter().copied()), "{who}: {got:?} instead of {wanted:?}");
            return 0;
        }
        // What an acknowledgement says is so. Every other frame may be dropped.
        let code = |delivery: &Delivery| delivery.ack.and_then(|at| acks.get(at)).map(|ack| ack.1);
        let possible = wanted.iter().filter(|delivery| code(delivery) != Some(NOT_DELIVERED));
        let sure = wanted.iter().filter(|delivery| code(delivery) == Some(OK));
        let is_possible = is_part(got.iter().copied(), possible.map(|delivery| &delivery.frame[..]));
        let is_enough = is_part(sure.map(|delivery| &delivery.frame[..]), got.iter().copied());
        assert!(is_possible && is_enough, "{who}: {got:?} of {wanted:?}, acknowledged {acks:?}");
        wanted.len() - got.len()
    }

    /// Checks what a connection received from one sender before it ended.
    pub fn check_last(self, wanted: &[Delivery], got: &[&[u8]], who: &str) {
        let frames = || wanted.iter().map(|delivery| &delivery.frame[..]);
        let fits = match self {
            Queues::Drop(_) => is_part(got.iter().copied(), frames()),
            _ => got.len() <= wanted.len() && frames().zip(got).all(|(wanted, got)| wanted == *got),
        };
        assert!(fits, "{who}: {got:?} instead of {wanted:?}");
    }
}

/// Returns true if the whole can be made the part by leaving out some frames.
fn is_part<'a>(part: impl Iterator<Item = &'a [u8]>, mut whole: impl Iterator<Item = &'a [u8]>) -> bool {
    let mut part = part;
    part.all(|frame| whole.any(|other| other == frame))
}

/// The frames of a client that come from one sender.
pub fn from<'r>(received: &'r Received, sender: &str) -> Vec<&'r [u8]> {
    let is_from = |frame: &&[u8]| {
        frame.get(6..).is_some_and(|body| {
            body.strip_prefix(sender.as_bytes()).is_some_and(|rest| rest.first() == Some(&0))
        })
    };
    received.deliveries.iter().map(|frame| &frame[..]).filter(is_from).collect()
}
