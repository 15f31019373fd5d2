//! The clients on the bus and their subscriptions: who they are, and who receives a frame.
//!
//! Clients register and leave in `registry/membership.rs`, change their subscriptions in `registry/topic_changes.rs`, and
//! are bound by the access rules in `registry/rules.rs`.
//!
//! # Lock order
//! 1. `Core::membership`, while a client registers or leaves.
//! 2. [`Registry::state`], one reader-writer lock over names, subscriptions and access rules. Routing takes it for
//!    reading, and only when its caches do not know the answer.
//! 3. The state of one outbox (`SlowReceiver`), then the queue of one receiver (`transport::Writer`, or the inbox of
//!    an in-process client).
//!
//! No thread takes an earlier lock while it holds a later one, holds the queues of two receivers, or holds any of
//! them across an await. Fan-out collects its receivers under the second and releases it before it touches them.
//! Only the answer to a registration, which must come before everything else in a new client's queue, is queued
//! under the first two. Wakers, callbacks, loggers and drops of what others own never run under any of them: they are
//! collected, and run after the locks are released (`core.rs`, `Effects`).
//!
//! # Bounded work
//! No call holds the lock for long. Work that may take long is done in portions: the topic masks of one frame, the
//! secondaries of a client that leaves ([`Registry::unregister_some`]), the subscriptions of clients that have left
//! ([`Registry::sweep`]), changed rules, and searches that visit many nodes (`audience_walk.rs`).

mod bounds;
mod membership;
mod rules;
mod topic_changes;

use super::access::AccessList;
use super::audience::{Audience, Miss};
use super::budget::{WorkBudget, price};
use super::options::Options;
use super::session::Session;
use crate::error::ErrorKind;
use crate::matching::has_wildcards;
use crate::matching::names::NameTrie;
use crate::matching::search::Lookup;
use crate::matching::topics::TopicTrie;
use hashbrown::HashMap;
use parking_lot::RwLock;
use slab::Slab;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub(super) use topic_changes::{Progress, TopicChange, TopicSet};

/// Work done under one write lock, in units of the budget.
const PORTION: usize = 200_000;
/// Clients that are looked at under one lock.
const CLIENTS: usize = 1024;

#[derive(Default)]
pub(super) struct Registry {
    pub(super) state: RwLock<State>,
    /// Incremented with every change that could alter the receivers of a frame: what was looked up before is then
    /// stale.
    generation: AtomicU64,
}

#[derive(Default)]
pub(super) struct State {
    by_name: HashMap<Arc<str>, Arc<Session>>,
    /// `None`: the client has left, and its subscriptions are being removed.
    by_id: Slab<Option<Arc<Session>>>,
    /// Clients that have left and whose subscriptions are not removed yet.
    departed: Vec<u32>,
    /// Registered clients that are not within this process.
    connections: usize,
    pub(super) names: NameTrie,
    /// The ids of a primary's secondaries; no entry is empty.
    secondaries: HashMap<Arc<str>, BTreeSet<u32>>,
    pub(super) subscriptions: TopicTrie,
    pub(super) exclusions: TopicTrie,
    access: Option<Arc<AccessList>>,
    /// How many changes of rules are still checking the subscriptions of connected clients.
    revoking: usize,
}

impl State {
    fn client(&self, id: u32) -> Option<&Arc<Session>> {
        self.by_id.get(id as usize)?.as_ref()
    }

    /// The clients with these ids, which are ascending. `topic` is what they receive, if it is a publication.
    pub(super) fn audience(&self, ids: &[u32], topic: Option<&str>) -> Audience {
        if self.revoking > 0
            && let Some(topic) = topic
        {
            // Subscriptions that new rules do not allow may not be removed yet.
            let may_receive =
                |session: &&Arc<Session>| self.permit(session, |rules| rules.may_receive(topic)).is_ok();
            return ids.iter().filter_map(|id| self.client(*id)).filter(may_receive).cloned().collect();
        }
        // Most topics have one subscriber: this takes one allocation instead of two.
        if let [id] = ids
            && let Some(session) = self.client(*id)
        {
            return Arc::new([session.clone()]);
        }
        ids.iter().filter_map(|id| self.client(*id)).cloned().collect()
    }
}

