//! Broker configuration.

use super::busy_poller::BusyPoller;
use crate::transport::Buffers;
use std::time::Duration;

/// The treatment of a *stuck* receiver: its queue is over the budget, and its socket has accepted no bytes for the
/// whole stall time although the broker tried to write (docs/protocol.md section 7).
///
/// A receiver that reads anything at all is never stuck. A client within the broker's process is never disconnected
/// for being stuck: with [`Disconnect`](SlowPolicy::Disconnect), frames that find its queue full are dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SlowPolicy {
    /// The receiver is disconnected. The frames in its queue are discarded and counted as dropped.
    #[default]
    Disconnect,
    /// Frames that find its queue full are dropped and counted; an acknowledged message is answered with `77`.
    DropNew,
    /// Its oldest publications and broadcasts are dropped and counted, to make room for new frames. Queued messages
    /// and acknowledgements are never dropped. When nothing is left to drop, the new frame is dropped as with
    /// [`DropNew`](SlowPolicy::DropNew).
    DropOld,
    /// Hold time and stall time do not apply: senders wait until there is room, and no receiver becomes lagging or
    /// stuck.
    Block,
}

/// The settings of a broker. All of them apply to every client.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Options {
    /// Maximum duration of a step of the handshake and of a pause within a frame. A client that sends nothing for
    /// 1.25 times this is disconnected; clients are pinged at intervals of half this time. Time in which the broker
    /// holds the client back does not count. Default: 5 s.
    pub timeout: Duration,
    /// Number of frames that may wait for one receiver before its senders are held back. A client within the process
    /// instead has the bound of its own [`Config`](crate::client::Config), in bytes. Default: 8192.
    pub queue_size: usize,
    /// Number of bytes that may wait for one receiver before its senders are held back. An empty queue accepts a
    /// frame of any size. Default: 16 MiB.
    pub queue_bytes: usize,
    /// The treatment of a receiver that is stuck. Default: [`SlowPolicy::Disconnect`].
    pub slow: SlowPolicy,
    /// Hold time: how long a receiver with a full queue holds back the senders of publications and broadcasts, unless
    /// it reads a quarter of its budget in that time. After that it is *lagging*. If it reads nothing at all during
    /// the hold time, it no longer holds back the senders of messages either. Zero: a full receiver holds back no
    /// sender. Default: 750 ms.
    pub hold: Duration,
    /// Stall time: how long a receiver with a full queue may read nothing before it is *stuck*. It is also the
    /// longest time that an acknowledged message waits for a slow receiver. Default: 5 s.
    pub stall: Duration,
    /// Number of bytes that may wait in the queues of all receivers together. While more are waiting, each queue is
    /// bounded by an equal share of this, so that the largest queues count as full. Default: a quarter of the memory
    /// of the machine or the container.
    pub queue_total: usize,
    /// Maximum length of a frame body that a client sends, in bytes: names, separators and payload. A longer one ends
    /// the connection. Default: 256 MiB.
    pub max_payload: u32,
    /// Maximum length of a client's name, in bytes. A longer one is refused with `72`. Default: 1 KiB.
    pub max_name: usize,
    /// Maximum length of a topic or mask, in bytes. An operation with a longer one is answered `72`; if it asks for
    /// no acknowledgement, it ends the connection. Default: 64 KiB.
    pub max_topic: usize,
    /// Maximum number of levels of a topic or mask. One with more is treated like a topic that is too long. Default:
    /// 512.
    pub max_levels: usize,
    /// Maximum number of subscriptions and exclusions of one client, together. Further ones are treated like a topic
    /// that is too long. Default: 1,000,000.
    pub max_subscriptions: usize,
    /// Maximum number of registered clients. A further one is refused with `74` after the greeting. Clients within
    /// the process do not count. Default: no bound.
    pub max_connections: Option<usize>,
    /// Maximum number of connections that have not registered yet. A further one closes the oldest of them. Default:
    /// 1,024.
    pub max_handshakes: usize,
    /// Lets a new client take a name that is registered: the old client is disconnected. Default: off.
    pub force_register: bool,
    /// Initial size of the read buffer of a connection, in bytes. It grows with the traffic, up to 256 KiB; an idle
    /// connection holds none. Default: 16 KiB.
    pub buf_size: usize,
    /// Keeps a worker of the runtime awake while a client's answer is expected. This saves a wake-up with each
    /// answer, and uses up to one core while such clients communicate. Default: none; `busrtd` sets one.
    pub busy_poller: Option<BusyPoller>,
    /// Sizes of the kernel's socket buffers of each connection. Default: a send buffer of 1 MiB on UNIX sockets,
    /// otherwise the system's default.
    pub socket_buffers: Buffers,
    /// Permissions of UNIX socket files, as for `chmod`. Default: the permissions that the process's umask leaves.
    pub socket_mode: Option<u32>,
    /// Maximum time that [`shutdown`](super::Broker::shutdown) waits for queues and the kernel's buffers to empty.
    /// Default: 1 s.
    pub drain: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            timeout: Duration::from_secs(5),
            queue_size: 8192,
            queue_bytes: 16 * 1024 * 1024,
            slow: SlowPolicy::default(),
            hold: Duration::from_millis(750),
            stall: Duration::from_secs(5),
            queue_total: super::memory::quarter(),
            max_payload: 256 * 1024 * 1024,
            max_name: 1024,
            max_topic: 64 * 1024,
            max_levels: 512,
            max_subscriptions: 1_000_000,
            max_connections: None,
            max_handshakes: 1024,
            force_register: false,
            buf_size: 16 * 1024,
            busy_poller: None,
            socket_buffers: Buffers::default(),
            socket_mode: None,
            drain: Duration::from_secs(1),
        }
    }
}

