//! A handle that does not keep its client alive.

use super::{Client, Inner};
use std::fmt;
use std::sync::{Arc, Weak};

/// A reference to a client that may have been dropped. It does not keep the connection open.
#[derive(Clone)]
pub struct WeakClient(Weak<Inner>);

impl WeakClient {
    /// Returns the client, unless its last clone has been dropped.
    pub fn upgrade(&self) -> Option<Client> {
        self.0.upgrade().map(Client)
    }
}

impl Client {
    /// Returns a handle that does not keep the client connected, for a callback or a handler of the client itself.
    pub fn downgrade(&self) -> WeakClient {
        WeakClient(Arc::downgrade(&self.0))
    }
}

impl fmt::Debug for WeakClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WeakClient").field("exists", &(self.0.strong_count() > 0)).finish()
    }
}
