//! The counters of clients and of the broker (PROTOCOL.md section 9).

use super::core::Core;
use super::session::Session;
use serde::{Deserialize, Serialize};
use std::ops::AddAssign;

/// The answer to `stats`: counters over all clients, including those that have left.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrokerStats {
    /// Seconds since the broker began.
    pub uptime: u64,
    /// Frames read from clients, pings not counted.
    pub r_frames: u64,
    /// Bytes of their bodies.
    pub r_bytes: u64,
    /// Frames queued for clients; an acknowledgement counts as one.
    pub w_frames: u64,
    /// Bytes of their bodies; an acknowledgement counts as 6.
    pub w_bytes: u64,
    /// Frames dropped because their receiver did not keep up.
    #[serde(default)]
    pub dropped: u64,
    /// Clients registered now, secondaries included.
    #[serde(default)]
    pub clients: u64,
}

/// The counters of one client, or of several added up.
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
pub(super) fn counters(session: &Session) -> Counters {
    let traffic = &session.traffic;
    let (w_frames, w_bytes) = session.outbox.written();
    let (dropped, _) = session.outbox.dropped();
    Counters { r_frames: traffic.r_frames.get(), r_bytes: traffic.r_bytes.get(), w_frames, w_bytes, dropped }
}

/// The totals over all clients, those that have left included.
pub(super) fn totals(core: &Core) -> BrokerStats {
    let mut sum = core.admin.retired();
    let mut clients = 0;
    for session in core.registry.clients() {
        sum += counters(&session);
        clients += 1;
    }
    let Counters { r_frames, r_bytes, w_frames, w_bytes, dropped } = sum;
    BrokerStats {
        uptime: core.started.elapsed().as_secs(),
        r_frames,
        r_bytes,
        w_frames,
        w_bytes,
        dropped,
        clients,
    }
}
