//! Clients register and leave.
//!
//! A client that leaves goes in portions, so that no lock is held for long: the secondaries of a primary one after
//! another, then the client itself, and its subscriptions at the end.

use super::{PORTION, Registry, State};
use crate::broker::budget::price;
use crate::broker::options::Options;
use crate::broker::session::{ClientKind, Session};
use crate::error::ErrorKind;
use crate::proto::op::{TOPIC_WARN, primary_name};
use parking_lot::RwLockWriteGuard;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The clients that one step of a removal has removed.
pub(crate) struct Removal {
    pub(crate) removed: Vec<Arc<Session>>,
    /// False if there are more: the removal must be continued.
    pub(crate) is_complete: bool,
}

impl Registry {
    /// Registers a client. `make` builds it once it is clear that it may register. Returns it with the clients that
    /// were unregistered for it (force register).
    ///
    /// # Errors
    /// The refusals of docs/protocol.md section 2.
    pub(crate) fn register(
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
    pub(crate) fn evict_secondaries(
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
    pub(crate) fn unregister_some(&self, session: &Arc<Session>, most: usize) -> Removal {
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
    pub(crate) fn needs_sweep(&self) -> bool {
        !self.state.read().departed.is_empty()
    }

    /// Removes a portion of the subscriptions of clients that have left. Returns true when there is more to remove.
    pub(crate) fn sweep(&self) -> bool {
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
}

impl State {
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
}
