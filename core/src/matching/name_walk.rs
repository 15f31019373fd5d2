//! Searches for names in steps.

use super::NAMES;
use super::arena::NONE;
use super::bitmap::Bitmap;
use super::names::NameTrie;
use super::search::{Phase, Step};

/// The progress of a walk at one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Visited {
    /// The node's own clients have not been gathered yet.
    Nothing,
    /// The clients have been gathered, but no child was visited.
    Clients,
    /// The children up to this one have been visited. While the path continues, this child is in progress.
    UpTo(u32),
    All,
}

/// The part of a name that a mask matches at one depth below the root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    /// A part with this text, given by its position in the mask.
    Text(usize, usize),
    /// Any one part.
    One,
    /// Any parts: all names from here on match.
    Tail,
    /// No further part: the name ends here.
    End,
}

/// A search for the clients whose names match a mask, in steps. See [`walk`](super::walk) for what it guarantees.
///
/// ```
/// use busrt::matching::name_walk::NameWalk;
/// use busrt::matching::names::NameTrie;
/// use busrt::matching::search::Step;
///
/// let mut trie = NameTrie::new();
/// trie.insert("plant.pump", 7);
/// let mut walk = NameWalk::new("plant.*");
/// while trie.step(&mut walk, &mut 100) != Step::Done {}
/// assert_eq!(walk.into_ids(), [7]);
/// ```
#[derive(Debug)]
pub struct NameWalk {
    mask: Box<str>,
    /// The parts that the mask matches, for each depth below the root. The last one is `Tail` or `End`.
    wanted: Vec<Wanted>,
    phase: Phase,
    /// The path of nodes from the root to the current one.
    way: Vec<(u32, Visited)>,
    /// The trie's count of removals at the last step.
    removals: u64,
    ids: Bitmap,
}

impl NameWalk {
    /// Creates a walk that has not begun.
    pub fn new(mask: &str) -> Self {
        let (mut wanted, mut start) = (Vec::new(), 0);
        let mut last = Wanted::End;
        for part in NAMES.levels(mask) {
            if part == NAMES.tail {
                last = Wanted::Tail;
                break;
            }
            let end = start + part.len();
            wanted.push(if part == NAMES.one { Wanted::One } else { Wanted::Text(start, end) });
            start = end + NAMES.separator.len_utf8();
        }
        wanted.push(last);
        NameWalk {
            mask: mask.into(),
            wanted,
            phase: Phase::Start,
            way: Vec::new(),
            removals: 0,
            ids: Bitmap::default(),
        }
    }

    /// Returns the clients found by a complete walk, in ascending order, each once.
    pub fn into_ids(self) -> Vec<u32> {
        self.ids.into_ids()
    }

    fn wanted(&self, depth: usize) -> Wanted {
        // Below the last part, which the walk reaches only with a tail, everything matches too.
        self.wanted.get(depth).or(self.wanted.last()).copied().unwrap_or(Wanted::End)
    }

    /// Returns true if the names that end at this depth match. No name ends at the root.
    fn gathers(&self, depth: usize) -> bool {
        match self.wanted.last() {
            Some(Wanted::Tail) => depth >= self.wanted.len(),
            _ => depth + 1 == self.wanted.len(),
        }
    }

    fn text_child(&self, trie: &NameTrie, node: u32, (start, end): (usize, usize)) -> Option<u32> {
        trie.child(node, self.mask.get(start..end)?)
    }

    /// Shortens the path where the trie no longer has its nodes. Returns true if children must be visited again,
    /// because the last visited child is gone, so that the position among the others is unknown.
    fn check_way(&mut self, trie: &NameTrie) -> bool {
        if self.way.first().is_some_and(|(root, _)| *root != trie.root) {
            // All names were removed.
            self.way.clear();
            self.ids.next_set();
            return false;
        }
        for depth in 0..self.way.len() {
            let (node, visited) = self.way[depth];
            let Visited::UpTo(child) = visited else { continue };
            // A new child in the place of a former one is harmless: it comes before all children that the walk has
            // yet to visit.
            let kept = match self.wanted(depth) {
                Wanted::Text(start, end) => self.text_child(trie, node, (start, end)) == Some(child),
                _ => trie.nodes.get(child).is_some_and(|child| child.parent == node),
            };
            if !kept {
                self.way.truncate(depth + 1);
                self.ids.next_set();
                let again = !matches!(self.wanted(depth), Wanted::Text(..));
                self.way[depth].1 = if again { Visited::Clients } else { Visited::All };
                return again;
            }
        }
        false
    }

    /// Visits nodes until the budget is used up. Returns true when there are no more.
    fn visit_some(&mut self, trie: &NameTrie, budget: &mut usize) -> bool {
        while let Some((id, visited)) = self.way.last().copied() {
            let depth = self.way.len() - 1;
            let Some(node) = trie.nodes.get(id) else {
                self.way.pop();
                continue;
            };
            if *budget == 0 {
                return false;
            }
            let child = match (visited, self.wanted(depth)) {
                (Visited::Nothing, _) => {
                    if self.gathers(depth) && !self.ids.add_some(trie.sets.ids(&node.ids), budget) {
                        return false;
                    }
                    *budget = budget.saturating_sub(1);
                    super::work::add(1);
                    self.way[depth].1 = Visited::Clients;
                    continue;
                }
                (Visited::All, _) | (_, Wanted::End) | (Visited::UpTo(_), Wanted::Text(..)) => NONE,
                (Visited::Clients, Wanted::Text(start, end)) => {
                    self.text_child(trie, id, (start, end)).unwrap_or(NONE)
                }
                (Visited::Clients, Wanted::One | Wanted::Tail) => node.first_child,
                (Visited::UpTo(child), Wanted::One | Wanted::Tail) => {
                    trie.nodes.get(child).map_or(NONE, |child| child.next)
                }
            };
            if child == NONE {
                self.way.pop();
            } else {
                self.way[depth].1 = Visited::UpTo(child);
                self.way.push((child, Visited::Nothing));
            }
        }
        true
    }
}

impl NameTrie {
    /// Continues a walk until it is complete or the budget is used up: one unit for each visited node and each
    /// gathered id. The trie may change in any way between two steps. After [`Step::Stale`], the next step should
    /// have twice the budget.
    pub fn step(&self, walk: &mut NameWalk, budget: &mut usize) -> Step {
        let mut again = false;
        // The path is checked first, even if that takes more than the budget: it has at most one node per part.
        if walk.removals != self.removals && walk.phase == Phase::Nodes {
            super::work::add(walk.way.len());
            *budget = budget.saturating_sub(walk.way.len()).max(1);
            again = walk.check_way(self);
        }
        let more = if again { Step::Stale } else { Step::More };
        walk.removals = self.removals;
        if walk.phase == Phase::Start {
            walk.way.extend(self.nodes.get(self.root).map(|_| (self.root, Visited::Nothing)));
            walk.phase = Phase::Nodes;
        }
        if walk.phase == Phase::Nodes {
            if !walk.visit_some(self, budget) {
                return more;
            }
            walk.phase = Phase::Order;
        }
        if walk.phase == Phase::Order {
            if !walk.ids.read_some(budget) {
                return more;
            }
            walk.phase = Phase::Done;
        }
        Step::Done
    }
}
