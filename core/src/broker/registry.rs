//! The clients on the bus and their subscriptions.
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

use super::access::{AccessList, ClientAccess};
use super::audience::{Audience, Miss};
use super::budget::{WorkBudget, price};
use super::options::Options;
use super::session::{ClientKind, Session};
use crate::error::ErrorKind;
use crate::matching::names::NameTrie;
use crate::matching::search::Lookup;
use crate::matching::topics::{Cursor, TopicTrie};
use crate::matching::{cost_of_mask, has_wildcards};
use crate::proto::op::{TOPIC_WARN, primary_name};
use hashbrown::HashMap;
use parking_lot::{RwLock, RwLockWriteGuard};
use slab::Slab;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Work done under one write lock, in units of the budget.
const PORTION: usize = 200_000;
/// Clients that are looked at under one lock.
const CLIENTS: usize = 1024;
/// Topics under this prefix are the broker's own.
const RESERVED_TOPICS: &str = ".broker/";

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

/// One of a client's two sets of topic masks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TopicSet {
    Subscriptions,
    Exclusions,
}

/// The change that a client requests for topic masks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TopicChange {
    Add(TopicSet),
    Remove(TopicSet),
}

/// The clients that one step of a removal has removed.
pub(super) struct Removal {
    pub(super) removed: Vec<Arc<Session>>,
    /// False if there are more: the removal must be continued.
    pub(super) is_complete: bool,
}

/// The progress of a change of topics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    Done,
    /// The budget is used up: the change must be continued after a yield.
    More,
}

impl State {
    fn set(&mut self, which: TopicSet) -> &mut TopicTrie {
        match which {
            TopicSet::Subscriptions => &mut self.subscriptions,
            TopicSet::Exclusions => &mut self.exclusions,
        }
    }

    /// The rules for a client; `Ok(None)` if no rules apply to it.
    ///
    /// # Errors
    /// There is an access list, and the client is not in it.
    fn rules(&self, session: &Session) -> Result<Option<&ClientAccess>, ErrorKind> {
        match &self.access {
            Some(list) if session.identity.kind != ClientKind::Internal => {
                list.rules(session.name()).map(Some).ok_or(ErrorKind::AccessDenied)
            }
            _ => Ok(None),
        }
    }

    fn permit(&self, session: &Session, allows: impl Fn(&ClientAccess) -> bool) -> Result<(), ErrorKind> {
        match self.rules(session)? {
            Some(rules) if !allows(rules) => Err(ErrorKind::AccessDenied),
            _ => Ok(()),
        }
    }

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

    fn is_registered(&self, session: &Arc<Session>) -> bool {
        self.client(session.id).is_some_and(|known| Arc::ptr_eq(known, session))
    }

    /// Removes a client that is registered.
    fn remove(&mut self, session: &Arc<Session>) {
        session.ended.store(true, Ordering::Relaxed);
        if self.subscriptions.has_client(session.id) || self.exclusions.has_client(session.id) {
            self.by_id[session.id as usize] = None;
            self.departed.push(session.id);
        } else {
            self.by_id.remove(session.id as usize);
        }
        self.by_name.remove(session.name());
        self.names.remove(session.name(), session.id);
        self.connections -= usize::from(session.identity.kind != ClientKind::Internal);
        if session.is_secondary()
            && let Some(ids) = self.secondaries.get_mut(session.primary())
        {
            ids.remove(&session.id);
            if ids.is_empty() {
                self.secondaries.remove(session.primary());
            }
        }
    }

    /// Removes at most `most` clients of a family: the secondaries of a primary, then itself.
    fn remove_family(&mut self, session: &Arc<Session>, most: usize) -> Removal {
        if !self.is_registered(session) {
            return Removal { removed: vec![], is_complete: true };
        }
        session.ended.store(true, Ordering::Relaxed);
        let mut removal = self.remove_secondaries(session, most);
        if removal.is_complete {
            self.remove(session);
            removal.removed.push(session.clone());
        }
        removal
    }

    /// Removes at most `most` secondaries of a primary. It gets no further ones.
    fn remove_secondaries(&mut self, session: &Arc<Session>, most: usize) -> Removal {
        session.takes_no_secondaries.store(true, Ordering::Relaxed);
        let mut removed = vec![];
        // A secondary has none itself.
        while let Some(id) = self.secondaries.get(session.name()).and_then(BTreeSet::first).copied() {
            if removed.len() >= most {
                return Removal { removed, is_complete: false };
            }
            let Some(secondary) = self.client(id).cloned() else { break };
            self.remove(&secondary);
            removed.push(secondary);
        }
        Removal { removed, is_complete: true }
    }

    pub(super) fn check_publisher(
        &self,
        from: &Session,
        topic: &str,
        options: &Options,
    ) -> Result<(), ErrorKind> {
        check_topic(topic, options)?;
        if topic.starts_with(RESERVED_TOPICS) {
            return Err(ErrorKind::AccessDenied);
        }
        self.permit(from, |rules| rules.may_publish(topic))
    }

