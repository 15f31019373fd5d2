//! Access rules: what a client may do, and what becomes of connected clients when the rules change.

use super::bounds::{check_broadcast_mask, check_topic};
use super::{PORTION, Registry, State};
use crate::broker::access::{AccessList, ClientAccess};
use crate::broker::budget::price;
use crate::broker::options::Options;
use crate::broker::session::{ClientKind, Session};
use crate::error::ErrorKind;
use crate::matching::topics::Cursor;
use crate::proto::op::TOPIC_WARN;
use parking_lot::RwLockWriteGuard;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Topics under this prefix are the broker's own.
const RESERVED_TOPICS: &str = ".broker/";

impl State {
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

    /// Refuses what the rules for a client do not allow.
    ///
    /// # Errors
    /// [`ErrorKind::AccessDenied`].
    pub(super) fn permit(
        &self,
        session: &Session,
        allows: impl Fn(&ClientAccess) -> bool,
    ) -> Result<(), ErrorKind> {
        match self.rules(session)? {
            Some(rules) if !allows(rules) => Err(ErrorKind::AccessDenied),
            _ => Ok(()),
        }
    }

    /// Refuses a publication that its sender may not send, or whose topic is over the bounds.
    pub(crate) fn check_publisher(
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

    /// Refuses a broadcast that its sender may not send, or whose mask is over the bounds.
    pub(crate) fn check_broadcaster(
        &self,
        from: &Session,
        mask: &str,
        options: &Options,
    ) -> Result<(), ErrorKind> {
        check_broadcast_mask(mask, options)?;
        self.permit(from, |rules| rules.may_broadcast_to(mask))
    }
}

impl Registry {
    /// Puts new access rules in force. What they forbid is refused from now on. The caller must then check the
    /// subscriptions of connected clients with [`revoke`](Registry::revoke), and call [`revoked`](Registry::revoked)
    /// at the end. Until then, publications that the rules forbid do not reach the clients either.
    pub(crate) fn set_access(&self, access: Option<Arc<AccessList>>) {
        let mut state = self.state.write();
        state.access = access;
        state.revoking += 1;
        self.changed();
    }

    /// Returns whether the rules let a connected client stay.
    pub(crate) fn admits(&self, session: &Session) -> bool {
        session.denial_logged.store(false, Ordering::Relaxed);
        let state = self.state.read();
        let Some(list) = state.access.as_deref() else { return true };
        let ip = session.identity.peer.map(|peer| peer.ip());
        session.identity.kind == ClientKind::Internal || list.admits(session.name(), ip)
    }

    /// Ends a portion of the subscriptions of a client that the rules do not allow. Returns where the next portion
    /// begins; the first begins at `None`.
    pub(crate) fn revoke(&self, session: &Session, from: Option<Cursor>) -> Option<Cursor> {
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
    pub(crate) fn revoked(&self) {
        self.state.write().revoking -= 1;
        self.changed();
    }
}
