//! A client that may be gone, and what RPC needs of a client.

#[cfg(feature = "rpc")]
use super::inbox::Inbox;
#[cfg(feature = "rpc")]
use super::lanes::rpc::{RpcLanes, attach};
use super::{Client, Inner};
use std::fmt;
use std::sync::{Arc, Weak};

/// A client that may have been dropped: it does not keep the connection open.
#[derive(Clone)]
pub struct WeakClient(Weak<Inner>);

impl WeakClient {
    /// The client, unless its last clone has been dropped.
    pub fn upgrade(&self) -> Option<Client> {
        self.0.upgrade().map(Client)
    }
}

impl fmt::Debug for WeakClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WeakClient").field("exists", &(self.0.strong_count() > 0)).finish()
    }
}

impl Client {
    /// A handle that does not keep the client connected, for a callback or a handler of the client itself.
    pub fn downgrade(&self) -> WeakClient {
        WeakClient(Arc::downgrade(&self.0))
    }
}

#[cfg(feature = "rpc")]
impl Client {
    pub(crate) fn inbox(&self) -> &Arc<Inbox> {
        &self.0.inbox
    }

    pub(crate) fn timeout(&self) -> std::time::Duration {
        self.0.config.timeout
    }

    /// The runtime whose tasks serve this client; `None` if it was made outside of one.
    pub(crate) fn runtime(&self) -> Option<&tokio::runtime::Handle> {
        self.0.inbox.timer.runtime()
    }

    pub(crate) fn attach_rpc(&self, in_order: bool) -> RpcLanes {
        attach(&self.0.inbox, in_order)
    }
}
