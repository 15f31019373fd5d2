//! What RPC needs of a client.

use super::inbox::Inbox;
use super::lanes::rpc::{RpcLanes, attach};
use super::{Client, Inner};
use std::sync::{Arc, Weak};

/// A client that may be gone.
#[derive(Clone)]
pub(crate) struct WeakClient(Weak<Inner>);

impl WeakClient {
    pub(crate) fn upgrade(&self) -> Option<Client> {
        self.0.upgrade().map(Client)
    }
}

impl Client {
    pub(crate) fn downgrade(&self) -> WeakClient {
        WeakClient(Arc::downgrade(&self.0))
    }

    pub(crate) fn inbox(&self) -> &Inbox {
        &self.0.inbox
    }

    pub(crate) fn timeout(&self) -> std::time::Duration {
        self.0.config.timeout
    }

    /// The runtime whose tasks serve this client.
    pub(crate) fn runtime(&self) -> Option<&tokio::runtime::Handle> {
        self.0.runtime.as_ref()
    }

    pub(crate) fn attach_rpc(&self, in_order: bool) -> RpcLanes {
        attach(&self.0.inbox, in_order)
    }
}
