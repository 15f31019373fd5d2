//! A fast keyed hash.

use std::hash::{BuildHasher, RandomState};
use std::sync::OnceLock;

const ODD: u64 = 0x9e37_79b9_7f4a_7c15;

/// Two secrets drawn once per process. Peers choose the texts that are hashed here; without the secrets they cannot
/// choose texts that all have the same hash.
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

/// Combines both halves of the full product, so that every bit of the arguments affects every bit of the result.
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
    /// Returns the hash of a text.
    #[inline]
    pub(super) fn text(self, text: &[u8]) -> u32 {
        let mut state = self.0 ^ (text.len() as u64).wrapping_mul(ODD);
        let mut rest = text;
        // The last one to sixteen bytes are read below, and may overlap the bytes before them.
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

    /// Returns the hash of two numbers.
    #[inline]
    pub(super) fn pair(self, a: u32, b: u32) -> u32 {
        let hash = fold((u64::from(a) << 32 | u64::from(b)) ^ self.0, self.1 | 1);
        (hash ^ (hash >> 32)) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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
        // 20,000 random values out of 65,536 are about 17,200 different ones.
        assert!(low.len() > 16_000, "{}", low.len());
    }
}
