//! The parts of a client that the RPC layer uses: calls, and the work for which a client waits before it ends.

use super::Client;
use super::client_state::ClientState;
use super::reading_lease::ReadingLease;
use super::under_way::UnderWay;
use std::sync::{Arc, Weak};

impl Client {
    pub(crate) fn state(&self) -> &Arc<ClientState> {
        &self.0.state
    }

    /// Returns the reading lease of the connection.
    pub(crate) fn lease(&self) -> &ReadingLease {
        self.0.state.inbox.lease()
    }

    /// Returns the runtime whose tasks serve this client; `None` if it was made outside of one.
    pub(crate) fn runtime(&self) -> Option<&tokio::runtime::Handle> {
        self.0.state.timer.runtime()
    }

    /// Adds work for which [`drain`](Client::drain) waits as long as it exists.
    pub(crate) fn add_work<W: UnderWay + 'static>(&self, work: &Arc<W>) {
        let work: Weak<W> = Arc::downgrade(work);
        self.0.state.work.add(work);
    }
}
