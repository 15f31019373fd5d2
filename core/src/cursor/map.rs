//! The serving side: the cursors in use, and a task that drops unused ones.

use super::{Cursor, MAX_BULK, METHOD_NEXT, METHOD_NEXT_BULK, Reference, pack};
use crate::client::deadline::interval;
use crate::client::effects::contain;
use crate::rpc::RpcError;
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};
use uuid::Uuid;

type Boxed<'a, T> = Pin<Box<dyn Future<Output = Result<T, RpcError>> + Send + 'a>>;

/// A [`Cursor`] of any type.
trait AnyCursor: Send {
    fn next(&mut self) -> Boxed<'_, Option<Bytes>>;
    fn next_bulk(&mut self, n: usize) -> Boxed<'_, Vec<Bytes>>;
}

impl<C: Cursor> AnyCursor for C {
    fn next(&mut self) -> Boxed<'_, Option<Bytes>> {
        Box::pin(Cursor::next(self))
    }

    fn next_bulk(&mut self, n: usize) -> Boxed<'_, Vec<Bytes>> {
        Box::pin(Cursor::next_bulk(self, n))
    }
}

/// The cursors of a server. Clones are handles of the same map.
#[derive(Clone)]
pub struct CursorMap(Arc<Shared>);

struct Shared {
    ttl: Duration,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    cursors: HashMap<Uuid, Entry>,
    /// Ends the task that drops unused cursors when this sender is dropped. The task exists while there are cursors.
    cleaner: Option<oneshot::Sender<()>>,
}

/// A cursor that several calls share.
struct Slot<C: ?Sized> {
    /// True after the cursor has reported its end. A call that waited for the lock must not ask it again.
    has_ended: bool,
    cursor: C,
}

/// The lock is held across the cursor's awaits, so that it must be an async lock.
type SharedCursor = Arc<tokio::sync::Mutex<Slot<dyn AnyCursor>>>;

struct Entry {
    cursor: SharedCursor,
    used: Instant,
    /// Number of calls in progress: a cursor that takes long is not unused.
    calls: usize,
}

impl Entry {
    fn is_expired(&self, ttl: Duration, now: Instant) -> bool {
        self.calls == 0 && now.duration_since(self.used) >= ttl
    }
}

impl CursorMap {
    /// Creates a map that drops cursors that were not used for `ttl`: at least 1 ms, at most ten years.
    pub fn new(ttl: Duration) -> CursorMap {
        CursorMap(Arc::new(Shared { ttl: interval(ttl), table: Mutex::default() }))
    }

    /// Adds a cursor and returns its identifier, which the method must return with [`reply`](CursorMap::reply). May
    /// be called from any thread.
    ///
    /// Unused cursors are dropped by a task of the current runtime, or of the runtime of the process (feature
    /// `runtime`). Without either, they become unknown after their time, and are dropped when a cursor is added
    /// within a runtime.
    pub fn add(&self, cursor: impl Cursor) -> Uuid {
        let id = Uuid::new_v4();
        let cursor = Arc::new(tokio::sync::Mutex::new(Slot { has_ended: false, cursor }));
        let runtime = runtime();
        let mut ended = None;
        let mut table = self.0.table.lock();
        table.cursors.insert(id, Entry { cursor, used: Instant::now(), calls: 0 });
        // The task ends without notice when its runtime does.
        if runtime.is_some() && table.cleaner.as_ref().is_none_or(oneshot::Sender::is_closed) {
            let (sender, receiver) = oneshot::channel();
            table.cleaner = Some(sender);
            ended = Some(receiver);
        }
        drop(table);
        // The lock is not held while the task is spawned.
        if let (Some(runtime), Some(ended)) = (runtime, ended) {
            runtime.spawn(clean(Arc::downgrade(&self.0), ended));
        }
        id
    }

    /// Packs the result of a method that has added a cursor: `{"u": id}`.
    pub fn reply(id: Uuid) -> Bytes {
        Reference { u: id, n: None }.pack()
    }

