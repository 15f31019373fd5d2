//! The calling side.

use super::pending::{PendingCall, error_of};
use super::{Reply, RpcError};
use crate::client::{
    AnswerTo, Bound, CallTarget, Client, CompletionQueue, Deadline, Payload, PendingOperation, Request, Slot,
    TrySend,
};
use crate::error::{Error, ErrorKind, Result};
use crate::proto::op::QoS;
use crate::proto::rpc::{NOTIFICATION, put_request_header};
use bytes::Bytes;
use std::cell::Cell;
use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;
use tokio::time::Instant;

/// Makes RPC calls over a client, and serves nothing. Received frames, including messages that are no replies, stay
/// with the holder of the client's [`frames`](Client::frames). Clones are handles of the same caller.
#[derive(Debug, Clone)]
pub struct Caller {
    client: Client,
}

/// A call to be made, for [`Caller::try_call`] and similar methods.
#[derive(Debug, Clone, Copy)]
pub struct CallRequest<'a> {
    target: &'a str,
    method: &'a str,
    params: Payload<'a>,
    prefix: &'a [u8],
    qos: QoS,
    deadline: Deadline,
}

impl<'a> CallRequest<'a> {
    /// Creates a call of `method` of the client `target`, with the client's timeout as its deadline. If `qos` asks
    /// for an acknowledgement, the call fails as soon as the broker refuses it.
    pub fn new(
        target: &'a str,
        method: &'a str,
        params: impl Into<Payload<'a>>,
        qos: QoS,
    ) -> CallRequest<'a> {
        CallRequest { target, method, params: params.into(), prefix: &[], qos, deadline: Deadline::Default }
    }

    /// Sets bytes that precede the parameters, so that a header need not be joined with the data that follows it.
    pub fn prefix(mut self, prefix: &'a [u8]) -> CallRequest<'a> {
        self.prefix = prefix;
        self
    }

    /// Sets how long the reply is awaited, including the time to find room. Default: the client's timeout.
    pub fn deadline(mut self, deadline: impl Into<Deadline>) -> CallRequest<'a> {
        self.deadline = deadline.into();
        self
    }
}

impl Caller {
    /// Creates a caller over `client`. There may be any number of callers.
    pub fn new(client: Client) -> Caller {
        Caller { client }
    }

    /// Returns the client over which it calls.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Calls `method` of the client `target` and waits for its reply, at most for the client's
    /// [`timeout`](crate::client::Config::timeout). Dropping the future forgets the call.
    ///
    /// With a `qos` that asks for an acknowledgement the call fails as soon as the broker refuses it; with any other
    /// QoS, a call to a client that is not registered ends at its deadline.
    ///
    /// # Errors
    /// The error reply of the method, or a code of the bus itself ([`RpcError::kind`]): -32113 no client has that
    /// name, -32120 no reply in time, -32115 the connection was lost.
    pub async fn call(
        &self,
        target: &str,
        method: &str,
        params: impl Into<Bytes>,
        qos: QoS,
    ) -> Result<Reply, RpcError> {
        self.submit(target, method, params, qos).await?.await
    }

    /// Does the same as [`call`](Caller::call), with its own deadline, which counts from the beginning of this
    /// method. It also ends the wait for room and for a connection.
    ///
    /// # Errors
    ///
    /// The errors of [`call`](Caller::call).
    pub async fn call_with_deadline(
        &self,
        target: &str,
        method: &str,
        params: impl Into<Bytes>,
        qos: QoS,
        deadline: Duration,
    ) -> Result<Reply, RpcError> {
        let params = params.into();
        self.start(&CallRequest::new(target, method, &params, qos).deadline(deadline)).await?.await
    }

    /// Sends a call and returns a future of its outcome, so that many can be in progress. It waits only for room to
    /// send; the deadline counts from the beginning of this method.
    ///
    /// # Errors
    ///
    /// -32115 if the connection was lost, -32114 for a name with a NUL, -32120 if there was no room before the
    /// deadline. After an error, the request is not sent, now or later.
    pub async fn submit(
        &self,
        target: &str,
        method: &str,
        params: impl Into<Bytes>,
        qos: QoS,
    ) -> Result<PendingCall, RpcError> {
        let params = params.into();
        self.start(&CallRequest::new(target, method, &params, qos)).await
    }

    /// Does the same as [`submit`](Caller::submit).
    ///
    /// # Errors
    /// The errors of [`submit`](Caller::submit).
    pub async fn start(&self, call: &CallRequest<'_>) -> Result<PendingCall, RpcError> {
        let slot = Slot::new();
        let (id, fixed) = self.register(call, CallTarget::Slot(slot.clone()))?;
        // From here on, dropping the handle forgets the call in every case.
        let mut pending = PendingCall::new(self.client.clone(), id, slot);
        let header = Header::new(id, fixed.method);
        let request = fixed.request(&header.0);
        let mut sending = pin!(self.client.submit_to(&request, AnswerTo::Call(id)));
        // The outcome and the sending of the request compete: after one of them, the other does not happen.
        let sent = poll_fn(|cx| {
            if let Poll::Ready(outcome) = pending.poll_outcome(cx) {
                return Poll::Ready(outcome.map(drop));
            }
            sending.as_mut().poll(cx).map_ok(drop)
        });
        match sent.await {
            Ok(()) => Ok(pending),
            Err(e) => {
                pending.was_not_sent();
                Err(error_of(e))
            }
        }
    }

