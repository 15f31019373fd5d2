//! The state of a client that belongs to no single connection: it outlives connections. A client within the broker's
//! process has only this state, since it has no connection.

#[cfg(feature = "rpc")]
use super::calls::Calls;
use super::config::Config;
use super::deadline::interval;
use super::effects::DeferredEffects;
use super::events::{Event, Hub};
use super::inbox::{End, Inbox};
use super::subscriptions::SubscriptionState;
use super::timer::Timer;
use super::under_way::Work;
use super::waiters::Waiters;
use crate::frame::Frame;
#[cfg(feature = "rpc")]
use crate::log_limit::LogLimit;
use std::sync::Arc;
#[cfg(feature = "broker")]
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// The state of one client, shared with the tasks of its connections. All methods may be called from any thread.
#[derive(Debug)]
pub(crate) struct ClientState {
    /// Received frames that wait for the program.
    pub(crate) inbox: Arc<Inbox>,
    /// RPC calls that wait for their reply.
    #[cfg(feature = "rpc")]
    pub(crate) calls: Arc<Calls>,
    /// Limits the log lines about messages that are not valid requests, since any peer can send such messages.
    #[cfg(feature = "rpc")]
    pub(crate) malformed: LogLimit,
    /// Deadlines that do not belong to a connection.
    pub(crate) timer: Arc<Timer>,
    pub(super) events: Arc<Hub>,
    /// The subscriptions of a client that reconnects. `None`: the client ends with its connection.
    pub(super) subscriptions: Option<Arc<SubscriptionState>>,
    /// Work that [`Client::drain`](super::Client::drain) waits for.
    pub(super) work: Work,
    /// Wakers of the tasks that wait for room to send within the broker's process.
    pub(super) senders: Waiters,
    /// The interval between two pings in nanoseconds, read before each ping.
    ping_interval: AtomicU64,
    /// Requests sent over all connections, and the bytes of their bodies.
    sent: (AtomicU64, AtomicU64),
    /// True if everything that waited here has failed. The end is reported after that.
    is_stopped: AtomicBool,
    /// True if nothing else must happen before the end is reported to the listeners of events.
    may_tell_end: AtomicBool,
    /// Number of tasks that finish operations within the broker's process.
    #[cfg(feature = "broker")]
    finishing: AtomicUsize,
}

/// Declares that a task finishes operations of the client, until the value is dropped. If the client ends in that
/// time, the drop reports the end to the listeners of events.
#[cfg(feature = "broker")]
pub(super) struct Finishing(Arc<ClientState>);

#[cfg(feature = "broker")]
impl Drop for Finishing {
    fn drop(&mut self) {
        if self.0.finishing.fetch_sub(1, Ordering::SeqCst) == 1 && self.0.inbox.has_ended() {
            self.0.tell_end();
        }
    }
}

impl ClientState {
    /// Creates the state of a client that ends with its connection.
    #[cfg(any(test, feature = "broker"))]
    pub(crate) fn new(config: &Config) -> Arc<ClientState> {
        ClientState::with(config, None)
    }

    /// Creates the state of a client that reconnects if it is configured so.
    pub(super) fn of_connection(config: &Config) -> Arc<ClientState> {
        ClientState::with(config, config.reconnects().then(SubscriptionState::new))
    }

    fn with(config: &Config, subscriptions: Option<Arc<SubscriptionState>>) -> Arc<ClientState> {
        #[cfg(feature = "rpc")]
        let calls = Arc::new(Calls::new());
        Arc::new(ClientState {
            inbox: Inbox::new(config),
            timer: Timer::new(
                #[cfg(feature = "rpc")]
                calls.clone(),
            ),
            #[cfg(feature = "rpc")]
            calls,
            #[cfg(feature = "rpc")]
            malformed: LogLimit::default(),
            events: Arc::default(),
            subscriptions,
            work: Work::default(),
            senders: Waiters::default(),
            ping_interval: AtomicU64::new(nanos(config.ping_interval)),
            sent: Default::default(),
            is_stopped: AtomicBool::new(false),
            may_tell_end: AtomicBool::new(false),
            #[cfg(feature = "broker")]
            finishing: AtomicUsize::new(0),
        })
    }

