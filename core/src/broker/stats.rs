//! The answer to `stats`: counters over all clients (docs/protocol.md section 9).

use super::core::Core;
use super::counters::{Counters, of_client};
use serde::{Deserialize, Serialize};

/// The answer to `stats`: counters over all clients, including those that have left.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrokerStats {
    /// Seconds since the broker started.
    pub uptime: u64,
    /// Frames read from clients, without pings.
    pub r_frames: u64,
    /// Bytes of the bodies of these frames.
    pub r_bytes: u64,
    /// Frames queued for clients; an acknowledgement counts as one.
    pub w_frames: u64,
    /// Bytes of the bodies of these frames; an acknowledgement counts as 6.
    pub w_bytes: u64,
    /// Frames dropped because their receiver did not keep up.
    #[serde(default)]
    pub dropped: u64,
    /// Clients that are now registered, including secondaries.
    #[serde(default)]
    pub clients: u64,
}

/// Returns the totals over all clients, including those that have left.
pub(super) fn totals(core: &Core) -> BrokerStats {
    let mut sum = core.counters.retired();
    let mut clients = 0;
    for session in core.registry.clients() {
        sum += of_client(&session);
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
