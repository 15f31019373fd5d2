//! Access to the broker's own thread, whose work is in `housekeeping.rs`.

use super::session::Session;
use parking_lot::Mutex;
use std::sync::{Arc, OnceLock};
use std::thread::Thread;

/// The handle to the supervisor's thread.
#[derive(Default)]
pub(super) struct Supervisor {
    thread: OnceLock<Thread>,
    /// Receivers that were found full.
    watched: Mutex<Vec<Arc<Session>>>,
}

impl Supervisor {
    /// Wakes the supervisor, which then looks for work.
    pub(super) fn wake(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }

    /// Adds a receiver to those that are checked at short intervals.
    pub(super) fn watch(&self, receiver: &Arc<Session>) {
        self.watched.lock().push(receiver.clone());
        self.wake();
    }

    /// Sets the thread, once.
    pub(super) fn set_thread(&self, thread: Thread) {
        let _ = self.thread.set(thread);
    }

    /// Returns whether there are receivers to check.
    pub(super) fn has_watched(&self) -> bool {
        !self.watched.lock().is_empty()
    }

    /// Takes the receivers that are to be checked.
    pub(super) fn take_watched(&self) -> Vec<Arc<Session>> {
        std::mem::take(&mut *self.watched.lock())
    }

    /// Puts back receivers that are to be checked again.
    pub(super) fn put_back(&self, receivers: &mut Vec<Arc<Session>>) {
        self.watched.lock().append(receivers);
    }
}
