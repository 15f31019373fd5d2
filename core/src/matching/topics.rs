//! Who has subscribed to a topic.
//!
//! Most subscriptions in the field are plain topics: they sit in one hash table, 64 bytes each, and a
//! published topic finds them with a single probe. Masks with wildcards are in a trie, walked level by
//! level. Both are arenas with 32-bit numbers.

use super::TOPICS;
use super::arena::{Slab, Text};
use super::hash::{Index, Seed};
use super::ids::{Gather, IdSet, IdSets};
use super::wild::{End, Wild};
use std::collections::HashMap;

/// A subscription without wildcards. One cache line: whoever finds it has its text and subscriber too.
#[derive(Debug)]
#[repr(align(64))]
struct Exact {
    ids: IdSet,
    topic: Text<54>,
}

const _: () = assert!(size_of::<Option<Exact>>() == 64);

/// Where a mask is, packed into 32 bits for the lists of the clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spot {
    Exact(u32),
    Wild(End),
}

impl Spot {
    fn pack(self) -> u32 {
        match self {
            Spot::Exact(id) => id << 2,
            Spot::Wild(End { node, tail }) => node << 2 | 2 | u32::from(tail),
        }
    }

    fn unpack(packed: u32) -> Spot {
        let id = packed >> 2;
        if packed & 2 == 0 { Spot::Exact(id) } else { Spot::Wild(End { node: id, tail: packed & 1 != 0 }) }
    }
}

/// What one client has subscribed to.
#[derive(Debug, Default)]
struct Masks {
    /// Packed [`Spot`]s in no order. Unsubscribing leaves them in here, until half of them are old: to
    /// find one would take as long as the list is. The sets of ids tell which still hold.
    spots: Vec<u32>,
    /// How many hold.
    live: usize,
}

/// Sets of client ids by topic mask.
///
/// `+` stands for any one level, `#` for one level or more and ends the mask: what follows it is
/// ignored. Client ids are any numbers; those of a slab keep it small. Not synchronised: share it
/// behind a lock. About 90 bytes for a subscription to a topic of up to 54 bytes, about 50 for every
/// new level of a mask with wildcards; nothing when it is empty.
#[derive(Debug, Default)]
pub struct TopicTrie {
    seed: Seed,
    index: Index,
    exact: Slab<Exact>,
    wild: Wild,
    sets: IdSets,
    clients: HashMap<u32, Masks, Seed>,
    len: usize,
}

impl TopicTrie {
    /// Nothing subscribed.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many subscriptions there are: pairs of a client and a mask.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no subscription at all.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Subscribes a client. False when it was subscribed to this mask already.
    pub fn insert(&mut self, mask: &str, id: u32) -> bool {
        let spot = if TOPICS.has_wildcards(mask) {
            Spot::Wild(self.wild.reach(self.seed, mask))
        } else {
            Spot::Exact(self.reach_exact(mask))
        };
        let set = match spot {
            Spot::Exact(at) => &mut self.exact[at].ids,
            Spot::Wild(end) => self.wild.set_mut(end),
        };
        if !self.sets.insert(set, id) {
            return false;
        }
        let masks = self.clients.entry(id).or_default();
        masks.spots.push(spot.pack());
        masks.live += 1;
        self.len += 1;
        true
    }

    /// Unsubscribes a client. False when it was not subscribed to this mask.
    pub fn remove(&mut self, mask: &str, id: u32) -> bool {
        let Some(spot) = self.find(mask) else { return false };
        if !self.remove_at(spot, id) {
            return false;
        }
        if let Some(masks) = self.clients.get_mut(&id) {
            masks.live -= 1;
            if masks.live == 0 {
                self.clients.remove(&id);
            } else if masks.spots.len() > masks.live * 2 + 16 {
                let spots = std::mem::take(&mut masks.spots);
                let spots = self.holding(spots, id);
                if let Some(masks) = self.clients.get_mut(&id) {
                    masks.spots = spots;
                }
            }
        }
        self.tidy();
        true
    }

    /// Ends all subscriptions of a client. Costs as much as the client has.
    pub fn remove_client(&mut self, id: u32) {
        let Some(masks) = self.clients.remove(&id) else { return };
        for spot in masks.spots {
            self.remove_at(Spot::unpack(spot), id);
        }
        self.tidy();
    }

    /// The masks a client is subscribed to, each once, in no order. What follows a `#` is gone.
    pub fn masks_of(&self, id: u32) -> impl Iterator<Item = String> {
        let spots = self.clients.get(&id).map(|masks| masks.spots.clone()).unwrap_or_default();
        self.holding(spots, id).into_iter().map(|spot| match Spot::unpack(spot) {
            Spot::Exact(at) => String::from_utf8_lossy(self.exact[at].topic.bytes()).into_owned(),
            Spot::Wild(end) => self.wild.mask(end),
        })
    }

