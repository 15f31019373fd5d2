//! Trie of client names, queried by mask.

use super::NAMES;
use super::arena::{Frontier, NONE, Symbols};
use super::hash::Seed;
use super::ids::{Gather, IdSet, IdSets};
use super::index::Index;
use super::search::Lookup;
use super::slab::Slab;
use super::wild::charge;

#[derive(Debug)]
pub(super) struct Node {
    pub(super) parent: u32,
    /// Symbol of the part; the root has none.
    part: u32,
    pub(super) first_child: u32,
    /// The next child of the same parent. New children come first.
    pub(super) next: u32,
    previous: u32,
    /// Clients whose name ends here.
    pub(super) ids: IdSet,
}

/// Sets of client ids by name, found by name masks.
///
/// `?` stands for any one part, `*` for one or more parts; `*` ends the mask, and the text after it is ignored. Names
/// are plain text: wildcard characters in them have no meaning. A query visits the names that begin like the mask:
/// use [`matches_within`](Self::matches_within) if peers choose the names. All other operations take time in
/// proportion to the name, independent of the other names. Not thread-safe: share it behind a lock.
#[derive(Debug)]
pub struct NameTrie {
    pub(super) seed: Seed,
    pub(super) nodes: Slab<Node>,
    /// (parent, symbol) to child.
    edges: Index,
    symbols: Symbols,
    pub(super) sets: IdSets,
    pub(super) root: u32,
    /// Number of removals of nodes. After a removal, a node id seen before may belong to another node.
    pub(super) removals: u64,
    len: usize,
}

impl Default for NameTrie {
    fn default() -> Self {
        NameTrie {
            seed: Seed::default(),
            nodes: Slab::default(),
            edges: Index::default(),
            symbols: Symbols::default(),
            sets: IdSets::default(),
            root: NONE,
            removals: 0,
            len: 0,
        }
    }
}

impl NameTrie {
    /// Creates an empty trie.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the number of pairs of a name and a client.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns true if there are no names.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds a client. Returns false if it already had this name.
    pub fn insert(&mut self, name: &str, id: u32) -> bool {
        if self.root == NONE {
            self.root = self.add(NONE, NONE);
        }
        let mut node = self.root;
        for part in NAMES.levels(name) {
            node = match self.child(node, part) {
                Some(child) => child,
                None => {
                    let symbol = self.symbols.acquire(self.seed, part);
                    self.add(node, symbol)
                }
            };
        }
        let added = self.sets.insert(&mut self.nodes[node].ids, id);
        self.len += usize::from(added);
        added
    }

    /// Removes a client. Returns false if it did not have this name.
    pub fn remove(&mut self, name: &str, id: u32) -> bool {
        let Some(node) = self.find(name) else { return false };
        if !self.sets.remove(&mut self.nodes[node].ids, id) {
            return false;
        }
        self.len -= 1;
        self.prune(node);
        true
    }

    /// Appends the clients whose names match the mask, in ascending order, each once. Earlier content of `out` does
    /// not matter.
    pub fn matches(&self, mask: &str, out: &mut Vec<u32>) {
        let mut gather = Gather::new(out);
        self.gather(mask, &mut gather, &mut usize::MAX.clone());
        gather.finish();
    }

    /// Does the same as [`matches`](Self::matches) within a budget: one unit for each visited node and each gathered
    /// id. If that is not enough, `out` does not change, and a [`NameWalk`](super::name_walk::NameWalk) can find the
    /// clients in steps.
    pub fn matches_within(&self, mask: &str, out: &mut Vec<u32>, budget: &mut usize) -> Lookup {
        let mut gather = Gather::new(out);
        if self.gather(mask, &mut gather, budget) {
            gather.finish();
            Lookup::Complete
        } else {
            gather.undo();
            Lookup::OverBudget
        }
    }

