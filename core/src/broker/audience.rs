//! The receivers of a frame, and a search for them that takes several steps.

use super::budget::WorkBudget;
use super::registry::Registry;
use super::session::Session;
use crate::error::ErrorKind;
use crate::matching::name_walk::NameWalk;
use crate::matching::walk::{Lookup, Step, TopicWalk};
use std::sync::Arc;

/// The receivers of a publication or a broadcast, in the order of their ids.
pub(super) type Audience = Arc<[Arc<Session>]>;

/// Why a lookup did not find the receivers of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Miss {
    /// The operation is refused.
    Refused(ErrorKind),
    /// The search costs more than the budget has: an [`AudienceWalk`] is needed.
    OverBudget,
}

impl From<ErrorKind> for Miss {
    fn from(kind: ErrorKind) -> Miss {
        Miss::Refused(kind)
    }
}

/// Nodes that are visited under one lock. They are mostly not in the caches of the processor, so that this takes some
/// tenths of a millisecond, for which clients that register or leave wait.
pub(super) const STEP_NODES: usize = 2048;

impl WorkBudget {
    /// Runs a search that may visit [`STEP_NODES`], or as many nodes as the budget has left, and charges those that it
    /// visited.
    pub(super) fn pay_for_nodes(&mut self, search: impl FnOnce(&mut usize) -> Lookup) -> Result<(), Miss> {
        let most = (self.left() / super::budget::price::NODE).min(STEP_NODES);
        let mut left = most;
        let found = search(&mut left);
        self.charge((most - left) * super::budget::price::NODE);
        match found {
            Lookup::Complete => Ok(()),
            Lookup::OverBudget => Err(Miss::OverBudget),
        }
    }
}

/// A search for the receivers of a frame in steps, between which the caller can yield.
pub(super) struct AudienceWalk {
    search: Search,
    /// The registry's generation when the search began. An id may have been found for a client that has left since, and
    /// been given to a new client: clients that registered after this generation are no receivers.
    began: u64,
    /// The factor by which the budget of a step has grown. It is doubled when removals set a step back, so that the
    /// search ends.
    effort: usize,
}

enum Search {
    Names(NameWalk),
    Topic { topic: Box<str>, subscriptions: TopicWalk, found: Option<Vec<u32>>, exclusions: TopicWalk },
}

impl AudienceWalk {
    pub(super) fn of_names(mask: &str, generation: u64) -> AudienceWalk {
        AudienceWalk { search: Search::Names(NameWalk::new(mask)), began: generation, effort: 1 }
    }

    pub(super) fn of_topic(topic: &str, generation: u64) -> AudienceWalk {
        let (subscriptions, exclusions) = (TopicWalk::new(topic), TopicWalk::new(topic));
        let search = Search::Topic { topic: topic.into(), subscriptions, found: None, exclusions };
        AudienceWalk { search, began: generation, effort: 1 }
    }

    /// Visits some more nodes. Returns the receivers when the search is complete.
    pub(super) fn step(&mut self, registry: &Registry, nodes: usize) -> Option<Audience> {
        let mut nodes = nodes.max(1).saturating_mul(self.effort);
        let state = registry.state.read();
        let (ids, topic) = match &mut self.search {
            Search::Names(walk) => {
                let step = state.names.step(walk, &mut nodes);
                if !note(step, &mut self.effort) {
                    return None;
                }
                (std::mem::replace(walk, NameWalk::new("")).into_ids(), None)
            }
            Search::Topic { topic, subscriptions, found, exclusions } => {
                if found.is_none() {
                    let step = state.subscriptions.step(subscriptions, &mut nodes);
                    if !note(step, &mut self.effort) {
                        return None;
                    }
                    *found = Some(std::mem::replace(subscriptions, TopicWalk::new("")).into_ids());
                }
                if !state.exclusions.is_empty() {
                    let step = state.exclusions.step(exclusions, &mut nodes);
                    if !note(step, &mut self.effort) {
                        return None;
                    }
                }
                let mut ids = found.take().unwrap_or_default();
                let excluded = std::mem::replace(exclusions, TopicWalk::new("")).into_ids();
                ids.retain(|id| excluded.binary_search(id).is_err());
                (ids, Some(&**topic))
            }
        };
        let audience = state.audience(&ids, topic);
        drop(state);
        if audience.iter().all(|session| session.born <= self.began) {
            return Some(audience);
        }
        Some(audience.iter().filter(|session| session.born <= self.began).cloned().collect())
    }
}

/// Returns whether the walk is complete. If removals set it back, the next step may visit twice as many nodes.
fn note(step: Step, effort: &mut usize) -> bool {
    if step == Step::Stale {
        *effort = effort.saturating_mul(2);
    }
    step == Step::Done
}
