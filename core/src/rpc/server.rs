//! The serving side with async handlers: tasks that take frames from the client's lanes and run the handlers.

use super::handlers::{Call, Handlers};
use super::intake::{Incoming, Kind};
use super::lanes::{RpcLane, RpcLanes};
use super::responder::Responder;
use super::work::Working;
use super::{Options, RpcError};
use crate::client::contain::{contain, panic_text};
use crate::client::{Attached, Client, WeakClient};
use crate::shown::shown;
use bytes::Bytes;
use std::any::Any;
use std::future::{Future, poll_fn};
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use tokio::sync::Semaphore;

/// The state that the tasks share. They do not keep the client alive: dropping its last handle ends the client and
/// the tasks.
struct Server<H, T> {
    handlers: H,
    client: WeakClient,
    result: PhantomData<fn() -> T>,
}

/// Starts the tasks of a server. They end when the returned value is dropped.
pub(super) fn start<T, H>(client: &Client, handlers: H, options: &Options) -> Attached
where
    T: Into<Bytes> + Send + 'static,
    H: Handlers<T>,
{
    let server = Arc::new(Server { handlers, client: client.downgrade(), result: PhantomData });
    let RpcLanes { frames, notifications, calls, attached } = RpcLanes::attach(client, options.in_order);
    let working = Working::begin(client);
    tokio::spawn(server.clone().run_in_order(frames, working.clone()));
    if !options.in_order {
        tokio::spawn(server.clone().run_in_order(notifications, working.clone()));
        tokio::spawn(server.run_calls(calls, options.max_concurrent, working));
    }
    attached
}

impl<T: Into<Bytes> + Send + 'static, H: Handlers<T>> Server<H, T> {
    /// Handles frames one after another. Without handling in order, these lanes hold no calls.
    async fn run_in_order(self: Arc<Self>, mut lane: RpcLane, working: Working) {
        while let Some(frame) = lane.recv().await {
            match Kind::of(frame, &self.client).and_then(|kind| kind.into_incoming(&self.client, &working)) {
                Some(Incoming::Frame(frame)) => {
                    let handled = frame.clone();
                    if let Err(panic) = caught(|| self.handlers.on_frame(handled)).await {
                        log_panic("a frame", frame.sender(), panic);
                    }
                }
                Some(Incoming::Notification(notification)) => {
                    let handled = notification.clone();
                    if let Err(panic) = caught(|| self.handlers.on_notification(handled)).await {
                        log_panic("a notification", notification.sender(), panic);
                    }
                }
                Some(Incoming::Request(call, responder)) => self.handle(call, responder).await,
                None => {}
            }
        }
    }

    /// Handles each call in its own task, up to a maximum number at the same time.
    async fn run_calls(self: Arc<Self>, mut lane: RpcLane, max_concurrent: usize, working: Working) {
        let permits = Arc::new(Semaphore::new(max_concurrent.clamp(1, Semaphore::MAX_PERMITS)));
        // A call is only taken with a permit, so that another server that takes over gets the remaining calls. An
        // error would mean that the semaphore is closed, which never happens.
        while let Ok(permit) = permits.clone().acquire_owned().await
            && let Some(frame) = lane.recv().await
        {
            let incoming =
                Kind::of(frame, &self.client).and_then(|kind| kind.into_incoming(&self.client, &working));
            if let Some(Incoming::Request(call, responder)) = incoming {
                let server = self.clone();
                tokio::spawn(async move {
                    server.handle(call, responder).await;
                    drop(permit);
                });
            }
        }
    }

    async fn handle(&self, call: Call, responder: Responder) {
        // The program's conversion may panic too.
        let outcome = match caught(|| async { self.handlers.on_call(call).await.map(Into::into) }).await {
            Ok(outcome) => outcome,
            Err(panic) => {
                log_panic("a call", responder.caller(), panic);
                Err(RpcError::internal("the handler panicked"))
            }
        };
        responder.send(outcome).await;
    }
}

/// Runs a handler. The error is the value of its panic.
async fn caught<F: Future>(handler: impl FnOnce() -> F) -> Result<F::Output, Box<dyn Any + Send>> {
    // The block combines the part of the handler before its future with the future.
    let mut future = pin!(async { handler().await });
    // The future is not polled again after a panic. State that handlers share may be inconsistent after a panic, as
    // with a poisoned lock.
    poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
        Ok(Poll::Pending) => Poll::Pending,
        Ok(Poll::Ready(output)) => Poll::Ready(Ok(output)),
        Err(panic) => Poll::Ready(Err(panic)),
    })
    .await
}

/// Logs that a handler has panicked. The value of the panic belongs to the program, and its drop may panic.
fn log_panic(what: &str, sender: &str, panic: Box<dyn Any + Send>) {
    log::error!("the handler of {what} of {} panicked: {}", shown(sender), panic_text(&*panic));
    contain("the drop of a panic's value", || drop(panic));
}
