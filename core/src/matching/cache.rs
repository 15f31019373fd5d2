//! What was the answer the last time: bounded, and forgotten when anything has changed.

use super::hash::Seed;

/// Keys longer than this, in bytes, are not kept.
pub const LONGEST_KEY: usize = 256;

/// How many slots a key may be in.
const WAYS: usize = 4;

#[derive(Debug)]
struct Entry<V> {
    hash: u32,
    key: Box<[u8]>,
    value: V,
}

/// Results by key, valid for one generation.
///
/// Takes no memory until it is used, then grows with what is kept. Where it is full, a new result
/// replaces one of four. A user who never asks the same twice stops paying for keeping results: most
/// are then not taken any more, until hits return. Not synchronised.
///
/// ```
/// let mut cache = busrt::matching::cache::Cache::new(64);
/// cache.insert(1, b"plant/pump", 17);
/// assert_eq!(cache.get(1, b"plant/pump"), Some(&17));
/// assert_eq!(cache.get(2, b"plant/pump"), None);
/// ```
#[derive(Debug)]
pub struct Cache<V> {
    generation: u64,
    /// A power of two of slots or none; slots of one bucket are neighbours.
    slots: Vec<Option<Entry<V>>>,
    most: u32,
    /// The slot of the last hit or insertion.
    last: u32,
    /// Grows with hits, falls with insertions; below zero few are taken.
    credit: i32,
    turn: u32,
}

impl<V> Cache<V> {
    /// Keeps up to `entries` results, rounded up to a power of two, at least 4. Allocates nothing.
    pub const fn new(entries: u32) -> Self {
        let wanted = if entries > 1 << 16 { 1 << 16 } else { entries };
        let wanted = if wanted < WAYS as u32 { WAYS as u32 } else { wanted };
        let most = wanted.next_power_of_two();
        Cache { generation: 0, slots: Vec::new(), most, last: 0, credit: most as i32 * 4, turn: 0 }
    }

    /// The result for a key, if it was kept in this generation. Another generation than the last time
    /// forgets everything.
    #[inline]
    pub fn get(&mut self, generation: u64, key: &[u8]) -> Option<&V> {
        let slot = self.locate(generation, key)?;
        self.at(slot)
    }

    /// As [`get`](Cache::get), but where the result is: [`at`](Cache::at) has it until the next insertion.
    #[inline]
    pub fn locate(&mut self, generation: u64, key: &[u8]) -> Option<usize> {
        if self.slots.is_empty() {
            return None;
        }
        if generation != self.generation {
            self.clear();
            return None;
        }
        let is_last = matches!(self.slots.get(self.last as usize), Some(Some(entry)) if *entry.key == *key);
        if !is_last {
            self.last = self.find(hash(key), key)? as u32;
            self.credit = self.credit.saturating_add(2).min(self.most as i32 * 4);
        }
        Some(self.last as usize)
    }

    /// The result in a slot.
    #[inline]
    pub fn at(&self, slot: usize) -> Option<&V> {
        self.slots.get(slot)?.as_ref().map(|entry| &entry.value)
    }

    /// Keeps a result, if it deems that worth it.
    pub fn insert(&mut self, generation: u64, key: &[u8], value: V) {
        self.insert_with(generation, key, || value);
    }

    /// Keeps a result that is made only if it is kept.
    pub fn insert_with(&mut self, generation: u64, key: &[u8], value: impl FnOnce() -> V) {
        if generation != self.generation {
            self.clear();
            self.generation = generation;
        }
        if key.len() > LONGEST_KEY {
            return;
        }
        self.turn = self.turn.wrapping_add(1);
        self.credit = (self.credit - 1).max(-1);
        if self.credit < 0 && !self.turn.is_multiple_of(16) {
            return;
        }
        let hash = hash(key);
        let slot = match self.find(hash, key) {
            Some(slot) => slot,
            None => self.room(hash),
        };
        if let Some(place) = self.slots.get_mut(slot) {
            *place = Some(Entry { hash, key: key.into(), value: value() });
            self.last = slot as u32;
        }
    }

    /// Forgets everything and gives the memory back.
    pub fn clear(&mut self) {
        self.slots = Vec::new();
        self.last = 0;
    }

    fn bucket(&self, hash: u32) -> usize {
        (hash as usize).wrapping_mul(WAYS) & self.slots.len().wrapping_sub(1)
    }

