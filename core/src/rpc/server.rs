//! The serving side: takes frames off the client's lanes and runs the handlers.

use super::handlers::{Call, Handlers, Notification};
use super::{Options, RpcError};
use crate::client::effects::{contain, panic_text};
use crate::client::{
    AnswerTo, Attached, Client, Lane, PendingOperation, Request, RpcLanes, WeakClient, Working,
};
use crate::error::{Error, ErrorKind};
use crate::frame::Frame;
use crate::proto::op::{FrameKind, QoS};
use crate::proto::rpc::{Envelope, error_header, reply_header};
use crate::shown::shown;
use bytes::Bytes;
use std::any::Any;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use tokio::sync::Semaphore;

/// What the tasks share. They do not keep the client alive: dropping the last handle ends it, and them.
struct Server<H> {
    handlers: H,
    client: WeakClient,
}

/// Starts the tasks of a server; they end when the value is dropped.
pub(super) fn start<H: Handlers>(client: &Client, handlers: H, options: &Options) -> Attached {
    let server = Arc::new(Server { handlers, client: client.downgrade() });
    let RpcLanes { frames, notifications, calls, attached } = client.attach_rpc(options.in_order);
    let working = client.working();
    tokio::spawn(server.clone().run_in_order(frames, working.clone()));
    if !options.in_order {
        tokio::spawn(server.clone().run_in_order(notifications, working.clone()));
        tokio::spawn(server.run_calls(calls, options.max_concurrent, working));
    }
    attached
}

impl<H: Handlers> Server<H> {
    /// One after another. Without in-order handling these lanes hold no calls.
    async fn run_in_order(self: Arc<Self>, mut lane: Lane, _working: Working) {
        while let Some(frame) = lane.recv().await {
            if !lane.is_attached() {
                break;
            }
            match Kind::of(frame) {
                Some(Kind::Frame(frame)) => {
                    let handled = frame.clone();
                    if let Err(panic) = caught(|| self.handlers.on_frame(handled)).await {
                        log_panic("a frame", frame.sender(), panic);
                    }
                }
                Some(Kind::Notification(notification)) => {
                    let handled = notification.clone();
                    if let Err(panic) = caught(|| self.handlers.on_notification(handled)).await {
                        log_panic("a notification", notification.sender(), panic);
                    }
                }
                Some(Kind::Call(call)) => self.handle(call).await,
                Some(Kind::NotText(frame, id)) => self.refuse_method(&frame, id).await,
                None => {}
            }
        }
    }

    /// Each call in a task of its own, up to a number of them.
    async fn run_calls(self: Arc<Self>, mut lane: Lane, max_concurrent: usize, working: Working) {
        let permits = Arc::new(Semaphore::new(max_concurrent.clamp(1, Semaphore::MAX_PERMITS)));
        while let Some(frame) = lane.recv().await {
            // An error: the semaphore is closed, which nobody does.
            let Ok(permit) = permits.clone().acquire_owned().await else { break };
            if !lane.is_attached() {
                break;
            }
            let server = self.clone();
            match Kind::of(frame) {
                Some(Kind::Call(call)) => {
                    let working = working.clone();
                    tokio::spawn(async move {
                        server.handle(call).await;
                        drop((permit, working));
                    });
                }
                Some(Kind::NotText(frame, id)) => self.refuse_method(&frame, id).await,
                _ => {}
            }
        }
    }

    async fn handle(&self, call: Call) {
        let (id, realtime, frame) = (call.id(), call.is_realtime(), call.frame().clone());
        let result = match caught(|| self.handlers.on_call(call)).await {
            Ok(result) => result,
            Err(panic) => {
                log_panic("a call", frame.sender(), panic);
                Err(RpcError::internal("the handler panicked"))
            }
        };
        self.reply(frame.sender(), id, realtime, result).await;
    }

