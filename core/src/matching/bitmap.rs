//! The union of many sets of ids, built and read in small steps.

use super::work;

/// Words of one page: it covers 65,536 ids and takes 8 KiB.
const PAGE_WORDS: usize = 1024;

/// Words that are read at the cost of one unit of work.
const WORDS_PER_UNIT: usize = 16;

/// The ids that a walk has found. A bitmap keeps each id once and yields them in order, so that no sorting is needed.
#[derive(Debug, Default)]
pub(super) struct Bitmap {
    pages: Vec<Option<Box<[u64; PAGE_WORDS]>>>,
    count: usize,
    /// The last id that was taken from the current set.
    taken: Option<u32>,
    /// The next word to read.
    word: usize,
    ids: Vec<u32>,
}

impl Bitmap {
    /// Adds the ids of an ascending list, for one unit of the budget each. Returns false if the budget is used up
    /// before the end of the list: the next call continues there, even if the list has changed by then.
    pub(super) fn add_some(&mut self, ids: &[u32], budget: &mut usize) -> bool {
        let rest = match self.taken {
            Some(taken) => ids.get(ids.partition_point(|id| *id <= taken)..).unwrap_or_default(),
            None => ids,
        };
        let (now, later) = rest.split_at(rest.len().min(*budget));
        *budget -= now.len();
        work::add(now.len());
        for id in now {
            self.add(*id);
        }
        self.taken = if later.is_empty() { None } else { now.last().copied().or(self.taken) };
        later.is_empty()
    }

    /// Ends the current set: the next list is added from its beginning.
    pub(super) fn next_set(&mut self) {
        self.taken = None;
    }

    fn add(&mut self, id: u32) {
        let (page, bit) = ((id >> 16) as usize, id as usize & 0xffff);
        if self.pages.len() <= page {
            self.pages.resize_with(page + 1, || None);
        }
        let Some(page) = self.pages.get_mut(page) else { return };
        let words = page.get_or_insert_with(|| Box::new([0; PAGE_WORDS]));
        let (word, bit) = (&mut words[bit / 64], 1 << (bit % 64));
        self.count += usize::from(*word & bit == 0);
        *word |= bit;
    }

    /// Moves ids to the result. Returns false if the budget is used up before all are moved.
    pub(super) fn read_some(&mut self, budget: &mut usize) -> bool {
        if self.word == 0 {
            self.ids.reserve_exact(self.count);
        }
        loop {
            let (page, first) = (self.word / PAGE_WORDS, self.word % PAGE_WORDS);
            let Some(page) = self.pages.get(page) else { return true };
            if *budget == 0 {
                return false;
            }
            let before = self.ids.len();
            match page {
                Some(words) => {
                    for (at, word) in words[first..first + WORDS_PER_UNIT].iter().enumerate() {
                        let mut rest = *word;
                        while rest != 0 {
                            let bit = self.word + at;
                            self.ids.push((bit * 64) as u32 + rest.trailing_zeros());
                            rest &= rest - 1;
                        }
                    }
                    self.word += WORDS_PER_UNIT;
                }
                // An absent page is skipped for one unit.
                None => self.word += PAGE_WORDS - first,
            }
            let units = 1 + self.ids.len() - before;
            work::add(units);
            *budget = budget.saturating_sub(units);
        }
    }

    pub(super) fn into_ids(self) -> Vec<u32> {
        self.ids
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn ids_of_any_size() {
        let mut bitmap = Bitmap::default();
        let (ids, mut steps) = ([0, 63, 64, 65_535, 65_536, u32::MAX], 0);
        for _ in 0..2 {
            while !bitmap.add_some(&ids, &mut 1) {
                steps += 1;
            }
        }
        assert!(steps <= 12);
        while !bitmap.read_some(&mut 10_000) {}
        assert_eq!(bitmap.into_ids(), ids);
    }

    proptest! {
        #[test]
        fn unites_sets(
            sets in prop::collection::vec(prop::collection::btree_set(0_u32..200_000, 0..60), 0..10),
            budget in 1_usize..50,
        ) {
            let mut bitmap = Bitmap::default();
            for set in &sets {
                let ids: Vec<u32> = set.iter().copied().collect();
                while !bitmap.add_some(&ids, &mut budget.clone()) {}
            }
            while !bitmap.read_some(&mut budget.clone()) {}
            let all: BTreeSet<u32> = sets.into_iter().flatten().collect();
            prop_assert_eq!(bitmap.into_ids(), all.into_iter().collect::<Vec<_>>());
        }
    }
}
