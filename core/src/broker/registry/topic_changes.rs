//! Clients change their subscriptions and exclusions.

use super::bounds::check_topic;
use super::{PORTION, Registry, State};
use crate::broker::budget::{WorkBudget, price};
use crate::broker::options::Options;
use crate::broker::session::Session;
use crate::error::ErrorKind;
use crate::matching::cost_of_mask;
use crate::matching::topics::TopicTrie;
use parking_lot::RwLockWriteGuard;

/// One of a client's two sets of topic masks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TopicSet {
    Subscriptions,
    Exclusions,
}

/// The change that a client requests for topic masks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TopicChange {
    Add(TopicSet),
    Remove(TopicSet),
}

/// The progress of a change of topics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    Done,
    /// The budget is used up: the change must be continued after a yield.
    More,
}

impl Registry {
    /// Adds or removes topic masks of a frame, until the budget is used up or none is left.
    ///
    /// # Errors
    /// Some mask is denied or over a bound. The other masks are added all the same.
    pub(crate) fn change_topics<'t>(
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
}

impl State {
    fn set(&mut self, which: TopicSet) -> &mut TopicTrie {
        match which {
            TopicSet::Subscriptions => &mut self.subscriptions,
            TopicSet::Exclusions => &mut self.exclusions,
        }
    }

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
