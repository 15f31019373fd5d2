//! A hash table of numbers that grows and shrinks in small steps.

use super::{memory, work};
use crate::prefetch::prefetch;

/// A hash, and a value plus one; a vacant slot is all zero.
type Slot = [u32; 2];

const VACANT: Slot = [0, 0];

/// Marks a slot of the old table whose value was removed: a search continues behind it.
const REMOVED: u32 = u32::MAX;

const SMALLEST: usize = 8;

/// Tables of up to this many slots (32 KiB) are resized in one call. While a resize in steps is in progress, which
/// may last if nothing is inserted or removed, a miss takes longer. In tests, nearly all tables are resized in steps.
const RESIZED_WHOLE: usize = if cfg!(test) { 64 } else { 4096 };

/// Number of slots of a new table that one call zeroes.
const ZEROED_PER_CALL: usize = 64;

/// Number of slots of an old table that one call moves.
const MOVED_PER_CALL: usize = 64;

/// The number of moved slots whose memory is returned together: 2 MiB.
const DISCARDED_TOGETHER: usize = memory::LARGE_PAGE_BYTES / size_of::<Slot>();

/// A change of size in progress.
#[derive(Debug)]
enum Resize {
    /// The new table is being zeroed; the current one is in use.
    Preparing { new: Vec<Slot>, slots: usize },
    /// The new table is in use; slots of the old one below `moved` are empty.
    Moving { old: Vec<Slot>, moved: usize },
}

/// Numbers (ids of a slab), found by the hash of the items that they identify.
///
/// Linear probing, 8 bytes a slot, no memory while empty. Every insertion and removal does a bounded part of a resize
/// that is under way: it zeroes 64 slots of the new table, or moves 64 slots of the old one. Growth begins when 25/32
/// of the slots are in use and is prepared at 26/32; shrinking begins below an eighth.
#[derive(Debug, Default)]
pub(super) struct Index {
    slots: Vec<Slot>,
    /// Number of values in both tables.
    len: usize,
    resize: Option<Box<Resize>>,
}

impl Index {
    /// Finds the value with this hash for which `is_it` returns true.
    #[inline]
    pub(super) fn find(&self, hash: u32, mut is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        self.find_map(hash, |value| is_it(value).then_some(value))
    }

    /// Returns the first result of `look` for a value with this hash.
    #[inline]
    pub(super) fn find_map<R>(&self, hash: u32, mut look: impl FnMut(u32) -> Option<R>) -> Option<R> {
        let mask = self.slots.len().wrapping_sub(1);
        let mut at = hash as usize & mask;
        loop {
            let [known, stored] = *self.slots.get(at)?;
            if stored == VACANT[1] {
                return match &self.resize {
                    None => None,
                    Some(resize) => resize.find(hash, look).map(|(_, found)| found),
                };
            }
            if known == hash
                && let Some(found) = look(stored - 1)
            {
                return Some(found);
            }
            at = (at + 1) & mask;
        }
    }

    /// Starts to load the first slot of a search for this hash into the processor's cache.
    #[inline]
    pub(super) fn prefetch(&self, hash: u32) {
        let mask = self.slots.len().wrapping_sub(1);
        if let Some(slot) = self.slots.get(hash as usize & mask) {
            prefetch(slot);
        }
    }

    /// Adds a value that is not in the table yet: at most `u32::MAX - 2`.
    pub(super) fn insert(&mut self, hash: u32, value: u32) {
        self.advance();
        let wanted = self.len + 1;
        // A resize normally ends long before the table is full. If it does not, it must be finished here.
        while wanted * 16 > self.slots.len() * 15 && self.resize.is_some() {
            self.advance();
        }
        // At this load, a miss examines two cache lines on average.
        if wanted * 32 > self.slots.len() * 25 && self.resize.is_none() {
            self.begin((self.slots.len() * 2).max(SMALLEST));
        }
        place(&mut self.slots, [hash, value + 1]);
        self.len += 1;
    }

