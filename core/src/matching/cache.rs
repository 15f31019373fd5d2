//! A bounded cache of recent results, which are valid until anything changes.

use super::hash::Seed;

/// Maximum length of a key that is kept, in bytes.
pub const LONGEST_KEY: usize = 256;

/// Number of slots in which a key may be.
const WAYS: usize = 4;

#[derive(Debug)]
struct Entry<V> {
    hash: u32,
    weight: u32,
    key: Box<[u8]>,
    value: V,
}

/// Results by key, valid for one generation.
///
/// It takes no memory until it is used, then grows with the entries. Both the number of entries and their total
/// weight are bounded: a new result replaces one of four if all slots are in use, and others are evicted until the
/// weight fits. If an owner never asks for the same key twice, most results are not kept, until there are hits again,
/// so that such an owner does not pay for keeping them. Not thread-safe.
///
/// ```
/// let mut cache = busrt::matching::cache::Cache::new(64, 1000);
/// cache.insert_with(1, b"plant/pump", 10, || 17);
/// assert_eq!(cache.get(1, b"plant/pump"), Some(&17));
/// assert_eq!(cache.get(2, b"plant/pump"), None);
/// ```
#[derive(Debug)]
pub struct Cache<V> {
    generation: u64,
    /// The number of slots is a power of two or zero; the slots of one bucket are neighbours.
    slots: Vec<Option<Entry<V>>>,
    most: u32,
    /// The slot of the last hit or insertion.
    last: u32,
    /// Increases with hits and decreases with insertions; below zero, few results are kept.
    credit: i32,
    turn: u32,
    /// The weight of all entries.
    weight: u32,
    most_weight: u32,
    /// The bytes of all keys.
    key_bytes: u32,
    /// The slot that is evicted next if the weight is too high.
    hand: u32,
}

impl<V> Cache<V> {
    /// Creates a cache of up to `entries` results, rounded up to a power of two and at least 4, with a total weight
    /// of up to `most_weight`. Allocates nothing.
    pub const fn new(entries: u32, most_weight: u32) -> Self {
        let wanted = if entries > 1 << 16 { 1 << 16 } else { entries };
        let wanted = if wanted < WAYS as u32 { WAYS as u32 } else { wanted };
        let most = wanted.next_power_of_two();
        Cache {
            generation: 0,
            slots: Vec::new(),
            most,
            last: 0,
            credit: most as i32 * 4,
            turn: 0,
            weight: 0,
            most_weight,
            key_bytes: 0,
            hand: 0,
        }
    }

    /// Returns the result for a key, if it was kept in this generation. A generation other than the last one empties
    /// the cache.
    #[inline]
    pub fn get(&mut self, generation: u64, key: &[u8]) -> Option<&V> {
        let slot = self.locate(generation, key)?;
        self.at(slot)
    }

    /// Returns the slot of a key's result: [`at`](Cache::at) returns the result until the next insertion.
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

    /// Returns the result in a slot.
    #[inline]
    pub fn at(&self, slot: usize) -> Option<&V> {
        self.slots.get(slot)?.as_ref().map(|entry| &entry.value)
    }

    /// Keeps a result without weight, unless results are rarely looked up again.
    pub fn insert(&mut self, generation: u64, key: &[u8], value: V) {
        self.insert_with(generation, key, 0, || value);
    }