    /// Sends a call immediately, on the caller's thread, if there is room. Needs no runtime and never waits.
    ///
    /// # Errors
    ///
    /// The errors of [`submit`](Caller::submit), without -32120.
    pub fn try_call(&self, call: &CallRequest<'_>) -> Result<TrySend<PendingCall>, RpcError> {
        self.call_now(call, Bound::Bounded)
    }

    /// Does the same as [`try_call`](Caller::try_call), but sends even if there is no room: see
    /// [`Client::send_in_order`].
    ///
    /// # Errors
    ///
    /// The errors of [`try_call`](Caller::try_call).
    pub fn call_in_order(&self, call: &CallRequest<'_>) -> Result<TrySend<PendingCall>, RpcError> {
        self.call_now(call, Bound::Unbounded)
    }

    /// Does the same as [`try_call`](Caller::try_call), but puts the outcome into `completions` with `token`. Returns
    /// the id of the call, with which it can be [cancelled](Caller::cancel).
    ///
    /// # Errors
    ///
    /// The errors of [`try_call`](Caller::try_call). After an error, nothing is put into `completions`.
    pub fn try_call_to(
        &self,
        call: &CallRequest<'_>,
        completions: &CompletionQueue,
        token: u64,
    ) -> Result<TrySend<u32>, RpcError> {
        self.send_to(call, completions, token, Bound::Bounded)
    }

    /// Does the same as [`call_in_order`](Caller::call_in_order), but puts the outcome into `completions` with
    /// `token`.
    ///
    /// # Errors
    ///
    /// The errors of [`try_call_to`](Caller::try_call_to).
    pub fn call_in_order_to(
        &self,
        call: &CallRequest<'_>,
        completions: &CompletionQueue,
        token: u64,
    ) -> Result<TrySend<u32>, RpcError> {
        self.send_to(call, completions, token, Bound::Unbounded)
    }

    fn send_to(
        &self,
        call: &CallRequest<'_>,
        completions: &CompletionQueue,
        token: u64,
        bound: Bound,
    ) -> Result<TrySend<u32>, RpcError> {
        let sent = self.send_now(call, CallTarget::Queue(completions.clone(), token), bound)?;
        if let TrySend::Sent(_) = sent {
            completions.expect_from(self.client.state().inbox.lease());
        }
        Ok(sent)
    }

    /// Does the same as [`try_call`](Caller::try_call), but reports the acknowledgement of the request separately
    /// from the reply: a refusal by the broker is the outcome of the operation and does not end the call, which the
    /// program must then drop. It is for programs that tell their users when a request is delivered.
    ///
    /// # Errors
    ///
    /// The errors of [`try_call`](Caller::try_call).
    pub fn try_call_with_ack(
        &self,
        call: &CallRequest<'_>,
    ) -> Result<TrySend<(PendingOperation, PendingCall)>, RpcError> {
        let slot = Slot::new();
        let (id, fixed) = self.register(call, CallTarget::Slot(slot.clone()))?;
        let mut pending = PendingCall::new(self.client.clone(), id, slot);
        let header = Header::new(id, fixed.method);
        let sent = self.client.attempt(&fixed.request(&header.0), AnswerTo::Handle, Bound::Bounded);
        if !matches!(sent, Ok(TrySend::Sent(_))) {
            pending.was_not_sent();
        }
        Ok(sent?.map(|operation| (operation, pending)))
    }

    /// Does the same as [`try_call_with_ack`](Caller::try_call_with_ack), but puts the acknowledgement, if the QoS
    /// asks for one, into `completions` with `ack_token`, and the reply with `token`. Returns the id of the call.
    ///
    /// # Errors
    ///
    /// The errors of [`try_call_to`](Caller::try_call_to).
    pub fn try_call_with_ack_to(
        &self,
        call: &CallRequest<'_>,
        completions: &CompletionQueue,
        ack_token: u64,
        token: u64,
    ) -> Result<TrySend<u32>, RpcError> {
        let (id, fixed) = self.register(call, CallTarget::Queue(completions.clone(), token))?;
        let header = Header::new(id, fixed.method);
        let request = fixed.request(&header.0);
        let sent = self.client.attempt(&request, AnswerTo::Queue(completions, ack_token), Bound::Bounded);
        if !matches!(sent, Ok(TrySend::Sent(_))) {
            self.client.state().calls.unregister(id);
        }
        Ok(sent?.map(|_| id))
    }

    /// Forgets a call that was started with a completion queue: no outcome is put there, and its late reply is
    /// dropped. Returns false if its outcome is already in the queue.
    pub fn cancel(&self, id: u32) -> bool {
        self.client.check_process().is_ok() && self.client.state().calls.forget(id)
    }