    /// How many masks a client is subscribed to.
    pub fn count_of(&self, id: u32) -> usize {
        self.clients.get(&id).map_or(0, |masks| masks.live)
    }

    /// Whether a client is subscribed to exactly this mask.
    pub fn contains(&self, mask: &str, id: u32) -> bool {
        self.find(mask).is_some_and(|spot| self.holds(spot, id))
    }

    /// Appends the clients with at least one mask that the topic is in: ascending, each once, whatever
    /// `out` held before. The topic is plain text, `+` and `#` in it too. Allocates only when `out`
    /// must grow.
    #[inline]
    pub fn matches(&self, topic: &str, out: &mut Vec<u32>) {
        let mut gather = Gather::new(out);
        self.visit(topic, |set| gather.add(self.sets.ids(set)));
        gather.finish();
    }

    /// Whether [`matches`](Self::matches) would append this client.
    pub fn matches_client(&self, topic: &str, id: u32) -> bool {
        let mut found = false;
        self.visit(topic, |set| found = found || self.sets.contains(set, id));
        found
    }

    #[inline]
    fn visit(&self, topic: &str, mut found: impl FnMut(&IdSet)) {
        if let Some(at) = self.find_exact(topic) {
            found(&self.exact[at].ids);
        }
        self.wild.visit(self.seed, topic, found);
    }

    #[inline]
    fn find_exact(&self, topic: &str) -> Option<u32> {
        let text = topic.as_bytes();
        self.index.find(self.seed.text(text), |at| self.exact[at].topic.bytes() == text)
    }

    fn reach_exact(&mut self, topic: &str) -> u32 {
        if let Some(at) = self.find_exact(topic) {
            return at;
        }
        let at = self.exact.insert(Exact { ids: IdSet::Empty, topic: Text::new(topic) });
        self.index.insert(self.seed.text(topic.as_bytes()), at);
        at
    }

    fn find(&self, mask: &str) -> Option<Spot> {
        if TOPICS.has_wildcards(mask) {
            self.wild.find(self.seed, mask).map(Spot::Wild)
        } else {
            self.find_exact(mask).map(Spot::Exact)
        }
    }

    fn holds(&self, spot: Spot, id: u32) -> bool {
        let set = match spot {
            Spot::Exact(at) => self.exact.get(at).map(|exact| &exact.ids),
            Spot::Wild(end) => self.wild.set(end),
        };
        set.is_some_and(|set| self.sets.contains(set, id))
    }

    /// Those of a client's spots that hold, each once.
    fn holding(&self, mut spots: Vec<u32>, id: u32) -> Vec<u32> {
        spots.sort_unstable();
        spots.dedup();
        spots.retain(|spot| self.holds(Spot::unpack(*spot), id));
        spots.shrink_to(spots.len() * 2);
        spots
    }

    /// Takes a client out of one set, and the mask with it if that was the last one.
    fn remove_at(&mut self, spot: Spot, id: u32) -> bool {
        // The list of a client may name what is gone by now, or somebody else's.
        if !self.holds(spot, id) {
            return false;
        }
        self.len -= 1;
        match spot {
            Spot::Exact(at) => {
                let exact = &mut self.exact[at];
                self.sets.remove(&mut exact.ids, id);
                if exact.ids == IdSet::Empty {
                    self.index.remove(self.seed.text(exact.topic.bytes()), at);
                    self.exact.remove(at);
                }
            }
            Spot::Wild(end) => {
                self.sets.remove(self.wild.set_mut(end), id);
                self.wild.prune(self.seed, end.node);
            }
        }
        true
    }

    /// Gives memory back after a great many subscriptions have ended.
    fn tidy(&mut self) {
        if self.len == 0 {
            *self = TopicTrie { seed: self.seed, ..TopicTrie::default() };
        } else if self.exact.is_sparse() || self.wild.is_sparse() {
            let old = std::mem::take(self);
            for &id in old.clients.keys() {
                for mask in old.masks_of(id) {
                    self.insert(&mask, id);
                }
            }
        }
    }

    #[cfg(test)]
    pub(super) fn is_unallocated(&self) -> bool {
        self.len == 0
            && self.index.is_unallocated()
            && self.exact.is_unallocated()
            && self.wild.is_unallocated()
            && self.sets.is_unallocated()
            && self.clients.capacity() == 0
    }
}
