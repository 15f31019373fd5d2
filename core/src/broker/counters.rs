//! The counters of clients, and those that the broker keeps itself.

use super::session::Session;
use parking_lot::Mutex;
use std::ops::AddAssign;

/// The counters of one client, or the sum over several clients.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counters {
    pub(super) r_frames: u64,
    pub(super) r_bytes: u64,
    pub(super) w_frames: u64,
    pub(super) w_bytes: u64,
    pub(super) dropped: u64,
}

impl AddAssign for Counters {
    fn add_assign(&mut self, other: Counters) {
        self.r_frames += other.r_frames;
        self.r_bytes += other.r_bytes;
        self.w_frames += other.w_frames;
        self.w_bytes += other.w_bytes;
        self.dropped += other.dropped;
    }
}

/// The counters of one client.
pub(super) fn of_client(session: &Session) -> Counters {
    let traffic = &session.traffic;
    let (w_frames, w_bytes) = session.outbox.written();
    let (dropped, _) = session.outbox.dropped();
    Counters { r_frames: traffic.r_frames.get(), r_bytes: traffic.r_bytes.get(), w_frames, w_bytes, dropped }
}

/// The counters of the broker's own client and of clients that have left.
#[derive(Debug, Default)]
pub(super) struct BrokerCounters {
    own: Mutex<Counters>,
    retired: Mutex<Counters>,
}

impl BrokerCounters {
    /// Counts a message to the broker.
    pub(super) fn count_read(&self, payload: &[u8]) {
        let mut own = self.own.lock();
        own.r_frames += 1;
        own.r_bytes += payload.len() as u64;
    }

    /// Counts a message or a publication of the broker.
    pub(super) fn count_written(&self, payload: &[u8]) {
        let mut own = self.own.lock();
        own.w_frames += 1;
        own.w_bytes += payload.len() as u64;
    }

    /// The counters of the broker's own client from the broker's point of view: the client's sent frames count as
    /// read.
    pub(super) fn own_counters(&self) -> Counters {
        let own = *self.own.lock();
        Counters {
            r_frames: own.w_frames,
            r_bytes: own.w_bytes,
            w_frames: own.r_frames,
            w_bytes: own.r_bytes,
            dropped: 0,
        }
    }

    /// Keeps the counters of a client that has left.
    pub(super) fn retire_counters(&self, counters: Counters) {
        *self.retired.lock() += counters;
    }

    /// Counts lost frames of a client that has already left.
    pub(super) fn count_lost(&self, frames: u64) {
        self.retired.lock().dropped += frames;
    }

    /// The counters of clients that have left.
    pub(super) fn retired(&self) -> Counters {
        *self.retired.lock()
    }
}