    /// Returns false if the budget is used up.
    fn gather(&self, mask: &str, gather: &mut Gather<'_>, budget: &mut usize) -> bool {
        if self.root == NONE {
            return true;
        }
        let (mut one, mut other) = (Frontier::new(), Frontier::new());
        let (mut now, mut next) = (&mut one, &mut other);
        now.push(self.root);
        for part in NAMES.levels(mask) {
            if !charge(budget, now.len()) {
                return false;
            }
            if part == NAMES.tail {
                return now.iter().all(|node| self.all_below(node, gather, budget));
            }
            for node in now.iter() {
                if part == NAMES.one {
                    for child in self.children(node) {
                        if next.len() >= *budget {
                            return false;
                        }
                        next.push(child);
                    }
                } else if let Some(child) = self.child(node, part) {
                    next.push(child);
                }
            }
            now.clear();
            std::mem::swap(&mut now, &mut next);
            if now.is_empty() {
                return true;
            }
        }
        now.iter().all(|node| self.gather_node(&self.nodes[node], gather, budget))
    }

    /// Gathers the clients of one node; the node is charged too. Returns false if the budget is used up.
    #[inline]
    fn gather_node(&self, node: &Node, gather: &mut Gather<'_>, budget: &mut usize) -> bool {
        let ids = self.sets.ids(&node.ids);
        let affordable = charge(budget, 1 + ids.len());
        if affordable {
            gather.add(ids);
        }
        affordable
    }

    fn add(&mut self, parent: u32, part: u32) -> u32 {
        let next = self.nodes.get(parent).map_or(NONE, |parent| parent.first_child);
        let node = Node { parent, part, first_child: NONE, next, previous: NONE, ids: IdSet::Empty };
        let id = self.nodes.insert(node);
        if parent != NONE {
            self.nodes[parent].first_child = id;
            self.edges.insert(self.seed.pair(parent, part), id);
        }
        if next != NONE {
            self.nodes[next].previous = id;
        }
        id
    }

    pub(super) fn child(&self, parent: u32, part: &str) -> Option<u32> {
        let symbol = self.symbols.find(self.seed, part.as_bytes())?;
        self.edges.find(self.seed.pair(parent, symbol), |id| {
            let node = &self.nodes[id];
            node.parent == parent && node.part == symbol
        })
    }

    fn find(&self, name: &str) -> Option<u32> {
        let mut node = self.root;
        for part in NAMES.levels(name) {
            node = self.child(node, part)?;
        }
        Some(node)
    }

    fn children(&self, node: u32) -> impl Iterator<Item = u32> {
        let known = |id: u32| (id != NONE).then_some(id);
        std::iter::successors(known(self.nodes[node].first_child), move |id| known(self.nodes[*id].next))
    }

    /// Gathers all names below a node. It follows the links between the nodes, so that it needs no stack for deep
    /// names. Returns false if the budget is used up.
    fn all_below(&self, top: u32, gather: &mut Gather<'_>, budget: &mut usize) -> bool {
        let mut id = top;
        loop {
            let node = &self.nodes[id];
            if node.first_child != NONE {
                id = node.first_child;
            } else {
                while id != top && self.nodes[id].next == NONE {
                    id = self.nodes[id].parent;
                }
                if id == top {
                    return true;
                }
                id = self.nodes[id].next;
            }
            if !self.gather_node(&self.nodes[id], gather, budget) {
                return false;
            }
        }
    }

    /// Removes a node, and then its parents, as long as they have neither children nor clients.
    fn prune(&mut self, mut id: u32) {
        while let Some(node) = self.nodes.get(id) {
            if node.first_child != NONE || node.ids != IdSet::Empty {
                return;
            }
            let Node { parent, part, next, previous, .. } = *node;
            self.nodes.remove(id);
            self.removals += 1;
            if parent == NONE {
                self.root = NONE;
                return;
            }
            if next != NONE {
                self.nodes[next].previous = previous;
            }
            if previous == NONE {
                self.nodes[parent].first_child = next;
            } else {
                self.nodes[previous].next = next;
            }
            self.edges.remove(self.seed.pair(parent, part), id);
            self.symbols.release(self.seed, part);
            id = parent;
        }
    }

