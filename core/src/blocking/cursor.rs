//! Long results on plain threads, item by item.

use super::poll::wait_for;
use super::rpc::{Caller, Rpc};
use crate::client::Wait;
use crate::cursor::{CursorMap, Question, RemoteItems, Uuid};
use crate::proto::op::QoS;
use crate::rpc::{CallRequest, RpcError};
use bytes::Bytes;

/// The items of a long result, which are requested while they are consumed; see [`crate::cursor::CursorStream`]. As
/// an iterator, it waits for each item.
#[derive(Debug)]
pub struct CursorStream {
    caller: Caller,
    items: RemoteItems,
}

impl Caller {
    /// Calls a method that returns a cursor; see [`crate::rpc::Caller::cursor`].
    ///
    /// # Errors
    /// The errors of that method.
    pub fn cursor(
        &self,
        target: &str,
        method: &str,
        params: impl Into<Bytes>,
    ) -> Result<CursorStream, RpcError> {
        self.cursor_with(target, method, params, Wait::forever())
    }

    /// Does the same as [`cursor`](Caller::cursor), but waits at most for the time of `wait`.
    ///
    /// # Errors
    /// The errors of [`cursor`](Caller::cursor), -32120 when the time is over, and the error of the check in `wait`.
    pub fn cursor_with(
        &self,
        target: &str,
        method: &str,
        params: impl Into<Bytes>,
        wait: Wait<'_>,
    ) -> Result<CursorStream, RpcError> {
        let params = params.into();
        let reply = self.call_with(&CallRequest::new(target, method, &params, QoS::Processed), wait)?;
        Ok(CursorStream { caller: self.clone(), items: RemoteItems::new(target, method, &reply)? })
    }
}

impl Rpc {
    /// See [`Caller::cursor`].
    ///
    /// # Errors
    /// The errors of that method.
    pub fn cursor(
        &self,
        target: &str,
        method: &str,
        params: impl Into<Bytes>,
    ) -> Result<CursorStream, RpcError> {
        self.caller().cursor(target, method, params)
    }
}

impl CursorStream {
    /// See [`crate::cursor::CursorStream::bulk`].
    pub fn bulk(mut self, n: usize) -> CursorStream {
        self.items.set_bulk(n);
        self
    }

    /// The cursor's identifier.
    pub fn id(&self) -> Uuid {
        self.items.id()
    }

    /// Returns the next item, or `None` at the end. Waits at most for the time of `wait`, and for each call at most
    /// for the client's timeout.
    ///
    /// # Errors
    ///
    /// The errors of [`Caller::call`]; -32001 when the cursor was unused for too long; the error of the check in
    /// `wait`; -32120 when the time of `wait` is over. In that case, an item that is in transit is lost.
    pub fn next_with(&mut self, wait: Wait<'_>) -> Result<Option<Bytes>, RpcError> {
        if let Some(question) = self.items.question_for_next() {
            self.ask(&question, wait)?;
        }
        Ok(self.items.take_next())
    }

    /// See [`crate::cursor::CursorStream::next_bulk`].
    ///
    /// # Errors
    /// The errors of that method.
    pub fn next_bulk(&mut self, n: usize) -> Result<Vec<Bytes>, RpcError> {
        self.next_bulk_with(n, Wait::forever())
    }

    /// Does the same as [`next_bulk`](CursorStream::next_bulk), but waits at most for the time of `wait`.
    ///
    /// # Errors
    /// The errors of [`next_with`](CursorStream::next_with).
    pub fn next_bulk_with(&mut self, n: usize, mut wait: Wait<'_>) -> Result<Vec<Bytes>, RpcError> {
        while let Some(question) = self.items.question_for(n) {
            self.ask(&question, wait.by_ref())?;
        }
        Ok(self.items.take(n))
    }

    fn ask(&mut self, question: &Question, wait: Wait<'_>) -> Result<(), RpcError> {
        let call = CallRequest::new(&self.items.target, question.method, &question.params, QoS::Processed);
        let reply = self.caller.call_with(&call, wait)?;
        self.items.accept(question.count, &reply)
    }
}

impl Iterator for CursorStream {
    type Item = Result<Bytes, RpcError>;

    fn next(&mut self) -> Option<Result<Bytes, RpcError>> {
        self.next_with(Wait::forever()).transpose()
    }
}

impl CursorMap {
    /// Does the same as [`handle`](CursorMap::handle), but waits on this thread, for [blocking
    /// handlers](super::Handlers). The methods of the cursors run on this thread, which must not belong to an async
    /// runtime.
    ///
    /// # Errors
    ///
    /// The errors of [`handle`](CursorMap::handle).
    pub fn handle_blocking(&self, method: &str, params: &[u8]) -> Option<Result<Bytes, RpcError>> {
        match wait_for(self.handle(method, params), Wait::forever()) {
            Ok(handled) => handled.flatten(),
            Err(e) => Some(Err(e.into())),
        }
    }
}
