//! Holding a sender back: for receivers that have no room, and for its own acknowledgements.

use super::Core;
use super::batch::Batch;
use super::options::SlowPolicy;
use super::outbox::{Parcel, Push, Verdict};
use super::session::Session;
use crate::error::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

/// A receiver that was found full: when, and how much it had taken then.
pub(super) struct Full {
    pub(super) receiver: Arc<Session>,
    since: Instant,
    taken: u64,
}

impl Full {
    pub(super) fn now(receiver: &Arc<Session>) -> Full {
        Full { receiver: receiver.clone(), since: Instant::now(), taken: receiver.taken() }
    }
}

/// Holds this sender back until the receiver has room or is found stuck; then its policy decides.
pub(super) async fn insist(
    core: &Core,
    session: &Arc<Session>,
    batch: &mut Batch,
    full: Full,
    parcel: &Parcel<'_>,
) -> Result<(), ErrorKind> {
    let Full { receiver, since, taken } = full;
    batch.flush(session);
    hold_back(core, session, async {
        let mut waits = core.options.slow == SlowPolicy::Block || !receiver.is_stuck();
        loop {
            if session.has_ended() {
                return Err(ErrorKind::NotDelivered);
            }
            let room = receiver.wait_for_room(parcel.wire_len(), &core.options, since, taken);
            let stuck = !waits || !room.await;
            let mut pushed = receiver.push(parcel, &core.options);
            if stuck && pushed == Push::Full {
                match receiver.judge(parcel, &core.options) {
                    Verdict::Pushed(push) => pushed = push,
                    Verdict::Refused => return Err(ErrorKind::NotDelivered),
                    Verdict::Disconnect => {
                        core.end(&receiver, "does not take its frames");
                        return Err(ErrorKind::NotDelivered);
                    }
                    Verdict::Wait => {
                        // Its socket or program may take as long as it likes.
                        tokio::time::sleep(core.options.stall).await;
                        continue;
                    }
                }
            }
            match pushed {
                Push::Queued => return Ok(()),
                Push::QueuedFirst => {
                    receiver.flush();
                    return Ok(());
                }
                Push::Gone => return Err(ErrorKind::NotRegistered),
                Push::Full => waits = true,
            }
        }
    })
    .await
}

/// Waits until the client has read enough of its acknowledgements, if more of them wait than its budget allows.
pub(super) async fn wait_until_read(core: &Core, session: &Arc<Session>) {
    hold_back(core, session, async {
        while !session.has_ended() && !session.wait_for_room(0, &core.options, Instant::now(), 0).await {
            if core.options.slow == SlowPolicy::Disconnect {
                core.end(session, "does not read its acknowledgements");
            }
        }
    })
    .await;
}

/// Runs `wait` while nothing is read from the client: its silence does not count meanwhile.
async fn hold_back<R>(core: &Core, session: &Session, wait: impl Future<Output = R>) -> R {
    session.liveness.held_back.store(true, Relaxed);
    let result = wait.await;
    session.liveness.seen.store(core.clock.now(), Relaxed);
    session.liveness.held_back.store(false, Relaxed);
    result
}
