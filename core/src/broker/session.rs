//! One registered client, as everybody else on the bus sees it: who it is, what it has sent and
//! received, and the way to it. How its own operations get into the bus is in `courier.rs`.

use super::lookout::Rhythm;
use super::outbox::Outlet;
use crate::proto::op::primary_name;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// How a client is connected.
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

/// Who a client is and where it came from.
#[derive(Debug)]
pub(super) struct Identity {
    pub(super) name: Arc<str>,
    pub(super) kind: ClientKind,
    pub(super) peer: Option<SocketAddr>,
    /// What it connected to, as given to the broker; `None` for internal clients.
    pub(super) port: Option<Arc<str>>,
}

/// A counter that only ever one thread at a time adds to: no locked instruction is needed.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    /// Adds, from the one place that may, or under the one lock that guards it.
    pub(super) fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Frames and the bytes of their bodies, pings not counted.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    /// Read from the client: counted by the one who reads; in this process under the lock of its link.
    pub(super) r_frames: Counter,
    pub(super) r_bytes: Counter,
    /// Queued for a client on a socket: counted under the lock of its queue. In this process its inbox counts.
    pub(super) w_frames: Counter,
    pub(super) w_bytes: Counter,
    /// Refused or dropped because the client is stuck: counted by any of its senders.
    pub(super) dropped: AtomicU64,
}

/// What the keep-alive looks at (`keepalive.rs`), in milliseconds of the broker's own clock.
#[derive(Debug, Default)]
pub(super) struct Liveness {
    /// When something last came from the client.
    pub(super) seen: AtomicU64,
    /// When it is due for a ping.
    pub(super) next_ping: AtomicU64,
    /// Whether a frame of its has begun and not ended.
    pub(super) mid_frame: AtomicBool,
    /// Whether the broker itself does not read from it just now.
    pub(super) held_back: AtomicBool,
}

/// A registered client.
#[derive(Debug)]
pub(super) struct Session {
    /// Its place in the registry.
    pub(super) id: u32,
    pub(super) identity: Identity,
    pub(super) outlet: Outlet,
    pub(super) traffic: Traffic,
    pub(super) liveness: Liveness,
    pub(super) rhythm: Rhythm,
    /// Set when it is unregistered: nothing more is read from it.
    pub(super) ended: AtomicBool,
    /// Whether a denial has been logged since the rules last changed.
    pub(super) denial_logged: AtomicBool,
}

impl Session {
    /// A client that registers `now` and is to be pinged first at `next_ping`.
    pub(super) fn new(id: u32, identity: Identity, outlet: Outlet, now: u64, next_ping: u64) -> Session {
        let liveness = Liveness { seen: now.into(), next_ping: next_ping.into(), ..Liveness::default() };
        Session {
            id,
            identity,
            outlet,
            traffic: Traffic::default(),
            liveness,
            rhythm: Rhythm::default(),
            ended: AtomicBool::new(false),
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
}
