//! An ordered set of numbers in pages: large sets change in small steps.

use super::work;

/// Numbers in one page.
const PAGE: usize = 512;

#[derive(Debug)]
struct Page {
    /// Every number of this page is at most this one, every number of the next page is higher.
    highest: u32,
    numbers: Vec<u32>,
}

/// An ordered set of numbers, of any size: 4 to 8 bytes for each, no memory while empty.
///
/// A change moves the numbers of at most two pages. Adding or removing a page moves the table of pages, 32 bytes for
/// every 512 numbers.
#[derive(Debug, Default)]
pub(super) struct Spots {
    /// All pages but the last.
    pages: Vec<Page>,
    /// The last page, which is the only one of a small set. It is empty only when the set is.
    last: Vec<u32>,
    len: usize,
}

impl Spots {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Adds a number that is not in the set yet.
    pub(super) fn insert(&mut self, number: u32) {
        self.len += 1;
        // Usually a new mask has the highest number.
        if self.last.len() < PAGE && self.last.last().is_some_and(|highest| *highest < number) {
            return self.last.push(number);
        }
        let at = self.page_of(number);
        let place = self.numbers(at).partition_point(|other| *other < number);
        let numbers = self.numbers_mut(at);
        if numbers.len() < PAGE {
            work::add(numbers.len() - place);
            return numbers.insert(place, number);
        }
        // A full page is split in front of a number that comes last, so that ascending numbers leave full pages.
        let split = if place == PAGE { PAGE } else { PAGE / 2 };
        let mut high = numbers.split_off(split);
        let low = std::mem::take(numbers);
        work::add(PAGE);
        let mut page = Page { highest: low.last().copied().unwrap_or(0), numbers: low };
        if place < split {
            page.numbers.insert(place, number);
        } else {
            high.insert(place - split, number);
        }
        *self.numbers_mut(at) = high;
        work::add((self.pages.len() - at) / 64);
        self.pages.insert(at, page);
    }

    /// Removes a number. Returns false if it was not in the set.
    pub(super) fn remove(&mut self, number: u32) -> bool {
        let at = self.page_of(number);
        let numbers = self.numbers_mut(at);
        let Ok(place) = numbers.binary_search(&number) else { return false };
        work::add(numbers.len() - place);
        numbers.remove(place);
        let left = numbers.len();
        self.len -= 1;
        if left * 4 < PAGE && at < self.pages.len() {
            self.merge(at);
        } else if left == 0 {
            // The last page.
            self.last = self.pages.pop().map(|page| page.numbers).unwrap_or_default();
        } else if left * 4 < self.numbers(at).capacity() && left > 4 {
            self.numbers_mut(at).shrink_to(left * 2);
        }
        true
    }

    /// Removes the highest number.
    pub(super) fn pop(&mut self) -> Option<u32> {
        let highest = self.last.last().copied()?;
        self.remove(highest);
        Some(highest)
    }

    /// Returns the lowest number, or the lowest above a given one.
    pub(super) fn above(&self, floor: Option<u32>) -> Option<u32> {
        let from = match floor {
            Some(floor) => floor.checked_add(1)?,
            None => 0,
        };
        let mut at = self.page_of(from);
        loop {
            let numbers = self.numbers(at);
            if let Some(number) = numbers.get(numbers.partition_point(|number| *number < from)) {
                return Some(*number);
            }
            if at == self.pages.len() {
                return None;
            }
            at += 1;
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = u32> {
        self.pages.iter().flat_map(|page| &page.numbers).chain(&self.last).copied()
    }

    /// Returns the page to which a number belongs; `pages.len()` stands for the last one.
    fn page_of(&self, number: u32) -> usize {
        match self.pages.last() {
            Some(page) if page.highest >= number => self.pages.partition_point(|page| page.highest < number),
            _ => self.pages.len(),
        }
    }

    fn numbers(&self, at: usize) -> &Vec<u32> {
        self.pages.get(at).map_or(&self.last, |page| &page.numbers)
    }

    fn numbers_mut(&mut self, at: usize) -> &mut Vec<u32> {
        self.pages.get_mut(at).map_or(&mut self.last, |page| &mut page.numbers)
    }

    /// Moves the few numbers of a page to the front of the next page, unless that page would then be almost full.
    fn merge(&mut self, at: usize) {
        let next = self.numbers(at + 1).len();
        if next + self.numbers(at).len() > PAGE * 3 / 4 {
            // An empty page is removed in any case.
            if !self.numbers(at).is_empty() {
                return;
            }
        }
        work::add(PAGE + (self.pages.len() - at) / 64);
        let mut low = self.pages.remove(at).numbers;
        let high = self.numbers_mut(at);
        low.append(high);
        *high = low;
    }

    #[cfg(test)]
    pub(super) fn pages(&self) -> usize {
        self.pages.len() + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn ascending_numbers_fill_their_pages() {
        let mut spots = Spots::default();
        (0..100_000).for_each(|number| spots.insert(number));
        assert_eq!(spots.pages(), 100_000_usize.div_ceil(PAGE));
        assert!(spots.iter().eq(0..100_000));
        for number in (0..100_000).rev() {
            assert_eq!((spots.len(), spots.pop()), (number as usize + 1, Some(number)));
        }
        assert_eq!((spots.len(), spots.pop(), spots.pages.len()), (0, None, 0));
    }

    #[test]
    fn no_call_moves_more_than_two_pages() {
        let mut spots = Spots::default();
        let number = |n: u32| n.wrapping_mul(0x9e37_79b1);
        work::take();
        let mut most = 0;
        for n in 0..1_000_000 {
            spots.insert(number(n));
            most = most.max(work::take());
        }
        for n in 0..1_000_000 {
            assert!(spots.remove(number(n)));
            most = most.max(work::take());
            if n == 990_000 {
                assert!(spots.pages() < 200, "{}", spots.pages());
            }
        }
        assert!(most <= 2 * PAGE, "{most}");
    }

    proptest! {
        #[test]
        fn behaves_like_a_set(
            runs in prop::collection::vec((0_u32..8000, 1_u32..2000, 1_u32..4, any::<bool>()), 0..20),
        ) {
            let (mut spots, mut model) = (Spots::default(), BTreeSet::new());
            for (from, count, step, add) in runs {
                for number in (from..).step_by(step as usize).take(count as usize) {
                    if !add {
                        prop_assert_eq!(spots.remove(number), model.remove(&number));
                    } else if model.insert(number) {
                        spots.insert(number);
                    }
                }
                prop_assert_eq!(spots.len(), model.len());
                prop_assert!(spots.iter().eq(model.iter().copied()));
                prop_assert_eq!(spots.above(Some(from)), model.range(from + 1..).next().copied());
                prop_assert_eq!(spots.above(None), model.first().copied());
            }
            while let Some(number) = spots.pop() {
                prop_assert_eq!(Some(number), model.pop_last());
            }
            prop_assert!(model.is_empty() && spots.last.is_empty() && spots.pages.is_empty());
        }
    }
}
