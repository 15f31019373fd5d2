//! The trie of the topic masks that have wildcards.

use super::TOPICS;
use super::arena::{Frontier, NONE, Slab, Symbols};
use super::hash::{Index, Seed};
use super::ids::IdSet;

/// The level of a node that stands for any one level.
const ANY: u32 = NONE;

#[derive(Debug)]
struct Node {
    parent: u32,
    /// A symbol, or [`ANY`].
    level: u32,
    /// The child for any one level, or [`NONE`].
    any: u32,
    /// How many children have a text; they are found through the edges.
    texts: u32,
    /// Whose mask ends here.
    here: IdSet,
    /// Whose mask takes one level or more from here on.
    tail: IdSet,
}

// The whole cost of a level, besides its 10 bytes of edge: keep an eye on it.
const _: () = assert!(size_of::<Node>() == 32);

/// The place of one mask: a node, and which of its two sets.
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
    symbols: Symbols,
    root: u32,
}

impl Default for Wild {
    fn default() -> Self {
        Wild { nodes: Slab::default(), edges: Index::default(), symbols: Symbols::default(), root: NONE }
    }
}

impl Wild {
    pub(super) fn is_sparse(&self) -> bool {
        self.nodes.is_sparse()
    }

    #[inline]
    fn child(&self, seed: Seed, parent: u32, level: u32) -> Option<u32> {
        self.edges.find(seed.pair(parent, level), |id| {
            let node = &self.nodes[id];
            node.parent == parent && node.level == level
        })
    }

    /// Where a mask ends, if it is here.
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

    /// Where a mask ends, with all nodes up to there made. The caller fills the set or prunes.
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

    /// Removes a node, and then its parents, that nobody needs any more.
    pub(super) fn prune(&mut self, seed: Seed, mut id: u32) {
        while let Some(node) = self.nodes.get(id) {
            let used =
                node.any != NONE || node.texts > 0 || node.here != IdSet::Empty || node.tail != IdSet::Empty;
            if used {
                return;
            }
            let (parent, level) = (node.parent, node.level);
            self.nodes.remove(id);
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
    }

    /// The mask that ends there.
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

    /// Hands out the set of every mask that a topic is in.
    ///
    /// Level by level, all nodes that the topic reaches at once: each node is looked at once at most,
    /// however the masks overlap, and nothing is as deep as the topic.
    #[inline]
    pub(super) fn visit(&self, seed: Seed, topic: &str, mut found: impl FnMut(&IdSet)) {
        if self.root == NONE {
            return;
        }
        let (mut one, mut other) = (Frontier::new(), Frontier::new());
        let (mut now, mut next) = (&mut one, &mut other);
        now.push(self.root);
        for level in topic.as_bytes().split(|byte| *byte == b'/') {
            // Looked up when the first node asks; many have no child with a text.
            let mut symbol = None;
            for id in now.iter() {
                let node = &self.nodes[id];
                found(&node.tail);
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
                return;
            }
        }
        for id in now.iter() {
            found(&self.nodes[id].here);
        }
    }

    #[cfg(test)]
    pub(super) fn is_unallocated(&self) -> bool {
        self.root == NONE
            && self.nodes.is_unallocated()
            && self.edges.is_unallocated()
            && self.symbols.is_unallocated()
    }
}
