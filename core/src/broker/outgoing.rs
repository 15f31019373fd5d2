//! Frames on their way into the queues of their receivers: alone, or together as a run.

use super::Core;
use super::backpressure::{Full, insist};
use super::batch::Batch;
use super::held::{Outcome, Stop, Why};
use super::outbox::{Parcel, Push, Scratch};
use super::run::{Receivers, Rest, Run};
use super::session::Session;
use crate::error::ErrorKind;
use crate::proto::delivery::Delivery;
use crate::proto::op::QoS;
use bytes::Bytes;
use std::sync::Arc;

/// Where an operation comes from.
pub(super) enum Origin<'r, 'a> {
    /// What was read last: its frame may wait for those after it.
    Batch(&'r mut Run<'a>),
    /// Elsewhere: the client's name, and the shared memory that the bytes are in, if they are.
    Apart(&'a str, Option<&'r Bytes>),
}

impl<'a> Origin<'_, 'a> {
    pub(super) fn sender(&self) -> &'a str {
        match self {
            Origin::Batch(run) => run.sender(),
            Origin::Apart(sender, _) => sender,
        }
    }

    fn owner(&self) -> Option<&Bytes> {
        match self {
            Origin::Batch(_) => None,
            Origin::Apart(_, owner) => *owner,
        }
    }
}

/// Where a frame goes.
pub(super) struct Route<'r, 'a> {
    /// What it is addressed to: a name, a mask or a topic.
    pub(super) key: &'a str,
    /// Of before that was looked up.
    pub(super) generation: u64,
    pub(super) to: Receivers<'r>,
    /// The flags of requests that are for the same receivers if they have the same key.
    pub(super) flags: Option<u8>,
}

/// What frames on their way need of a courier.
pub(super) struct Outgoing<'c> {
    pub(super) core: &'c Core,
    pub(super) session: &'c Session,
    pub(super) batch: &'c mut Batch,
    pub(super) scratch: &'c mut Scratch,
}

impl Outgoing<'_> {
    /// Hands a frame to its receivers, or lets it wait in the run for more of the kind. One that is to be
    /// acknowledged does not wait.
    #[inline]
    pub(super) fn send<'a>(
        &mut self,
        frame: &Delivery<'a>,
        route: Route<'_, 'a>,
        qos: QoS,
        origin: &mut Origin<'_, 'a>,
    ) -> Outcome<'a> {
        if let Origin::Batch(run) = origin {
            let waits = !qos.needs_ack() && Run::suits(frame.payload);
            if !(waits && run.has_room_for(route.to)) {
                self.deliver(run)?;
            }
            if waits {
                run.add(frame, route.key, route.generation, route.to, route.flags);
                return Ok(());
            }
        }
        self.send_now(frame, route.to, origin.owner())
    }

    /// Hands out what waits in the run, if the operation comes from a batch.
    pub(super) fn deliver_earlier<'a>(&mut self, origin: &mut Origin<'_, 'a>) -> Outcome<'a> {
        match origin {
            Origin::Batch(run) => Ok(self.deliver(run)?),
            Origin::Apart(..) => Ok(()),
        }
    }

    fn send_now<'a>(
        &mut self,
        frame: &Delivery<'_>,
        receivers: Receivers<'_>,
        owner: Option<&Bytes>,
    ) -> Outcome<'a> {
        let Outgoing { core, session, batch, scratch } = self;
        // It may have ended while earlier frames waited, and its name belong to a newcomer.
        if session.has_ended() {
            return Err(Stop::Refused(ErrorKind::NotDelivered));
        }
        let full = match receivers {
            Receivers::One(receiver) => match receiver.push(&Parcel::new(*frame, owner), &core.options) {
                Push::Queued => return Ok(()),
                Push::QueuedFirst => {
                    batch.touch(receiver);
                    return Ok(());
                }
                Push::Gone => return Err(Stop::Refused(ErrorKind::NotRegistered)),
                Push::Full => vec![Full::now(receiver)],
            },
            Receivers::Many(audience) if audience.is_empty() => return Ok(()),
            Receivers::Many(audience) => {
                push_to_all(core, batch, audience, &Parcel::for_many(*frame, owner, scratch))
            }
        };
        if full.is_empty() { Ok(()) } else { Err(Stop::Unfinished(Box::new(Why::Full(full)))) }
    }

    /// Hands out what waits in the run, in one piece to everybody who has room for that.
    ///
    /// # Errors
    /// The others, who must get it frame by frame.
    pub(super) fn deliver<'a>(&mut self, run: &mut Run<'a>) -> Result<(), Box<Rest<'a>>> {
        let generation = run.generation();
        let Some((receivers, bundle)) = run.content() else { return Ok(()) };
        let mut rest = vec![];
        // Its name may belong to a newcomer by now, whose frames nothing may come after.
        if self.session.has_ended() {
            run.clear();
            return Ok(());
        }
        if self.core.registry.generation() != generation {
            // Something has changed meanwhile: each frame is looked up anew.
            rest = receivers.to_vec();
        } else {
            let only = receivers.len() == 1;
            for receiver in receivers {
                match receiver.push_together(bundle, &self.core.options, only) {
                    Push::QueuedFirst => self.batch.touch(receiver),
                    Push::Queued | Push::Gone => {}
                    Push::Full => rest.push(receiver.clone()),
                }
            }
        }
        if rest.is_empty() {
            run.clear();
            return Ok(());
        }
        Err(run.leave(rest))
    }
}

/// Puts a frame into the queue of every receiver that has room; the others.
fn push_to_all(core: &Core, batch: &mut Batch, audience: &[Arc<Session>], parcel: &Parcel<'_>) -> Vec<Full> {
    let mut full = vec![];
    for receiver in audience {
        match receiver.push(parcel, &core.options) {
            Push::QueuedFirst => batch.touch(receiver),
            Push::Queued | Push::Gone => {}
            Push::Full => full.push(Full::now(receiver)),
        }
    }
    full
}

/// Hands a frame to every receiver. Those that are full are waited for after all others have it, with
/// one stall time for all of them.
pub(super) async fn distribute(
    core: &Core,
    session: &Arc<Session>,
    batch: &mut Batch,
    audience: &[Arc<Session>],
    parcel: &Parcel<'_>,
) {
    for full in push_to_all(core, batch, audience, parcel) {
        // What became of a single delivery is not the sender's business.
        let _ = Box::pin(insist(core, session, batch, full, parcel)).await;
    }
}
