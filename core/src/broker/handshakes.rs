//! Connections that have not registered yet. Their number is bounded: when there are too many, a new one closes the
//! oldest.

use crate::transport::Writer;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The connections that have not registered yet, in the order in which they came.
#[derive(Debug)]
pub(super) struct Handshakes {
    most: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    pending: BTreeMap<u64, Arc<Writer>>,
}

impl Handshakes {
    pub(super) fn new(most: usize) -> Handshakes {
        Handshakes { most: most.max(1), state: Mutex::default() }
    }

    /// Adds a connection, which is removed when the returned value is dropped. Closes the oldest one if there are too
    /// many.
    pub(super) fn begin(&self, writer: &Arc<Writer>) -> Handshake<'_> {
        let mut state = self.state.lock();
        let number = state.next;
        state.next += 1;
        state.pending.insert(number, writer.clone());
        let oldest = (state.pending.len() > self.most).then(|| state.pending.pop_first()).flatten();
        drop(state);
        if let Some((_, oldest)) = oldest {
            log::debug!("too many unregistered connections: closing the oldest");
            oldest.close();
        }
        Handshake { handshakes: self, number }
    }

    /// Closes all of them.
    pub(super) fn close(&self) {
        let pending = std::mem::take(&mut self.state.lock().pending);
        for writer in pending.into_values() {
            writer.close();
        }
    }
}

/// A connection that has not registered yet.
pub(super) struct Handshake<'h> {
    handshakes: &'h Handshakes,
    number: u64,
}

impl Drop for Handshake<'_> {
    fn drop(&mut self) {
        let removed = self.handshakes.state.lock().pending.remove(&self.number);
        drop(removed);
    }
}
