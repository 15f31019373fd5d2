//! A cache of the receivers of a session's recent frames. With it, most frames need no lock except that of their
//! receiver.

use super::audience::{Audience, Miss};
use super::budget::WorkBudget;
use super::core::Core;
use super::registry::Registry;
use super::session::Session;
use crate::error::ErrorKind;
use crate::matching::cache::Cache;
use std::sync::Arc;

/// Entries in each cache of a session.
const ENTRIES: u32 = 1024;
/// Maximum number of receivers of all audiences in one cache together; this bounds the memory for large audiences.
const RECEIVERS: u32 = 16 * 1024;
/// Caches smaller than this many bytes are kept while the client is idle.
const SMALL_BYTES: usize = 2 * 1024;

/// The results of a session's recent lookups.
pub(super) struct RouteCache {
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
    const fn new() -> Table<V> {
        Table { cache: Cache::new(ENTRIES, RECEIVERS), fresh: None }
    }
}

impl RouteCache {
    pub(super) fn new() -> RouteCache {
        RouteCache { messages: Table::new(), broadcasts: Table::new(), publications: Table::new() }
    }

    /// Releases memory that a client should not hold while it waits for input.
    pub(super) fn release(&mut self) {
        self.messages.fresh = None;
        self.broadcasts.fresh = None;
        self.publications.fresh = None;
    }

    /// Returns whether the caches hold more than an idle client should.
    pub(super) fn is_worth_releasing(&self) -> bool {
        let footprint = self.messages.cache.footprint()
            + self.broadcasts.cache.footprint()
            + self.publications.cache.footprint();
        footprint > SMALL_BYTES
    }

    /// Removes all entries and releases the memory.
    pub(super) fn clear(&mut self) {
        self.messages.cache.clear();
        self.broadcasts.cache.clear();
        self.publications.cache.clear();
    }

    /// Returns the client to which a message goes.
    ///
    /// # Errors
    ///
    /// The operation is denied, or no client has the name.
    pub(super) fn target(
        &mut self,
        registry: &Registry,
        from: &Session,
        name: &str,
    ) -> Result<&Arc<Session>, ErrorKind> {
        look_up(&mut self.messages, registry, name, || Ok(registry.target(from, name)?), |_| 1).map_err(
            |miss| {
                match miss {
                    Miss::Refused(kind) => kind,
                    // The lookup of a single name always fits into the budget.
                    Miss::OverBudget => ErrorKind::Other,
                }
            },
        )
    }

    /// Returns the clients to which a broadcast goes.
    ///
    /// # Errors
    ///
    /// The errors of [`Registry::named`].
    pub(super) fn named(
        &mut self,
        core: &Core,
        from: &Session,
        mask: &str,
        budget: &mut WorkBudget,
    ) -> Result<&Audience, Miss> {
        let find = || core.registry.named(from, mask, &core.options, budget);
        look_up(&mut self.broadcasts, &core.registry, mask, find, |audience| audience.len())
    }

    /// Returns the clients to which a publication goes.
    ///
    /// # Errors
    ///
    /// The errors of [`Registry::subscribers`].
    pub(super) fn subscribers(
        &mut self,
        core: &Core,
        from: &Session,
        topic: &str,
        budget: &mut WorkBudget,
    ) -> Result<&Audience, Miss> {
        let find = || core.registry.subscribers(from, topic, &core.options, budget);
        look_up(&mut self.publications, &core.registry, topic, find, |audience| audience.len())
    }
}

/// Returns the cached result for `key`, or otherwise the result of `find`. The generation is read before the lookup,
/// so that a change during the lookup makes the entry stale.
#[inline]
fn look_up<'t, V: Clone>(
    table: &'t mut Table<V>,
    registry: &Registry,
    key: &str,
    find: impl FnOnce() -> Result<V, Miss>,
    weight: impl FnOnce(&V) -> usize,
) -> Result<&'t V, Miss> {
    let generation = registry.generation();
    let Some(slot) = table.cache.locate(generation, key.as_bytes()) else {
        let found = match find() {
            Err(Miss::OverBudget) => return Err(Miss::OverBudget),
            Err(Miss::Refused(kind)) => Err(kind),
            Ok(found) => Ok(found),
        };
        let weight = found.as_ref().map_or(1, weight);
        table.cache.insert_with(generation, key.as_bytes(), weight, || found.clone());
        return Ok(table.fresh.insert(found?));
    };
    match table.cache.at(slot) {
        Some(known) => known.as_ref().map_err(|kind| Miss::Refused(*kind)),
        None => Ok(table.fresh.insert(find()?)),
    }
}
