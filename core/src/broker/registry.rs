//! Who is on the bus and what they are subscribed to.
//!
//! # Lock order
//! 0. `Core::announcing`, while a client comes or goes.
//! 1. [`Registry::state`], one reader-writer lock over names, subscriptions and access rules. Routing
//!    takes it for reading, and only when its caches do not know the answer.
//! 2. The queue of one receiver (`transport::Writer`, or the inbox of an in-process client).
//!
//! Nobody takes the first while holding the second, holds two of the second, or holds any of them
//! across an await. Fan-out collects its receivers under the first and lets go of it before it
//! touches them; only a registration's answer, which must come before everything else in a new
//! client's queue, is queued under the first.

use super::access::{AccessList, ClientAccess};
use super::session::{ClientKind, Session};
use crate::error::ErrorKind;
use crate::matching::has_wildcards;
use crate::matching::names::NameTrie;
use crate::matching::topics::TopicTrie;
use crate::proto::op::{TOPIC_WARN, primary_name};
use crate::proto::request::Topics;
use hashbrown::HashMap;
use parking_lot::RwLock;
use slab::Slab;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Topic masks that are dealt with under one lock.
const PORTION: usize = 256;

/// The receivers of a publication or a broadcast.
pub(super) type Audience = Arc<[Arc<Session>]>;

#[derive(Default)]
pub(super) struct Registry {
    state: RwLock<State>,
    /// Moves on with every change that could alter where a frame goes: what was looked up before is
    /// stale then.
    generation: AtomicU64,
}

#[derive(Default)]
struct State {
    by_name: HashMap<Arc<str>, Arc<Session>>,
    by_id: Slab<Arc<Session>>,
    names: NameTrie,
    /// The ids of a primary's secondaries.
    secondaries: HashMap<Arc<str>, Vec<u32>>,
    subscriptions: TopicTrie,
    exclusions: TopicTrie,
    access: Option<Arc<AccessList>>,
}

/// Which of a client's sets of topic masks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TopicSet {
    Subscriptions,
    Exclusions,
}

impl State {
    fn set(&mut self, which: TopicSet) -> &mut TopicTrie {
        match which {
            TopicSet::Subscriptions => &mut self.subscriptions,
            TopicSet::Exclusions => &mut self.exclusions,
        }
    }

    /// The rules that bind a client: `Ok(None)` when it is free, `Err` when it is not known any more.
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

    fn audience(&self, mut ids: Vec<u32>) -> Audience {
        ids.sort_unstable();
        ids.dedup();
        ids.iter().filter_map(|id| self.by_id.get(*id as usize).cloned()).collect()
    }

    fn remove(&mut self, session: &Arc<Session>) -> bool {
        let known = self.by_id.get(session.id as usize).is_some_and(|known| Arc::ptr_eq(known, session));
        if !known {
            return false;
        }
        session.ended.store(true, Ordering::Relaxed);
        self.by_id.remove(session.id as usize);
        self.by_name.remove(session.name());
        self.names.remove(session.name(), session.id);
        self.subscriptions.remove_client(session.id);
        self.exclusions.remove_client(session.id);
        if session.is_secondary()
            && let Some(ids) = self.secondaries.get_mut(session.primary())
        {
            ids.retain(|id| *id != session.id);
            if ids.is_empty() {
                self.secondaries.remove(session.primary());
            }
        }
        true
    }

    /// Removes a client and, if it is a primary, its secondaries; those that were there.
    fn remove_family(&mut self, session: &Arc<Session>) -> Vec<Arc<Session>> {
        let mut gone = vec![];
        if !self.remove(session) {
            return gone;
        }
        gone.push(session.clone());
        if !session.is_secondary() {
            for id in self.secondaries.get(session.name()).cloned().unwrap_or_default() {
                if let Some(secondary) = self.by_id.get(id as usize).cloned() {
                    self.remove(&secondary);
                    gone.push(secondary);
                }
            }
        }
        gone
    }
}

