//! Searches in steps, for queries that visit more nodes than one call may.
//!
//! A walk keeps its path from the root instead of all nodes that it has yet to visit. This takes little memory, and
//! after a change the path can be checked against the trie. Guarantee: a walk finds each subscription (or name) that
//! exists from its first step to its last, and none that existed at no time in between. It yields client *ids*. If
//! ids are given to other clients between two steps, the caller must recognize those.

use super::TOPICS;
use super::bitmap::Bitmap;
use super::search::{Phase, Step};
use super::topics::TopicTrie;

/// The symbol of a level of the topic.
#[derive(Debug, Clone, Copy)]
enum Symbol {
    Unknown,
    /// No mask has a level of this text.
    Absent,
    Known(u32),
}

/// The part of a node that is visited next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The clients at the node itself.
    Clients,
    /// The child for any one level.
    Any,
    /// The child for the level's text.
    Text,
    Leave,
}

/// A search for the subscribers to one topic, in steps.
///
/// ```
/// use busrt::matching::search::Step;
/// use busrt::matching::topics::TopicTrie;
/// use busrt::matching::walk::TopicWalk;
///
/// let mut trie = TopicTrie::new();
/// trie.insert("plant/+", 7);
/// let mut walk = TopicWalk::new("plant/pump");
/// while trie.step(&mut walk, &mut 100) != Step::Done {}
/// assert_eq!(walk.into_ids(), [7]);
/// ```
#[derive(Debug)]
pub struct TopicWalk {
    topic: Box<str>,
    /// The end of each level in the topic, with the level's symbol.
    levels: Vec<(usize, Symbol)>,
    phase: Phase,
    /// The path of nodes from the root to the current one, one per level.
    way: Vec<(u32, Stage)>,
    /// The trie's count of removals at the last step.
    removals: u64,
    ids: Bitmap,
}

impl TopicWalk {
    /// Creates a walk that has not begun.
    pub fn new(topic: &str) -> Self {
        TopicWalk {
            topic: topic.into(),
            levels: Vec::new(),
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

    /// Shortens the path where the trie no longer has its nodes. All ids of nodes are looked up anew.
    fn check_way(&mut self, trie: &TopicTrie) {
        for (_, symbol) in &mut self.levels {
            *symbol = Symbol::Unknown;
        }
        let mut node = trie.wild.node(trie.wild.root).map(|_| trie.wild.root);
        for depth in 0..self.way.len() {
            let Some(known) = node else {
                // Everything below a missing node is missing too; the walk continues at the parent.
                self.way.truncate(depth);
                self.ids.next_set();
                return;
            };
            let stage = self.way[depth].1;
            self.way[depth].0 = known;
            node = match stage {
                Stage::Text => {
                    trie.wild.node(known).map(|node| node.any).filter(|any| trie.wild.node(*any).is_some())
                }
                Stage::Leave => self.text_child(trie, known, depth),
                Stage::Clients | Stage::Any => None,
            };
        }
    }

    /// Returns the child of a node for the text of a level.
    fn text_child(&mut self, trie: &TopicTrie, node: u32, depth: usize) -> Option<u32> {
        let from = if depth == 0 { 0 } else { self.levels.get(depth - 1)?.0 + 1 };
        let (end, symbol) = self.levels.get_mut(depth)?;
        if let Symbol::Unknown = symbol {
            let text = self.topic.as_bytes().get(from..*end)?;
            *symbol = match trie.wild.symbols.find(trie.seed, text) {
                Some(found) => Symbol::Known(found),
                None => Symbol::Absent,
            };
        }
        match symbol {
            Symbol::Known(symbol) => trie.wild.child(trie.seed, node, *symbol),
            Symbol::Unknown | Symbol::Absent => None,
        }
    }

    /// Visits nodes until the budget is used up. Returns true if there are no more.
    fn visit_some(&mut self, trie: &TopicTrie, budget: &mut usize) -> bool {
        while let Some((id, stage)) = self.way.last().copied() {
            let depth = self.way.len() - 1;
            let Some(node) = trie.wild.node(id) else {
                self.way.pop();
                continue;
            };
            if *budget == 0 {
                return false;
            }
            let at_end = depth == self.levels.len();
            let (next, child) = match stage {
                Stage::Clients => {
                    let set = if at_end { &node.here } else { &node.tail };
                    if !self.ids.add_some(trie.sets.ids(set), budget) {
                        return false;
                    }
                    *budget = budget.saturating_sub(1);
                    super::work::add(1);
                    (if at_end { Stage::Leave } else { Stage::Any }, None)
                }
                Stage::Any => (Stage::Text, trie.wild.node(node.any).map(|_| node.any)),
                Stage::Text if node.texts > 0 => (Stage::Leave, self.text_child(trie, id, depth)),
                Stage::Text => (Stage::Leave, None),
                Stage::Leave => {
                    self.way.pop();
                    continue;
                }
            };
            self.way[depth].1 = next;
            self.way.extend(child.map(|child| (child, Stage::Clients)));
        }
        true
    }
}

impl TopicTrie {
    /// Continues a walk until it is complete or the budget is used up: one unit for each visited node and each
    /// gathered id. The trie may change in any way between two steps; [`Step::Stale`] is never returned, since a
    /// topic walk can restore its path after every change.
    pub fn step(&self, walk: &mut TopicWalk, budget: &mut usize) -> Step {
        // The path is checked first, even if that takes more than the budget: it has at most one node per level.
        if walk.removals != self.wild.removals && walk.phase == Phase::Nodes {
            super::work::add(walk.way.len());
            *budget = budget.saturating_sub(walk.way.len()).max(1);
            walk.check_way(self);
        }
        walk.removals = self.wild.removals;
        if walk.phase == Phase::Start {
            if *budget == 0 {
                return Step::More;
            }
            if let Some(set) = self.exact_set(self.seed.text(walk.topic.as_bytes()), &walk.topic)
                && !walk.ids.add_some(self.sets.ids(set), budget)
            {
                return Step::More;
            }
            walk.ids.next_set();
            let mut end = 0;
            for level in walk.topic.split(TOPICS.separator) {
                end += level.len();
                walk.levels.push((end, Symbol::Unknown));
                end += 1;
            }
            walk.way.extend(self.wild.node(self.wild.root).map(|_| (self.wild.root, Stage::Clients)));
            walk.phase = Phase::Nodes;
        }
        if walk.phase == Phase::Nodes {
            if !walk.visit_some(self, budget) {
                return Step::More;
            }
            walk.phase = Phase::Order;
        }
        if walk.phase == Phase::Order {
            if !walk.ids.read_some(budget) {
                return Step::More;
            }
            walk.phase = Phase::Done;
        }
        Step::Done
    }
}
