//! Items by number, in chunks: growing copies at most one chunk, and empty chunks are freed.

use super::chunk::Chunk;
use std::ops;

/// An id that no item has: the ids of items are lower.
pub(super) const NONE: u32 = u32::MAX;

#[derive(Debug)]
enum Place<T> {
    Used(T),
    /// The next free place of the chunk, or [`NONE`].
    Free(u32),
}

/// One chunk with the list of its free places.
#[derive(Debug)]
struct Piece<T> {
    places: Chunk<Place<T>>,
    /// The first free place, or [`NONE`].
    free: u32,
    used: u32,
}

impl<T> Default for Piece<T> {
    fn default() -> Self {
        Piece { places: Chunk::default(), free: NONE, used: 0 }
    }
}

impl<T> Piece<T> {
    fn is_full(&self) -> bool {
        self.used as usize == Chunk::<Place<T>>::MOST
    }

    fn insert(&mut self, item: T) -> usize {
        self.used += 1;
        if let Some(place) = self.places.get_mut(self.free as usize) {
            let at = self.free as usize;
            if let Place::Free(next) = std::mem::replace(place, Place::Used(item)) {
                self.free = next;
            }
            return at;
        }
        self.places.push(Place::Used(item));
        self.places.len() - 1
    }

    fn remove(&mut self, at: usize) -> Option<T> {
        let place = self.places.get_mut(at)?;
        if matches!(place, Place::Free(_)) {
            return None;
        }
        let Place::Used(item) = std::mem::replace(place, Place::Free(self.free)) else { return None };
        self.free = at as u32;
        self.used -= 1;
        Some(item)
    }
}

/// Items by number.
///
/// An item's number does not change while the item exists. Numbers are reused afterwards: free places of low chunks
/// first, so that high chunks become empty. An empty chunk is freed, except for one, so that a count that moves
/// around a boundary does not allocate every time. It takes no memory while it has no items.
#[derive(Debug)]
pub(super) struct Slab<T> {
    pieces: Vec<Piece<T>>,
    /// One bit for each piece: it has memory and a free place.
    roomy: Vec<u64>,
    /// No word of `roomy` below this one has a bit.
    lowest: usize,
    /// Number of pieces that have no memory.
    freed: usize,
    /// A piece that was empty when it was last checked.
    spare: Option<usize>,
    len: usize,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Slab { pieces: Vec::new(), roomy: Vec::new(), lowest: 0, freed: 0, spare: None, len: 0 }
    }
}

impl<T> Slab<T> {
    /// Maximum number of items of a piece.
    const MOST: usize = Chunk::<Place<T>>::MOST;
    const SHIFT: u32 = Self::MOST.ilog2();

    #[inline]
    fn split(id: u32) -> (usize, usize) {
        ((id >> Self::SHIFT) as usize, id as usize & (Self::MOST - 1))
    }

    #[inline]
    pub(super) fn get(&self, id: u32) -> Option<&T> {
        let (piece, at) = Self::split(id);
        match self.pieces.get(piece)?.places.get(at) {
            Some(Place::Used(item)) => Some(item),
            _ => None,
        }
    }

    pub(super) fn insert(&mut self, item: T) -> u32 {
        let number = self.roomy_piece();
        let piece = &mut self.pieces[number];
        let at = piece.insert(item);
        if piece.is_full() {
            self.set_roomy(number, false);
        }
        self.len += 1;
        ((number << Self::SHIFT) | at) as u32
    }

    pub(super) fn remove(&mut self, id: u32) -> Option<T> {
        let (number, at) = Self::split(id);
        let piece = self.pieces.get_mut(number)?;
        let was_full = piece.is_full();
        let item = piece.remove(at)?;
        let emptied = piece.used == 0;
        self.len -= 1;
        if self.len == 0 {
            *self = Slab::default();
            return Some(item);
        }
        if was_full {
            self.set_roomy(number, true);
        }
        if emptied {
            self.keep_or_free(number);
        }
        Some(item)
    }

    /// Returns the lowest piece with memory and a free place; creates one if there is none.
    fn roomy_piece(&mut self) -> usize {
        while let Some(word) = self.roomy.get(self.lowest) {
            if *word != 0 {
                let number = self.lowest * 64 + word.trailing_zeros() as usize;
                self.make_room(number);
                return number;
            }
            self.lowest += 1;
        }
        let freed =
            (self.freed > 0).then(|| self.pieces.iter().position(|piece| piece.places.capacity() == 0));
        let number = match freed.flatten() {
            Some(number) => {
                self.freed -= 1;
                number
            }
            None => {
                self.pieces.push(Piece::default());
                self.pieces.len() - 1
            }
        };
        self.make_room(number);
        self.set_roomy(number, true);
        number
    }

    /// Grows the memory of a piece if it has no free place.
    fn make_room(&mut self, number: usize) {
        let alone = self.pieces.len() == 1;
        let piece = &mut self.pieces[number];
        let len = piece.places.len();
        if piece.free == NONE && len == piece.places.capacity() {
            // Unused places add to the cost of an item. Therefore a piece does not have its full size from the
            // beginning, and a single piece grows by a quarter instead of doubling.
            piece.places.grow(if alone { len + (len / 4).max(4) } else { (len * 2).max(Self::MOST / 4) });
        }
    }

    fn set_roomy(&mut self, number: usize, roomy: bool) {
        let (word, bit) = (number / 64, 1 << (number % 64));
        if self.roomy.len() <= word {
            self.roomy.resize(word + 1, 0);
        }
        if roomy {
            self.roomy[word] |= bit;
            self.lowest = self.lowest.min(word);
        } else {
            self.roomy[word] &= !bit;
        }
    }

