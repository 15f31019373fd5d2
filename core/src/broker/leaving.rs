//! Clients whose connections have ended, until they are unregistered.
//!
//! Many clients may leave in the same moment, such as with their process, and a client may have many secondaries. One
//! task unregisters all of them, a few at a time, so that the tasks of other clients run in between.

use super::core::{Core, TOGETHER};
use super::session::Session;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::runtime::Handle;

#[derive(Default)]
pub(super) struct Leaving(Mutex<State>);

#[derive(Default)]
struct State {
    /// Each client and the reason of its end.
    queue: VecDeque<(Arc<Session>, String)>,
    /// True while there is a task that unregisters them.
    has_task: bool,
}

impl Leaving {
    /// Unregisters a client and its secondaries soon; before it returns if the thread belongs to no runtime.
    pub(super) fn add(core: &Arc<Core>, session: Arc<Session>, reason: String) {
        let mut state = core.leaving.0.lock();
        state.queue.push_back((session, reason));
        if std::mem::replace(&mut state.has_task, true) {
            return;
        }
        drop(state);
        let task = Task { core: core.clone(), is_done: false };
        match Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(task.run())),
            Err(_) => drop(task),
        }
    }

    /// Unregisters a client and its secondaries: a few before it returns, and if there are more, the others soon.
    pub(super) fn begin(core: &Arc<Core>, session: &Arc<Session>, reason: &str) {
        if !core.end_some(session, reason, TOGETHER).is_complete {
            Leaving::add(core, session.clone(), reason.to_owned());
        }
    }
}

/// Unregisters the clients that are left when it is dropped: the runtime may end before the task does.
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

    /// Unregisters a few clients. Returns false when none is left.
    fn end_some(&self) -> bool {
        let core = &self.core;
        let mut most = TOGETHER;
        while most > 0 {
            let mut state = core.leaving.0.lock();
            let Some((session, reason)) = state.queue.pop_front() else {
                state.has_task = false;
                return false;
            };
            drop(state);
            let ended = core.end_some(&session, &reason, most);
            core.connection_changed.notify_waiters();
            if !ended.is_complete {
                // A client with many secondaries does not keep the others waiting.
                core.leaving.0.lock().queue.push_back((session, reason));
            }
            most = most.saturating_sub(ended.count.max(1));
        }
        true
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        // When it is done, another task may have clients to unregister.
        while !self.is_done && self.end_some() {}
    }
}
