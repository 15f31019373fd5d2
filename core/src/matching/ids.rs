//! Sets of client ids, and the union of matching sets.

use super::slab::Slab;

/// A set of client ids. Nearly all sets have at most one id, which is stored in place.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum IdSet {
    #[default]
    Empty,
    One(u32),
    /// A sorted list in [`IdSets`].
    Many(u32),
}

/// The lists of all sets that have more than one id.
#[derive(Debug, Default)]
pub(super) struct IdSets {
    lists: Slab<Vec<u32>>,
}

impl IdSets {
    #[inline]
    pub(super) fn ids<'a>(&'a self, set: &'a IdSet) -> &'a [u32] {
        match set {
            IdSet::Empty => &[],
            IdSet::One(id) => std::slice::from_ref(id),
            IdSet::Many(list) => &self.lists[*list],
        }
    }

    pub(super) fn contains(&self, set: &IdSet, id: u32) -> bool {
        self.ids(set).binary_search(&id).is_ok()
    }

    /// Adds an id. Returns false if it was already in the set.
    pub(super) fn insert(&mut self, set: &mut IdSet, id: u32) -> bool {
        match *set {
            IdSet::Empty => *set = IdSet::One(id),
            IdSet::One(other) if other == id => return false,
            IdSet::One(other) => {
                *set = IdSet::Many(self.lists.insert(vec![other.min(id), other.max(id)]));
            }
            IdSet::Many(list) => {
                let list = &mut self.lists[list];
                let Err(at) = list.binary_search(&id) else { return false };
                list.insert(at, id);
            }
        }
        true
    }

    /// Removes an id. Returns false if it was not in the set.
    pub(super) fn remove(&mut self, set: &mut IdSet, id: u32) -> bool {
        match *set {
            IdSet::One(other) if other == id => *set = IdSet::Empty,
            IdSet::Empty | IdSet::One(_) => return false,
            IdSet::Many(number) => {
                let list = &mut self.lists[number];
                let Ok(at) = list.binary_search(&id) else { return false };
                list.remove(at);
                if let [last] = list[..] {
                    *set = IdSet::One(last);
                    self.lists.remove(number);
                } else if list.len() * 4 < list.capacity() && list.capacity() > 16 {
                    list.shrink_to(list.len() * 2);
                }
            }
        }
        true
    }

    #[cfg(test)]
    pub(super) fn is_unallocated(&self) -> bool {
        self.lists.is_unallocated()
    }
}

/// Maximum number of single ids that are inserted into a list.
const FEW: usize = 8;

/// Appends the union of sets to a vector: in ascending order, each id once. Earlier content of the vector does not
/// change.
pub(super) struct Gather<'a> {
    out: &'a mut Vec<u32>,
    start: usize,
    sorted: bool,
    /// Number of ids that may still be moved in order to insert others in the middle.
    moves: usize,
}

impl<'a> Gather<'a> {
    pub(super) fn new(out: &'a mut Vec<u32>) -> Self {
        let start = out.len();
        Gather { out, start, sorted: true, moves: 10_000 }
    }

    #[inline]
    pub(super) fn add(&mut self, ids: &[u32]) {
        let found = &self.out[self.start..];
        match ids {
            [] => {}
            [id] if self.sorted && found.last().is_none_or(|last| last < id) => self.out.push(*id),
            // A few single ids are inserted in order; if there are more, all ids are sorted at the end.
            [id] if self.sorted && self.moves >= found.len() => {
                if let Err(at) = found.binary_search(id) {
                    self.moves -= found.len() - at;
                    self.out.insert(self.start + at, *id);
                }
            }
            // A list that comes after a few single ids: they are inserted into it.
            _ if self.sorted && found.len() <= FEW => {
                let mut few = [0; FEW];
                let few = &mut few[..found.len()];
                few.copy_from_slice(found);
                self.out.truncate(self.start);
                self.out.extend_from_slice(ids);
                few.iter().for_each(|id| self.add(&[*id]));
            }
            _ => {
                self.sorted &= found.is_empty();
                self.out.extend_from_slice(ids);
            }
        }
    }

    #[inline]
    pub(super) fn finish(self) {
        if !self.sorted {
            sort_and_dedup(self.out, self.start);
        }
    }

    /// Removes the appended ids.
    pub(super) fn undo(self) {
        self.out.truncate(self.start);
    }
}

#[cold]
fn sort_and_dedup(out: &mut Vec<u32>, start: usize) {
    out[start..].sort_unstable();
    let mut kept = start;
    for at in start..out.len() {
        if kept == start || out[kept - 1] != out[at] {
            out[kept] = out[at];
            kept += 1;
        }
    }
    out.truncate(kept);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn id_sets_grow_and_shrink() {
        let (mut sets, mut set) = (IdSets::default(), IdSet::default());
        for id in [5, 1, 9, u32::MAX, 0] {
            assert!(sets.insert(&mut set, id));
            assert!(!sets.insert(&mut set, id));
        }
        assert_eq!(sets.ids(&set), [0, 1, 5, 9, u32::MAX]);
        assert!(sets.contains(&set, 9) && !sets.contains(&set, 2));
        for id in [9, 0, u32::MAX, 1] {
            assert!(sets.remove(&mut set, id));
            assert!(!sets.remove(&mut set, id));
        }
        assert_eq!(set, IdSet::One(5));
        assert!(sets.is_unallocated());
        assert!(sets.remove(&mut set, 5) && set == IdSet::Empty);
    }

    #[test]
    fn gathered_ids_are_sorted_and_unique() {
        let mut out = vec![9, 9, 1];
        let mut gather = Gather::new(&mut out);
        for ids in [&[4][..], &[2], &[4], &[], &[1, 2, 3, 8], &[0]] {
            gather.add(ids);
        }
        gather.finish();
        assert_eq!(out, [9, 9, 1, 0, 1, 2, 3, 4, 8]);
        let mut out = Vec::new();
        let mut gather = Gather::new(&mut out);
        for id in (0..500).rev() {
            gather.add(&[id]);
            gather.add(&[id]);
        }
        gather.finish();
        assert_eq!(out, (0..500).collect::<Vec<_>>());
    }
}
