//! Serving RPC without a runtime: requests, notifications and frames in batches, answered from any thread.

use super::RpcError;
use super::handlers::{Call, Notification};
use super::lanes::{RpcLane, RpcLanes};
use super::responder::Responder;
use super::work::Working;
use crate::client::effects::contain;
use crate::client::{Attached, Client, Took, Wait, WakeUp, WeakClient};
use crate::error::{Error, ErrorKind, Result};
use crate::frame::Frame;
use crate::proto::op::FrameKind;
use crate::proto::rpc::Envelope;
use crate::shown::shown;
use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

/// An item that an RPC server receives.
#[derive(Debug)]
#[non_exhaustive]
pub enum Incoming {
    /// A request, and the responder that answers it.
    Request(Call, Responder),
    /// A notification.
    Notification(Notification),
    /// A publication or a broadcast.
    Frame(Frame),
}

/// Serves RPC over a client without handlers and without a runtime: the program takes received items in batches, and
/// answers each request through its [`Responder`].
///
/// ```no_run
/// # fn serve(client: busrt::Client) -> busrt::Result<()> {
/// use busrt::client::Wait;
/// use busrt::rpc::{Incoming, RpcError, Serving};
///
/// let mut serving = Serving::new(&client);
/// let mut batch = vec![];
/// while serving.requests.wait_batch(&mut batch, 64, Wait::forever())?.is_some() {
///     for incoming in batch.drain(..) {
///         if let Incoming::Request(call, responder) = incoming {
///             match call.method() {
///                 "echo" => responder.reply(call.params_bytes()),
///                 _ => responder.error(RpcError::method_not_found()),
///             }
///         }
///     }
/// }
/// # Ok(()) }
/// ```
///
/// Each part may be moved to another thread. When all parts are dropped, nothing more is received; requests that were
/// taken can still be answered. It does not keep the client connected. [`Client::drain`] waits until the parts are
/// dropped and the requests are answered.
#[derive(Debug)]
#[non_exhaustive]
pub struct Serving {
    /// Requests.
    pub requests: Intake,
    /// Notifications, in the order received.
    pub notifications: Intake,
    /// Publications and broadcasts, in the order received. With [`in_order`](Serving::in_order), all items.
    pub frames: Intake,
}

impl Serving {
    /// Takes over the frames of `client` from its current consumer: the waiting frames, and those that an RPC server
    /// has taken but not begun to handle. Requests, notifications and frames are taken separately.
    pub fn new(client: &Client) -> Serving {
        Serving::attach(client, false)
    }

    /// Does the same as [`new`](Serving::new), but [`frames`](Serving::frames) yields all items in the order
    /// received, and the other parts yield nothing.
    pub fn in_order(client: &Client) -> Serving {
        Serving::attach(client, true)
    }

    fn attach(client: &Client, in_order: bool) -> Serving {
        let RpcLanes { frames, notifications, calls, attached } = RpcLanes::attach(client, in_order);
        let (attached, working) = (Arc::new(attached), Working::begin(client));
        let intake = |lane| Intake {
            lane,
            client: client.downgrade(),
            working: working.clone(),
            attached: attached.clone(),
        };
        Serving { requests: intake(calls), notifications: intake(notifications), frames: intake(frames) }
    }
}

/// One part of a [`Serving`]. It is used by one thread at a time, which may be any thread.
pub struct Intake {
    lane: RpcLane,
    client: WeakClient,
    working: Working,
    attached: Arc<Attached>,
}

impl Intake {
    /// Appends waiting items to `batch`, at most `most` items (at least 1). Never waits. Returns the number of
    /// appended items, or `None` if there will be no more: the connection has ended and all received items have been
    /// taken, or another server has taken over.
    ///
    /// If fewer than `most` items were waiting, the [wake-up](Intake::set_wake_up) happens as soon as there are more.
    /// If `most` was reached, call it again before waiting for the wake-up.
    pub fn take_batch(&mut self, batch: &mut Vec<Incoming>, most: usize) -> Option<usize> {
        self.lane.take_batch(collect(batch, most, &self.client, &self.working))
    }