    /// Removes a value that is in the table.
    pub(super) fn remove(&mut self, hash: u32, value: u32) {
        if !self.remove_current(hash, value) {
            let Some(resize) = &mut self.resize else { return };
            let Some((at, ())) = resize.find(hash, |found| (found == value).then_some(())) else { return };
            if let Resize::Moving { old, .. } = &mut **resize {
                old[at][1] = REMOVED;
            }
        }
        self.len -= 1;
        if self.len == 0 {
            *self = Index::default();
            return;
        }
        self.advance();
        if self.resize.is_none() && self.slots.len() > RESIZED_WHOLE && self.len * 8 < self.slots.len() {
            self.begin(self.slots.len() / 4);
        }
    }

    /// Removes a value from the current table. Returns false if it is not there.
    fn remove_current(&mut self, hash: u32, value: u32) -> bool {
        let mask = self.slots.len().wrapping_sub(1);
        let mut hole = hash as usize & mask;
        loop {
            match self.slots.get(hole) {
                Some([_, stored]) if *stored == value + 1 => break,
                Some(slot) if *slot != VACANT => hole = (hole + 1) & mask,
                _ => return false,
            }
        }
        // Values that the removed one had displaced move back, so that no search ends too early.
        let mut at = hole;
        loop {
            at = (at + 1) & mask;
            let slot = self.slots[at];
            work::add(1);
            if slot == VACANT {
                break;
            }
            let from_home = at.wrapping_sub(slot[0] as usize) & mask;
            if from_home >= (at.wrapping_sub(hole) & mask) {
                self.slots[hole] = slot;
                hole = at;
            }
        }
        self.slots[hole] = VACANT;
        true
    }

    fn begin(&mut self, slots: usize) {
        let new = memory::vec_with_capacity(slots);
        self.resize = Some(Box::new(Resize::Preparing { new, slots }));
        if slots.max(self.slots.len()) <= RESIZED_WHOLE {
            while self.resize.is_some() {
                self.advance();
            }
        }
    }

    /// Does one step of a resize in progress.
    #[inline]
    fn advance(&mut self) {
        if self.resize.is_some() {
            self.step();
        }
    }

    fn step(&mut self) {
        let Some(resize) = &mut self.resize else { return };
        match &mut **resize {
            Resize::Preparing { new, slots } => {
                let zeroed = (new.len() + ZEROED_PER_CALL).min(*slots);
                work::add(zeroed - new.len());
                new.resize(zeroed, VACANT);
                if zeroed == *slots {
                    let old = std::mem::replace(&mut self.slots, std::mem::take(new));
                    **resize = Resize::Moving { old, moved: 0 };
                }
            }
            Resize::Moving { old, moved } => {
                let end = (*moved + MOVED_PER_CALL).min(old.len());
                work::add(end - *moved);
                for slot in &old[*moved..end] {
                    if slot[1] != VACANT[1] && slot[1] != REMOVED {
                        place(&mut self.slots, *slot);
                    }
                }
                if end.is_multiple_of(DISCARDED_TOGETHER) && end > 0 {
                    // Twice as much, which contains a whole page for every alignment of the table.
                    memory::discard(&mut old[end.saturating_sub(2 * DISCARDED_TOGETHER)..end]);
                }
                *moved = end;
                if end == old.len() {
                    self.resize = None;
                }
            }
        }
    }

    #[cfg(test)]
    pub(super) fn is_unallocated(&self) -> bool {
        self.len == 0 && self.slots.capacity() == 0 && self.resize.is_none()
    }

    #[cfg(test)]
    pub(super) fn slots(&self) -> usize {
        self.slots.len()
    }
}

impl Resize {
    /// Finds a value of the old table that has not been moved. Returns its slot and the result of `look`.
    #[cold]
    #[inline(never)]
    fn find<R>(&self, hash: u32, mut look: impl FnMut(u32) -> Option<R>) -> Option<(usize, R)> {
        let Resize::Moving { old, moved } = self else { return None };
        let mask = old.len() - 1;
        let mut at = hash as usize & mask;
        for _ in *moved..old.len() {
            // Slots below `moved` need not be examined: a value that was displaced beyond them is in an unbroken run
            // that begins at `moved`.
            at = at.max(*moved);
            let [known, stored] = *old.get(at)?;
            if stored == VACANT[1] {
                return None;
            }
            if known == hash
                && stored != REMOVED
                && let Some(found) = look(stored - 1)
            {
                return Some((at, found));
            }
            at = (at + 1) & mask;
        }
        None
    }
}

