//! Deadlines of one client that do not belong to a connection: those of its calls, and of waits for room.
//!
//! One task for each client expires them. It is started with the first deadline, so that a client without calls has
//! no such task, and no operation has its own timer.

#[cfg(feature = "rpc")]
use super::calls::Calls;
use super::contain::wake_all;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::task::Waker;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};

/// If the task wakes up this much too late, the process was suspended.
const OVERSLEPT: Duration = Duration::from_millis(500);
/// After a suspension, the time to read replies before calls fail.
const GRACE: Duration = Duration::from_millis(100);

/// The deadlines of one client.
#[derive(Debug)]
pub(crate) struct Timer {
    #[cfg(feature = "rpc")]
    calls: Arc<Calls>,
    /// The runtime of the client; `None` if it was made outside of one.
    runtime: Option<Handle>,
    is_running: AtomicBool,
    state: Mutex<State>,
    changed: Arc<Notify>,
}

#[derive(Debug, Default)]
struct State {
    /// The time at which the task wakes up.
    next: Option<Instant>,
    /// The wakers of the tasks that wait for room, by deadline and ticket.
    waits: BTreeMap<(Instant, u64), Waker>,
}

impl Drop for Timer {
    fn drop(&mut self) {
        // The task notices that the client has been dropped.
        self.changed.notify_one();
    }
}

impl Timer {
    /// Creates the timer of a client. Its task runs on the current runtime, if there is one.
    pub(super) fn new(#[cfg(feature = "rpc")] calls: Arc<Calls>) -> Arc<Timer> {
        Arc::new(Timer {
            #[cfg(feature = "rpc")]
            calls,
            runtime: Handle::try_current().ok(),
            is_running: AtomicBool::new(false),
            state: Mutex::default(),
            changed: Arc::new(Notify::new()),
        })
    }

    /// Returns the runtime of the client; `None` if it was made outside of one.
    #[cfg(feature = "rpc")]
    pub(super) fn runtime(&self) -> Option<&Handle> {
        self.runtime.as_ref()
    }

    /// Makes the task check the deadlines at that time or earlier.
    pub(crate) fn alarm(self: &Arc<Self>, at: Instant) {
        let mut state = self.state.lock();
        if state.next.is_some_and(|next| next <= at) {
            return;
        }
        state.next = Some(at);
        drop(state);
        if !self.is_running.swap(true, Ordering::AcqRel) {
            match &self.runtime {
                Some(runtime) => drop(runtime.spawn(run(Arc::downgrade(self), self.changed.clone()))),
                None => log::error!("no runtime: the deadlines of this client are not checked"),
            }
        }
        self.changed.notify_one();
    }

    /// Wakes a waker at that time. The caller must check the time itself.
    pub(super) fn wake_at(self: &Arc<Self>, at: Instant, ticket: u64, waker: &Waker) {
        // The waker must be cloned and dropped without the lock.
        let waker = waker.clone();
        let former = self.state.lock().waits.insert((at, ticket), waker);
        drop(former);
        self.alarm(at);
    }

    /// Removes the registration of [`wake_at`](Timer::wake_at).
    pub(super) fn forget_wake_at(&self, at: Instant, ticket: u64) {
        let former = self.state.lock().waits.remove(&(at, ticket));
        drop(former);
    }

    /// Expires the deadlines that have passed. Returns the time of the next check.
    fn expire(&self, now: Instant) -> Option<Instant> {
        // An alarm that is set during the check is seen.
        self.state.lock().next = None;
        #[cfg(feature = "rpc")]
        let calls = self.calls.expire(now);
        #[cfg(not(feature = "rpc"))]
        let calls = None;
        let mut state = self.state.lock();
        let later = state.waits.split_off(&(now, u64::MAX));
        let due = std::mem::replace(&mut state.waits, later);
        let wait = state.waits.keys().next().map(|(at, _)| *at);
        state.next = [state.next, calls, wait].into_iter().flatten().min();
        let next = state.next;
        drop(state);
        wake_all(due.into_values());
        next
    }
}

async fn run(timer: Weak<Timer>, changed: Arc<Notify>) {
    let mut next = None;
    loop {
        if next.is_some_and(|next| Instant::now() > next + OVERSLEPT) {
            sleep(GRACE).await;
        }
        match timer.upgrade() {
            Some(timer) => next = timer.expire(Instant::now()),
            None => return,
        }
        match next {
            None => changed.notified().await,
            Some(at) => tokio::select! {
                () = sleep_until(at) => {}
                () = changed.notified() => {
                    // After a change of the next alarm, the task is not late.
                    next = None;
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::task::Poll;

    #[tokio::test]
    async fn wakes_at_the_earliest_deadline() {
        let timer = Timer::new(
            #[cfg(feature = "rpc")]
            Arc::new(Calls::new()),
        );
        let start = Instant::now();
        for (ticket, millis) in [(1, 3_600_000), (2, 20)] {
            let at = start + Duration::from_millis(millis);
            poll_fn(|cx| {
                timer.wake_at(at, ticket, cx.waker());
                Poll::Ready(())
            })
            .await;
        }
        let at = start + Duration::from_millis(20);
        poll_fn(|cx| {
            if Instant::now() >= at {
                return Poll::Ready(());
            }
            timer.wake_at(at, 2, cx.waker());
            Poll::Pending
        })
        .await;
        assert_eq!(timer.state.lock().waits.len(), 1);
        timer.forget_wake_at(start + Duration::from_secs(3600), 1);
        let weak = Arc::downgrade(&timer);
        drop(timer);
        assert!(weak.upgrade().is_none());
    }
}