    #[cfg(test)]
    pub(super) fn is_unallocated(&self) -> bool {
        self.root == NONE
            && self.len == 0
            && self.nodes.is_unallocated()
            && self.edges.is_unallocated()
            && self.symbols.is_unallocated()
            && self.sets.is_unallocated()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matching::{has_wildcards, name_mask_matches};
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn matching(trie: &NameTrie, mask: &str) -> Vec<u32> {
        let mut out = Vec::new();
        trie.matches(mask, &mut out);
        out
    }

    #[test]
    fn masks_of_the_protocol() {
        let names = ["g1.test.client1", "g1.test.sub.client2", "g1.test", "x.y", "x.y%%1", "x", "?d.z"];
        let mut trie = NameTrie::new();
        for (id, name) in names.iter().enumerate() {
            assert!(trie.insert(name, id as u32));
            assert!(!trie.insert(name, id as u32));
        }
        for (mask, reached) in [
            ("?.test.*", &[0, 1][..]),
            ("?.test", &[2]),
            ("x.*", &[3, 4]),
            ("x.?", &[3, 4]),
            ("x.y", &[3]),
            ("x.y%%1", &[4]),
            ("x", &[5]),
            ("?d.*", &[6]),
            ("?d.z", &[6]),
            ("*", &[0, 1, 2, 3, 4, 5, 6]),
            ("*.ignored", &[0, 1, 2, 3, 4, 5, 6]),
            ("?", &[5]),
            ("?.?.?.?", &[1]),
            ("X", &[]),
            ("", &[]),
            ("x.", &[]),
            ("+", &[]),
        ] {
            assert_eq!(matching(&trie, mask), reached, "{mask}");
            for (id, name) in names.iter().enumerate() {
                assert_eq!(name_mask_matches(mask, name), reached.contains(&(id as u32)), "{mask} {name}");
            }
        }
        assert!(has_wildcards("a.?") && has_wildcards("*") && !has_wildcards("?d.*x") && !has_wildcards(""));
    }

    #[test]
    fn hostile_depth() {
        let mut trie = NameTrie::new();
        let deep = ".".repeat(60_000);
        trie.insert(&deep, 1);
        trie.insert("a", 2);
        assert_eq!(matching(&trie, "*"), [1, 2]);
        assert_eq!(matching(&trie, &deep), [1]);
        assert_eq!(matching(&trie, &("?.".repeat(60_000) + "?")), [1]);
        assert_eq!(matching(&trie, &("?.".repeat(60_000) + "*")), [1]);
        assert!(matching(&trie, &("?.".repeat(60_001) + "*")).is_empty());
        trie.remove(&deep, 1);
        trie.remove("a", 2);
        assert!(trie.is_unallocated());
    }

    #[test]
    fn many_names_come_and_go() {
        let mut trie = NameTrie::new();
        for id in 0..20_000 {
            trie.insert(&format!("group{}.client{id}", id % 7), id);
        }
        assert_eq!(matching(&trie, "*").len(), 20_000);
        for id in 0..19_990 {
            assert!(trie.remove(&format!("group{}.client{id}", id % 7), id));
        }
        assert_eq!(matching(&trie, "*"), (19_990..20_000).collect::<Vec<_>>());
        assert_eq!(matching(&trie, "?.client19995"), [19_995]);
    }

    fn text(parts: &'static [&'static str]) -> impl Strategy<Value = String> {
        prop::collection::vec(prop::sample::select(parts), 1..5).prop_map(|parts| parts.join("."))
    }

    proptest! {
        #[test]
        fn agrees_with_the_naive_matcher(
            steps in prop::collection::vec((text(&["a", "b", "", "?", "*"]), 0_u32..4, 0..3), 0..60),
            masks in prop::collection::vec(text(&["a", "b", "", "?", "?", "*"]), 30),
        ) {
            let mut trie = NameTrie::new();
            let mut model = BTreeSet::new();
            for (name, id, action) in steps {
                if action == 0 {
                    prop_assert_eq!(trie.remove(&name, id), model.remove(&(id, name)));
                } else {
                    prop_assert_eq!(trie.insert(&name, id), model.insert((id, name)));
                }
                prop_assert_eq!(trie.len(), model.len());
            }
            for mask in masks {
                let wanted = model.iter().filter(|(_, name)| name_mask_matches(&mask, name));
                let wanted: BTreeSet<u32> = wanted.map(|(id, _)| *id).collect();
                prop_assert_eq!(matching(&trie, &mask), wanted.into_iter().collect::<Vec<_>>());
            }
            for (id, name) in model {
                prop_assert!(trie.remove(&name, id));
            }
            prop_assert!(trie.is_unallocated());
        }
    }
}
