//! The calling side.

use super::{Reply, RpcError};
use crate::client::deadline;
use crate::client::{Client, Confirmation, Outcome, Request};
use crate::error::{Error, ErrorKind, Result};
use crate::proto::op::QoS;
use crate::proto::request::Operation;
use crate::proto::rpc::{NOTIFICATION, request_header};
use bytes::Bytes;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep, sleep_until};

/// Makes RPC calls over a client, and serves nothing: frames, messages that answer no call among them,
/// stay with whoever takes the client's [`frames`](Client::frames). Clones are the same caller.
#[derive(Debug, Clone)]
pub struct Caller {
    client: Client,
}

impl Caller {
    /// A caller over `client`. There may be any number of them.
    pub fn new(client: Client) -> Caller {
        Caller { client }
    }

    /// The client it calls over.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Calls `method` of the client `target` and waits for its reply, at most the client's
    /// [`timeout`](crate::client::Config::timeout). Dropping the future forgets the call.
    ///
    /// With a `qos` that asks for an acknowledgement the call fails as soon as the broker refuses it; with
    /// any other a call to a client that is not there ends at its deadline.
    ///
    /// # Errors
    /// The error reply of the method, or a code of the bus itself ([`RpcError::kind`]): -32113 nobody has
    /// that name, -32120 no reply in time, -32115 the connection was lost.
    pub async fn call(
        &self,
        target: &str,
        method: &str,
        params: impl Into<Bytes>,
        qos: QoS,
    ) -> Result<Reply, RpcError> {
        self.submit(target, method, params, qos).await?.await
    }

    /// As [`call`](Caller::call), with a deadline of its own.
    ///
    /// # Errors
    /// As [`call`](Caller::call).
    pub async fn call_with_deadline(
        &self,
        target: &str,
        method: &str,
        params: impl Into<Bytes>,
        qos: QoS,
        deadline: Duration,
    ) -> Result<Reply, RpcError> {
        self.start(target, method, params.into(), qos, deadline::deadline(deadline)).await?.await
    }

    /// Sends a call and hands out its outcome as a future of its own, so that many can be under way. It
    /// waits only for room to send; the deadline counts from here.
    ///
    /// # Errors
    /// -32115 the connection was lost, -32114 a name with a NUL, -32120 the broker takes nothing more.
    pub async fn submit(
        &self,
        target: &str,
        method: &str,
        params: impl Into<Bytes>,
        qos: QoS,
    ) -> Result<PendingCall, RpcError> {
        self.start(target, method, params.into(), qos, deadline::deadline(self.client.timeout())).await
    }

    async fn start(
        &self,
        target: &str,
        method: &str,
        params: Bytes,
        qos: QoS,
        deadline: Instant,
    ) -> Result<PendingCall, RpcError> {
        check_method(method)?;
        self.client.check_process()?;
        let inbox = self.client.inbox();
        let lost = || RpcError::from(Error::new(ErrorKind::ConnectionLost, "the client is not connected"));
        // From here on the guard forgets the call, whatever happens.
        let (id, outcome) = inbox.calls.register(target).ok_or_else(lost)?;
        let call = Forget { client: self.client.clone(), id };
        inbox.unpark();
        let operation = Operation::Message { target, payload: params };
        let ack =
            self.client.submit_request(Request::new(&operation, &request_header(id, method), qos)).await?;
        Ok(PendingCall { outcome, ack: Some(ack), deadline: Box::pin(sleep_until(deadline)), _call: call })
    }

    /// Calls a method and wants no reply.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn call0(&self, target: &str, method: &str, params: impl Into<Bytes>, qos: QoS) -> Result<()> {
        check_method(method)?;
        self.send(target, &request_header(0, method), params.into(), qos).await
    }

    /// Sends a notification.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn notify(&self, target: &str, payload: impl Into<Bytes>, qos: QoS) -> Result<()> {
        self.send(target, &[NOTIFICATION], payload.into(), qos).await
    }

    async fn send(&self, target: &str, prefix: &[u8], payload: Bytes, qos: QoS) -> Result<()> {
        let operation = Operation::Message { target, payload };
        self.client.run_with(&operation, prefix, qos).await
    }
}

fn check_method(method: &str) -> Result<()> {
    if method.contains('\0') {
        return Err(Error::new(ErrorKind::Data, format!("the method {method:?} has a NUL")));
    }
    Ok(())
}

/// Removes a call from the table of those that wait.
#[derive(Debug)]
struct Forget {
    client: Client,
    id: u32,
}

impl Drop for Forget {
    fn drop(&mut self) {
        if self.client.check_process().is_ok() {
            self.client.inbox().calls.forget(self.id);
        }
    }
}

/// A call that has been sent: a future of its reply. Dropping it forgets the call.
#[derive(Debug)]
#[must_use = "a call is forgotten when this is dropped"]
pub struct PendingCall {
    outcome: oneshot::Receiver<Outcome>,
    /// `None` once it says that the call is on its way.
    ack: Option<Confirmation>,
    deadline: Pin<Box<Sleep>>,
    _call: Forget,
}

impl Future for PendingCall {
    type Output = Result<Reply, RpcError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self._call.client.check_process()?;
        // The reply counts even if it is late, or if the broker did not see the acknowledgement off.
        if let Poll::Ready(outcome) = Pin::new(&mut self.outcome).poll(cx) {
            let lost = |kind| Error::new(kind, "before the reply came");
            return Poll::Ready(match outcome {
                Ok(Ok(frame)) => Reply::new(frame),
                Ok(Err(kind)) => Err(lost(kind).into()),
                Err(_) => Err(lost(ErrorKind::ConnectionLost).into()),
            });
        }
        if let Some(Poll::Ready(answer)) = self.ack.as_mut().map(|ack| ack.poll_answer(cx)) {
            self.ack = None;
            match answer {
                // The reply may be on its way all the same: the deadline decides.
                Ok(()) | Err(ErrorKind::Timeout) => {}
                Err(kind @ ErrorKind::ConnectionLost) => return Poll::Ready(Err(Error::from(kind).into())),
                Err(kind) => {
                    return Poll::Ready(Err(Error::refused(kind.code(), "the call was refused").into()));
                }
            }
        }
        self.deadline
            .as_mut()
            .poll(cx)
            .map(|()| Err(Error::new(ErrorKind::Timeout, "no reply in time").into()))
    }
}