    /// Does the same as [`take_batch`](Intake::take_batch), but is pending until there is an item.
    pub fn poll_batch(
        &mut self,
        cx: &mut Context<'_>,
        batch: &mut Vec<Incoming>,
        most: usize,
    ) -> Poll<Option<usize>> {
        self.lane.poll_batch(cx, collect(batch, most, &self.client, &self.working))
    }

    /// Does the same as [`take_batch`](Intake::take_batch), but waits on this thread until there is an item. Returns
    /// `Some(0)` when the time of `wait` is over, and `None` if there will be no more.
    ///
    /// # Errors
    ///
    /// The error of the check in `wait`. No item is taken then.
    pub fn wait_batch(
        &mut self,
        batch: &mut Vec<Incoming>,
        most: usize,
        wait: Wait<'_>,
    ) -> Result<Option<usize>> {
        self.lane.wait_batch(wait, collect(batch, most, &self.client, &self.working))
    }

    /// Returns the work for which a draining client waits.
    #[cfg(feature = "blocking")]
    pub(crate) fn working(&self) -> Working {
        self.working.clone()
    }

    /// Sets the wake-up that tells the program that [`take_batch`](Intake::take_batch) has something to take, or that
    /// there will be no more: a waker, or a [`WakeFd`](crate::client::WakeFd) for an event loop. It happens once
    /// after each time that `take_batch` has found no more items, and once immediately if items are waiting.
    pub fn set_wake_up(&mut self, wake_up: impl Into<WakeUp>) {
        self.lane.set_wake_up(wake_up.into());
    }
}

/// Appends the items that a server handles to `batch`, up to `most`.
fn collect<'a>(
    batch: &'a mut Vec<Incoming>,
    most: usize,
    client: &'a WeakClient,
    working: &'a Working,
) -> impl FnMut(Frame) -> Took + 'a {
    let mut count = 0;
    move |frame| {
        let Some(incoming) = Kind::of(frame, client).and_then(|kind| kind.into_incoming(client, working))
        else {
            return Took::Skipped;
        };
        batch.push(incoming);
        count += 1;
        if count >= most { Took::Last } else { Took::More }
    }
}

impl fmt::Debug for Intake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Intake")
            .field("lane", &self.lane)
            .field("attached", &self.attached)
            .finish_non_exhaustive()
    }
}

/// The meaning of a frame for a server.
pub(super) enum Kind {
    Frame(Frame),
    Notification(Notification),
    Call(Call),
    /// A call of a method whose name is not text, and its id.
    NotText(Frame, u32),
}

impl Kind {
    /// Returns `None` for a message that is not a valid RPC frame, or a reply without a call.
    pub(super) fn of(frame: Frame, client: &WeakClient) -> Option<Kind> {
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
            Ok(_) => None,
            Err(e) => {
                reject(client, &frame, e);
                None
            }
        }
    }

    /// Adds responders to requests. A request with an invalid method is answered here.
    pub(super) fn into_incoming(self, client: &WeakClient, working: &Working) -> Option<Incoming> {
        let respond = |frame: Frame, id| Responder::new(client.clone(), frame, id, working.clone());
        Some(match self {
            Kind::Frame(frame) => Incoming::Frame(frame),
            Kind::Notification(notification) => Incoming::Notification(notification),
            Kind::Call(call) => {
                let responder = respond(call.frame().clone(), call.id());
                Incoming::Request(call, responder)
            }
            Kind::NotText(frame, id) => {
                let e = Error::new(ErrorKind::Data, "the method is not UTF-8");
                respond(frame, id).error(RpcError::from(e));
                return None;
            }
        })
    }
}

/// Counts an invalid message, and logs it unless there were many.
fn reject(client: &WeakClient, frame: &Frame, why: impl fmt::Display) {
    let Some(client) = client.upgrade() else { return };
    client.state().inbox.count_unhandled();
    let (is_admitted, suppressed) = client.state().malformed.admit(Instant::now());
    let name = client.name();
    contain("the logger", || {
        if suppressed > 0 {
            log::warn!("{suppressed} more messages to {name:?} were not valid RPC frames");
        }
        if is_admitted {
            log::warn!(
                "message to {name:?} discarded: from {}: invalid RPC frame: {why}",
                shown(frame.sender())
            );
        }
    });
}
