//! The memory of the tries: numbered items, interned texts, and where a walk stands.

use super::hash::{Index, Seed};
use super::memory;
use std::ops;

/// No item: ids stay below.
pub(super) const NONE: u32 = u32::MAX;

#[derive(Debug)]
enum Place<T> {
    Used(T),
    /// The next free place, or [`NONE`].
    Free(u32),
}

/// Items by number. Numbers of removed items are given out again; no memory while empty.
#[derive(Debug)]
pub(super) struct Slab<T> {
    places: Vec<Place<T>>,
    free: u32,
    len: usize,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Slab { places: Vec::new(), free: NONE, len: 0 }
    }
}

impl<T> Slab<T> {
    pub(super) fn get(&self, id: u32) -> Option<&T> {
        match self.places.get(id as usize) {
            Some(Place::Used(item)) => Some(item),
            _ => None,
        }
    }

    pub(super) fn insert(&mut self, item: T) -> u32 {
        self.len += 1;
        if let Some(place) = self.places.get_mut(self.free as usize) {
            let id = self.free;
            if let Place::Free(next) = std::mem::replace(place, Place::Used(item)) {
                self.free = next;
            }
            return id;
        }
        if self.places.len() == self.places.capacity() {
            // By a quarter, not double: what is not used yet counts into the cost of a subscription.
            let len = self.places.len();
            memory::grow(&mut self.places, len + (len / 4).max(4));
        }
        self.places.push(Place::Used(item));
        (self.places.len() - 1) as u32
    }

    pub(super) fn remove(&mut self, id: u32) -> Option<T> {
        let place = self.places.get_mut(id as usize)?;
        if matches!(place, Place::Free(_)) {
            return None;
        }
        let Place::Used(item) = std::mem::replace(place, Place::Free(self.free)) else { return None };
        self.free = id;
        self.len -= 1;
        if self.len == 0 {
            *self = Slab::default();
        }
        Some(item)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.places.iter().enumerate().filter_map(|(id, place)| match place {
            Place::Used(item) => Some((id as u32, item)),
            Place::Free(_) => None,
        })
    }

    /// Mostly holes: worth building anew.
    pub(super) fn is_sparse(&self) -> bool {
        self.places.len() > 1024 && self.len * 4 < self.places.len()
    }

    #[cfg(test)]
    pub(super) fn is_unallocated(&self) -> bool {
        self.places.capacity() == 0
    }
}

/// Only with ids that were given out and not removed since.
impl<T> ops::Index<u32> for Slab<T> {
    type Output = T;

    #[inline]
    fn index(&self, id: u32) -> &T {
        match &self.places[id as usize] {
            Place::Used(item) => item,
            Place::Free(_) => unreachable!("a removed item is still referred to"),
        }
    }
}

impl<T> ops::IndexMut<u32> for Slab<T> {
    #[inline]
    fn index_mut(&mut self, id: u32) -> &mut T {
        match &mut self.places[id as usize] {
            Place::Used(item) => item,
            Place::Free(_) => unreachable!("a removed item is still referred to"),
        }
    }
}

/// A text, kept in place up to `N` bytes, so that comparing it costs no second cache miss.
#[derive(Debug)]
pub(super) enum Text<const N: usize> {
    Short(u8, [u8; N]),
    Long(Box<[u8]>),
}

impl<const N: usize> Text<N> {
    pub(super) fn new(text: &str) -> Self {
        let mut short = [0; N];
        match (short.get_mut(..text.len()), u8::try_from(text.len())) {
            (Some(place), Ok(len)) => {
                place.copy_from_slice(text.as_bytes());
                Text::Short(len, short)
            }
            _ => Text::Long(text.as_bytes().into()),
        }
    }

    #[inline]
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Text::Short(len, short) => short.get(..usize::from(*len)).unwrap_or_default(),
            Text::Long(text) => text,
        }
    }
}

#[derive(Debug)]
struct Symbol {
    uses: u32,
    text: Text<22>,
}

const _: () = assert!(size_of::<Place<Symbol>>() == 32);

