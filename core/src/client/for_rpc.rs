//! What the RPC layer needs of a client.

use super::Client;
use super::inbox::Inbox;
use super::lanes::rpc::{RpcLanes, attach};
use std::sync::Arc;

impl Client {
    pub(crate) fn inbox(&self) -> &Arc<Inbox> {
        &self.0.inbox
    }

    /// The runtime whose tasks serve this client; `None` if it was made outside of one.
    pub(crate) fn runtime(&self) -> Option<&tokio::runtime::Handle> {
        self.0.inbox.timer.runtime()
    }

    pub(crate) fn attach_rpc(&self, in_order: bool) -> RpcLanes {
        attach(&self.0.inbox, in_order)
    }
}
