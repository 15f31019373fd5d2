//! Waiting until what a client has sent is in the kernel.

use crate::client::{Client, Link};
use crate::runtime;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;

/// The pause between two looks at what is still to be written.
const WRITTEN_POLL: Duration = Duration::from_micros(500);

impl Client {
    /// Waits on this thread until what was sent is in the kernel, at most the client's timeout. Does nothing within a
    /// runtime, which the thread would hold up, and in a child made by fork.
    pub(crate) fn wait_written(&self) {
        if self.check_process().is_err() || runtime::is_worker() || Handle::try_current().is_ok() {
            return;
        }
        let started = Instant::now();
        while !self.is_written() && started.elapsed() < self.0.config.timeout {
            std::thread::sleep(WRITTEN_POLL);
        }
    }

    fn is_written(&self) -> bool {
        match &self.0.link {
            Link::Wire(connection) => connection.is_written(),
            Link::Durable(durable) => durable.is_written(),
            #[cfg(feature = "broker")]
            Link::Local(_) => true,
        }
    }
}
