//! The orderly end of a client.

use super::Client;
use std::time::Duration;
use tokio::time::timeout;
#[cfg(feature = "rpc")]
use {
    super::request::{AnswerTo, Request},
    crate::error::{Error, ErrorKind},
    crate::frame::Frame,
    crate::proto::op::{FrameKind, QoS},
    crate::proto::rpc::{Envelope, error_header},
    bytes::Bytes,
};

impl Client {
    /// Ends the client in order, within `bound`: stops receiving, lets RPC handlers finish the requests received so
    /// far, writes everything that was sent, and disconnects like [`disconnect`](Client::disconnect). Returns whether
    /// this was done in time; if not, the connection is being closed nevertheless, and handlers are not stopped.
    ///
    /// During that time this client can send and call. Arriving frames are dropped and counted; requests are answered
    /// at the end with -32113, as if the client had already left. [`Frames`](super::Frames) yield the waiting frames,
    /// then end; the method does not wait until they are taken. A request that arrives while the connection is being
    /// closed gets no answer, as with every client that leaves. A handler must not wait for this method.
    pub async fn drain(&self, bound: Duration) -> bool {
        if self.check_process().is_err() {
            return false;
        }
        let done = timeout(bound, self.drain_unbounded()).await.is_ok();
        if !done {
            self.give_up_drain();
        }
        done
    }

    /// Does the same as [`drain`](Client::drain), without a time limit and for any executor.
    pub(crate) async fn drain_unbounded(&self) {
        let state = &self.0.state;
        #[cfg(feature = "rpc")]
        state.inbox.seal(is_request);
        #[cfg(not(feature = "rpc"))]
        state.inbox.seal(|_| false);
        std::future::poll_fn(|cx| state.work.poll_done(cx)).await;
        #[cfg(feature = "rpc")]
        self.reject_late(state.inbox.take_late()).await;
        self.disconnect().await;
    }

    /// Closes a client that could not be drained in time.
    pub(crate) fn give_up_drain(&self) {
        self.begin_close("the client was not drained in time");
    }

    /// Answers requests that came while the client was being drained, as if it had already left.
    #[cfg(feature = "rpc")]
    async fn reject_late(&self, requests: Vec<Frame>) {
        let error = Error::new(ErrorKind::NotRegistered, "the client is shutting down");
        let text = Bytes::from(error.to_string());
        for request in requests {
            let Ok(Envelope::Request { id: id @ 1.., .. }) = Envelope::parse(request.payload()) else {
                continue;
            };
            let qos = if request.is_realtime() { QoS::RealtimeProcessed } else { QoS::Processed };
            let header = error_header(id, error.kind().rpc_code());
            let answer = Request::message(request.sender(), &text, qos).envelope(&header);
            if self.submit_to(&answer, AnswerTo::Log).await.is_err() {
                return;
            }
        }
    }

    /// Begins to close the connection without waiting.
    fn begin_close(&self, why: &'static str) {
        self.0.link.begin_close(why);
    }
}

/// Returns whether a frame is an RPC request.
#[cfg(feature = "rpc")]
fn is_request(frame: &Frame) -> bool {
    frame.kind() == FrameKind::Message && frame.payload().first() == Some(&crate::proto::rpc::REQUEST)
}