fn place(slots: &mut [Slot], new: Slot) {
    let mask = slots.len() - 1;
    let mut at = new[0] as usize & mask;
    while slots[at] != VACANT {
        at = (at + 1) & mask;
    }
    slots[at] = new;
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    fn spread(value: u32) -> u32 {
        value.wrapping_mul(0x9e37_79b9).rotate_left(15)
    }

    #[test]
    fn no_call_moves_more_than_a_few_slots() {
        const COUNT: u32 = 1_100_000;
        let mut index = Index::default();
        work::take();
        let mut most = 0;
        for value in 0..COUNT {
            index.insert(spread(value), value);
            most = most.max(work::take());
        }
        assert_eq!(index.slots(), 1 << 21);
        for value in (0..COUNT).step_by(1001) {
            assert_eq!(index.find(spread(value), |found| found == value), Some(value));
        }
        for value in 0..COUNT {
            index.remove(spread(value), value);
            most = most.max(work::take());
            if value == COUNT - 20 {
                assert!(index.slots() < 1024, "{}", index.slots());
            }
        }
        assert!(index.is_unallocated());
        // A removal also moves the values behind it up to the next vacant slot.
        assert!(most <= 1500, "{most}");
    }

    #[test]
    fn every_value_is_found_at_every_moment_of_a_resize() {
        let mut index = Index::default();
        for value in 0..1000 {
            index.insert(spread(value), value);
            for known in 0..=value {
                assert!(index.find(spread(known), |found| found == known).is_some(), "{known} of {value}");
            }
        }
        for value in 0..1000 {
            index.remove(spread(value), value);
            for known in 0..1000 {
                let found = index.find(spread(known), |found| found == known).is_some();
                assert_eq!(found, known > value, "{known} of {value}");
            }
        }
    }

    #[test]
    fn a_shrinking_table_takes_new_values() {
        let mut index = Index::default();
        for value in 0..100_000 {
            index.insert(spread(value), value);
        }
        for value in 0..84_000 {
            index.remove(spread(value), value);
        }
        for value in 100_000..400_000 {
            index.insert(spread(value), value);
            assert!(index.len * 16 <= index.slots() * 15);
        }
        for value in 84_000..400_000 {
            assert!(index.find(spread(value), |found| found == value).is_some());
        }
    }

    proptest! {
        /// There are few hashes, so that runs are long and wrap around.
        #[test]
        fn behaves_like_a_set(
            steps in prop::collection::vec((0_u32..300, prop::sample::select(&[true, true, false][..])), 0..900),
            drop_from in 0_u32..300,
        ) {
            let hash = |value: u32| if value.is_multiple_of(3) { u32::MAX - value % 5 } else { value * 7 };
            let mut index = Index::default();
            let mut model = HashSet::new();
            for (value, add) in steps {
                let known = index.find(hash(value), |v| v == value).is_some();
                prop_assert_eq!(known, model.contains(&value));
                if add && !known {
                    index.insert(hash(value), value);
                    model.insert(value);
                } else if !add && known {
                    index.remove(hash(value), value);
                    model.remove(&value);
                }
                prop_assert_eq!(index.len, model.len());
            }
            for value in 0..300 {
                prop_assert_eq!(index.find(hash(value), |v| v == value).is_some(), model.contains(&value));
            }
            // Removes most of the values, so that the table shrinks, and checks all of them at intervals.
            let mut left: Vec<u32> = model.iter().copied().collect();
            left.sort_by_key(|value| value.wrapping_sub(drop_from));
            while let Some(value) = left.pop() {
                index.remove(hash(value), value);
                model.remove(&value);
                if left.len().is_multiple_of(16) {
                    for value in 0..300 {
                        let found = index.find(hash(value), |v| v == value).is_some();
                        prop_assert_eq!(found, model.contains(&value));
                    }
                }
            }
            prop_assert!(index.is_unallocated());
        }
    }
}