impl Registry {
    /// The generation that what is looked up from now on belongs to.
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    fn changed(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    /// Registers a client that `make` builds once it is clear that it may be, and returns it with
    /// those that had to go for it.
    ///
    /// # Errors
    /// The refusals of PROTOCOL.md section 2.
    pub(super) fn register(
        &self,
        name: &str,
        peer: Option<IpAddr>,
        kind: ClientKind,
        force: bool,
        make: impl FnOnce(u32) -> Session,
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
        if secondary && !state.by_name.contains_key(primary) {
            return Err(ErrorKind::NotRegistered);
        }
        let evicted = match state.by_name.get(name).cloned() {
            None => vec![],
            Some(old) if force && !secondary => state.remove_family(&old),
            Some(_) => return Err(ErrorKind::Busy),
        };
        let entry = state.by_id.vacant_entry();
        let id = u32::try_from(entry.key()).map_err(|_| ErrorKind::Other)?;
        let session = Arc::new(make(id));
        entry.insert(session.clone());
        let key = session.identity.name.clone();
        state.names.insert(&key, id);
        if secondary {
            state.secondaries.entry(primary.into()).or_default().push(id);
        }
        state.by_name.insert(key, session.clone());
        state.subscriptions.insert(TOPIC_WARN, id);
        self.changed();
        Ok((session, evicted))
    }

    /// Unregisters a client and, if it is a primary, its secondaries. Returns those that were
    /// registered until now.
    pub(super) fn unregister(&self, session: &Arc<Session>) -> Vec<Arc<Session>> {
        let mut state = self.state.write();
        let gone = state.remove_family(session);
        if !gone.is_empty() {
            self.changed();
        }
        gone
    }

    /// The client of that name.
    pub(super) fn by_name(&self, name: &str) -> Option<Arc<Session>> {
        self.state.read().by_name.get(name).cloned()
    }

    /// Everybody.
    pub(super) fn sessions(&self) -> Vec<Arc<Session>> {
        self.state.read().by_id.iter().map(|(_, session)| session.clone()).collect()
    }

    /// How many secondaries a primary has.
    pub(super) fn secondaries(&self, primary: &str) -> usize {
        self.state.read().secondaries.get(primary).map_or(0, Vec::len)
    }

    /// Where a message goes.
    ///
    /// # Errors
    /// Denied, or nobody has the name.
    pub(super) fn target(&self, from: &Session, name: &str) -> Result<Arc<Session>, ErrorKind> {
        let state = self.state.read();
        state.permit(from, |rules| rules.may_send_to(name))?;
        state.by_name.get(name).cloned().ok_or(ErrorKind::NotRegistered)
    }

    /// Whether `from` may send a message to that name, there or not.
    ///
    /// # Errors
    /// Denied.
    pub(super) fn permit_message(&self, from: &Session, name: &str) -> Result<(), ErrorKind> {
        self.state.read().permit(from, |rules| rules.may_send_to(name))
    }

    /// Who receives a broadcast.
    ///
    /// # Errors
    /// Denied.
    pub(super) fn matching_names(&self, from: &Session, mask: &str) -> Result<Audience, ErrorKind> {
        let state = self.state.read();
        state.permit(from, |rules| rules.may_broadcast_to(mask))?;
        if !has_wildcards(mask) {
            return Ok(state.by_name.get(mask).cloned().into_iter().collect());
        }
        let mut ids = vec![];
        state.names.matches(mask, &mut ids);
        Ok(state.audience(ids))
    }

    /// Who receives a publication.
    ///
    /// # Errors
    /// Denied.
    pub(super) fn subscribers(&self, from: Option<&Session>, topic: &str) -> Result<Audience, ErrorKind> {
        let state = self.state.read();
        if let Some(from) = from {
            state.permit(from, |rules| rules.may_publish(topic))?;
        }
        let mut ids = vec![];
        state.subscriptions.matches(topic, &mut ids);
        if !ids.is_empty() && !state.exclusions.is_empty() {
            let mut excluded = vec![];
            state.exclusions.matches(topic, &mut excluded);
            if !excluded.is_empty() {
                excluded.sort_unstable();
                ids.retain(|id| excluded.binary_search(id).is_err());
            }
        }
        Ok(state.audience(ids))
    }

    /// Adds topic masks to one of a client's sets.
    ///
    /// # Errors
    /// Some subscription is denied; the allowed ones are made all the same.
    pub(super) fn add_topics(
        &self,
        session: &Session,
        which: TopicSet,
        topics: Topics<'_>,
    ) -> Result<(), ErrorKind> {
        let mut result = Ok(());
        self.in_portions(session, topics, |state, mask| {
            if which == TopicSet::Subscriptions
                && let Err(denied) = state.permit(session, |rules| rules.may_subscribe_to(mask))
            {
                result = Err(denied);
                return false;
            }
            state.set(which).insert(mask, session.id)
        })?;
        result
    }

    /// Takes topic masks out of one of a client's sets; those that are not in it do not matter.
    pub(super) fn remove_topics(&self, session: &Session, which: TopicSet, topics: Topics<'_>) {
        // An error says that the client is gone, with all its topics.
        let _ = self.in_portions(session, topics, |state, mask| state.set(which).remove(mask, session.id));
    }

    /// Does something with each topic mask of a frame, of which there may be millions: others get the lock in
    /// between. `change` says whether it changed anything.
    fn in_portions(
        &self,
        session: &Session,
        topics: Topics<'_>,
        mut change: impl FnMut(&mut State, &str) -> bool,
    ) -> Result<(), ErrorKind> {
        let mut topics = topics.iter().peekable();
        while topics.peek().is_some() {
            let mut state = self.state.write();
            if session.has_ended() {
                return Err(ErrorKind::NotRegistered);
            }
            let mut changed = false;
            for mask in topics.by_ref().take(PORTION) {
                changed |= change(&mut state, mask);
            }
            if changed {
                self.changed();
            }
        }
        Ok(())
    }

    /// Puts new access rules in force: subscriptions that are no longer allowed end. Returns the
    /// clients that are no longer let in, still registered.
    pub(super) fn set_access(&self, access: Option<Arc<AccessList>>) -> Vec<Arc<Session>> {
        let mut guard = self.state.write();
        let state = &mut *guard;
        state.access = access;
        let mut banned = vec![];
        for (_, session) in &state.by_id {
            session.denial_logged.store(false, Ordering::Relaxed);
            let Some(list) =
                state.access.as_deref().filter(|_| session.identity.kind != ClientKind::Internal)
            else {
                continue;
            };
            let ip = session.identity.peer.map(|peer| peer.ip());
            let Some(rules) = list.rules(session.name()).filter(|_| list.admits(session.name(), ip)) else {
                banned.push(session.clone());
                continue;
            };
            let held: Vec<String> = state.subscriptions.masks_of(session.id).collect();
            for mask in held {
                // Everybody is told of the broker's shutdown, whatever the rules.
                if mask != TOPIC_WARN && !rules.may_subscribe_to(&mask) {
                    state.subscriptions.remove(&mask, session.id);
                }
            }
        }
        self.changed();
        banned
    }
}
