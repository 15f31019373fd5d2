//! A fast keyed hash and an open-addressing table of numbers found by it.

use super::memory;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::OnceLock;

const ODD: u64 = 0x9e37_79b9_7f4a_7c15;

/// Two secrets drawn once per process: peers choose the texts that are hashed here and shall not be
/// able to choose them so that they all meet in one place.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seed(u64, u64);

impl Default for Seed {
    fn default() -> Self {
        static SEED: OnceLock<Seed> = OnceLock::new();
        *SEED.get_or_init(|| {
            let random = RandomState::new();
            Seed(random.hash_one(1_u8), random.hash_one(2_u8))
        })
    }
}

/// Both halves of a full product: every bit of the arguments reaches every bit of the result.
#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product as u64) ^ ((product >> 64) as u64)
}

#[inline]
fn word(bytes: &[u8; 8]) -> u64 {
    u64::from_le_bytes(*bytes)
}

impl Seed {
    /// The hash of a text.
    #[inline]
    pub(super) fn text(self, text: &[u8]) -> u32 {
        let mut state = self.0 ^ (text.len() as u64).wrapping_mul(ODD);
        let mut rest = text;
        // The last one to sixteen bytes are read below, overlapping what came before.
        while rest.len() > 16 {
            let (head, tail) = rest.split_at(16);
            if let (Some(a), Some(b)) = (head.first_chunk(), head.last_chunk()) {
                state = fold(word(a) ^ state, word(b) ^ self.1);
            }
            rest = tail;
        }
        let (a, b) = match (rest.first_chunk(), rest.last_chunk()) {
            (Some(a), Some(b)) => (word(a), word(b)),
            _ => match (rest.first_chunk::<4>(), rest.last_chunk::<4>()) {
                (Some(a), Some(b)) => (u32::from_le_bytes(*a).into(), u32::from_le_bytes(*b).into()),
                _ => match rest {
                    [] => (0, 0),
                    [a, .., c] => (u64::from(*a) | u64::from(rest[rest.len() / 2]) << 8, u64::from(*c)),
                    [a] => (u64::from(*a), 0),
                },
            },
        };
        let hash = fold(a ^ state, b ^ self.1);
        (hash ^ (hash >> 32)) as u32
    }

    /// The hash of two numbers.
    #[inline]
    pub(super) fn pair(self, a: u32, b: u32) -> u32 {
        let hash = fold((u64::from(a) << 32 | u64::from(b)) ^ self.0, self.1 | 1);
        (hash ^ (hash >> 32)) as u32
    }
}

/// For the maps of std keyed by client ids.
impl BuildHasher for Seed {
    type Hasher = IdHasher;

    fn build_hasher(&self) -> IdHasher {
        IdHasher(self.0)
    }
}

pub(super) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        fold(self.0, ODD)
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = fold(self.0 ^ u64::from(*byte), ODD);
        }
    }

    fn write_u32(&mut self, id: u32) {
        self.0 ^= u64::from(id);
    }
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    hash: u32,
    value: u32,
}

/// No value: ids of arenas stay below.
const VACANT: Slot = Slot { hash: 0, value: u32::MAX };

const SMALLEST: usize = 8;

/// Numbers (ids of an arena) found by the hash of what they stand for: linear probing, 8 bytes a slot,
/// deletion without tombstones, no memory while empty.
#[derive(Debug, Default)]
pub(super) struct Index {
    slots: Vec<Slot>,
    len: usize,
}

impl Index {
    /// The value with this hash that `is_it`.
    #[inline]
    pub(super) fn find(&self, hash: u32, mut is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        let mask = self.slots.len().wrapping_sub(1);
        let mut at = hash as usize & mask;
        loop {
            let slot = *self.slots.get(at)?;
            if slot.value == VACANT.value {
                return None;
            }
            if slot.hash == hash && is_it(slot.value) {
                return Some(slot.value);
            }
            at = (at + 1) & mask;
        }
    }

    /// Adds a value that is not there yet.
    pub(super) fn insert(&mut self, hash: u32, value: u32) {
        // 13/16 full at most: a miss then looks at two cache lines on average.
        if (self.len + 1) * 16 > self.slots.len() * 13 {
            self.resize((self.slots.len() * 2).max(SMALLEST));
        }
        self.place(Slot { hash, value });
        self.len += 1;
    }

    /// Removes a value that is there.
    pub(super) fn remove(&mut self, hash: u32, value: u32) {
        let mask = self.slots.len().wrapping_sub(1);
        let mut hole = hash as usize & mask;
        loop {
            match self.slots.get(hole) {
                Some(slot) if slot.value == value => break,
                Some(slot) if slot.value != VACANT.value => hole = (hole + 1) & mask,
                _ => return,
            }
        }
        // Whatever was pushed past the hole moves back, so that no search ends too early.
        let mut at = hole;
        loop {
            at = (at + 1) & mask;
            let slot = self.slots[at];
            if slot.value == VACANT.value {
                break;
            }
            let from_home = at.wrapping_sub(slot.hash as usize) & mask;
            if from_home >= (at.wrapping_sub(hole) & mask) {
                self.slots[hole] = slot;
                hole = at;
            }
        }
        self.slots[hole] = VACANT;
        self.len -= 1;
        if self.len == 0 {
            self.slots = Vec::new();
        } else if self.slots.len() > 64 && self.len * 8 < self.slots.len() {
            self.resize(self.slots.len() / 4);
        }
    }

    fn resize(&mut self, slots: usize) {
        let old = std::mem::take(&mut self.slots);
        memory::grow(&mut self.slots, slots);
        self.slots.resize(slots, VACANT);
        for slot in old {
            if slot.value != VACANT.value {
                self.place(slot);
            }
        }
    }

    fn place(&mut self, new: Slot) {
        let mask = self.slots.len() - 1;
        let mut at = new.hash as usize & mask;
        while self.slots[at].value != VACANT.value {
            at = (at + 1) & mask;
        }
        self.slots[at] = new;
    }

    #[cfg(test)]
    pub(super) fn is_unallocated(&self) -> bool {
        self.len == 0 && self.slots.capacity() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    #[test]
    fn texts_of_every_length_differ() {
        let seed = Seed::default();
        let text = [b'x'; 200];
        let hashes: HashSet<u32> = (0..200).map(|len| seed.text(&text[..len])).collect();
        assert_eq!(hashes.len(), 200);
        for len in 1..100 {
            for flipped in 0..len {
                let mut other = text;
                other[flipped] = b'y';
                assert_ne!(seed.text(&text[..len]), seed.text(&other[..len]), "{len} {flipped}");
            }
        }
    }

    #[test]
    fn hashes_spread() {
        let seed = Seed::default();
        let mut low = HashSet::new();
        for i in 0..10_000_u32 {
            low.insert(seed.pair(i, 7) & 0xffff);
            low.insert(seed.text(format!("sensor{i}").as_bytes()) & 0xffff);
        }
        // 20,000 throws at 65,536 places hit about 17,200 of them.
        assert!(low.len() > 16_000, "{}", low.len());
    }

    proptest! {
        /// Few hashes, so that runs are long and wrap around.
        #[test]
        fn behaves_like_a_set(steps in prop::collection::vec((0_u32..200, any::<bool>()), 0..600)) {
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
            }
            for value in 0..200 {
                prop_assert_eq!(index.find(hash(value), |v| v == value).is_some(), model.contains(&value));
            }
            for value in model {
                index.remove(hash(value), value);
            }
            prop_assert!(index.is_unallocated());
        }
    }
}