    /// Drops a cursor. Returns whether it was in the map.
    pub fn remove(&self, id: &Uuid) -> bool {
        let entry = self.0.table.lock().cursors.remove(id);
        entry.is_some()
    }

    /// Returns the number of cursors.
    pub fn len(&self) -> usize {
        self.0.table.lock().cursors.len()
    }

    /// Returns true if there are no cursors.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Answers the methods `N` and `NB`, for use in [`on_call`](crate::rpc::Handlers::on_call). Returns `None` for
    /// every other method.
    pub async fn handle(&self, method: &str, params: &[u8]) -> Option<Result<Bytes, RpcError>> {
        match method {
            METHOD_NEXT => Some(self.next(params).await),
            METHOD_NEXT_BULK => Some(self.next_bulk(params).await),
            _ => None,
        }
    }

    /// Answers the method `N`: returns the next item of the cursor `{"u": id}`, empty at the end.
    ///
    /// # Errors
    ///
    /// -32700 if the parameters are not MessagePack, -32602 if they are not of this form, -32001 if there is no such
    /// cursor (any more), and the errors of the cursor.
    pub async fn next(&self, params: &[u8]) -> Result<Bytes, RpcError> {
        let id = parse(params)?.u;
        let usage = self.begin(id)?;
        let mut slot = usage.cursor.lock().await;
        if slot.has_ended {
            return Ok(Bytes::new());
        }
        let item = slot.cursor.next().await?;
        if item.is_none() {
            slot.has_ended = true;
            self.remove(&id);
        }
        Ok(item.unwrap_or_default())
    }

    /// Answers the method `NB`: returns a list of the next items of the cursor `{"u": id, "n": count}`, which is
    /// shorter than `count` at the end. `count` is 1 if left out, and at most [`MAX_BULK`].
    ///
    /// # Errors
    ///
    /// The errors of [`next`](CursorMap::next).
    pub async fn next_bulk(&self, params: &[u8]) -> Result<Bytes, RpcError> {
        let Reference { u: id, n } = parse(params)?;
        // A count over the maximum is refused, since a shorter list would look like the end.
        let n = usize::try_from(n.unwrap_or(1)).ok().filter(|n| *n <= MAX_BULK);
        let n = n.ok_or_else(|| RpcError::invalid_params(format!("n is over {MAX_BULK}")))?;
        let usage = self.begin(id)?;
        let mut slot = usage.cursor.lock().await;
        if slot.has_ended {
            return Ok(pack::list(&[]));
        }
        let items = slot.cursor.next_bulk(n).await?;
        if items.len() < n {
            slot.has_ended = true;
            self.remove(&id);
        }
        Ok(pack::list(&items))
    }

    fn begin(&self, id: Uuid) -> Result<Usage<'_>, RpcError> {
        let mut table = self.0.table.lock();
        let now = Instant::now();
        match table.cursors.get_mut(&id) {
            Some(entry) if !entry.is_expired(self.0.ttl, now) => {
                entry.calls += 1;
                Ok(Usage { map: self, id, cursor: entry.cursor.clone() })
            }
            _ => Err(RpcError::not_found("no such cursor")),
        }
    }
}

/// A call in progress.
struct Usage<'a> {
    map: &'a CursorMap,
    id: Uuid,
    cursor: SharedCursor,
}

impl Drop for Usage<'_> {
    fn drop(&mut self) {
        if let Some(entry) = self.map.0.table.lock().cursors.get_mut(&self.id) {
            entry.calls -= 1;
            entry.used = Instant::now();
        }
    }
}

impl fmt::Debug for CursorMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CursorMap").field("ttl", &self.0.ttl).field("len", &self.len()).finish()
    }
}

/// Returns the runtime for the task that drops unused cursors. A blocking handler does not run within one.
fn runtime() -> Option<Handle> {
    let current = Handle::try_current().ok();
    #[cfg(feature = "runtime")]
    let current = current.or_else(|| crate::runtime::handle().ok());
    current
}

fn parse(params: &[u8]) -> Result<Reference, RpcError> {
    if pack::value_len(params) != Some(params.len()) {
        return Err(RpcError::parse("the parameters are not MessagePack"));
    }
    rmp_serde::from_slice(params).map_err(|e| RpcError::invalid_params(e.to_string()))
}

