//! Trie of topic subscriptions, queried by published topic.
//!
//! In practice most subscriptions are plain topics. They are in one hash table, 64 bytes each, where a published
//! topic finds them with a single probe. Masks with wildcards are in a trie, which is searched level by level. Both
//! are in slabs with 32-bit ids.

use super::TOPICS;
use super::arena::Text;
use super::hash::Seed;
use super::ids::{Gather, IdSet, IdSets};
use super::index::Index;
use super::search::Lookup;
use super::slab::Slab;
use super::spots::Spots;
use super::wild::{End, Wild, charge};

/// A topic without wildcards. Its text and its subscriber are in the same cache line.
#[derive(Debug)]
#[repr(align(64))]
struct Exact {
    ids: IdSet,
    topic: Text<54>,
}

const _: () = assert!(size_of::<Option<Exact>>() == 64);

/// The place of a mask. Packed into 32 bits for the lists of the clients.
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

/// One client's subscriptions.
#[derive(Debug)]
struct Client {
    id: u32,
    /// Packed [`Spot`]s.
    spots: Spots,
}

/// A position among the masks of one client, for [`TopicTrie::retain_some`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor(u32);

/// Sets of client ids by topic mask.
///
/// `+` stands for any one level, `#` for one or more levels; `#` ends the mask, and the text after it is ignored.
/// Client ids may be any numbers; the ids of a slab keep results and walks small. Not thread-safe: share it behind a
/// lock. A subscription to a topic of up to 54 bytes takes about 90 bytes, a new level of a mask with wildcards about
/// 50; an empty trie takes no memory.
///
/// Every call does a bounded amount of work: [`insert`](Self::insert) and [`remove`](Self::remove) in proportion to
/// the mask, see [`cost_of_mask`](super::cost_of_mask), independent of the other subscriptions. Operations that may
/// take longer are done in portions with a budget: one unit is a visited node, a gathered id or an ended
/// subscription. Memory is released in steps, as subscriptions end.
#[derive(Debug, Default)]
pub struct TopicTrie {
    pub(super) seed: Seed,
    index: Index,
    exact: Slab<Exact>,
    pub(super) wild: Wild,
    pub(super) sets: IdSets,
    clients: Slab<Client>,
    /// Maps a client id to its place in `clients`.
    places: Index,
    len: usize,
}