impl Registry {
    /// The current generation: read it before a lookup whose result is kept.
    #[inline]
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    fn changed(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    /// Returns whether any client is registered that is not within this process.
    pub(super) fn has_connections(&self) -> bool {
        self.state.read().connections > 0
    }

    /// Returns whether the maximum number of connections is registered.
    pub(super) fn is_full(&self, options: &Options) -> bool {
        options.max_connections.is_some_and(|most| self.state.read().connections >= most)
    }

    /// The client of that name.
    pub(super) fn by_name(&self, name: &str) -> Option<Arc<Session>> {
        self.state.read().by_name.get(name).cloned()
    }

    /// Some of the clients, and where the next portion begins; the first begins at 0.
    pub(super) fn clients_from(&self, start: usize) -> (Vec<Arc<Session>>, Option<usize>) {
        let state = self.state.read();
        let end = start.saturating_add(CLIENTS);
        // The ids go up to the capacity: free places are passed over.
        let clients = (start..end).filter_map(|id| state.by_id.get(id)?.clone()).collect();
        (clients, (end < state.by_id.capacity()).then_some(end))
    }

    /// All clients, looked up in portions.
    pub(super) fn clients(&self) -> impl Iterator<Item = Arc<Session>> {
        let mut next = Some(0);
        std::iter::from_fn(move || {
            let (clients, then) = self.clients_from(next?);
            next = then;
            Some(clients)
        })
        .flatten()
    }

    /// The number of secondaries of a primary.
    pub(super) fn secondaries(&self, primary: &str) -> usize {
        self.state.read().secondaries.get(primary).map_or(0, BTreeSet::len)
    }

    /// The receiver of a message.
    ///
    /// # Errors
    /// Denied, or no client has the name.
    pub(super) fn target(&self, from: &Session, name: &str) -> Result<Arc<Session>, ErrorKind> {
        let state = self.state.read();
        state.permit(from, |rules| rules.may_send_to(name))?;
        state.by_name.get(name).cloned().ok_or(ErrorKind::NotRegistered)
    }

    /// Returns whether `from` may send a message to that name, registered or not.
    ///
    /// # Errors
    /// Denied.
    pub(super) fn permit_message(&self, from: &Session, name: &str) -> Result<(), ErrorKind> {
        self.state.read().permit(from, |rules| rules.may_send_to(name))
    }

    /// The receivers of a broadcast.
    ///
    /// # Errors
    /// Denied, a mask over the bounds, or a search that costs more than the budget has.
    pub(super) fn named(
        &self,
        from: &Session,
        mask: &str,
        options: &Options,
        budget: &mut WorkBudget,
    ) -> Result<Audience, Miss> {
        let state = self.state.read();
        state.check_broadcaster(from, mask, options)?;
        budget.charge(price::LOOK_UP);
        if !has_wildcards(mask) {
            return Ok(state.by_name.get(mask).cloned().into_iter().collect());
        }
        let mut ids = vec![];
        budget.pay_for_nodes(|nodes| state.names.matches_within(mask, &mut ids, nodes))?;
        Ok(state.audience(&ids, None))
    }

    /// The receivers of a publication.
    ///
    /// # Errors
    /// Denied, a topic over the bounds, or a search that costs more than the budget has.
    pub(super) fn subscribers(
        &self,
        from: &Session,
        topic: &str,
        options: &Options,
        budget: &mut WorkBudget,
    ) -> Result<Audience, Miss> {
        let state = self.state.read();
        state.check_publisher(from, topic, options)?;
        budget.charge(price::LOOK_UP);
        let mut ids = vec![];
        budget.pay_for_nodes(|nodes| state.subscriptions.matches_within(topic, &mut ids, nodes))?;
        if !ids.is_empty() && !state.exclusions.is_empty() {
            let mut excluded = vec![];
            budget.pay_for_nodes(|nodes| state.exclusions.matches_within(topic, &mut excluded, nodes))?;
            ids.retain(|id| excluded.binary_search(id).is_err());
        }
        Ok(state.audience(&ids, Some(topic)))
    }

    /// The subscribers to one of the broker's own topics; `None` if the search visits more than `nodes`, because of
    /// wildcard masks, or there are exclusions. It is then done in steps, so that the lock is not held for long.
    pub(super) fn own_subscribers(&self, topic: &str, nodes: usize) -> Option<Audience> {
        let state = self.state.read();
        let (mut ids, mut nodes) = (vec![], nodes);
        let found = state.subscriptions.matches_within(topic, &mut ids, &mut nodes);
        let is_complete = found == Lookup::Complete && state.exclusions.is_empty();
        is_complete.then(|| state.audience(&ids, Some(topic)))
    }
}
