//! The state that all sessions of a broker share, and how clients register and leave.

use super::announce::Announcements;
use super::counters::{BrokerCounters, of_client};
use super::handshakes::Handshakes;
use super::leaving::Leaving;
use super::options::Options;
use super::outbox::{Outbox, QueueLimits, Sink};
use super::questions::Questions;
use super::registry::Registry;
use super::session::{Identity, Session};
use super::supervisor::Supervisor;
use crate::error::ErrorKind;
use crate::proto::op::RESULT_OK;
use crate::shown::shown;
use crate::transport::Load;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{
    AtomicBool, AtomicU32, AtomicU64, AtomicUsize,
    Ordering::{Relaxed, SeqCst},
};
use std::time::Instant;
use tokio::sync::Notify;

/// Milliseconds for which the broker has run. Only the supervisor advances this clock, so that reading it is cheap.
/// It does not count time in which the process was suspended, because the broker could not read from its clients
/// then.
#[derive(Debug, Default)]
pub(super) struct Clock(AtomicU64);

impl Clock {
    pub(super) fn now(&self) -> u64 {
        self.0.load(Relaxed)
    }

    /// Advances the clock. Only the supervisor calls it.
    pub(super) fn advance(&self, milliseconds: u64) -> u64 {
        let now = self.now().saturating_add(milliseconds);
        self.0.store(now, Relaxed);
        now
    }
}

/// The state that all sessions of a broker share.
pub(super) struct Core {
    pub(super) options: Options,
    pub(super) limits: QueueLimits,
    pub(super) registry: Registry,
    pub(super) counters: BrokerCounters,
    pub(super) questions: Questions,
    pub(super) announcements: Announcements,
    pub(super) handshakes: Handshakes,
    pub(super) clock: Clock,
    pub(super) supervisor: Supervisor,
    pub(super) started: Instant,
    /// Held while a client registers or leaves and while the announcement of it is queued, so that announcements have
    /// the order of the events.
    membership: Mutex<()>,
    /// Set when the broker shuts down: no client is registered any more, and nothing more is read.
    pub(super) closing: AtomicBool,
    /// Number of connections whose task still reads and routes, plus the waiting operations of in-process clients.
    pub(super) reading: AtomicUsize,
    pub(super) leaving: Leaving,
    /// Notified whenever a connection's task has stopped reading, or has ended.
    pub(super) connection_changed: Notify,
    next_owner: AtomicU32,
}

/// Maximum number of clients that are unregistered and closed in one step.
pub(super) const TOGETHER: usize = 8;
const EVICTED: &str = "its name was taken over";

/// The result of one step that unregisters clients.
pub(super) struct Ended {
    /// Number of clients that were unregistered.
    pub(super) count: usize,
    /// False if clients are left to be unregistered.
    pub(super) is_complete: bool,
}

/// Clients to be closed when no lock is held, because closing one wakes tasks, runs callbacks and drops what they
/// own.
#[derive(Default)]
struct Effects {
    leaving: Vec<(Arc<Session>, String)>,
}

impl Core {
    pub(super) fn new(options: Options) -> Core {
        let limits = QueueLimits { totals: Arc::default(), total: options.queue_total };
        Core {
            handshakes: Handshakes::new(options.max_handshakes),
            options,
            limits,
            registry: Registry::default(),
            counters: BrokerCounters::default(),
            questions: Questions::default(),
            announcements: Announcements::default(),
            clock: Clock::default(),
            supervisor: Supervisor::default(),
            started: Instant::now(),
            membership: Mutex::default(),
            closing: AtomicBool::new(false),
            reading: AtomicUsize::new(0),
            leaving: Leaving::default(),
            connection_changed: Notify::new(),
            next_owner: AtomicU32::new(0),
        }
    }

    /// Returns the number that identifies a batch as the one that will flush a queue. The highest numbers are
    /// reserved.
    pub(super) fn next_batch_owner(&self) -> u32 {
        self.next_owner.fetch_add(1, Relaxed) & (u32::MAX >> 1)
    }

    /// Stops the registration of clients. Registrations that have begun are complete when it returns.
    pub(super) fn close(&self) {
        self.closing.store(true, SeqCst);
        drop(self.membership.lock());
    }

    pub(super) fn is_closing(&self) -> bool {
        self.closing.load(SeqCst)
    }

    /// Creates an outbox with the bounds of this broker.
    pub(super) fn outbox(&self, sink: Sink) -> Outbox {
        Outbox::new(sink, &self.options, self.limits.clone())
    }