/// The texts of levels, each kept once and counted.
#[derive(Debug, Default)]
pub(super) struct Symbols {
    index: Index,
    texts: Slab<Symbol>,
}

impl Symbols {
    #[inline]
    pub(super) fn find(&self, seed: Seed, text: &[u8]) -> Option<u32> {
        self.index.find(seed.text(text), |id| self.texts[id].text.bytes() == text)
    }

    /// The symbol of this text, made if need be, used once more.
    pub(super) fn acquire(&mut self, seed: Seed, text: &str) -> u32 {
        if let Some(id) = self.find(seed, text.as_bytes()) {
            self.texts[id].uses += 1;
            return id;
        }
        let id = self.texts.insert(Symbol { uses: 1, text: Text::new(text) });
        self.index.insert(seed.text(text.as_bytes()), id);
        id
    }

    /// Ends one use; the last one forgets the text.
    pub(super) fn release(&mut self, seed: Seed, id: u32) {
        let symbol = &mut self.texts[id];
        symbol.uses -= 1;
        if symbol.uses == 0 {
            self.index.remove(seed.text(symbol.text.bytes()), id);
            self.texts.remove(id);
        }
    }

    pub(super) fn bytes(&self, id: u32) -> &[u8] {
        self.texts[id].text.bytes()
    }

    #[cfg(test)]
    pub(super) fn is_unallocated(&self) -> bool {
        self.index.is_unallocated() && self.texts.is_unallocated()
    }
}

/// The nodes a walk has reached, on the stack unless they are very many.
pub(super) struct Frontier {
    near: [u32; Frontier::NEAR],
    len: usize,
    far: Vec<u32>,
}

impl Frontier {
    const NEAR: usize = 24;

    pub(super) fn new() -> Self {
        Frontier { near: [NONE; Frontier::NEAR], len: 0, far: Vec::new() }
    }

    #[inline]
    pub(super) fn push(&mut self, node: u32) {
        match self.near.get_mut(self.len) {
            Some(place) => {
                *place = node;
                self.len += 1;
            }
            None => self.far.push(node),
        }
    }

    #[inline]
    pub(super) fn clear(&mut self) {
        self.len = 0;
        self.far.clear();
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    #[inline]
    pub(super) fn iter(&self) -> impl Iterator<Item = u32> {
        self.near[..self.len.min(Frontier::NEAR)].iter().chain(&self.far).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slab_reuses_and_ends_empty() {
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
        assert!(slab.is_unallocated() && slab.len == 0 && !slab.is_sparse());
    }

    #[test]
    fn texts_short_and_long() {
        for len in [0, 1, 21, 22, 23, 300] {
            let text = "é".repeat(len / 2) + &"x".repeat(len % 2);
            assert_eq!(Text::<22>::new(&text).bytes(), text.as_bytes());
        }
        assert!(matches!(Text::<22>::new(&"x".repeat(22)), Text::Short(22, _)));
        assert!(matches!(Text::<22>::new(&"x".repeat(23)), Text::Long(_)));
        // A length that does not fit the byte it is kept in.
        assert_eq!(Text::<600>::new(&"x".repeat(256)).bytes().len(), 256);
    }

    #[test]
    fn symbols_are_counted() {
        let (seed, mut symbols) = (Seed::default(), Symbols::default());
        let a = symbols.acquire(seed, "a");
        assert_eq!(symbols.acquire(seed, "a"), a);
        assert_ne!(symbols.acquire(seed, "b"), a);
        symbols.release(seed, a);
        assert_eq!(symbols.find(seed, b"a"), Some(a));
        symbols.release(seed, a);
        assert_eq!(symbols.find(seed, b"a"), None);
        let b = symbols.find(seed, b"b").unwrap();
        symbols.release(seed, b);
        assert!(symbols.is_unallocated());
    }

    #[test]
    fn frontier_spills() {
        let mut frontier = Frontier::new();
        for node in 0..100 {
            frontier.push(node);
        }
        assert_eq!(frontier.iter().collect::<Vec<_>>(), (0..100).collect::<Vec<_>>());
        frontier.clear();
        assert!(frontier.is_empty() && frontier.iter().next().is_none());
    }
}