    #[inline]
    fn find(&self, hash: u32, key: &[u8]) -> Option<usize> {
        let start = self.bucket(hash);
        let bucket = self.slots.get(start..start + WAYS)?;
        let is_it = |slot: &Option<Entry<V>>| {
            slot.as_ref().is_some_and(|entry| entry.hash == hash && *entry.key == *key)
        };
        bucket.iter().position(is_it).map(|way| start + way)
    }

    /// A slot for a new entry: a vacant one, after growing if need be, or somebody's.
    fn room(&mut self, hash: u32) -> usize {
        if self.slots.is_empty() {
            self.slots.resize_with(WAYS, || None);
        }
        loop {
            let start = self.bucket(hash);
            if let Some(way) = self.slots[start..start + WAYS].iter().position(Option::is_none) {
                return start + way;
            }
            if self.slots.len() >= self.most as usize {
                // While few are taken, only the bits above the lowest four change.
                return start + (self.turn ^ self.turn >> 4) as usize % WAYS;
            }
            self.grow();
        }
    }

    fn grow(&mut self) {
        let size = self.slots.len() * 2;
        let mut larger = Vec::with_capacity(size);
        larger.resize_with(size, || None);
        for entry in std::mem::replace(&mut self.slots, larger).into_iter().flatten() {
            let start = self.bucket(entry.hash);
            // A bucket splits into two: each has room for what was in the one.
            if let Some(place) = self.slots[start..start + WAYS].iter_mut().find(|slot| slot.is_none()) {
                *place = Some(entry);
            }
        }
    }
}

fn hash(key: &[u8]) -> u32 {
    Seed::default().text(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_within_one_generation() {
        let mut cache = Cache::new(16);
        assert_eq!(cache.get(7, b"a"), None);
        assert_eq!(cache.slots.capacity(), 0);
        cache.insert(7, b"a", 1);
        cache.insert(7, b"b", 2);
        cache.insert(7, b"a", 3);
        cache.insert(7, b"", 4);
        for _ in 0..2 {
            assert_eq!(cache.get(7, b"a"), Some(&3));
            assert_eq!(cache.get(7, b"b"), Some(&2));
            assert_eq!(cache.get(7, b""), Some(&4));
            assert_eq!(cache.get(7, b"c"), None);
        }
        assert_eq!(cache.get(8, b"a"), None);
        assert_eq!(cache.slots.capacity(), 0);
        assert_eq!(cache.get(7, b"a"), None, "generations do not come back");
        cache.insert(9, b"a", 5);
        cache.insert(10, b"b", 6);
        assert_eq!(cache.get(10, b"a"), None);
        assert_eq!(cache.slots.len(), WAYS);
        assert_eq!(cache.get(10, b"b"), Some(&6));
    }

    #[test]
    fn small_idle_and_bounded() {
        assert!(size_of::<Cache<u64>>() <= 48);
        let mut cache = Cache::new(100);
        for key in 0_u32..10_000 {
            cache.insert(1, &key.to_le_bytes(), key);
            assert!(cache.slots.len() <= 128);
        }
        let kept: Vec<u32> =
            (0..10_000_u32).filter(|key| cache.get(1, &key.to_le_bytes()).is_some()).collect();
        assert!((90..=128).contains(&kept.len()), "{}", kept.len());
        for key in kept {
            assert_eq!(cache.get(1, &key.to_le_bytes()), Some(&key));
        }
    }

    #[test]
    fn long_keys_are_not_kept() {
        let mut cache = Cache::new(8);
        cache.insert(1, &[b'x'; LONGEST_KEY + 1], ());
        assert_eq!(cache.slots.capacity(), 0);
        cache.insert(1, &[b'x'; LONGEST_KEY], ());
        assert!(cache.get(1, &[b'x'; LONGEST_KEY]).is_some());
    }

    #[test]
    fn gives_up_on_a_stream_that_never_repeats_and_returns_for_one_that_does() {
        let mut cache = Cache::new(64);
        let mut made = 0;
        for key in 0_u32..10_000 {
            let key = key.to_le_bytes();
            assert!(cache.get(1, &key).is_none());
            cache.insert_with(1, &key, || made += 1);
        }
        assert!(made < 1200, "{made}");
        let mut misses = 0;
        for round in 0_u32..1000 {
            for key in 0_u32..20 {
                let key = (1_000_000 + key).to_le_bytes();
                if cache.get(1, &key).is_none() {
                    cache.insert_with(1, &key, || ());
                    misses += u32::from(round >= 500);
                }
            }
        }
        // Of 10,000. None, unless more than four keys happen to meet in one bucket.
        assert!(misses < 5_000, "{misses}");
    }
}
