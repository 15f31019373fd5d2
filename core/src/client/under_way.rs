//! Work that [`Client::drain`](super::Client::drain) waits for.

use parking_lot::Mutex;
use std::fmt;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};

/// Work of the consumer of frames, for which a client waits before it ends.
pub(crate) trait UnderWay: Send + Sync {
    /// Returns ready if no work is in progress. Otherwise the waker is registered.
    fn poll_done(&self, cx: &mut Context<'_>) -> Poll<()>;
}

/// The work of all consumers that a client has had.
#[derive(Default)]
pub(super) struct Work(Mutex<Vec<Weak<dyn UnderWay>>>);

impl Work {
    /// Adds the work of a consumer. The consumer keeps it alive while something is in progress.
    #[cfg(feature = "rpc")]
    pub(super) fn add(&self, work: Weak<dyn UnderWay>) {
        let mut all = self.0.lock();
        all.retain(|work| work.strong_count() > 0);
        all.push(work);
    }

    /// Returns ready if no work is in progress.
    pub(super) fn poll_done(&self, cx: &mut Context<'_>) -> Poll<()> {
        // Polled without the lock.
        let all: Vec<Arc<dyn UnderWay>> = self.0.lock().iter().filter_map(Weak::upgrade).collect();
        // The first unfinished work wakes the task, which then checks the others.
        if all.iter().all(|work| work.poll_done(cx).is_ready()) { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl fmt::Debug for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Work").finish_non_exhaustive()
    }
}
