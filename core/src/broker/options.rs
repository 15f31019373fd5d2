//! Broker configuration.

use super::busy_poller::BusyPoller;
use crate::transport::Buffers;
use std::time::Duration;

/// The broker's treatment of a *stuck* receiver: its queue is over the budget, and for the whole stall time its socket
/// has taken nothing that the broker tried to write (docs/protocol.md section 7).
///
/// A receiver that takes anything at all is never stuck. A client within the broker's process is never disconnected
/// for being stuck: with [`Disconnect`](SlowPolicy::Disconnect), frames that find its queue full are dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SlowPolicy {
    /// The receiver is disconnected. What its queue holds is discarded and counted as dropped.
    #[default]
    Disconnect,
    /// Frames that find its queue full are dropped and counted; an acknowledged message is answered with `77`.
    DropNew,
    /// Its oldest publications and broadcasts are dropped and counted, to make room for new frames. Queued messages
    /// and acknowledgements are never dropped. When nothing is left to drop, the new frame is dropped as with
    /// [`DropNew`](SlowPolicy::DropNew).
    DropOld,
    /// Hold time and stall time do not apply: senders wait until there is room, and no receiver is lagging or stuck.
    Block,
}

/// The settings of a broker. All of them hold for every client.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Options {
    /// How long a step of the handshake and a pause within a frame may take. A client that sends nothing for 1.25
    /// times this is disconnected; clients are pinged every half of it. Time in which the broker holds the client
    /// back does not count. Default: 5 s.
    pub timeout: Duration,
    /// Frames that may wait for one receiver before its senders are held back. A client within the process has the
    /// bound of its own [`Config`](crate::client::Config) instead, in bytes. Default: 8192.
    pub queue_size: usize,
    /// Bytes that may wait for one receiver before its senders are held back. An empty queue takes a frame of any
    /// size. Default: 16 MiB.
    pub queue_bytes: usize,
    /// The treatment of a receiver that is stuck. Default: [`SlowPolicy::Disconnect`].
    pub slow: SlowPolicy,
    /// How long a receiver with a full queue holds back the senders of publications and broadcasts, unless it takes a
    /// quarter of its budget in that time. A receiver that takes nothing at all for this long holds back the senders
    /// of messages no longer either. It is *lagging* then. Zero: a full receiver holds back no sender. Default: 750
    /// ms.
    pub hold: Duration,
    /// How long a receiver with a full queue may take nothing before it is *stuck*. Also the longest time that an
    /// acknowledged message waits for a slow receiver. Default: 5 s.
    pub stall: Duration,
    /// Bytes that may wait in the queues of all receivers together. While more wait, each queue is bounded by an equal
    /// share of this, so that the largest queues count as full. Default: a quarter of the machine's or the
    /// container's memory.
    pub queue_total: usize,
    /// The longest frame body that a client may send, in bytes: names, separators and payload. A longer one ends the
    /// connection. Default: 256 MiB.
    pub max_payload: u32,
    /// The longest name of a client, in bytes. A longer one is refused with `72`. Default: 1 KiB.
    pub max_name: usize,
    /// The longest topic or mask, in bytes. An operation with a longer one is answered `72`; if it asks for no
    /// acknowledgement, it ends the connection. Default: 64 KiB.
    pub max_topic: usize,
    /// The most levels of a topic or mask. More are treated as a topic that is too long. Default: 512.
    pub max_levels: usize,
    /// The most subscriptions and exclusions of one client, together. More are treated as a topic that is too long.
    /// Default: 1,000,000.
    pub max_subscriptions: usize,
    /// The most registered clients. A further one is refused with `74` after the greeting. Clients within the
    /// process are not counted. Default: no bound.
    pub max_connections: Option<usize>,
    /// The most connections that have not registered yet. A further one closes the oldest of them. Default: 1,024.
    pub max_handshakes: usize,
    /// Lets a new client take a name that is registered: the old client is disconnected. Default: off.
    pub force_register: bool,
    /// The size that the read buffer of a connection starts with, in bytes. It grows with the traffic, up to 256 KiB;
    /// an idle connection holds none. Default: 16 KiB.
    pub buf_size: usize,
    /// Keeps a worker of the runtime awake while a client's answer is due. This saves a wake-up with each answer, and
    /// takes up to one core while such clients talk. Default: none; `busrtd` has one.
    pub busy_poller: Option<BusyPoller>,
    /// The kernel's buffers of each connection. Default: a send buffer of 1 MiB on UNIX sockets, else the system's.
    pub socket_buffers: Buffers,
    /// Permissions of UNIX socket files, as for `chmod`. Default: what the process's umask leaves.
    pub socket_mode: Option<u32>,
    /// How long [`shutdown`](super::Broker::shutdown) lets queues and the kernel's buffers empty. Default: 1 s.
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
    /// The defaults.
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
