//! The asking side: a long result as a stream of items.

use super::{MAX_BULK, METHOD_NEXT, METHOD_NEXT_BULK, Reference, pack};
use crate::proto::op::QoS;
use crate::rpc::{Caller, Rpc, RpcError};
use bytes::Bytes;
use std::collections::VecDeque;
use uuid::Uuid;

/// The items of a long result, asked for as they are taken.
#[derive(Debug)]
pub struct CursorStream {
    caller: Caller,
    target: String,
    id: Uuid,
    /// How many items are asked for at once; 0 asks for single ones.
    bulk: usize,
    ready: VecDeque<Bytes>,
    ended: bool,
}

impl Caller {
    /// Calls a method that returns a cursor.
    ///
    /// # Errors
    /// As [`call`](Caller::call); -32700 when the method returns something else.
    pub async fn cursor(
        &self,
        target: &str,
        method: &str,
        params: impl Into<Bytes>,
    ) -> Result<CursorStream, RpcError> {
        let reply = self.call(target, method, params, QoS::Processed).await?;
        let Reference { u: id, .. } = rmp_serde::from_slice(reply.payload())
            .map_err(|e| RpcError::parse(format!("{method:?} of {target:?} returned no cursor: {e}")))?;
        let (caller, target) = (self.clone(), target.to_owned());
        Ok(CursorStream { caller, target, id, bulk: 0, ready: VecDeque::new(), ended: false })
    }
}

impl Rpc {
    /// See [`Caller::cursor`].
    ///
    /// # Errors
    /// As there.
    pub async fn cursor(
        &self,
        target: &str,
        method: &str,
        params: impl Into<Bytes>,
    ) -> Result<CursorStream, RpcError> {
        self.caller().cursor(target, method, params).await
    }
}

impl CursorStream {
    /// Asks for up to `n` items (1 to [`MAX_BULK`]) with each call from now on: fewer round trips.
    pub fn bulk(mut self, n: usize) -> CursorStream {
        self.bulk = n.clamp(1, MAX_BULK);
        self
    }

    /// The cursor's identifier.
    pub fn id(&self) -> Uuid {
        self.id
    }

    /// The next item, `None` at the end. Cancel safe only in so far as an item that is on its way when the
    /// future is dropped is lost.
    ///
    /// # Errors
    /// As [`Caller::call`]; -32001 when the cursor was unused for too long.
    pub async fn next(&mut self) -> Result<Option<Bytes>, RpcError> {
        if self.ready.is_empty() && !self.ended {
            if self.bulk > 0 {
                let items = self.fetch(self.bulk).await?;
                self.ready.extend(items);
            } else {
                let params = Reference { u: self.id, n: None }.pack();
                let reply = self.caller.call(&self.target, METHOD_NEXT, params, QoS::Processed).await?;
                self.ended = reply.payload().is_empty();
                return Ok((!self.ended).then(|| reply.payload_bytes()));
            }
        }
        Ok(self.ready.pop_front())
    }

    /// The next `n` items (at most [`MAX_BULK`]), fewer at the end.
    ///
    /// # Errors
    /// As [`next`](CursorStream::next).
    pub async fn next_bulk(&mut self, n: usize) -> Result<Vec<Bytes>, RpcError> {
        let n = n.min(MAX_BULK);
        while self.ready.len() < n && !self.ended {
            let items = self.fetch(n - self.ready.len()).await?;
            self.ready.extend(items);
        }
        let n = n.min(self.ready.len());
        Ok(self.ready.drain(..n).collect())
    }

    async fn fetch(&mut self, n: usize) -> Result<Vec<Bytes>, RpcError> {
        let params = Reference { u: self.id, n: Some(n as u64) }.pack();
        let reply = self.caller.call(&self.target, METHOD_NEXT_BULK, params, QoS::Processed).await?;
        let items = pack::items(&reply.payload_bytes())
            .ok_or_else(|| RpcError::parse(format!("{:?} returned no list", self.target)))?;
        self.ended = items.len() < n;
        Ok(items)
    }
}
