//! A search for the receivers of a frame that takes several steps.

use super::audience::Audience;
use super::options::Options;
use super::registry::Registry;
use super::session::Session;
use crate::error::ErrorKind;
use crate::matching::name_walk::NameWalk;
use crate::matching::search::Step;
use crate::matching::walk::TopicWalk;

/// Maximum number of nodes that a search for subscribers to the broker's own topics visits under one lock.
const OWN_NODES: usize = 5_000;

/// A search for the receivers of a frame in steps, between which the caller can yield.
pub(super) struct AudienceWalk {
    search: Search,
    /// The registry's generation when the search began. A client that registered later is not a receiver: the search
    /// may have found its id when the id still belonged to a client that has left since.
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
    /// Begins a search for the receivers of a broadcast.
    ///
    /// # Errors
    /// Denied.
    pub(super) fn named(
        registry: &Registry,
        from: &Session,
        mask: &str,
        options: &Options,
    ) -> Result<AudienceWalk, ErrorKind> {
        registry.state.read().check_broadcaster(from, mask, options)?;
        Ok(AudienceWalk {
            search: Search::Names(NameWalk::new(mask)),
            began: registry.generation(),
            effort: 1,
        })
    }

    /// Begins a search for the receivers of a publication.
    ///
    /// # Errors
    /// Denied.
    pub(super) fn subscribers(
        registry: &Registry,
        from: &Session,
        topic: &str,
        options: &Options,
    ) -> Result<AudienceWalk, ErrorKind> {
        registry.state.read().check_publisher(from, topic, options)?;
        Ok(AudienceWalk::of_topic(registry, topic))
    }

    fn of_topic(registry: &Registry, topic: &str) -> AudienceWalk {
        let (subscriptions, exclusions) = (TopicWalk::new(topic), TopicWalk::new(topic));
        let search = Search::Topic { topic: topic.into(), subscriptions, found: None, exclusions };
        AudienceWalk { search, began: registry.generation(), effort: 1 }
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

/// The subscribers to one of the broker's own topics.
pub(super) fn own_subscribers(registry: &Registry, topic: &str) -> Audience {
    if let Some(audience) = registry.own_subscribers(topic, OWN_NODES) {
        return audience;
    }
    let mut walk = AudienceWalk::of_topic(registry, topic);
    loop {
        if let Some(audience) = walk.step(registry, OWN_NODES) {
            return audience;
        }
    }
}
