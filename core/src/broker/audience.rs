//! The receivers of a frame, and the cost of finding them.

use super::budget::{WorkBudget, price};
use super::session::Session;
use crate::error::ErrorKind;
use crate::matching::search::Lookup;
use std::sync::Arc;

/// The receivers of a publication or a broadcast, in the order of their ids.
pub(super) type Audience = Arc<[Arc<Session>]>;

/// The reason why a lookup did not find the receivers of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Miss {
    /// The operation is refused.
    Refused(ErrorKind),
    /// The search costs more than is left of the budget: an [`AudienceWalk`](super::audience_walk::AudienceWalk) is
    /// needed.
    OverBudget,
}

impl From<ErrorKind> for Miss {
    fn from(kind: ErrorKind) -> Miss {
        Miss::Refused(kind)
    }
}

/// Maximum number of nodes that are visited under one lock. They are mostly not in the processor's caches, so that
/// this takes some tenths of a millisecond, for which clients that register or leave must wait.
pub(super) const STEP_NODES: usize = 2048;

impl WorkBudget {
    /// Runs a search that may visit [`STEP_NODES`], or as many nodes as the rest of the budget pays for, and charges
    /// for those that it visited.
    pub(super) fn pay_for_nodes(&mut self, search: impl FnOnce(&mut usize) -> Lookup) -> Result<(), Miss> {
        let most = (self.left() / price::NODE).min(STEP_NODES);
        let mut left = most;
        let found = search(&mut left);
        self.charge((most - left) * price::NODE);
        match found {
            Lookup::Complete => Ok(()),
            Lookup::OverBudget => Err(Miss::OverBudget),
        }
    }
}