    /// Returns the interval between two pings.
    pub(super) fn ping_interval(&self) -> Duration {
        Duration::from_nanos(self.ping_interval.load(Ordering::Relaxed))
    }

    /// Sets the interval between two pings, from the next ping on.
    pub(super) fn set_ping_interval(&self, wait: Duration) {
        self.ping_interval.store(nanos(interval(wait)), Ordering::Relaxed);
    }

    /// Counts a request that was sent.
    pub(super) fn count_sent(&self, body_len: usize) {
        self.sent.0.fetch_add(1, Ordering::Relaxed);
        self.sent.1.fetch_add(body_len as u64, Ordering::Relaxed);
    }

    /// Returns the number of requests sent, and the bytes of their bodies.
    pub(super) fn sent(&self) -> (u64, u64) {
        (self.sent.0.load(Ordering::Relaxed), self.sent.1.load(Ordering::Relaxed))
    }

    /// Queues the frames of one read, and empties `frames`. Effects that must happen without a lock are added to
    /// `effects`.
    pub(super) fn receive(&self, frames: &mut Vec<Frame>, effects: &mut DeferredEffects) {
        let dropped = self.inbox.append(frames, effects);
        effects.tell_dropped(&self.events, dropped);
    }

    /// Returns true if a call waits for its reply.
    pub(super) fn awaits_reply(&self) -> bool {
        #[cfg(feature = "rpc")]
        return self.calls.is_awaited();
        #[cfg(not(feature = "rpc"))]
        false
    }

    /// Returns true if a call waits for its reply and its outcome does not go to the completion queue of that id.
    #[cfg_attr(not(feature = "rpc"), expect(unused_variables, reason = "there are no calls"))]
    pub(super) fn awaits_reply_elsewhere(&self, queue: usize) -> bool {
        #[cfg(feature = "rpc")]
        return self.calls.is_awaited_elsewhere(queue);
        #[cfg(not(feature = "rpc"))]
        false
    }

    /// Declares that a task finishes operations.
    #[cfg(feature = "broker")]
    pub(super) fn begin_finishing(self: &Arc<Self>) -> Finishing {
        self.finishing.fetch_add(1, Ordering::SeqCst);
        Finishing(self.clone())
    }

    /// Ends the client like [`stop`](ClientState::stop), and reports the end to the listeners of events when the
    /// operations that a task finishes have failed.
    #[cfg(any(test, feature = "broker"))]
    pub(crate) fn end(&self, end: End) {
        self.stop(end);
        #[cfg(feature = "broker")]
        if self.finishing.load(Ordering::SeqCst) > 0 {
            return;
        }
        self.tell_end();
    }

    /// Ends the client; further calls do nothing. Frames in the inbox can still be taken, nothing more is received,
    /// and calls fail. A panic in one waker does not affect the others. It runs wakers: the caller must hold no lock.
    pub(super) fn stop(&self, end: End) {
        if !self.inbox.end(end) {
            return;
        }
        self.senders.wake_all();
        #[cfg(feature = "rpc")]
        self.calls.end();
        // This thread and one that calls `tell_end` set one flag each. The later one finds both set.
        self.is_stopped.store(true, Ordering::SeqCst);
        if self.may_tell_end.load(Ordering::SeqCst) {
            self.tell_end();
        }
    }

    /// Reports the end of the client to the listeners of events, once. If the client has not stopped yet,
    /// [`stop`](ClientState::stop) does it. Callbacks run on this thread. Before the call, everything that waited for
    /// an answer over a connection must have failed.
    pub(super) fn tell_end(&self) {
        self.may_tell_end.store(true, Ordering::SeqCst);
        if !self.is_stopped.load(Ordering::SeqCst) {
            return;
        }
        if let Some(end) = self.inbox.reason() {
            self.events.end(Some(&Event::disconnected(&end.error(), true)));
        }
    }

    /// Fails the calls in progress, because the connection is lost. Another connection may follow.
    pub(super) fn lose(&self) {
        #[cfg(feature = "rpc")]
        self.calls.lose();
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
