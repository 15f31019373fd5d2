//! The answer to one request.

use super::RpcError;
use crate::client::{Client, Confirmation, Request, Tell, WeakClient, Working};
use crate::error::{Error, ErrorKind};
use crate::frame::Frame;
use crate::proto::op::QoS;
use crate::proto::request::Operation;
use crate::proto::rpc::{error_header, reply_header};
use crate::shown::shown;
use bytes::Bytes;
use std::fmt;
use std::task::{Context, Waker};

/// Answers one request, once: with a result, an error reply, or, when it is dropped before, the error reply -32603. It
/// may be moved to any thread and kept for any time. It does not keep the client connected.
///
/// [`reply`](Responder::reply) and [`error`](Responder::error) never wait and need no runtime. The answer is sent on the
/// calling thread if there is room to send; else it is sent by a task of the client as soon as there is room. An answer
/// is not confirmed: when the connection has been lost, it is dropped.
#[must_use = "a request whose responder is dropped is answered with an error"]
pub struct Responder {
    client: WeakClient,
    /// The message that holds the request: its sender gets the answer.
    request: Frame,
    /// 0: no answer is wanted, or it has been given.
    id: u32,
    _working: Working,
}

impl Responder {
    pub(super) fn new(client: WeakClient, request: Frame, id: u32, working: Working) -> Responder {
        Responder { client, request, id, _working: working }
    }

    /// The full name of the caller.
    pub fn caller(&self) -> &str {
        self.request.sender()
    }

    /// Whether the caller wants a reply. If not, the answer is dropped, and an error is logged.
    pub fn wants_reply(&self) -> bool {
        self.id != 0
    }

    /// Answers with a result.
    pub fn reply(self, result: impl Into<Bytes>) {
        self.answer(Ok(result.into()));
    }

    /// Answers with an error reply.
    pub fn error(self, error: RpcError) {
        self.answer(Err(error));
    }

    /// Answers with the outcome of a handler.
    pub fn answer(mut self, outcome: Result<Bytes, RpcError>) {
        self.answer_now(outcome);
    }

    /// As [`answer`](Responder::answer), but waits for room to send. Does not wait for the broker to take the answer:
    /// the next request must not wait for a round trip.
    pub(super) async fn send(mut self, outcome: Result<Bytes, RpcError>) {
        let Some((client, answer)) = self.begin(outcome) else { return };
        if let Err(e) = answer.send(&client).await {
            log_unsent(self.caller(), &e);
        }
    }

    fn answer_now(&mut self, outcome: Result<Bytes, RpcError>) {
        let Some((client, answer)) = self.begin(outcome) else { return };
        let runtime = client.runtime().cloned();
        // The timer of a wait for room belongs to the client's runtime.
        let _entered = runtime.as_ref().map(tokio::runtime::Handle::enter);
        let mut sending = Box::pin(async move {
            if let Err(e) = answer.send(&client).await {
                log_unsent(answer.target(), &e);
            }
        });
        if sending.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending() {
            match &runtime {
                Some(runtime) => drop(runtime.spawn(sending)),
                None => {
                    log::warn!("a reply was not sent: no room, and the client was made without a runtime")
                }
            }
        }
    }

    /// What is to be sent; `None` if nothing is. Nothing else will be sent then.
    fn begin(&mut self, outcome: Result<Bytes, RpcError>) -> Option<(Client, Answer)> {
        let id = std::mem::take(&mut self.id);
        if id == 0 {
            if let Err(e) = outcome {
                log::debug!("a call of {} that wants no reply failed: {e}", shown(self.caller()));
            }
            return None;
        }
        let client = self.client.upgrade()?;
        Some((client, Answer { request: self.request.clone(), id, outcome }))
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        if self.id != 0 {
            self.answer_now(Err(RpcError::internal("the request was not answered")));
        }
    }
}

impl fmt::Debug for Responder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Responder")
            .field("caller", &self.caller())
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// An answer and its destination.
struct Answer {
    request: Frame,
    id: u32,
    outcome: Result<Bytes, RpcError>,
}

impl Answer {
    fn target(&self) -> &str {
        self.request.sender()
    }

    async fn send(&self, client: &Client) -> crate::Result<Confirmation> {
        let qos = if self.request.is_realtime() { QoS::RealtimeProcessed } else { QoS::Processed };
        match &self.outcome {
            Ok(result) => send(client, self.target(), &reply_header(self.id), result.clone(), qos).await,
            Err(e) => {
                send(client, self.target(), &error_header(self.id, e.code()), e.data_bytes(), qos).await
            }
        }
    }
}

/// Sends an answer. A refusal by the broker is only logged.
async fn send(
    client: &Client,
    target: &str,
    header: &[u8],
    payload: Bytes,
    qos: QoS,
) -> crate::Result<Confirmation> {
    let operation = Operation::Message { target, payload };
    client.submit_request(Request { tell: Tell::Log, ..Request::new(&operation, header, qos) }).await
}

fn log_unsent(target: &str, e: &Error) {
    log::debug!("a reply to {} was not sent: {e}", shown(target));
}

/// Answers requests that came while their client was about to go, as if it were gone.
pub(crate) async fn refuse(client: &Client, requests: Vec<Frame>) {
    for request in requests {
        let Some(super::intake::Kind::Call(call)) = super::intake::Kind::of(request) else { continue };
        if !call.wants_reply() {
            continue;
        }
        let e = Error::new(ErrorKind::NotRegistered, "the client is about to go");
        let answer = Answer { request: call.frame().clone(), id: call.id(), outcome: Err(e.into()) };
        if answer.send(client).await.is_err() {
            return;
        }
    }
}