/// Drops expired cursors, until there are none left or the map has `ended`.
async fn clean(map: Weak<Shared>, mut ended: oneshot::Receiver<()>) {
    let Some(mut next) = map.upgrade().map(|map| Instant::now() + map.ttl) else { return };
    loop {
        tokio::select! {
            () = sleep_until(next) => {}
            _ = &mut ended => return,
        }
        let Some(map) = map.upgrade() else { return };
        match map.drop_expired() {
            Some(used) => next = used + map.ttl,
            None => return,
        }
    }
}

impl Shared {
    /// Drops expired cursors. Returns when the least recently used of the others was last used; without any, the task
    /// must end.
    fn drop_expired(&self) -> Option<Instant> {
        let mut table = self.table.lock();
        let now = Instant::now();
        let expired: Vec<Uuid> = table
            .cursors
            .iter()
            .filter(|(_, entry)| entry.is_expired(self.ttl, now))
            .map(|(id, _)| *id)
            .collect();
        let dropped: Vec<_> = expired.iter().filter_map(|id| table.cursors.remove(id)).collect();
        // A cursor in use is checked again after another time to live.
        let remaining = table.cursors.values().map(|entry| if entry.calls > 0 { now } else { entry.used });
        let oldest = remaining.min();
        let cleaner = if oldest.is_none() { table.cleaner.take() } else { None };
        drop(table);
        // Cursors belong to the program, and dropping them may run its code.
        drop(cleaner);
        for entry in dropped {
            contain("the drop of a cursor", || drop(entry));
        }
        oldest
    }
}

#[cfg(test)]
mod tests {
    use super::super::from_iter;
    use super::*;
    use rmpv::Value;

    fn params(id: Uuid, n: Option<u64>) -> Bytes {
        Reference { u: id, n }.pack()
    }

    fn ints(range: std::ops::Range<u8>) -> impl Cursor {
        from_iter(range.map(|i| Bytes::from(vec![i])))
    }

    #[test]
    fn the_reference_is_a_map_with_sixteen_bytes() {
        let id = Uuid::from_bytes([7; 16]);
        let value = rmpv::decode::read_value(&mut &CursorMap::reply(id)[..]).unwrap();
        assert_eq!(value, Value::Map(vec![("u".into(), Value::Binary(vec![7; 16]))]));
    }

    #[tokio::test]
    async fn one_by_one() {
        let map = CursorMap::new(Duration::from_secs(60));
        let id = map.add(ints(1..3));
        let mut got = vec![];
        loop {
            let item = map.handle("N", &params(id, None)).await.unwrap().unwrap();
            if item.is_empty() {
                break;
            }
            got.push(item);
        }
        assert_eq!(got, [&[1][..], &[2]]);
        assert!(map.is_empty());
        assert_eq!(map.next(&params(id, None)).await.unwrap_err().code(), -32001);
        assert!(map.handle("other", b"").await.is_none());
    }

    /// Counts how many times it is called, and has no item.
    struct Empty(Arc<tokio::sync::Notify>, Arc<std::sync::atomic::AtomicUsize>);

    impl Cursor for Empty {
        async fn next(&mut self) -> Result<Option<Bytes>, RpcError> {
            if self.1.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 0 {
                self.0.notified().await;
            }
            Ok(None)
        }
    }

    #[tokio::test]
    async fn a_cursor_is_not_called_after_its_end_by_calls_that_waited() {
        for bulk in [None, Some(2)] {
            let map = CursorMap::new(Duration::from_secs(60));
            let (go_on, calls) = (Arc::new(tokio::sync::Notify::new()), Arc::default());
            let id = map.add(Empty(go_on.clone(), Arc::clone(&calls)));
            let answers: Vec<_> = (0..3)
                .map(|_| {
                    let map = map.clone();
                    let method = if bulk.is_some() { METHOD_NEXT_BULK } else { METHOD_NEXT };
                    tokio::spawn(async move { map.handle(method, &params(id, bulk)).await.unwrap() })
                })
                .collect();
            tokio::task::yield_now().await;
            go_on.notify_one();
            for answer in answers {
                let end = if bulk.is_some() { &b"\x90"[..] } else { b"" };
                assert_eq!(answer.await.unwrap().unwrap(), end);
            }
            assert_eq!(calls.load(std::sync::atomic::Ordering::SeqCst), 1);
            assert!(map.is_empty());
        }
    }

