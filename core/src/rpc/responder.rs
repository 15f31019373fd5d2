//! The answer to one request.

use super::RpcError;
use super::work::Working;
#[cfg(feature = "blocking")]
use crate::client::Wait;
use crate::client::{AnswerTo, Bound, Client, Request, TrySend, WeakClient};
use crate::error::{Error, ErrorKind};
use crate::frame::Frame;
use crate::proto::op::QoS;
use crate::proto::rpc::{error_header, reply_header};
use crate::shown::shown;
use bytes::Bytes;
use std::fmt;
#[cfg(feature = "blocking")]
use std::future::Future;

/// Answers one request, once: with a result or an error reply. If it is dropped unused, it sends the error reply
/// -32603. It may be moved to any thread and kept for any time. It does not keep the client connected.
///
/// [`reply`](Responder::reply) and [`error`](Responder::error) never wait and need no runtime. The answer is sent on
/// the calling thread if there is room to send; otherwise a task of the client sends it as soon as there is room. An
/// answer is not confirmed: if the connection has been lost, it is dropped. In a child made by fork, nothing is
/// answered.
#[must_use = "a request whose responder is dropped is answered with an error"]
pub struct Responder {
    client: WeakClient,
    /// The message that holds the request. Its sender gets the answer.
    request: Frame,
    /// 0: no answer is wanted, or it has been given.
    id: u32,
    working: Working,
}

impl Responder {
    pub(super) fn new(client: WeakClient, request: Frame, id: u32, working: Working) -> Responder {
        Responder { client, request, id, working }
    }

    /// Returns the full name of the caller.
    pub fn caller(&self) -> &str {
        self.request.sender()
    }

    /// Returns true if the caller waits for a reply. If not, the answer is dropped, and an error is logged.
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

    /// Does the same as [`answer`](Responder::answer), but waits for room to send. It does not wait for the broker's
    /// acknowledgement, because the next request must not wait for a round trip.
    pub(super) async fn send(mut self, outcome: Result<Bytes, RpcError>) {
        let Some((client, answer)) = self.begin(outcome) else { return };
        if let Err(e) = answer.send(&client).await {
            answer.log_unsent(&e);
        }
    }

    /// Does the same as [`send`](Responder::send), but waits on this thread.
    #[cfg(feature = "blocking")]
    pub(crate) fn send_waiting(mut self, outcome: Result<Bytes, RpcError>) {
        let Some((client, answer)) = self.begin(outcome) else { return };
        let sent = match answer.try_send(&client, Bound::Bounded) {
            Ok(TrySend::NoRoom) => {
                let mut sending = std::pin::pin!(answer.send(&client));
                let sent = Wait::forever().on(|cx| sending.as_mut().poll(cx));
                sent.and_then(|sent| sent.unwrap_or(Ok(())))
            }
            sent => sent.map(drop),
        };
        if let Err(e) = sent {
            answer.log_unsent(&e);
        }
    }

    fn answer_now(&mut self, outcome: Result<Bytes, RpcError>) {
        let Some((client, answer)) = self.begin(outcome) else { return };
        match (answer.try_send(&client, Bound::Bounded), client.runtime().cloned()) {
            (Ok(TrySend::Sent(_)), _) => {}
            (Ok(TrySend::NoRoom), Some(runtime)) => drop(runtime.spawn(async move {
                if let Err(e) = answer.send(&client).await {
                    answer.log_unsent(&e);
                }
            })),
            // There is no runtime, so that no task can wait for room.
            (Ok(TrySend::NoRoom), None) => match answer.try_send(&client, Bound::Unbounded) {
                Ok(TrySend::Sent(_)) => {}
                Ok(TrySend::NoRoom) => answer.log_unsent(&ErrorKind::ConnectionLost.into()),
                Err(e) => answer.log_unsent(&e),
            },
            (Err(e), _) => answer.log_unsent(&e),
        }
    }

    /// Returns the reply to send, or `None` if there is none. Afterwards, nothing else is sent.
    fn begin(&mut self, outcome: Result<Bytes, RpcError>) -> Option<(Client, Answer)> {
        let id = std::mem::take(&mut self.id);
        if self.working.is_inherited() {
            // The parent has the request too, so that it must not be freed here.
            std::mem::forget(self.request.clone());
            return None;
        }
        if id == 0 {
            if let Err(e) = outcome {
                log::debug!("a call of {} that wants no reply failed: {e}", shown(self.caller()));
            }
            return None;
        }
        let client = self.client.upgrade()?;
        Some((client, Answer::new(self.request.clone(), id, outcome)))
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        if self.id != 0 || self.working.is_inherited() {
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
    /// The message that holds the request.
    request: Frame,
    header: Header,
    payload: Bytes,
}

/// The envelope of a reply or an error reply.
enum Header {
    Reply([u8; 5]),
    Error([u8; 7]),
}

impl Answer {
    fn new(request: Frame, id: u32, outcome: Result<Bytes, RpcError>) -> Answer {
        let (header, payload) = match outcome {
            Ok(result) => (Header::Reply(reply_header(id)), result),
            Err(e) => (Header::Error(error_header(id, e.code())), e.data_bytes()),
        };
        Answer { request, header, payload }
    }

    fn request(&self) -> Request<'_> {
        let qos = if self.request.is_realtime() { QoS::RealtimeProcessed } else { QoS::Processed };
        let header = match &self.header {
            Header::Reply(header) => &header[..],
            Header::Error(header) => &header[..],
        };
        Request::message(self.request.sender(), &self.payload, qos).envelope(header)
    }

    /// Sends it when there is room. A refusal by the broker is only logged.
    async fn send(&self, client: &Client) -> crate::Result<()> {
        client.submit_to(&self.request(), AnswerTo::Log).await.map(drop)
    }

    /// Sends it now if there is room. A refusal by the broker is only logged.
    fn try_send(&self, client: &Client, bound: Bound) -> crate::Result<TrySend<()>> {
        client.attempt(&self.request(), AnswerTo::Log, bound).map(|sent| sent.map(drop))
    }

    fn log_unsent(&self, e: &Error) {
        log::debug!("a reply to {} was not sent: {e}", shown(self.request.sender()));
    }
}
