//! Recent routes of a session: most frames need no lock but their receiver's own.

use super::registry::{Audience, Registry};
use super::session::Session;
use crate::error::ErrorKind;
use crate::matching::cache::Cache;
use std::sync::Arc;

/// Entries in each cache of a session.
const CACHED: u32 = 1024;
/// Receivers of all publications in a cache: bounds what large audiences hold. One audience may have half of them.
const CACHED_SUBSCRIBERS: u32 = 16 * 1024;
/// Receivers of all broadcasts in a cache.
const CACHED_NAMED: u32 = 8 * 1024;

/// The recent results of a session's lookups.
pub(super) struct Routes {
    messages: Table<Arc<Session>>,
    broadcasts: Table<Audience>,
    publications: Table<Audience>,
}

struct Table<V> {
    cache: Cache<Result<V, ErrorKind>>,
    /// The last result that was not in the cache.
    fresh: Option<V>,
}

impl<V> Table<V> {
    const fn new(receivers: u32) -> Table<V> {
        Table { cache: Cache::new(CACHED, receivers), fresh: None }
    }

    fn clear(&mut self) {
        self.cache.clear();
        self.fresh = None;
    }
}

impl Routes {
    pub(super) fn new() -> Routes {
        Routes {
            // Entries of this cache have no weight.
            messages: Table::new(0),
            broadcasts: Table::new(CACHED_NAMED),
            publications: Table::new(CACHED_SUBSCRIBERS),
        }
    }

    /// Memory of all caches, in bytes: keys, slots and lists of receivers.
    #[allow(dead_code, reason = "the broker is about to drop caches of clients at rest by it")]
    pub(super) fn footprint(&self) -> usize {
        let receivers = self.broadcasts.cache.weight() + self.publications.cache.weight();
        self.messages.cache.footprint()
            + self.broadcasts.cache.footprint()
            + self.publications.cache.footprint()
            + receivers * size_of::<Arc<Session>>()
    }

    /// Drops everything and frees the memory.
    #[allow(dead_code, reason = "the broker is about to drop caches of clients at rest with it")]
    pub(super) fn clear(&mut self) {
        self.messages.clear();
        self.broadcasts.clear();
        self.publications.clear();
    }

    /// Drops the results that are not in a cache: an idle client should not keep other sessions alive.
    pub(super) fn release(&mut self) {
        self.messages.fresh = None;
        self.broadcasts.fresh = None;
        self.publications.fresh = None;
    }

    /// The client that a message goes to.
    pub(super) fn target(
        &mut self,
        registry: &Registry,
        from: &Session,
        name: &str,
    ) -> Result<&Arc<Session>, ErrorKind> {
        look_up(&mut self.messages, registry, name, || registry.target(from, name), |_| 0)
    }

    /// The clients that a broadcast goes to.
    pub(super) fn named(
        &mut self,
        registry: &Registry,
        from: &Session,
        mask: &str,
    ) -> Result<&Audience, ErrorKind> {
        let find = || registry.matching_names(from, mask);
        look_up(&mut self.broadcasts, registry, mask, find, |found| found.len())
    }

    /// The clients that a publication goes to.
    pub(super) fn subscribers(
        &mut self,
        registry: &Registry,
        from: &Session,
        topic: &str,
    ) -> Result<&Audience, ErrorKind> {
        let find = || registry.subscribers(Some(from), topic);
        look_up(&mut self.publications, registry, topic, find, |found| found.len())
    }
}

/// Returns the cached result for `key`, or else that of `find`. The generation is read before the lookup: a change
/// during the lookup then makes the entry stale, not wrong.
#[inline]
fn look_up<'t, V: Clone>(
    table: &'t mut Table<V>,
    registry: &Registry,
    key: &str,
    find: impl Fn() -> Result<V, ErrorKind>,
    weight: impl FnOnce(&V) -> usize,
) -> Result<&'t V, ErrorKind> {
    let generation = registry.generation();
    let Some(slot) = table.cache.locate(generation, key.as_bytes()) else {
        let found = find();
        let weight = found.as_ref().map_or(0, weight);
        table.cache.insert_with(generation, key.as_bytes(), weight, || found.clone());
        return Ok(table.fresh.insert(found?));
    };
    match table.cache.at(slot) {
        Some(known) => known.as_ref().map_err(|kind| *kind),
        None => Ok(table.fresh.insert(find()?)),
    }
}
