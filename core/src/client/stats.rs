//! The counters of a client.

use super::Client;

/// The counters of a client.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Frames received; acknowledgements and pings are not counted, here and below.
    pub r_frames: u64,
    /// The bytes of their bodies: names and payload.
    pub r_bytes: u64,
    /// Operations sent.
    pub w_frames: u64,
    /// The bytes of their bodies.
    pub w_bytes: u64,
    /// Received frames that wait for the program.
    pub queue: usize,
    /// Received frames dropped because the program did not take them.
    pub dropped: u64,
    /// Received messages that an RPC server could not handle: they are no RPC frames, or replies to no call.
    pub unhandled: u64,
}

impl Client {
    /// The client's counters.
    pub fn stats(&self) -> Stats {
        if self.check_process().is_err() {
            return Stats::default();
        }
        let (w_frames, w_bytes) = self.0.link.sent();
        let (r_frames, r_bytes, queue, dropped) = self.0.state.inbox.counters();
        let unhandled = self.0.state.inbox.unhandled();
        Stats { r_frames, r_bytes, w_frames, w_bytes, queue, dropped, unhandled }
    }
}
