//! Deadlines of one client that do not belong to a connection: those of its calls, and of waiting for room.
//!
//! One task for each client expires them. It is started with the first deadline, so that a client without calls
//! costs none, and no operation has a timer of its own.

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

/// A task that wakes up so much too late belongs to a process that was suspended.
const OVERSLEPT: Duration = Duration::from_millis(500);
/// The time that replies have then to be read before calls fail.
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
    /// When the task wakes up.
    next: Option<Instant>,
    /// The wakers of those who wait for room, by deadline and ticket.
    waits: BTreeMap<(Instant, u64), Waker>,
}

impl Drop for Timer {
    fn drop(&mut self) {
        // The task finds that the client is gone.
        self.changed.notify_one();
    }
}

impl Timer {
    /// The timer of a client. Its task runs on the current runtime, if there is one.
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

    /// The runtime of the client; `None` if it was made outside of one.
    #[cfg(feature = "rpc")]
    pub(super) fn runtime(&self) -> Option<&Handle> {
        self.runtime.as_ref()
    }

    /// Has the deadlines checked at that time at the latest.
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
                None => log::error!("no runtime: the deadlines of this client are not kept"),
            }
        }
        self.changed.notify_one();
    }

    /// Wakes a waker at that time. The caller checks the time itself.
    pub(super) fn wake_at(self: &Arc<Self>, at: Instant, ticket: u64, waker: &Waker) {
        // Cloned and dropped without the lock.
        let waker = waker.clone();
        let former = self.state.lock().waits.insert((at, ticket), waker);
        drop(former);
        self.alarm(at);
    }

    /// Takes back [`wake_at`](Timer::wake_at).
    pub(super) fn forget_wake_at(&self, at: Instant, ticket: u64) {
        let former = self.state.lock().waits.remove(&(at, ticket));
        drop(former);
    }

    /// Expires what is due. Returns when to look again.
    fn expire(&self, now: Instant) -> Option<Instant> {
        // An alarm in between is seen.
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
                    // An entry that has changed is not late.
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
