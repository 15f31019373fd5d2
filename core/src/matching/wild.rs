//! The trie of the topic masks that have wildcards.

use super::arena::{Frontier, NONE, Symbols};
use super::hash::Seed;
use super::ids::IdSet;
use super::index::Index;
use super::slab::Slab;
use super::{TOPICS, work};

/// The level of a node that stands for any one level.
const ANY: u32 = NONE;

#[derive(Debug)]
pub(super) struct Node {
    parent: u32,
    /// A symbol, or [`ANY`].
    level: u32,
    /// The child for any one level, or [`NONE`].
    pub(super) any: u32,
    /// The number of children with a text. They are found through the edges.
    pub(super) texts: u32,
    /// Clients whose mask ends here.
    pub(super) here: IdSet,
    /// Clients whose mask ends here with `#`: it matches one further level or more.
    pub(super) tail: IdSet,
}

// A level of a mask needs this much memory, and 10 bytes for its edge.
const _: () = assert!(size_of::<Node>() == 32);

/// The place of one mask: a node, and one of its two sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct End {
    pub(super) node: u32,
    pub(super) tail: bool,
}

#[derive(Debug)]
pub(super) struct Wild {
    nodes: Slab<Node>,
    /// (parent, symbol) to child.
    edges: Index,
    pub(super) symbols: Symbols,
    pub(super) root: u32,
    /// Number of removals of nodes. After a removal, a node id seen before may belong to another node.
    pub(super) removals: u64,
}

impl Default for Wild {
    fn default() -> Self {
        Wild {
            nodes: Slab::default(),
            edges: Index::default(),
            symbols: Symbols::default(),
            root: NONE,
            removals: 0,
        }
    }
}

impl Wild {
    #[inline]
    pub(super) fn node(&self, id: u32) -> Option<&Node> {
        self.nodes.get(id)
    }

    #[inline]
    pub(super) fn child(&self, seed: Seed, parent: u32, level: u32) -> Option<u32> {
        self.edges.find(seed.pair(parent, level), |id| {
            let node = &self.nodes[id];
            node.parent == parent && node.level == level
        })
    }

    /// Finds the place at which a mask ends.
    pub(super) fn find(&self, seed: Seed, mask: &str) -> Option<End> {
        let mut node = self.root;
        for level in TOPICS.levels(mask) {
            let from = self.nodes.get(node)?;
            if level == TOPICS.tail {
                return Some(End { node, tail: true });
            } else if level == TOPICS.one {
                node = from.any;
            } else {
                node = self.child(seed, node, self.symbols.find(seed, level.as_bytes())?)?;
            }
        }
        self.nodes.get(node).map(|_| End { node, tail: false })
    }

    /// Creates the missing nodes of a mask, and returns the place at which it ends. The caller must then either add
    /// to the set there or prune.
    pub(super) fn reach(&mut self, seed: Seed, mask: &str) -> End {
        let leaf = |parent, level| Node {
            parent,
            level,
            any: NONE,
            texts: 0,
            here: IdSet::Empty,
            tail: IdSet::Empty,
        };
        if self.root == NONE {
            self.root = self.nodes.insert(leaf(NONE, ANY));
        }
        let mut node = self.root;
        for level in TOPICS.levels(mask) {
            if level == TOPICS.tail {
                return End { node, tail: true };
            } else if level == TOPICS.one {
                let mut any = self.nodes[node].any;
                if any == NONE {
                    any = self.nodes.insert(leaf(node, ANY));
                    self.nodes[node].any = any;
                }
                node = any;
                continue;
            }
            let known = self.symbols.find(seed, level.as_bytes());
            if let Some(child) = known.and_then(|symbol| self.child(seed, node, symbol)) {
                node = child;
                continue;
            }
            let symbol = self.symbols.acquire(seed, level);
            let child = self.nodes.insert(leaf(node, symbol));
            self.edges.insert(seed.pair(node, symbol), child);
            self.nodes[node].texts += 1;
            node = child;
        }
        End { node, tail: false }
    }