    fn call_now(&self, call: &CallRequest<'_>, bound: Bound) -> Result<TrySend<PendingCall>, RpcError> {
        let slot = Slot::new();
        let sent = self.send_now(call, CallTarget::Slot(slot.clone()), bound)?;
        Ok(sent.map(|id| PendingCall::new(self.client.clone(), id, slot)))
    }

    fn send_now(
        &self,
        call: &CallRequest<'_>,
        to: CallTarget,
        bound: Bound,
    ) -> Result<TrySend<u32>, RpcError> {
        let (id, fixed) = self.register(call, to)?;
        let header = Header::new(id, fixed.method);
        let sent = self.client.attempt(&fixed.request(&header.0), AnswerTo::Call(id), bound);
        match sent {
            Ok(TrySend::Sent(_)) => Ok(TrySend::Sent(id)),
            // The outcome has already been delivered if the connection has just been lost.
            _ if !self.client.state().calls.unregister(id) => Ok(TrySend::Sent(id)),
            Ok(TrySend::NoRoom) => Ok(TrySend::NoRoom),
            Err(e) => Err(error_of(e)),
        }
    }

    /// Registers a call. Returns its id, and the call with its deadline as a point in time.
    fn register<'a>(
        &self,
        call: &CallRequest<'a>,
        to: CallTarget,
    ) -> Result<(u32, CallRequest<'a>), RpcError> {
        check_method(call.method)?;
        self.client.check_process()?;
        let (now, timeout) = (Instant::now(), self.client.timeout());
        let deadline = call.deadline.after(now, timeout);
        let state = self.client.state();
        let (id, alarm) = state
            .calls
            .register(call.target, deadline, to)
            .map_err(|_| Error::new(ErrorKind::ConnectionLost, "the client is not connected"))?;
        if let Some(at) = alarm {
            state.timer.alarm(at);
        }
        state.inbox.unpark();
        Ok((id, call.deadline(deadline.map_or(Deadline::Never, |at| Deadline::At(at.into_std())))))
    }

    /// Calls a method without asking for a reply.
    ///
    /// # Errors
    ///
    /// The errors of [`Client::send`].
    pub async fn call0(&self, target: &str, method: &str, params: impl Into<Bytes>, qos: QoS) -> Result<()> {
        check_method(method)?;
        let header = Header::new(0, method);
        self.send(target, &header.0, params.into(), qos).await
    }

    /// Sends a notification.
    ///
    /// # Errors
    /// The errors of [`Client::send`].
    pub async fn notify(&self, target: &str, payload: impl Into<Bytes>, qos: QoS) -> Result<()> {
        self.send(target, &[NOTIFICATION], payload.into(), qos).await
    }

    async fn send(&self, target: &str, prefix: &[u8], payload: Bytes, qos: QoS) -> Result<()> {
        self.client.run_request(&Request::message(target, &payload, qos).prefix(prefix)).await
    }

    /// Calls a method without asking for a reply, immediately if there is room: see [`Client::try_send`]. The
    /// deadline is that of the acknowledgement.
    ///
    /// # Errors
    ///
    /// The errors of [`Client::try_send`].
    pub fn try_call0(&self, call: &CallRequest<'_>) -> Result<TrySend<PendingOperation>> {
        check_method(call.method)?;
        let header = Header::new(0, call.method);
        self.client.try_send(&call.request(&header.0))
    }

    /// Sends a notification immediately if there is room: see [`Client::try_send`].
    ///
    /// # Errors
    ///
    /// The errors of [`Client::try_send`].
    pub fn try_notify<'a>(
        &self,
        target: &'a str,
        payload: impl Into<Payload<'a>>,
        qos: QoS,
    ) -> Result<TrySend<PendingOperation>> {
        self.client.try_send(&Request::message(target, payload, qos).envelope(&[NOTIFICATION]))
    }
}

impl<'a> CallRequest<'a> {
    fn request(&self, header: &'a [u8]) -> Request<'a> {
        Request::message(self.target, self.params, self.qos)
            .envelope(header)
            .prefix(self.prefix)
            .deadline(self.deadline)
    }
}

fn check_method(method: &str) -> Result<()> {
    if method.contains('\0') {
        return Err(Error::new(ErrorKind::Data, format!("the method {method:?} has a NUL")));
    }
    Ok(())
}

/// A buffer longer than this is freed instead of kept for the next call, in bytes.
const MAX_KEPT_BYTES: usize = 4096;

thread_local! {
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// The envelope of a request, in a buffer that is returned to the thread when the value is dropped.
struct Header(Vec<u8>);

impl Header {
    fn new(id: u32, method: &str) -> Header {
        // This fails only while the thread ends.
        let mut header = Header(SPARE.try_with(Cell::take).unwrap_or_default());
        put_request_header(id, method, &mut header.0);
        header
    }
}

impl Drop for Header {
    fn drop(&mut self) {
        if self.0.capacity() <= MAX_KEPT_BYTES {
            let mut spare = std::mem::take(&mut self.0);
            spare.clear();
            let _ = SPARE.try_with(|kept| kept.set(spare));
        }
    }
}
