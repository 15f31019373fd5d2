//! The results of searches that may visit a bounded number of nodes.

/// The result of a search within a budget.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lookup {
    /// Everything was found.
    Complete,
    /// The budget is used up and nothing was appended: a walk is needed.
    OverBudget,
}

/// The result of one step of a walk.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The walk is complete.
    Done,
    /// The budget is used up.
    More,
    /// The budget is used up, and because of removals since the last step a part of the walk was restarted. A larger
    /// budget for the next step guarantees that the walk ends, however many nodes are removed.
    Stale,
}

/// The phase of a walk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// The walk has not begun.
    Start,
    /// The walk visits nodes.
    Nodes,
    /// The walk puts ids in order.
    Order,
    Done,
}
