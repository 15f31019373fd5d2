//! The receiving side: a long result as a stream of items.

use super::{MAX_BULK, METHOD_NEXT, METHOD_NEXT_BULK, Reference, pack};
use crate::proto::op::QoS;
use crate::rpc::{Caller, Reply, Rpc, RpcError};
use bytes::Bytes;
use std::collections::VecDeque;
use uuid::Uuid;

/// The items of a long result, which are requested while they are consumed.
#[derive(Debug)]
pub struct CursorStream {
    caller: Caller,
    items: RemoteItems,
}

/// The state of a long result on the receiving side.
#[derive(Debug)]
pub(crate) struct RemoteItems {
    pub(crate) target: String,
    id: Uuid,
    /// The number of items in one request; 0: single items are requested.
    bulk: usize,
    ready: VecDeque<Bytes>,
    ended: bool,
}

/// A call that requests items.
#[derive(Debug)]
pub(crate) struct Question {
    pub(crate) method: &'static str,
    pub(crate) params: Bytes,
    /// The number of items if a list is requested.
    pub(crate) count: Option<usize>,
}

impl Caller {
    /// Calls a method that returns a cursor.
    ///
    /// # Errors
    /// The errors of [`call`](Caller::call); -32700 if the method does not return a cursor.
    pub async fn cursor(
        &self,
        target: &str,
        method: &str,
        params: impl Into<Bytes>,
    ) -> Result<CursorStream, RpcError> {
        let reply = self.call(target, method, params, QoS::Processed).await?;
        Ok(CursorStream { caller: self.clone(), items: RemoteItems::new(target, method, &reply)? })
    }
}

impl Rpc {
    /// See [`Caller::cursor`].
    ///
    /// # Errors
    /// The errors of that method.
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
    /// Sets the number of items that each call requests from now on (1 to [`MAX_BULK`]). More items need fewer round
    /// trips.
    pub fn bulk(mut self, n: usize) -> CursorStream {
        self.items.set_bulk(n);
        self
    }

    /// Returns the cursor's identifier.
    pub fn id(&self) -> Uuid {
        self.items.id()
    }

    /// Returns the next item, or `None` at the end. If the future is dropped, an item that is in transit is lost;
    /// otherwise it is cancel safe.
    ///
    /// # Errors
    ///
    /// The errors of [`Caller::call`]; -32001 if the cursor was unused for too long.
    pub async fn next(&mut self) -> Result<Option<Bytes>, RpcError> {
        if let Some(question) = self.items.question_for_next() {
            self.ask(question).await?;
        }
        Ok(self.items.take_next())
    }

    /// Returns the next `n` items (at most [`MAX_BULK`]), fewer at the end.
    ///
    /// # Errors
    ///
    /// The errors of [`next`](CursorStream::next).
    pub async fn next_bulk(&mut self, n: usize) -> Result<Vec<Bytes>, RpcError> {
        while let Some(question) = self.items.question_for(n) {
            self.ask(question).await?;
        }
        Ok(self.items.take(n))
    }

    async fn ask(&mut self, question: Question) -> Result<(), RpcError> {
        let Question { method, params, count } = question;
        let reply = self.caller.call(&self.items.target, method, params, QoS::Processed).await?;
        self.items.accept(count, &reply)
    }
}

impl RemoteItems {
    /// Creates the state from the reply of the method that returns the cursor.
    pub(crate) fn new(target: &str, method: &str, reply: &Reply) -> Result<RemoteItems, RpcError> {
        let Reference { u: id, .. } = rmp_serde::from_slice(reply.payload())
            .map_err(|e| RpcError::parse(format!("{method:?} of {target:?} did not return a cursor: {e}")))?;
        Ok(RemoteItems { target: target.to_owned(), id, bulk: 0, ready: VecDeque::new(), ended: false })
    }

    pub(crate) fn id(&self) -> Uuid {
        self.id
    }

    pub(crate) fn set_bulk(&mut self, n: usize) {
        self.bulk = n.clamp(1, MAX_BULK);
    }

    /// Returns the call that must be made before the next item can be taken, if one is needed.
    pub(crate) fn question_for_next(&self) -> Option<Question> {
        if !self.ready.is_empty() || self.ended {
            return None;
        }
        if self.bulk > 0 {
            return Some(self.question(self.bulk));
        }
        let params = Reference { u: self.id, n: None }.pack();
        Some(Question { method: METHOD_NEXT, params, count: None })
    }

    /// Returns the call that must be made before `n` items can be taken, if one is needed.
    pub(crate) fn question_for(&self, n: usize) -> Option<Question> {
        let missing = n.min(MAX_BULK).saturating_sub(self.ready.len());
        (missing > 0 && !self.ended).then(|| self.question(missing))
    }

    fn question(&self, count: usize) -> Question {
        let params = Reference { u: self.id, n: Some(count as u64) }.pack();
        Question { method: METHOD_NEXT_BULK, params, count: Some(count) }
    }

    /// Stores the answer to a request for `count` items, or for a single one.
    pub(crate) fn accept(&mut self, count: Option<usize>, reply: &Reply) -> Result<(), RpcError> {
        let Some(count) = count else {
            self.ended = reply.payload().is_empty();
            if !self.ended {
                self.ready.push_back(reply.payload_bytes());
            }
            return Ok(());
        };
        let items = pack::items(&reply.payload_bytes())
            .ok_or_else(|| RpcError::parse(format!("{:?} did not return a list", self.target)))?;
        self.ended = items.len() < count;
        self.ready.extend(items);
        Ok(())
    }

    pub(crate) fn take_next(&mut self) -> Option<Bytes> {
        self.ready.pop_front()
    }

    /// Takes the next `n` items (at most [`MAX_BULK`]) that have been received.
    pub(crate) fn take(&mut self, n: usize) -> Vec<Bytes> {
        let n = n.min(MAX_BULK).min(self.ready.len());
        self.ready.drain(..n).collect()
    }
}
