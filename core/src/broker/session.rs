//! One registered client as the rest of the broker sees it: its identity, what it has sent, and its outbox. The
//! routing of its own operations is in `dispatcher.rs`.

use super::counter::Counter;
use super::outbox::Outbox;
use super::reply_tracker::ReplyTracker;
use crate::proto::op::primary_name;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use tokio::sync::Notify;

/// The kind of a client's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientKind {
    /// Within the broker's process.
    Internal,
    /// Over a UNIX socket.
    LocalIpc,
    /// Over TCP.
    Tcp,
    /// Over a WebSocket.
    Websocket,
}

/// A client's name and origin.
#[derive(Debug)]
pub(super) struct Identity {
    pub(super) name: Arc<str>,
    pub(super) kind: ClientKind,
    pub(super) peer: Option<SocketAddr>,
    /// The broker's address that it connected to, as given to the broker; `None` for in-process clients.
    pub(super) port: Option<Arc<str>>,
}

/// The traffic of a client: the frames that it has sent, without pings, and the bytes of their bodies. The task that
/// reads counts them; for a client in this process, they are counted under the lock of its link.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    pub(super) r_frames: Counter,
    pub(super) r_bytes: Counter,
}

/// The state that the keep-alive checks (`keepalive.rs`). Times are milliseconds of the broker's own clock.
#[derive(Debug, Default)]
pub(super) struct Liveness {
    /// The time at which something last arrived from the client.
    pub(super) seen: AtomicU64,
    /// The time at which it is due for a ping.
    pub(super) next_ping: AtomicU64,
    /// True if the client has sent a part of a frame, but not all of it.
    pub(super) mid_frame: AtomicBool,
    /// True while the broker holds the client back, that is, does not read from it.
    pub(super) held_back: AtomicBool,
    /// Number of its operations that wait for a slow receiver.
    pub(super) waits_for_receivers: AtomicUsize,
    /// The time at which it was first seen that a held client has closed its connection; 0: it has not.
    pub(super) hung_up: AtomicU64,
    /// True if it holds caches that should be released while it is idle.
    pub(super) has_caches: AtomicBool,
}

/// A registered client. The outbox comes first, so that it is in the same cache line as the reference count, which is
/// used together with it.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Session {
    pub(super) outbox: Outbox,
    /// Its place in the registry.
    pub(super) id: u32,
    /// The registry's generation at its registration.
    pub(super) born: u64,
    pub(super) identity: Identity,
    pub(super) traffic: Traffic,
    pub(super) liveness: Liveness,
    pub(super) replies: ReplyTracker,
    /// Wakes the task that reads, so that it stops or releases its caches.
    pub(super) nudge: Notify,
    /// Set when the client is unregistered: nothing more is read from it.
    pub(super) ended: AtomicBool,
    /// Set before its secondaries are unregistered, so that no further secondary can register.
    pub(super) takes_no_secondaries: AtomicBool,
    /// True if a denial has been logged since the rules last changed.
    pub(super) denial_logged: AtomicBool,
}

impl Session {
    /// Creates a client that registers at the time `now` and is first pinged at `next_ping`.
    pub(super) fn new(
        id: u32,
        born: u64,
        identity: Identity,
        outbox: Outbox,
        now: u64,
        next_ping: u64,
    ) -> Session {
        let liveness = Liveness { seen: now.into(), next_ping: next_ping.into(), ..Liveness::default() };
        Session {
            id,
            born,
            identity,
            outbox,
            traffic: Traffic::default(),
            liveness,
            replies: ReplyTracker::default(),
            nudge: Notify::new(),
            ended: AtomicBool::new(false),
            takes_no_secondaries: AtomicBool::new(false),
            denial_logged: AtomicBool::new(false),
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.identity.name
    }

    pub(super) fn primary(&self) -> &str {
        primary_name(self.name())
    }

    pub(super) fn is_secondary(&self) -> bool {
        self.primary().len() < self.name().len()
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended.load(Relaxed)
    }

    pub(super) fn takes_no_secondaries(&self) -> bool {
        self.takes_no_secondaries.load(Relaxed)
    }
}
