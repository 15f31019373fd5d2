//! Clients whose connections have ended, until they are unregistered: see `unregister.rs`.

use super::session::Session;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;

/// A queue of clients, each with the reason why it ends.
#[derive(Default)]
pub(super) struct Leaving(Mutex<State>);

#[derive(Default)]
struct State {
    queue: VecDeque<(Arc<Session>, String)>,
    /// True while a task is unregistering them.
    has_task: bool,
}

impl Leaving {
    /// Adds a client. Returns true if the caller must start the task that unregisters clients.
    pub(super) fn add(&self, session: Arc<Session>, reason: String) -> bool {
        let mut state = self.0.lock();
        state.queue.push_back((session, reason));
        !std::mem::replace(&mut state.has_task, true)
    }

    /// Adds a client that is unregistered after the others. Only the task calls it.
    pub(super) fn put_back(&self, session: Arc<Session>, reason: String) {
        self.0.lock().queue.push_back((session, reason));
    }

    /// Returns the next client; `None` if the queue is empty and the task must end.
    pub(super) fn next(&self) -> Option<(Arc<Session>, String)> {
        let mut state = self.0.lock();
        let next = state.queue.pop_front();
        state.has_task = next.is_some();
        next
    }
}