    #[cfg(feature = "runtime")]
    #[test]
    fn a_thread_without_a_runtime_adds_cursors_that_expire() {
        let map = CursorMap::new(Duration::from_millis(1));
        map.add(ints(1..3));
        while !map.is_empty() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[tokio::test]
    async fn lists() {
        let map = CursorMap::new(Duration::from_secs(60));
        let id = map.add(ints(1..6));
        assert_eq!(map.next_bulk(&params(id, Some(2))).await.unwrap(), &b"\x92\x01\x02"[..]);
        assert_eq!(map.next_bulk(&params(id, None)).await.unwrap(), &b"\x91\x03"[..]);
        assert_eq!(map.next_bulk(&params(id, Some(0))).await.unwrap(), &b"\x90"[..]);
        assert_eq!(map.handle("NB", &params(id, Some(65_536))).await.unwrap().unwrap(), &b"\x92\x04\x05"[..]);
        assert!(map.is_empty());
    }

    #[tokio::test]
    async fn parameters_that_are_wrong() {
        let map = CursorMap::new(Duration::from_secs(60));
        let id = map.add(ints(1..6));
        for (params, code) in [
            (Bytes::new(), -32700),
            (Bytes::from_static(b"\x81\xa1u"), -32700),
            (Bytes::from_static(b"\x80"), -32602),
            (Bytes::from_static(b"\x81\xa1u\x01"), -32602),
            (params(id, Some(65_537)), -32602),
            (params(id, Some(u64::MAX)), -32602),
            (params(Uuid::nil(), None), -32001),
        ] {
            assert_eq!(map.next_bulk(&params).await.unwrap_err().code(), code, "{params:?}");
        }
        assert_eq!(map.len(), 1);
    }

    #[tokio::test]
    async fn expired_cursors_are_unknown_before_they_are_dropped() {
        let map = CursorMap::new(Duration::from_secs(3600));
        let ids = [map.add(ints(1..9)), map.add(ints(1..9))];
        let age = |id: &Uuid, by: u64| {
            let mut table = map.0.table.lock();
            let entry = table.cursors.get_mut(id).unwrap();
            entry.used = entry.used.checked_sub(Duration::from_secs(by)).unwrap();
        };
        age(&ids[0], 2000);
        map.next(&params(ids[0], None)).await.unwrap();
        // Each use restarts the time to live.
        age(&ids[0], 2000);
        map.next(&params(ids[0], None)).await.unwrap();
        age(&ids[1], 3601);
        assert_eq!(map.next(&params(ids[1], None)).await.unwrap_err().code(), -32001);
    }

    #[tokio::test]
    async fn unused_cursors_are_dropped_and_slow_ones_stay() {
        struct Slow(Arc<tokio::sync::Notify>);
        impl Cursor for Slow {
            async fn next(&mut self) -> Result<Option<Bytes>, RpcError> {
                self.0.notified().await;
                Ok(Some(Bytes::from_static(b"\x01")))
            }
        }
        let map = CursorMap::new(Duration::from_millis(20));
        let go_on = Arc::new(tokio::sync::Notify::new());
        let slow = map.add(Slow(go_on.clone()));
        let next = tokio::spawn({
            let map = map.clone();
            async move { map.next(&params(slow, None)).await }
        });
        // The task runs at least twice.
        for _ in 0..2 {
            map.add(ints(1..9));
            while map.len() > 1 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        go_on.notify_one();
        assert_eq!(next.await.unwrap().unwrap(), &b"\x01"[..]);
        while !map.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // The next cursor starts a new task.
        map.add(ints(1..9));
        while !map.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