impl Options {
    /// Returns the default settings.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets [`timeout`](Options::timeout).
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets [`queue_size`](Options::queue_size).
    pub fn queue_size(mut self, frames: usize) -> Self {
        self.queue_size = frames;
        self
    }

    /// Sets [`queue_bytes`](Options::queue_bytes).
    pub fn queue_bytes(mut self, bytes: usize) -> Self {
        self.queue_bytes = bytes;
        self
    }

    /// Sets [`slow`](Options::slow).
    pub fn slow(mut self, policy: SlowPolicy) -> Self {
        self.slow = policy;
        self
    }

    /// Sets [`hold`](Options::hold).
    pub fn hold(mut self, hold: Duration) -> Self {
        self.hold = hold;
        self
    }

    /// Sets [`queue_total`](Options::queue_total).
    pub fn queue_total(mut self, bytes: usize) -> Self {
        self.queue_total = bytes;
        self
    }

    /// Sets [`stall`](Options::stall).
    pub fn stall(mut self, stall: Duration) -> Self {
        self.stall = stall;
        self
    }

    /// Sets [`max_payload`](Options::max_payload).
    pub fn max_payload(mut self, bytes: u32) -> Self {
        self.max_payload = bytes;
        self
    }

    /// Sets [`max_name`](Options::max_name).
    pub fn max_name(mut self, bytes: usize) -> Self {
        self.max_name = bytes;
        self
    }

    /// Sets [`max_topic`](Options::max_topic).
    pub fn max_topic(mut self, bytes: usize) -> Self {
        self.max_topic = bytes;
        self
    }

    /// Sets [`max_levels`](Options::max_levels).
    pub fn max_levels(mut self, levels: usize) -> Self {
        self.max_levels = levels;
        self
    }

    /// Sets [`max_subscriptions`](Options::max_subscriptions).
    pub fn max_subscriptions(mut self, count: usize) -> Self {
        self.max_subscriptions = count;
        self
    }

    /// Sets [`max_connections`](Options::max_connections).
    pub fn max_connections(mut self, count: usize) -> Self {
        self.max_connections = Some(count);
        self
    }

    /// Sets [`max_handshakes`](Options::max_handshakes).
    pub fn max_handshakes(mut self, count: usize) -> Self {
        self.max_handshakes = count;
        self
    }

    /// Sets [`force_register`](Options::force_register).
    pub fn force_register(mut self, on: bool) -> Self {
        self.force_register = on;
        self
    }

    /// Sets [`buf_size`](Options::buf_size).
    pub fn buf_size(mut self, bytes: usize) -> Self {
        self.buf_size = bytes;
        self
    }

    /// Sets [`busy_poller`](Options::busy_poller).
    pub fn busy_poller(mut self, busy_poller: BusyPoller) -> Self {
        self.busy_poller = Some(busy_poller);
        self
    }

    /// Sets [`socket_buffers`](Options::socket_buffers).
    pub fn socket_buffers(mut self, buffers: Buffers) -> Self {
        self.socket_buffers = buffers;
        self
    }

    /// Sets [`socket_mode`](Options::socket_mode).
    pub fn socket_mode(mut self, mode: u32) -> Self {
        self.socket_mode = Some(mode);
        self
    }

    /// Sets [`drain`](Options::drain).
    pub fn drain(mut self, bound: Duration) -> Self {
        self.drain = bound;
        self
    }

    /// [`timeout`](Options::timeout) in milliseconds.
    pub(super) fn timeout_milliseconds(&self) -> u64 {
        milliseconds(self.timeout)
    }

    /// The interval at which a client is pinged, in milliseconds.
    pub(super) fn ping_interval(&self) -> u64 {
        milliseconds(self.timeout / 2)
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
