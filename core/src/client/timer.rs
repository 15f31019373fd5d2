//! Deadlines of one client that do not belong to a connection: those of its calls, and of waiting for room.
//!
//! One task for each client expires them. It is started with the first deadline, so that a client without calls
//! costs none, and no operation has a timer of its own.

use super::effects::wake_all;
use super::inbox::Inbox;
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
pub(super) struct Timer {
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
    /// Those who wait for room, by deadline and ticket.
    waits: BTreeMap<(Instant, u64), Waker>,
}

impl Default for Timer {
    fn default() -> Timer {
        Timer {
            runtime: Handle::try_current().ok(),
            is_running: AtomicBool::new(false),
            state: Mutex::default(),
            changed: Arc::new(Notify::new()),
        }
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        // The task finds that the client is gone.
        self.changed.notify_one();
    }
}

impl Timer {
    /// The runtime of the client; `None` if it was made outside of one.
    #[cfg(feature = "rpc")]
    pub(super) fn runtime(&self) -> Option<&Handle> {
        self.runtime.as_ref()
    }
}

impl Inbox {
    /// Has the deadlines checked at that time at the latest.
    pub(crate) fn alarm(self: &Arc<Self>, at: Instant) {
        let timer = &self.timer;
        let mut state = timer.state.lock();
        if state.next.is_some_and(|next| next <= at) {
            return;
        }
        state.next = Some(at);
        drop(state);
        if !timer.is_running.swap(true, Ordering::AcqRel) {
            match &timer.runtime {
                Some(runtime) => drop(runtime.spawn(run(Arc::downgrade(self), timer.changed.clone()))),
                None => log::error!("no runtime: the deadlines of this client are not kept"),
            }
        }
        timer.changed.notify_one();
    }

    /// Wakes a waker at that time. The caller checks the time itself.
    pub(super) fn wake_at(self: &Arc<Self>, at: Instant, ticket: u64, waker: &Waker) {
        // Cloned and dropped without the lock.
        let waker = waker.clone();
        let former = self.timer.state.lock().waits.insert((at, ticket), waker);
        drop(former);
        self.alarm(at);
    }

    /// Takes back [`wake_at`](Inbox::wake_at).
    pub(super) fn forget_wake_at(&self, at: Instant, ticket: u64) {
        let former = self.timer.state.lock().waits.remove(&(at, ticket));
        drop(former);
    }

    /// Expires what is due. Returns when to look again.
    fn expire(&self, now: Instant) -> Option<Instant> {
        // An alarm in between is seen.
        self.timer.state.lock().next = None;
        #[cfg(feature = "rpc")]
        let calls = self.calls.expire(now);
        #[cfg(not(feature = "rpc"))]
        let calls = None;
        let mut state = self.timer.state.lock();
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

async fn run(inbox: Weak<Inbox>, changed: Arc<Notify>) {
    let mut next = None;
    loop {
        if next.is_some_and(|next| Instant::now() > next + OVERSLEPT) {
            sleep(GRACE).await;
        }
        match inbox.upgrade() {
            Some(inbox) => next = inbox.expire(Instant::now()),
            None => return,
        }
        match next {
            None => changed.notified().await,
            Some(at) => tokio::select! {
                () = sleep_until(at) => {}
                () = changed.notified() => {
                    // What has changed is not late.
                    next = None;
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::config::Config;
    use super::*;
    use std::future::poll_fn;
    use std::task::Poll;

    #[tokio::test]
    async fn wakes_at_the_earliest_deadline() {
        let inbox = Inbox::new(&Config::new("", "me"));
        let start = Instant::now();
        for (ticket, millis) in [(1, 3_600_000), (2, 20)] {
            let at = start + Duration::from_millis(millis);
            poll_fn(|cx| {
                inbox.wake_at(at, ticket, cx.waker());
                Poll::Ready(())
            })
            .await;
        }
        let at = start + Duration::from_millis(20);
        poll_fn(|cx| {
            if Instant::now() >= at {
                return Poll::Ready(());
            }
            inbox.wake_at(at, 2, cx.waker());
            Poll::Pending
        })
        .await;
        assert_eq!(inbox.timer.state.lock().waits.len(), 1);
        inbox.forget_wake_at(start + Duration::from_secs(3600), 1);
        let weak = Arc::downgrade(&inbox);
        drop(inbox);
        assert!(weak.upgrade().is_none());
    }
}