    /// Keeps a result. `value` is only called if the result is kept. A result of more than half the bound on weight
    /// is not kept.
    pub fn insert_with(&mut self, generation: u64, key: &[u8], weight: usize, value: impl FnOnce() -> V) {
        if generation != self.generation {
            self.clear();
            self.generation = generation;
        }
        let weight = u32::try_from(weight).unwrap_or(u32::MAX);
        if key.len() > LONGEST_KEY || weight > self.most_weight / 2 {
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
        self.evict(slot);
        self.make_weight(weight);
        if let Some(place) = self.slots.get_mut(slot) {
            self.weight += weight;
            self.key_bytes += key.len() as u32;
            *place = Some(Entry { hash, weight, key: key.into(), value: value() });
            self.last = slot as u32;
        }
    }

    /// Removes all entries and frees the memory.
    pub fn clear(&mut self) {
        self.slots = Vec::new();
        self.last = 0;
        self.weight = 0;
        self.key_bytes = 0;
        self.hand = 0;
    }

    /// Returns the total weight of all entries.
    pub fn weight(&self) -> usize {
        self.weight as usize
    }

    /// Returns the memory of slots and keys in bytes, without memory to which values refer.
    pub fn footprint(&self) -> usize {
        self.slots.capacity() * size_of::<Option<Entry<V>>>() + self.key_bytes as usize
    }

    /// Removes the entry of a slot.
    fn evict(&mut self, slot: usize) {
        if let Some(entry) = self.slots.get_mut(slot).and_then(Option::take) {
            self.weight -= entry.weight;
            self.key_bytes -= entry.key.len() as u32;
        }
    }

    /// Evicts entries, slot after slot, until a further weight fits. The last entry may have to be evicted too, since
    /// it may use the whole bound.
    fn make_weight(&mut self, wanted: u32) {
        // Evicting entries without weight does not help; one round reaches all the others.
        for _ in 0..self.slots.len() {
            if self.weight <= self.most_weight - wanted {
                return;
            }
            let slot = self.hand as usize & (self.slots.len() - 1);
            if matches!(self.slots.get(slot), Some(Some(entry)) if entry.weight > 0) {
                self.evict(slot);
            }
            self.hand = slot as u32 + 1;
        }
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

    /// Returns a slot for a new entry: a vacant one, after growing if necessary, or one that is in use.
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
                // While few results are kept, only the bits above the lowest four change.
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
            // A bucket is split into two, so that each has room for all of its entries.
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
    use proptest::prelude::*;

    #[test]
    fn keeps_within_one_generation() {
        let mut cache = Cache::new(16, 1000);
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
        assert!(size_of::<Cache<u64>>() <= 64);
        let mut cache = Cache::new(100, 1000);
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
        let mut cache = Cache::new(8, 1000);
        cache.insert(1, &[b'x'; LONGEST_KEY + 1], ());
        assert_eq!(cache.slots.capacity(), 0);
        cache.insert(1, &[b'x'; LONGEST_KEY], ());
        assert!(cache.get(1, &[b'x'; LONGEST_KEY]).is_some());
    }

    #[test]
    fn gives_up_on_a_stream_that_never_repeats_and_returns_for_one_that_does() {
        let mut cache = Cache::new(64, 1000);
        let mut made = 0;
        for key in 0_u32..10_000 {
            let key = key.to_le_bytes();
            assert!(cache.get(1, &key).is_none());
            cache.insert_with(1, &key, 1, || made += 1);
        }
        assert!(made < 1200, "{made}");
        let mut misses = 0;
        for round in 0_u32..1000 {
            for key in 0_u32..20 {
                let key = (1_000_000 + key).to_le_bytes();
                if cache.get(1, &key).is_none() {
                    cache.insert_with(1, &key, 1, || ());
                    misses += u32::from(round >= 500);
                }
            }
        }
        // 10,000 keys: none is evicted unless more than four are in one bucket.
        assert!(misses < 5_000, "{misses}");
    }

    #[test]
    fn evictions_make_room_for_as_many_as_fit() {
        // The number of slots is the bound for light entries, the weight for heavier ones.
        for (weight, fit) in [(10, 1024), (40, 409)] {
            let mut cache = Cache::new(1024, 16 * 1024);
            for key in 0_u32..20_000 {
                // The owner asks again for some, so that results are worth keeping.
                for back in [1, 2] {
                    cache.get(1, &key.saturating_sub(back).to_le_bytes());
                }
                cache.insert_with(1, &key.to_le_bytes(), weight, || key);
                assert!(cache.weight() <= 16 * 1024);
            }
            let kept = (0..20_000_u32).filter(|key| cache.get(1, &key.to_le_bytes()).is_some()).count();
            assert!((fit * 9 / 10..=fit).contains(&kept), "{kept}");
            assert_eq!(cache.weight(), kept * weight);
        }
        let mut cache = Cache::new(1024, 16 * 1024);
        for key in 0_u32..1000 {
            cache.insert_with(1, &key.to_le_bytes(), 10, || key);
        }
        // Heavy entries replace many light ones, and each other.
        cache.insert_with(1, b"too heavy", 8193, || 0);
        assert_eq!(cache.get(1, b"too heavy"), None);
        for name in [&b"one"[..], b"two", b"three"] {
            cache.insert_with(1, name, 8192, || 1);
            assert!(cache.get(1, name).is_some());
        }
        assert!(cache.weight() <= 16 * 1024);
        cache.clear();
        assert_eq!((cache.weight(), cache.footprint()), (0, 0));
    }

    proptest! {
        #[test]
        fn the_weight_is_that_of_the_entries(
            steps in prop::collection::vec((0_u64..3, 0_u8..60, 0_usize..40, 0..20), 0..400),
        ) {
            let mut cache = Cache::new(32, 60);
            let mut generation = 0;
            for (newer, key, weight, action) in steps {
                if action == 0 {
                    generation += newer;
                }
                let key = vec![key; key.into()];
                match action {
                    1 => cache.clear(),
                    2..8 => { cache.get(generation, &key); }
                    _ => cache.insert_with(generation, &key, weight, || weight),
                }
                let entries = || cache.slots.iter().flatten();
                prop_assert!(cache.weight <= 60);
                prop_assert_eq!(cache.weight(), entries().map(|entry| entry.value).sum::<usize>());
                prop_assert_eq!(cache.key_bytes as usize, entries().map(|entry| entry.key.len()).sum::<usize>());
            }
        }
    }
}