    /// Registers a client. For a client on a socket, the answer is the first frame in its queue.
    ///
    /// # Errors
    ///
    /// The refusals of docs/protocol.md section 2.
    pub(super) fn register(&self, identity: Identity, sink: Sink) -> Result<Arc<Session>, ErrorKind> {
        let (name, kind) = (identity.name.clone(), identity.kind);
        let ip = identity.peer.map(|peer| peer.ip());
        let now = self.clock.now();
        let next_ping = now.saturating_add(self.options.ping_interval());
        let mut effects = Effects::default();
        let session = {
            let _in_order = self.membership.lock();
            if self.is_closing() {
                return Err(ErrorKind::Other);
            }
            let (session, evicted) =
                self.registry.register(&name, ip, kind, &self.options, |id, generation| {
                    if let Sink::Socket(writer) = &sink {
                        writer.with(|backlog| backlog.queue().push_kept(|out| out.push(RESULT_OK)));
                    }
                    Session::new(id, generation, identity, self.outbox(sink), now, next_ping)
                })?;
            if !session.is_secondary() {
                self.announcements.queue_registered(&name);
            }
            effects.leaving.extend(evicted.into_iter().map(|old| (old, EVICTED.to_owned())));
            session
        };
        if let Some((old, _)) = effects.leaving.first() {
            log::info!("client evicted: {} (force register)", shown(old.name().as_bytes()));
        }
        self.carry_out(effects);
        log::debug!("client registered: {}", shown(name.as_bytes()));
        self.deliver_announcements();
        Ok(session)
    }

    /// Unregisters a client with its secondaries, and closes their connections. A second call does nothing. It takes
    /// long if there are many secondaries: only threads that serve no clients may call it.
    pub(super) fn end(&self, session: &Arc<Session>, reason: &str) {
        while !self.end_some(session, reason, TOGETHER).is_complete {}
    }

    /// Unregisters at most `most` clients of a family, the secondaries of a primary before the primary itself, and
    /// closes their connections. Does nothing if all of them are unregistered.
    pub(super) fn end_some(&self, session: &Arc<Session>, reason: &str, most: usize) -> Ended {
        let mut effects = Effects::default();
        let is_complete = {
            let _in_order = self.membership.lock();
            let removal = self.registry.unregister_some(session, most);
            for gone in removal.removed {
                if !gone.is_secondary() {
                    self.announcements.queue_unregistered(gone.name());
                }
                effects.leaving.push((gone, reason.to_owned()));
            }
            removal.is_complete
        };
        let count = effects.leaving.len();
        self.carry_out(effects);
        self.deliver_announcements();
        Ended { count, is_complete }
    }

    /// Unregisters the secondaries of the client whose name a new client is going to take over, a few at a time.
    pub(super) async fn evict_secondaries(&self, identity: &Identity) {
        if !self.options.force_register {
            return;
        }
        while self.evict_some(identity) {
            tokio::task::yield_now().await;
        }
    }

    /// Evicts a few of them. Returns true while more are left.
    fn evict_some(&self, identity: &Identity) -> bool {
        let ip = identity.peer.map(|peer| peer.ip());
        let mut effects = Effects::default();
        let is_complete = {
            let _in_order = self.membership.lock();
            if self.is_closing() {
                return false;
            }
            let removal = self.registry.evict_secondaries(&identity.name, ip, identity.kind, TOGETHER);
            effects.leaving.extend(removal.removed.into_iter().map(|gone| (gone, EVICTED.to_owned())));
            removal.is_complete
        };
        self.carry_out(effects);
        !is_complete
    }

    fn carry_out(&self, effects: Effects) {
        if effects.leaving.is_empty() {
            return;
        }
        for (session, reason) in effects.leaving {
            log::debug!("client unregistered: {}: {reason}", shown(session.name().as_bytes()));
            let dropped = match session.outbox.sink() {
                Sink::Socket(writer) => writer.close(),
                Sink::InProcess(client) => {
                    client.close(ErrorKind::ConnectionLost);
                    Load::default()
                }
                Sink::Broker => Load::default(),
            };
            self.counters.retire_counters(of_client(&session));
            if dropped.frames > 0 {
                log::debug!(
                    "{} frames ({} bytes) queued for {} are discarded",
                    dropped.frames,
                    dropped.bytes,
                    shown(session.name().as_bytes())
                );
            }
            session.nudge.notify_one();
        }
        if self.registry.needs_sweep() {
            self.supervisor.wake();
        }
    }

    fn deliver_announcements(&self) {
        if self.announcements.deliver(&self.registry, &self.counters) {
            self.supervisor.wake();
        }
    }

    /// Lets the supervisor watch a receiver that was found full.
    pub(super) fn watch(&self, receiver: &Arc<Session>) {
        self.supervisor.watch(receiver);
    }
}
