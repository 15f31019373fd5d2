//! Where a session's recent frames went: most frames need no lock but their receiver's own.

use super::registry::{Audience, Registry};
use super::session::Session;
use crate::error::ErrorKind;
use crate::matching::cache::Cache;
use std::sync::Arc;

/// Entries in each cache of a session.
const CACHED: u32 = 1024;
/// Receivers that the audiences in one cache may have in all: bounds what many large ones hold.
const CACHED_RECEIVERS: usize = 16 * 1024;

/// The answers that a session's operations got lately.
pub(super) struct Routes {
    messages: Table<Arc<Session>>,
    broadcasts: Table<Audience>,
    publications: Table<Audience>,
    held: Holdings,
}

struct Table<V> {
    cache: Cache<Result<V, ErrorKind>>,
    /// The last answer that was not in the cache.
    fresh: Option<V>,
}

impl<V> Table<V> {
    const fn new() -> Table<V> {
        Table { cache: Cache::new(CACHED), fresh: None }
    }
}

/// How many receivers the cached audiences of one generation have.
#[derive(Default)]
struct Holdings {
    generation: u64,
    receivers: usize,
}

impl Holdings {
    /// Counts an audience; whether there is room for it.
    fn add(&mut self, generation: u64, audience: &Result<Audience, ErrorKind>) -> bool {
        if self.generation != generation {
            *self = Holdings { generation, receivers: 0 };
        }
        self.receivers += audience.as_ref().map_or(0, |audience| audience.len());
        self.receivers <= CACHED_RECEIVERS
    }
}

impl Routes {
    pub(super) fn new() -> Routes {
        Routes {
            messages: Table::new(),
            broadcasts: Table::new(),
            publications: Table::new(),
            held: Holdings::default(),
        }
    }

    /// Lets go of what an idle client should not hold.
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
        look_up(&mut self.messages, registry, name, || registry.target(from, name), |_, _| true)
    }

    /// The clients that a broadcast goes to.
    pub(super) fn named(
        &mut self,
        registry: &Registry,
        from: &Session,
        mask: &str,
    ) -> Result<&Audience, ErrorKind> {
        let find = || registry.matching_names(from, mask);
        look_up(&mut self.broadcasts, registry, mask, find, |at, found| self.held.add(at, found))
    }

    /// The clients that a publication goes to.
    pub(super) fn subscribers(
        &mut self,
        registry: &Registry,
        from: &Session,
        topic: &str,
    ) -> Result<&Audience, ErrorKind> {
        let find = || registry.subscribers(Some(from), topic);
        look_up(&mut self.publications, registry, topic, find, |at, found| self.held.add(at, found))
    }
}

/// What the table knows of `key`, or else `find` does. The generation is read before anything is looked
/// up: what changes meanwhile makes the entry stale, not wrong.
#[inline]
fn look_up<'t, V: Clone>(
    table: &'t mut Table<V>,
    registry: &Registry,
    key: &str,
    find: impl Fn() -> Result<V, ErrorKind>,
    fits: impl FnOnce(u64, &Result<V, ErrorKind>) -> bool,
) -> Result<&'t V, ErrorKind> {
    let generation = registry.generation();
    let Some(slot) = table.cache.locate(generation, key.as_bytes()) else {
        let found = find();
        if fits(generation, &found) {
            table.cache.insert_with(generation, key.as_bytes(), || found.clone());
        }
        return Ok(table.fresh.insert(found?));
    };
    match table.cache.at(slot) {
        Some(known) => known.as_ref().map_err(|kind| *kind),
        None => Ok(table.fresh.insert(find()?)),
    }
}