    pub(super) fn check_broadcaster(
        &self,
        from: &Session,
        mask: &str,
        options: &Options,
    ) -> Result<(), ErrorKind> {
        check_length(mask, '.', options)?;
        self.permit(from, |rules| rules.may_broadcast_to(mask))
    }
}

/// Refuses a topic or topic mask over the bounds.
///
/// # Errors
/// [`ErrorKind::Data`].
fn check_topic(topic: &str, options: &Options) -> Result<(), ErrorKind> {
    check_length(topic, '/', options)
}

fn check_length(text: &str, separator: char, options: &Options) -> Result<(), ErrorKind> {
    if text.len() > options.max_topic {
        return Err(ErrorKind::Data);
    }
    // A text has fewer levels than bytes, and one more than separators.
    if text.len() >= options.max_levels && text.matches(separator).count() >= options.max_levels {
        return Err(ErrorKind::Data);
    }
    Ok(())
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

    /// Registers a client. `make` builds it once it is clear that it may register. Returns it with the clients that
    /// were unregistered for it (force register).
    ///
    /// # Errors
    /// The refusals of docs/protocol.md section 2.
    pub(super) fn register(
        &self,
        name: &str,
        peer: Option<IpAddr>,
        kind: ClientKind,
        options: &Options,
        make: impl FnOnce(u32, u64) -> Session,
    ) -> Result<(Arc<Session>, Vec<Arc<Session>>), ErrorKind> {
        let mut state = self.state.write();
        if let Some(list) = &state.access
            && kind != ClientKind::Internal
            && !list.admits(name, peer)
        {
            return Err(ErrorKind::AccessDenied);
        }
        let primary = primary_name(name);
        let secondary = primary.len() < name.len();
        if secondary && state.by_name.get(primary).is_none_or(|primary| primary.takes_no_secondaries()) {
            return Err(ErrorKind::NotRegistered);
        }
        let holder = state.by_name.get(name).cloned();
        if holder.is_some() && (secondary || !options.force_register) {
            return Err(ErrorKind::Busy);
        }
        let is_connection = kind != ClientKind::Internal;
        let most = options.max_connections.unwrap_or(usize::MAX);
        if is_connection && holder.is_none() && state.connections >= most {
            return Err(ErrorKind::Other);
        }
        let evicted = holder.map(|old| state.remove_family(&old, usize::MAX).removed).unwrap_or_default();
        let entry = state.by_id.vacant_entry();
        let id = u32::try_from(entry.key()).map_err(|_| ErrorKind::Other)?;
        self.changed();
        let session = Arc::new(make(id, self.generation()));
        entry.insert(Some(session.clone()));
        let key = session.identity.name.clone();
        state.names.insert(&key, id);
        if secondary {
            state.secondaries.entry(primary.into()).or_default().insert(id);
        }
        state.by_name.insert(key, session.clone());
        state.subscriptions.insert(TOPIC_WARN, id);
        state.connections += usize::from(is_connection);
        self.changed();
        Ok((session, evicted))
    }

    /// Unregisters at most `most` secondaries of the client whose name a new client is going to take over. Does nothing
    /// if there is none, or if the new client is not admitted.
    pub(super) fn evict_secondaries(
        &self,
        name: &str,
        peer: Option<IpAddr>,
        kind: ClientKind,
        most: usize,
    ) -> Removal {
        let nothing = Removal { removed: vec![], is_complete: true };
        if !self.state.read().secondaries.contains_key(name) {
            return nothing;
        }
        let mut state = self.state.write();
        let is_admitted =
            kind == ClientKind::Internal || state.access.as_ref().is_none_or(|list| list.admits(name, peer));
        if !is_admitted {
            return nothing;
        }
        let Some(old) = state.by_name.get(name).cloned() else { return nothing };
        let removal = state.remove_secondaries(&old, most);
        self.changed();
        RwLockWriteGuard::unlock_fair(state);
        removal
    }

    /// Unregisters at most `most` clients of a family: the secondaries of a primary, then the client itself. Their
    /// subscriptions are removed by [`sweep`](Registry::sweep).
    pub(super) fn unregister_some(&self, session: &Arc<Session>, most: usize) -> Removal {
        let mut state = self.state.write();
        let removal = state.remove_family(session, most);
        if !removal.removed.is_empty() {
            self.changed();
        }
        // Others that wait for the lock get it before the next portion.
        RwLockWriteGuard::unlock_fair(state);
        removal
    }

    /// Returns whether there are subscriptions of clients that have left.
    pub(super) fn needs_sweep(&self) -> bool {
        !self.state.read().departed.is_empty()
    }

    /// Removes a portion of the subscriptions of clients that have left. Returns true when there is more to remove.
    pub(super) fn sweep(&self) -> bool {
        let mut state = self.state.write();
        let mut nodes = PORTION / price::MASK;
        while let Some(id) = state.departed.last().copied() {
            let done = state.subscriptions.remove_client_some(id, &mut nodes)
                && state.exclusions.remove_client_some(id, &mut nodes);
            if !done {
                break;
            }
            state.departed.pop();
            state.by_id.remove(id as usize);
            nodes = nodes.saturating_sub(1);
            if nodes == 0 {
                break;
            }
        }
        let more = !state.departed.is_empty();
        // Threads that wait for the lock get it before the next portion.
        RwLockWriteGuard::unlock_fair(state);
        more
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

    /// Adds or removes topic masks of a frame, until the budget is used up or none is left.
    ///
    /// # Errors
    /// Some mask is denied or over a bound. The other masks are added all the same.
    pub(super) fn change_topics<'t>(
        &self,
        session: &Session,
        change: TopicChange,
        topics: &mut impl Iterator<Item = &'t str>,
        options: &Options,
        budget: &mut WorkBudget,
    ) -> (Progress, Result<(), ErrorKind>) {
        let mut result = Ok(());
        let mut topics = topics.peekable();
        while !budget.is_exhausted() {
            if topics.peek().is_none() {
                return (Progress::Done, result);
            }
            let mut state = self.state.write();
            if session.has_ended() {
                return (Progress::Done, Err(ErrorKind::NotRegistered));
            }
            let mut left = PORTION;
            let mut changed = false;
            while left > 0
                && !budget.is_exhausted()
                && let Some(mask) = topics.next()
            {
                let cost = price::MASK + cost_of_mask(mask) * price::LEVEL;
                budget.charge(cost);
                left = left.saturating_sub(cost);
                match state.change_topic(session, change, mask, options) {
                    Ok(done) => changed |= done,
                    // If the frame has both, the denial is reported, not the exceeded bound.
                    Err(kind) if result != Err(ErrorKind::AccessDenied) => result = Err(kind),
                    Err(_) => {}
                }
            }
            if changed {
                self.changed();
            }
            // Others that wait for the lock get it before the next portion.
            RwLockWriteGuard::unlock_fair(state);
        }
        (Progress::More, result)
    }

    /// Puts new access rules in force. What they forbid is refused from now on. The caller must then check the
    /// subscriptions of connected clients with [`revoke`](Registry::revoke), and call [`revoked`](Registry::revoked)
    /// at the end. Until then, publications that the rules forbid do not reach the clients either.
    pub(super) fn set_access(&self, access: Option<Arc<AccessList>>) {
        let mut state = self.state.write();
        state.access = access;
        state.revoking += 1;
        self.changed();
    }

    /// Returns whether the rules let a connected client stay.
    pub(super) fn admits(&self, session: &Session) -> bool {
        session.denial_logged.store(false, Ordering::Relaxed);
        let state = self.state.read();
        let Some(list) = state.access.as_deref() else { return true };
        let ip = session.identity.peer.map(|peer| peer.ip());
        session.identity.kind == ClientKind::Internal || list.admits(session.name(), ip)
    }

    /// Ends a portion of the subscriptions of a client that the rules do not allow. Returns where the next portion
    /// begins; the first begins at `None`.
    pub(super) fn revoke(&self, session: &Session, from: Option<Cursor>) -> Option<Cursor> {
        let mut guard = self.state.write();
        let state = &mut *guard;
        if state.client(session.id).is_none_or(|known| known.id != session.id) || session.has_ended() {
            return None;
        }
        let access = state.access.clone()?;
        if session.identity.kind == ClientKind::Internal {
            return None;
        }
        let rules = access.rules(session.name())?;
        // Every client is told of the broker's shutdown, whatever the rules.
        let keep = |mask: &str| mask == TOPIC_WARN || rules.may_subscribe_to(mask);
        let next = state.subscriptions.retain_some(session.id, from, &mut (PORTION / price::LEVEL), keep);
        self.changed();
        RwLockWriteGuard::unlock_fair(guard);
        next
    }

    /// Notes that the subscriptions of all clients have been checked.
    pub(super) fn revoked(&self) {
        self.state.write().revoking -= 1;
        self.changed();
    }
}

impl State {
    /// Adds one topic mask of a client, or removes it. Returns whether that changed anything.
    fn change_topic(
        &mut self,
        session: &Session,
        change: TopicChange,
        mask: &str,
        options: &Options,
    ) -> Result<bool, ErrorKind> {
        check_topic(mask, options)?;
        let which = match change {
            TopicChange::Remove(which) => return Ok(self.set(which).remove(mask, session.id)),
            TopicChange::Add(which) => which,
        };
        if which == TopicSet::Subscriptions {
            self.permit(session, |rules| rules.may_subscribe_to(mask))?;
        }
        let count = self.subscriptions.count_of(session.id) + self.exclusions.count_of(session.id);
        // The subscription to `.broker/warn` that every client has does not count.
        if count > options.max_subscriptions && !self.set(which).contains(mask, session.id) {
            return Err(ErrorKind::Data);
        }
        Ok(self.set(which).insert(mask, session.id))
    }
}
