//! Parts of both tries: texts, interned levels, and the nodes that a search has reached.

use super::hash::Seed;
use super::index::Index;
pub(super) use super::slab::NONE;
use super::slab::Slab;

/// A text. Up to `N` bytes are stored in place, so that comparing them costs no second cache miss.
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

const _: () = assert!(size_of::<Option<Symbol>>() == 32);

/// The texts of levels: each is stored once, with a count of its uses.
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

    /// Returns the symbol of a text and counts one more use of it. Creates the symbol if there is none.
    pub(super) fn acquire(&mut self, seed: Seed, text: &str) -> u32 {
        if let Some(id) = self.find(seed, text.as_bytes()) {
            self.texts[id].uses += 1;
            return id;
        }
        let id = self.texts.insert(Symbol { uses: 1, text: Text::new(text) });
        self.index.insert(seed.text(text.as_bytes()), id);
        id
    }

    /// Ends one use of a symbol. The last one removes its text.
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

/// The nodes that a search has reached at one level. The first 24 need no allocation.
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
    pub(super) fn len(&self) -> usize {
        self.len + self.far.len()
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
    fn texts_short_and_long() {
        for len in [0, 1, 21, 22, 23, 300] {
            let text = "é".repeat(len / 2) + &"x".repeat(len % 2);
            assert_eq!(Text::<22>::new(&text).bytes(), text.as_bytes());
        }
        assert!(matches!(Text::<22>::new(&"x".repeat(22)), Text::Short(22, _)));
        assert!(matches!(Text::<22>::new(&"x".repeat(23)), Text::Long(_)));
        // A length that does not fit into one byte.
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
