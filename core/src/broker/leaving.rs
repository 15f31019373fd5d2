//! Clients whose connections have ended, until they are unregistered.
//!
//! Many clients may leave in the same moment, such as with their process. One task unregisters all of them, a few at a
//! time, so that the tasks of other clients run in between.

use super::core::Core;
use super::session::Session;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::runtime::Handle;

/// Clients that are unregistered before the task yields.
const TOGETHER: usize = 8;

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
    /// Unregisters a client soon; immediately if the thread belongs to no runtime.
    pub(super) fn add(core: &Arc<Core>, session: Arc<Session>, reason: String) {
        let mut state = core.leaving.0.lock();
        state.queue.push_back((session, reason));
        if std::mem::replace(&mut state.has_task, true) {
            return;
        }
        drop(state);
        let task = Task(core.clone());
        match Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(task.run())),
            Err(_) => drop(task),
        }
    }
}

/// Unregisters the clients that are left when it is dropped: the runtime may end before the task does.
struct Task(Arc<Core>);

impl Task {
    async fn run(self) {
        while self.end_some() {
            tokio::task::yield_now().await;
        }
    }

    /// Returns false when no client is left.
    fn end_some(&self) -> bool {
        for _ in 0..TOGETHER {
            let mut state = self.0.leaving.0.lock();
            let Some((session, reason)) = state.queue.pop_front() else {
                state.has_task = false;
                return false;
            };
            drop(state);
            self.0.end(&session, &reason);
            self.0.connection_changed.notify_waiters();
        }
        true
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        while self.end_some() {}
    }
}
