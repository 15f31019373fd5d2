//! Unregisters clients that leave, a few at a time.
//!
//! Many clients may leave at the same moment, for example when their process ends, and a client may have many
//! secondaries. One task unregisters all of them, so that the tasks of other clients run in between.

use super::core::{Core, TOGETHER};
use super::session::Session;
use std::sync::Arc;
use tokio::runtime::Handle;

/// Unregisters a client and its secondaries soon. If the thread belongs to no runtime, it does so before it returns.
pub(super) fn unregister_soon(core: &Arc<Core>, session: Arc<Session>, reason: String) {
    if !core.leaving.add(session, reason) {
        return;
    }
    let task = Task { core: core.clone(), is_done: false };
    match Handle::try_current() {
        Ok(runtime) => drop(runtime.spawn(task.run())),
        Err(_) => drop(task),
    }
}

/// Unregisters a client and its secondaries: a few before it returns, the others soon after.
pub(super) fn unregister(core: &Arc<Core>, session: &Arc<Session>, reason: &str) {
    if !core.end_some(session, reason, TOGETHER).is_complete {
        unregister_soon(core, session.clone(), reason.to_owned());
    }
}

/// Unregisters the remaining clients when it is dropped, because the runtime may end before the task does.
struct Task {
    core: Arc<Core>,
    is_done: bool,
}

impl Task {
    async fn run(mut self) {
        while self.end_some() {
            tokio::task::yield_now().await;
        }
        self.is_done = true;
    }

    /// Unregisters a few clients. Returns false if none is left.
    fn end_some(&self) -> bool {
        let core = &self.core;
        let mut most = TOGETHER;
        while most > 0 {
            let Some((session, reason)) = core.leaving.next() else { return false };
            let ended = core.end_some(&session, &reason, most);
            core.connection_changed.notify_waiters();
            if !ended.is_complete {
                // A client with many secondaries does not delay the others.
                core.leaving.put_back(session, reason);
            }
            most = most.saturating_sub(ended.count.max(1));
        }
        true
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        // When the task is done, the remaining clients belong to another task.
        while !self.is_done && self.end_some() {}
    }
}
