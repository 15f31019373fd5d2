//! The number of requests that a server has taken but not handled yet. [`Client::drain`] waits for them.

use crate::client::{Client, UnderWay, WakerSet, contain};
use crate::fork::Process;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

/// The number of tasks, responders and lanes of one server.
#[derive(Debug)]
struct Work {
    /// Detects a fork: in a child, the lock may be held for ever.
    process: Process,
    count: AtomicUsize,
    /// The wakers of the tasks that wait until the count is 0.
    wakers: Mutex<WakerSet>,
}

impl UnderWay for Work {
    fn poll_done(&self, cx: &mut Context<'_>) -> Poll<()> {
        // Cloned without the lock.
        let waker = cx.waker().clone();
        let mut wakers = self.wakers.lock();
        if self.count.load(Ordering::SeqCst) == 0 {
            return Poll::Ready(());
        }
        let former = if wakers.contains(&waker) { None } else { wakers.insert(waker) };
        drop(wakers);
        contain::wake_all(former);
        Poll::Pending
    }
}

/// Work in progress, until the value is dropped. A clone counts as one more.
#[derive(Debug)]
pub(crate) struct Working(Arc<Work>);

impl Working {
    /// Creates the first work of a server of `client`.
    pub(super) fn begin(client: &Client) -> Working {
        let work = Arc::new(Work {
            process: Process::current(),
            count: AtomicUsize::new(1),
            wakers: Mutex::default(),
        });
        client.add_work(&work);
        Working(work)
    }

    /// Returns true if this process is a child of the one that does the work.
    pub(super) fn is_inherited(&self) -> bool {
        !self.0.process.is_current()
    }
}

impl Clone for Working {
    fn clone(&self) -> Working {
        self.0.count.fetch_add(1, Ordering::SeqCst);
        Working(self.0.clone())
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        if self.is_inherited() {
            self.0.process.leak_if_inherited(&self.0);
        } else if self.0.count.fetch_sub(1, Ordering::SeqCst) == 1 {
            // The wakers are taken under the lock after the count has changed: a waker that is registered later sees
            // the new count.
            let wakers = self.0.wakers.lock().take();
            contain::wake_all(wakers);
        }
    }
}