    pub(super) fn set(&self, end: End) -> Option<&IdSet> {
        self.nodes.get(end.node).map(|node| if end.tail { &node.tail } else { &node.here })
    }

    pub(super) fn set_mut(&mut self, end: End) -> &mut IdSet {
        let node = &mut self.nodes[end.node];
        if end.tail { &mut node.tail } else { &mut node.here }
    }

    /// Removes a node, and then its parents, as long as they have neither children nor clients. Returns the number of
    /// removed nodes.
    pub(super) fn prune(&mut self, seed: Seed, mut id: u32) -> usize {
        let mut removed = 0;
        while let Some(node) = self.nodes.get(id) {
            let used =
                node.any != NONE || node.texts > 0 || node.here != IdSet::Empty || node.tail != IdSet::Empty;
            if used {
                break;
            }
            let (parent, level) = (node.parent, node.level);
            self.nodes.remove(id);
            removed += 1;
            if parent == NONE {
                self.root = NONE;
            } else if level == ANY {
                self.nodes[parent].any = NONE;
            } else {
                self.edges.remove(seed.pair(parent, level), id);
                self.nodes[parent].texts -= 1;
                self.symbols.release(seed, level);
            }
            id = parent;
        }
        self.removals += removed as u64;
        removed
    }

    /// Returns the mask that ends at a place.
    pub(super) fn mask(&self, end: End) -> String {
        let mut levels = Vec::new();
        if end.tail {
            levels.push(TOPICS.tail.as_bytes());
        }
        let mut node = &self.nodes[end.node];
        while node.parent != NONE {
            let text = if node.level == ANY { TOPICS.one.as_bytes() } else { self.symbols.bytes(node.level) };
            levels.push(text);
            node = &self.nodes[node.parent];
        }
        levels.reverse();
        String::from_utf8_lossy(&levels.join(&b'/')).into_owned()
    }

    /// Passes the set of every mask that matches a topic to `found`, together with the remaining budget.
    ///
    /// The search proceeds level by level, with all nodes that the topic reaches at that level. Each node is visited
    /// at most once, even if masks overlap, for one unit of the budget; there is no recursion. Returns false, and
    /// ends early, if the budget is used up or `found` returns false.
    #[inline]
    pub(super) fn visit(
        &self,
        seed: Seed,
        topic: &str,
        budget: &mut usize,
        mut found: impl FnMut(&IdSet, &mut usize) -> bool,
    ) -> bool {
        if self.root == NONE {
            return true;
        }
        let (mut one, mut other) = (Frontier::new(), Frontier::new());
        let (mut now, mut next) = (&mut one, &mut other);
        now.push(self.root);
        for level in topic.as_bytes().split(|byte| *byte == b'/') {
            if !charge(budget, now.len()) {
                return false;
            }
            // The symbol is looked up for the first node that has a child with a text; often there is none.
            let mut symbol = None;
            for id in now.iter() {
                let node = &self.nodes[id];
                if !found(&node.tail, budget) {
                    return false;
                }
                if node.any != NONE {
                    next.push(node.any);
                }
                if node.texts > 0
                    && let Some(symbol) = *symbol.get_or_insert_with(|| self.symbols.find(seed, level))
                    && let Some(child) = self.child(seed, id, symbol)
                {
                    next.push(child);
                }
            }
            now.clear();
            std::mem::swap(&mut now, &mut next);
            if now.is_empty() {
                return true;
            }
        }
        charge(budget, now.len()) && now.iter().all(|id| found(&self.nodes[id].here, budget))
    }

    #[cfg(test)]
    pub(super) fn is_unallocated(&self) -> bool {
        self.root == NONE
            && self.nodes.is_unallocated()
            && self.edges.is_unallocated()
            && self.symbols.is_unallocated()
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.nodes.capacity() + self.edges.slots()
    }
}

/// Takes units from a budget. Returns false if there are not enough.
#[inline]
pub(super) fn charge(budget: &mut usize, units: usize) -> bool {
    match budget.checked_sub(units) {
        Some(left) => {
            *budget = left;
            work::add(units);
            true
        }
        None => false,
    }
}
