//! Holds a session back while its operation waits for a receiver: nothing is read from it, and its silence does not count.

use super::core::Core;
use super::session::Session;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};

/// Waits for `poll` while nothing is read from the client: its silence does not count during that time. Also returns
/// true if other tasks could run, which is not so if `poll` was ready immediately.
pub(super) async fn hold_back<R>(
    core: &Core,
    session: &Session,
    mut poll: impl FnMut(&mut Context<'_>) -> Poll<R>,
) -> (R, bool) {
    session.liveness.held_back.store(true, Relaxed);
    let mut has_waited = false;
    let result = poll_fn(|cx| {
        let result = poll(cx);
        has_waited |= result.is_pending();
        result
    })
    .await;
    session.liveness.seen.store(core.clock.now(), Relaxed);
    session.liveness.held_back.store(false, Relaxed);
    (result, has_waited)
}

/// An operation of the session waits for a receiver, until the value is dropped, also with the operation itself.
pub(super) struct WaitsForReceiver(Arc<Session>);

impl WaitsForReceiver {
    pub(super) fn new(session: &Arc<Session>) -> WaitsForReceiver {
        session.liveness.waits_for_receivers.fetch_add(1, Relaxed);
        WaitsForReceiver(session.clone())
    }
}

impl Drop for WaitsForReceiver {
    fn drop(&mut self) {
        self.0.liveness.waits_for_receivers.fetch_sub(1, Relaxed);
    }
}
