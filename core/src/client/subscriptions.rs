//! The subscriptions and exclusions in force of a client that reconnects, to be restored over a new connection.
//!
//! Changes take effect in the order in which the broker acknowledges them, each when its outcome is known: a change
//! that was reported as failed is not restored. Changes for which the program requested no acknowledgement are sent
//! with one nevertheless, to keep the order; they take effect even if the connection is lost.

use super::ack_target::AckTarget;
use super::outcome::{Answer, Failure};
use super::request::Payload;
use super::waker_set::WakerSet;
use crate::error::ErrorKind;
use crate::proto::op::TOPIC_WARN;
use crate::proto::request::{Operation, Topics};
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Maximum length of a frame with restored topics, in bytes, unless a single topic is longer, because brokers may
/// have a limit.
const MOST_BYTES: usize = 32 * 1024;

/// The topics of one client.
#[derive(Debug)]
pub(super) struct SubscriptionState(Mutex<Sets>);

#[derive(Debug)]
struct Sets {
    subscriptions: BTreeSet<Box<str>>,
    exclusions: BTreeSet<Box<str>>,
    /// Every client is subscribed to the broker's warnings when it registers. False if the program has unsubscribed
    /// from them.
    warnings: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    Subscribe,
    Unsubscribe,
    Exclude,
    Unexclude,
}

/// A change in progress, which waits for its acknowledgement.
#[derive(Debug)]
pub(super) struct Change {
    book: Arc<SubscriptionState>,
    act: Act,
    topics: Box<str>,
    /// `None` if the program requested no acknowledgement.
    told: Option<AckTarget>,
}

impl SubscriptionState {
    pub(super) fn new() -> Arc<SubscriptionState> {
        let sets = Sets { subscriptions: BTreeSet::new(), exclusions: BTreeSet::new(), warnings: true };
        Arc::new(SubscriptionState(Mutex::new(sets)))
    }

    /// Returns the change that `operation` makes, if it makes one.
    pub(super) fn change(
        self: &Arc<Self>,
        operation: &Operation<'_, Payload<'_>>,
        told: Option<AckTarget>,
    ) -> Option<Change> {
        let (act, topics) = change_of(operation)?;
        let topics = topics.iter().collect::<Vec<_>>().join("\0").into();
        Some(Change { book: self.clone(), act, topics, told })
    }

    /// Returns the subscriptions and exclusions in force, for a new connection.
    pub(super) fn to_restore(&self) -> Restored {
        let sets = self.0.lock();
        Restored {
            exclusions: batches(&sets.exclusions),
            subscriptions: batches(&sets.subscriptions),
            warnings: sets.warnings,
        }
    }
}

/// The masks to restore on a new connection, separated by NUL, in as few operations as possible.
#[derive(Debug)]
pub(super) struct Restored {
    exclusions: Vec<String>,
    subscriptions: Vec<String>,
    warnings: bool,
}

impl Restored {
    /// Returns the operations that restore them.
    pub(super) fn operations(&self) -> impl Iterator<Item = Operation<'_, Payload<'_>>> {
        (self.exclusions.iter().map(|topics| Operation::Exclude(Topics::Joined(topics))))
            // Exclusions come before subscriptions, so that no excluded publication is received in between.
            .chain((!self.warnings).then_some(Operation::Unsubscribe(Topics::Joined(TOPIC_WARN))))
            .chain(self.subscriptions.iter().map(|topics| Operation::Subscribe(Topics::Joined(topics))))
    }
}

/// Returns true if `operation` changes topics.
pub(super) fn is_change<P>(operation: &Operation<'_, P>) -> bool {
    change_of(operation).is_some()
}

fn change_of<'a, P>(operation: &Operation<'a, P>) -> Option<(Act, Topics<'a>)> {
    match operation {
        Operation::Subscribe(topics) => Some((Act::Subscribe, *topics)),
        Operation::Unsubscribe(topics) => Some((Act::Unsubscribe, *topics)),
        Operation::Exclude(topics) => Some((Act::Exclude, *topics)),
        Operation::Unexclude(topics) => Some((Act::Unexclude, *topics)),
        _ => None,
    }
}