impl TopicTrie {
    /// Creates an empty trie.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the number of subscriptions: pairs of a client and a mask.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns true if there are no subscriptions.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Subscribes a client. Returns false if it was already subscribed to this mask.
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
        let place = match self.place_of(id) {
            Some(place) => place,
            None => {
                let place = self.clients.insert(Client { id, spots: Spots::default() });
                self.places.insert(self.seed.pair(id, 0), place);
                place
            }
        };
        self.clients[place].spots.insert(spot.pack());
        self.len += 1;
        true
    }

    /// Unsubscribes a client. Returns false if it was not subscribed to this mask.
    pub fn remove(&mut self, mask: &str, id: u32) -> bool {
        let Some(spot) = self.find(mask).filter(|spot| self.holds(*spot, id)) else { return false };
        if let Some(place) = self.place_of(id) {
            self.clients[place].spots.remove(spot.pack());
            self.forget_if_empty(place);
        }
        self.remove_at(spot, id);
        true
    }

    /// Ends all subscriptions of a client in one call. The time depends on their number.
    pub fn remove_client(&mut self, id: u32) {
        while !self.remove_client_some(id, &mut usize::MAX.clone()) {}
    }

    /// Returns whether a client has any subscription.
    pub fn has_client(&self, id: u32) -> bool {
        self.place_of(id).is_some()
    }

    /// Ends subscriptions of a client until the budget is used up. Returns true if none is left.
    ///
    /// Takes one unit for each subscription and each removed node. A budget above zero ends at least one
    /// subscription.
    pub fn remove_client_some(&mut self, id: u32, budget: &mut usize) -> bool {
        let Some(place) = self.place_of(id) else { return true };
        while *budget > 0 {
            match self.clients[place].spots.pop() {
                Some(spot) => {
                    let units = 1 + self.remove_at(Spot::unpack(spot), id);
                    *budget = budget.saturating_sub(units);
                }
                None => break,
            }
        }
        self.forget_if_empty(place)
    }

    /// Ends those subscriptions of a client for which `keep` returns false, until the budget is used up.
    ///
    /// Returns the position for the next call, or `None` if all were checked; the first call starts with `None`.
    /// Anything may change between the calls: every mask is checked to which the client is subscribed from the first
    /// call to the last. Masks that are added in between may be left out, so that they must be checked when they are
    /// added. Takes as many units for each mask as [`cost_of_mask`](super::cost_of_mask) returns, and checks at least
    /// one mask.
    pub fn retain_some(
        &mut self,
        id: u32,
        from: Option<Cursor>,
        budget: &mut usize,
        mut keep: impl FnMut(&str) -> bool,
    ) -> Option<Cursor> {
        let mut last = from.map(|Cursor(spot)| spot);
        loop {
            // The place is looked up each time, because the client is removed with its last subscription.
            let place = self.place_of(id)?;
            let packed = self.clients[place].spots.above(last)?;
            last = Some(packed);
            let spot = Spot::unpack(packed);
            let mask = self.mask(spot);
            *budget = budget.saturating_sub(super::cost_of_mask(&mask));
            if !keep(&mask) {
                self.clients[place].spots.remove(packed);
                self.forget_if_empty(place);
                self.remove_at(spot, id);
            }
            if *budget == 0 {
                return Some(Cursor(packed));
            }
        }
    }

    /// Returns the masks to which a client is subscribed, each once, in no order, without the text after a `#`.
    pub fn masks_of(&self, id: u32) -> impl Iterator<Item = String> {
        let client = self.place_of(id).map(|place| &self.clients[place]);
        client.into_iter().flat_map(|client| client.spots.iter()).map(|spot| self.mask(Spot::unpack(spot)))
    }

    /// Returns the number of masks to which a client is subscribed.
    pub fn count_of(&self, id: u32) -> usize {
        self.place_of(id).map_or(0, |place| self.clients[place].spots.len())
    }

    /// Returns true if a client is subscribed to exactly this mask.
    pub fn contains(&self, mask: &str, id: u32) -> bool {
        self.find(mask).is_some_and(|spot| self.holds(spot, id))
    }

    /// Appends the clients with at least one mask that matches the topic, in ascending order, each once. Earlier
    /// content of `out` does not matter. The topic is plain text: `+` and `#` have no meaning in it. Allocates only
    /// if `out` must grow.
    ///
    /// Visits all nodes that the topic reaches, which may be many: use [`matches_within`](Self::matches_within) if
    /// peers choose the masks.
    #[inline]
    pub fn matches(&self, topic: &str, out: &mut Vec<u32>) {
        let mut gather = Gather::new(out);
        self.visit(topic, &mut usize::MAX.clone(), |set, _| {
            gather.add(self.sets.ids(set));
            true
        });
        gather.finish();
    }

    /// Does the same as [`matches`](Self::matches) within a budget: one unit for each visited node and each gathered
    /// id. If that is not enough, `out` does not change, and a [`TopicWalk`](super::walk::TopicWalk) can find the
    /// clients in steps.
    #[inline]
    pub fn matches_within(&self, topic: &str, out: &mut Vec<u32>, budget: &mut usize) -> Lookup {
        let mut gather = Gather::new(out);
        let complete = self.visit(topic, budget, |set, budget| {
            let ids = self.sets.ids(set);
            let affordable = charge(budget, ids.len());
            if affordable {
                gather.add(ids);
            }
            affordable
        });
        if complete {
            gather.finish();
            Lookup::Complete
        } else {
            gather.undo();
            Lookup::OverBudget
        }
    }

    /// Returns true if [`matches`](Self::matches) would append this client.
    pub fn matches_client(&self, topic: &str, id: u32) -> bool {
        !self.visit(topic, &mut usize::MAX.clone(), |set, _| !self.sets.contains(set, id))
    }

    /// Passes the set of every matching mask to `found`. Returns false and ends early like [`Wild::visit`].
    #[inline]
    fn visit(
        &self,
        topic: &str,
        budget: &mut usize,
        mut found: impl FnMut(&IdSet, &mut usize) -> bool,
    ) -> bool {
        // The slot of the topic is rarely in the processor's caches, while the upper nodes of the trie are. The slot
        // is loaded while the trie is searched.
        let hash = self.seed.text(topic.as_bytes());
        self.index.prefetch(hash);
        if !self.wild.visit(self.seed, topic, budget, &mut found) {
            return false;
        }
        match self.exact_set(hash, topic) {
            Some(set) => charge(budget, 1) && found(set, budget),
            None => true,
        }
    }

    /// Returns the subscribers to a topic without wildcards.
    #[inline]
    pub(super) fn exact_set(&self, hash: u32, topic: &str) -> Option<&IdSet> {
        let text = topic.as_bytes();
        self.index.find_map(hash, |at| {
            let exact = &self.exact[at];
            (exact.topic.bytes() == text).then_some(&exact.ids)
        })
    }

    fn find_exact(&self, hash: u32, topic: &str) -> Option<u32> {
        self.index.find(hash, |at| self.exact[at].topic.bytes() == topic.as_bytes())
    }

    fn reach_exact(&mut self, topic: &str) -> u32 {
        let hash = self.seed.text(topic.as_bytes());
        if let Some(at) = self.find_exact(hash, topic) {
            return at;
        }
        let at = self.exact.insert(Exact { ids: IdSet::Empty, topic: Text::new(topic) });
        self.index.insert(hash, at);
        at
    }

    fn find(&self, mask: &str) -> Option<Spot> {
        if TOPICS.has_wildcards(mask) {
            self.wild.find(self.seed, mask).map(Spot::Wild)
        } else {
            self.find_exact(self.seed.text(mask.as_bytes()), mask).map(Spot::Exact)
        }
    }

    fn holds(&self, spot: Spot, id: u32) -> bool {
        let set = match spot {
            Spot::Exact(at) => self.exact.get(at).map(|exact| &exact.ids),
            Spot::Wild(end) => self.wild.set(end),
        };
        set.is_some_and(|set| self.sets.contains(set, id))
    }

    fn mask(&self, spot: Spot) -> String {
        match spot {
            Spot::Exact(at) => String::from_utf8_lossy(self.exact[at].topic.bytes()).into_owned(),
            Spot::Wild(end) => self.wild.mask(end),
        }
    }

    fn place_of(&self, id: u32) -> Option<u32> {
        self.places.find(self.seed.pair(id, 0), |place| self.clients[place].id == id)
    }

    /// Removes a client without subscriptions. Returns whether it had none.
    fn forget_if_empty(&mut self, place: u32) -> bool {
        let Client { id, spots } = &self.clients[place];
        if spots.len() > 0 {
            return false;
        }
        self.places.remove(self.seed.pair(*id, 0), place);
        self.clients.remove(place);
        true
    }

    /// Removes a client from one set, and the mask with its last client. Returns the number of removed nodes.
    fn remove_at(&mut self, spot: Spot, id: u32) -> usize {
        self.len -= 1;
        match spot {
            Spot::Exact(at) => {
                let exact = &mut self.exact[at];
                self.sets.remove(&mut exact.ids, id);
                if exact.ids == IdSet::Empty {
                    self.index.remove(self.seed.text(exact.topic.bytes()), at);
                    self.exact.remove(at);
                }
                0
            }
            Spot::Wild(end) => {
                self.sets.remove(self.wild.set_mut(end), id);
                self.wild.prune(self.seed, end.node)
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
            && self.clients.is_unallocated()
            && self.places.is_unallocated()
    }

    /// Returns the number of items for which the slabs have memory.
    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.exact.capacity() + self.wild.capacity() + self.index.slots()
    }
}
