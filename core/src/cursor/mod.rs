//! Long results, item by item, over RPC (docs/protocol.md section 11).
//!
//! A method adds a [`Cursor`] to its [`CursorMap`] and returns [`CursorMap::reply`]; the map answers the calls `N`
//! (the next item) and `NB` (the next items) that follow. The other side calls
//! [`Caller::cursor`](crate::rpc::Caller::cursor) and takes items from a [`CursorStream`].
//!
//! ```
//! use busrt::cursor::{self, CursorMap};
//! use busrt::rpc::{Call, Handlers, RpcError};
//! use bytes::Bytes;
//!
//! struct Table {
//!     cursors: CursorMap,
//! }
//!
//! impl Handlers for Table {
//!     async fn on_call(&self, call: Call) -> Result<Bytes, RpcError> {
//!         if let Some(answer) = self.cursors.handle(call.method(), call.params()).await {
//!             return answer;
//!         }
//!         match call.method() {
//!             // MessagePack values, here the integers 1, 2 and 3.
//!             "rows" => Ok(CursorMap::reply(self.cursors.add(cursor::from_iter((1..4).map(|i| Bytes::from(vec![i])))))),
//!             _ => Err(RpcError::method_not_found()),
//!         }
//!     }
//! }
//! ```

mod map;
mod pack;
mod stream;

pub use map::CursorMap;
pub use stream::CursorStream;
#[cfg(feature = "blocking")]
pub(crate) use stream::{Question, RemoteItems};
pub use uuid::Uuid;

use crate::rpc::RpcError;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::future::Future;

/// The method that returns the next item.
pub const METHOD_NEXT: &str = "N";
/// The method that returns a list of the next items.
pub const METHOD_NEXT_BULK: &str = "NB";
/// Maximum number of items that one call may ask for.
pub const MAX_BULK: usize = 65_536;

/// A long result. Each item is one MessagePack value, because the lists of `NB` are not readable otherwise, and is
/// never empty, because an empty item means the end.
pub trait Cursor: Send + 'static {
    /// Returns the next item, or `None` at the end. It is not called again after that.
    fn next(&mut self) -> impl Future<Output = Result<Option<Bytes>, RpcError>> + Send;

    /// Returns the next `n` items, fewer at the end. `n` is at most [`MAX_BULK`]; do not allocate memory for it in
    /// advance, because the peer chooses it. Implement it if many items cost little more than one.
    fn next_bulk(&mut self, n: usize) -> impl Future<Output = Result<Vec<Bytes>, RpcError>> + Send {
        async move {
            let mut items = Vec::new();
            while items.len() < n {
                let Some(item) = self.next().await? else { break };
                items.push(item);
            }
            Ok(items)
        }
    }
}

/// Creates a cursor over the items of an iterator.
pub fn from_iter<I>(items: I) -> impl Cursor
where
    I: IntoIterator<Item = Bytes>,
    I::IntoIter: Send + 'static,
{
    struct Iter<I>(I);

    impl<I: Iterator<Item = Bytes> + Send + 'static> Cursor for Iter<I> {
        async fn next(&mut self) -> Result<Option<Bytes>, RpcError> {
            Ok(self.0.next())
        }
    }

    Iter(items.into_iter())
}

/// The result of a method that returns a cursor, and the parameters of `N` and `NB`.
#[derive(Debug, Serialize, Deserialize)]
struct Reference {
    u: Uuid,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    n: Option<u64>,
}

impl Reference {
    fn pack(&self) -> Bytes {
        // This fails only if writing to memory does.
        rmp_serde::to_vec_named(self).unwrap_or_default().into()
    }
}