fn batches(topics: &BTreeSet<Box<str>>) -> Vec<String> {
    let mut batches: Vec<String> = Vec::new();
    for topic in topics {
        match batches.last_mut() {
            Some(batch) if batch.len() + topic.len() < MOST_BYTES => {
                batch.push('\0');
                batch.push_str(topic);
            }
            _ => batches.push(topic.to_string()),
        }
    }
    batches
}

impl Change {
    /// Returns true if a program waits for the answer.
    pub(super) fn is_awaited(&self) -> bool {
        self.told.is_some()
    }

    /// Applies the broker's answer, or the failure to get one. Returns the wakers of the tasks that wait for the
    /// answer, which the caller must wake without holding a lock.
    pub(super) fn settle(&self, answer: Answer) -> WakerSet {
        let counts = match answer.map_err(Failure::kind) {
            // Some topics may have been denied; the others are subscribed.
            Ok(()) | Err(ErrorKind::AccessDenied) => true,
            Err(_) => self.told.is_none(),
        };
        if counts {
            self.apply();
        }
        self.told.as_ref().map(|told| told.tell(answer)).unwrap_or_default()
    }

    fn apply(&self) {
        let sets = &mut *self.book.0.lock();
        for topic in self.topics.split('\0') {
            let set = match self.act {
                Act::Subscribe | Act::Unsubscribe => &mut sets.subscriptions,
                Act::Exclude | Act::Unexclude => &mut sets.exclusions,
            };
            match self.act {
                Act::Subscribe | Act::Exclude => drop(set.insert(topic.into())),
                Act::Unsubscribe | Act::Unexclude => drop(set.remove(topic)),
            }
            if topic == TOPIC_WARN && matches!(self.act, Act::Subscribe | Act::Unsubscribe) {
                sets.warnings = self.act == Act::Subscribe;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::slot::Slot;
    use super::*;

    fn subscriptions(book: &SubscriptionState) -> Vec<String> {
        book.0.lock().subscriptions.iter().map(|topic| topic.to_string()).collect()
    }

    #[test]
    fn changes_take_effect_as_reported_to_the_program() {
        let book = SubscriptionState::new();
        let change =
            |topics, act: fn(Topics<'static>) -> Operation<'static, Payload<'static>>, told: bool| {
                let told = told.then(|| AckTarget::Slot(Slot::new()));
                book.change(&act(Topics::Joined(topics)), told).unwrap()
            };
        change("a\0b", Operation::Subscribe, true).settle(Ok(()));
        change("c", Operation::Subscribe, true).settle(Err(Failure::Lost));
        change("d", Operation::Subscribe, false).settle(Err(Failure::Lost));
        change("e", Operation::Subscribe, true).settle(Err(Failure::Refused(0x79)));
        change("a", Operation::Unsubscribe, true).settle(Err(Failure::Timeout));
        change("b", Operation::Unsubscribe, false).settle(Ok(()));
        change("x", Operation::Exclude, true).settle(Ok(()));
        assert_eq!(subscriptions(&book), ["a", "d", "e"]);
        assert!(book.0.lock().exclusions.contains("x") && book.0.lock().warnings);
        change("x", Operation::Unexclude, true).settle(Ok(()));
        change(TOPIC_WARN, Operation::Unsubscribe, true).settle(Ok(()));
        assert!(book.0.lock().exclusions.is_empty() && !book.0.lock().warnings);
    }

    #[test]
    fn few_frames_of_a_bounded_length() {
        let many: BTreeSet<Box<str>> = (0..10_000).map(|i| format!("topic/{i:05}").into()).collect();
        let batches = batches(&many);
        assert!(batches.iter().all(|batch| batch.len() <= MOST_BYTES));
        assert_eq!(batches.len(), 10_000usize.div_ceil(MOST_BYTES / 12));
        let all: BTreeSet<Box<str>> = batches.iter().flat_map(|b| b.split('\0')).map(Box::from).collect();
        assert_eq!(all, many);
        let long = BTreeSet::from([Box::from("x".repeat(MOST_BYTES * 2)), Box::from("y")]);
        assert_eq!(super::batches(&long).len(), 2);
    }
}