    /// Keeps the memory of a piece that has become empty if it is the only empty one; otherwise frees the higher one.
    fn keep_or_free(&mut self, emptied: usize) {
        // A later item starts at the first place again.
        let piece = &mut self.pieces[emptied];
        super::work::add(piece.places.len() / 64);
        piece.places.clear();
        piece.free = NONE;
        let is_empty = |piece: &Piece<T>| piece.used == 0 && piece.places.capacity() > 0;
        let other =
            self.spare.filter(|other| *other != emptied && self.pieces.get(*other).is_some_and(is_empty));
        let Some(other) = other else {
            self.spare = Some(emptied);
            return;
        };
        let (low, high) = (other.min(emptied), other.max(emptied));
        self.spare = Some(low);
        self.pieces[high] = Piece::default();
        self.set_roomy(high, false);
        self.freed += 1;
        while self.pieces.last().is_some_and(|piece| piece.places.capacity() == 0) {
            self.pieces.pop();
            self.freed -= 1;
        }
    }

    #[cfg(test)]
    pub(super) fn is_unallocated(&self) -> bool {
        self.pieces.capacity() == 0 && self.roomy.capacity() == 0
    }

    /// Returns the number of items for which there is memory.
    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.pieces.iter().map(|piece| piece.places.capacity()).sum()
    }
}

/// The index must be an id that was returned by `insert` and not removed since.
impl<T> ops::Index<u32> for Slab<T> {
    type Output = T;

    #[inline]
    fn index(&self, id: u32) -> &T {
        // If there is only one chunk, the processor need not know the id to load the chunk's address. The branch is
        // always predicted correctly.
        if let [only] = &self.pieces[..]
            && let Some(Place::Used(item)) = only.places.get(id as usize)
        {
            return item;
        }
        let (piece, at) = Self::split(id);
        match &self.pieces[piece].places[at] {
            Place::Used(item) => item,
            Place::Free(_) => unreachable!("a removed item is still referred to"),
        }
    }
}

impl<T> ops::IndexMut<u32> for Slab<T> {
    #[inline]
    fn index_mut(&mut self, id: u32) -> &mut T {
        let (piece, at) = Self::split(id);
        match &mut self.pieces[piece].places[at] {
            Place::Used(item) => item,
            Place::Free(_) => unreachable!("a removed item is still referred to"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matching::work;

    #[test]
    fn reuses_numbers_and_ends_empty() {
        let mut slab = Slab::default();
        let ids: Vec<u32> = (0..10).map(|n| slab.insert(n)).collect();
        assert_eq!(slab.remove(ids[3]), Some(3));
        assert_eq!(slab.remove(ids[3]), None);
        assert_eq!(slab.get(ids[3]), None);
        assert_eq!(slab.remove(ids[7]), Some(7));
        assert_eq!(slab.insert(70), ids[7]);
        assert_eq!(slab.insert(30), ids[3]);
        assert_eq!(slab.insert(10), 10);
        assert_eq!((slab[ids[7]], slab.len), (70, 11));
        for id in 0..11 {
            slab.remove(id);
        }
        assert!(slab.is_unallocated() && slab.len == 0);
    }

    #[test]
    fn no_call_copies_more_than_one_chunk() {
        let mut slab = Slab::default();
        work::take();
        for n in 0..1_000_000_u64 {
            assert_eq!(slab.insert([n; 4]), n as u32);
            let moved = work::take();
            assert!(moved <= Chunk::<Place<[u64; 4]>>::MOST, "{moved}");
        }
    }

    #[test]
    fn empty_chunks_are_freed_and_low_ones_are_filled_first() {
        const MOST: usize = Chunk::<Place<[u64; 8]>>::MOST;
        let mut slab: Slab<[u64; 8]> = Slab::default();
        let ids: Vec<u32> = (0..10 * MOST as u64).map(|n| slab.insert([n; 8])).collect();
        assert_eq!(slab.capacity(), 10 * MOST);
        // All but one item of the first, and all of the second to ninth.
        for id in &ids[1..9 * MOST] {
            assert!(slab.remove(*id).is_some());
        }
        assert_eq!(slab.capacity(), 3 * MOST);
        assert_eq!((slab[ids[0]], slab[ids[10 * MOST - 1]]), ([0; 8], [10 * MOST as u64 - 1; 8]));
        // Items come and go, and the last chunk becomes empty.
        for id in &ids[9 * MOST..] {
            let new = slab.insert([1; 8]);
            assert!((new as usize) < 2 * MOST, "{new}");
            assert!(slab.remove(*id).is_some());
        }
        assert_eq!((slab.len, slab.capacity()), (MOST + 1, 2 * MOST + MOST));
        for _ in 0..MOST {
            slab.insert([2; 8]);
        }
        assert_eq!(slab.capacity(), 3 * MOST);
    }

    #[test]
    fn a_count_around_a_boundary_allocates_nothing() {
        let mut slab = Slab::default();
        for n in 0..Chunk::<Place<[u64; 8]>>::MOST as u64 {
            slab.insert([n; 8]);
        }
        let first = slab.insert([0; 8]);
        let capacity = slab.capacity();
        for _ in 0..1000 {
            slab.remove(first);
            assert_eq!(slab.capacity(), capacity);
            assert_eq!(slab.insert([0; 8]), first);
        }
    }
}