    async fn refuse_method(&self, frame: &Frame, id: u32) {
        let e = Error::new(ErrorKind::Data, "the method is not UTF-8");
        self.reply(frame.sender(), id, frame.is_realtime(), Err(e.into())).await;
    }

    /// Sends the outcome of a call, and does not wait for the broker to take it: what comes next must not
    /// wait for a round trip.
    async fn reply(&self, target: &str, id: u32, realtime: bool, result: Result<Bytes, RpcError>) {
        if id == 0 {
            if let Err(e) = result {
                log::debug!("a call of {} that wants no reply failed: {e}", shown(target));
            }
            return;
        }
        let Some(client) = self.client.upgrade() else { return };
        let qos = if realtime { QoS::RealtimeProcessed } else { QoS::Processed };
        let sent = match result {
            Ok(payload) => answer(&client, target, &reply_header(id), payload, qos).await,
            Err(e) => answer(&client, target, &error_header(id, e.code()), e.data_bytes(), qos).await,
        };
        if let Err(e) = sent {
            log::debug!("a reply to {} was not sent: {e}", shown(target));
        }
    }
}

/// Sends what a call is answered. A refusal is only logged.
async fn answer(
    client: &Client,
    target: &str,
    header: &[u8],
    payload: Bytes,
    qos: QoS,
) -> crate::Result<PendingOperation> {
    let request = Request::message(target, &payload, qos).prefix(header);
    client.submit_to(&request, AnswerTo::Log).await
}

/// Answers requests that came when their client was about to go as if it were gone.
pub(crate) async fn refuse(client: &Client, requests: Vec<Frame>) {
    for frame in requests {
        let Some(Kind::Call(call)) = Kind::of(frame) else { continue };
        if !call.wants_reply() {
            continue;
        }
        let e = RpcError::from(Error::new(ErrorKind::NotRegistered, "the client is about to go"));
        let header = error_header(call.id(), e.code());
        if answer(client, call.sender(), &header, e.data_bytes(), QoS::Processed).await.is_err() {
            return;
        }
    }
}

/// What a frame is to a server.
enum Kind {
    Frame(Frame),
    Notification(Notification),
    Call(Call),
    /// A call of a method whose name is not text, and its id.
    NotText(Frame, u32),
}

impl Kind {
    fn of(frame: Frame) -> Option<Kind> {
        if frame.kind() != FrameKind::Message {
            return Some(Kind::Frame(frame));
        }
        let payload = frame.payload_bytes();
        match Envelope::parse(&payload) {
            Ok(Envelope::Notification { .. }) => Some(Kind::Notification(Notification::new(frame))),
            Ok(Envelope::Request { id, method, .. }) => Some(match Call::new(frame, id, method) {
                Ok(call) => Kind::Call(call),
                Err(frame) => Kind::NotText(frame, id),
            }),
            // Replies that nobody awaits come no further than the inbox.
            Ok(_) => None,
            Err(e) => {
                log::warn!("a message of {} is no RPC frame: {e}", shown(frame.sender()));
                None
            }
        }
    }
}

/// Runs a handler; what it panicked with, if it did.
async fn caught<F: Future>(handler: impl FnOnce() -> F) -> Result<F::Output, Box<dyn Any + Send>> {
    // The block makes the part of the handler before its future one with the rest.
    let mut future = pin!(async { handler().await });
    // The future is not polled again after a panic, and what the handlers share they share at their own
    // risk, as with any lock that is poisoned.
    poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
        Ok(Poll::Pending) => Poll::Pending,
        Ok(Poll::Ready(output)) => Poll::Ready(Ok(output)),
        Err(panic) => Poll::Ready(Err(panic)),
    })
    .await
}

/// Logs that a handler has panicked. What the panic carries is the program's own, and may panic when dropped.
fn log_panic(what: &str, sender: &str, panic: Box<dyn Any + Send>) {
    log::error!("the handler of {what} of {} panicked: {}", shown(sender), panic_text(&*panic));
    contain("the drop of a panic's value", || drop(panic));
}
