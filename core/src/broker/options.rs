//! What a broker can be told.

use super::lookout::Lookout;
use crate::transport::Buffers;
use std::time::Duration;

/// What happens to a receiver that is *stuck*: its queue is over the budget, and it has taken nothing for
/// the whole stall time although the broker could write (PROTOCOL.md section 7). Clients within the broker's
/// process are never disconnected for this; with [`Disconnect`](SlowPolicy::Disconnect) new frames for them are
/// dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SlowPolicy {
    /// The receiver is disconnected.
    #[default]
    Disconnect,
    /// New frames for it are dropped and counted; an acknowledged message is answered with `77`.
    DropNew,
    /// Its oldest publications and broadcasts make room for new frames. Queued messages and acknowledgements
    /// are never dropped.
    DropOld,
    /// No clock runs: senders wait for as long as it takes.
    Block,
}

/// The settings of a broker. All of them hold for every client.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Options {
    /// How long a handshake step and a pause within a frame may take; a client silent for 1.25 times
    /// this is disconnected, and pinged every half of it. Default: 5 s.
    pub timeout: Duration,
    /// Frames that may wait for one receiver before its senders are held back. Default: 8192.
    pub queue_size: usize,
    /// Bytes that may wait for one receiver before its senders are held back; an empty queue takes a
    /// frame of any size. Default: 16 MiB.
    pub queue_bytes: usize,
    /// What happens to a receiver that is stuck. Default: [`SlowPolicy::Disconnect`].
    pub slow: SlowPolicy,
    /// How long a receiver over its budget holds back the senders of publications and broadcasts unless it takes
    /// a quarter of its budget in that time, and how long it may take nothing before it holds back nobody. Zero:
    /// a full receiver never holds anybody back. Default: 750 ms.
    pub hold: Duration,
    /// How long a receiver over its budget may take nothing before it counts as stuck, and how long an acknowledged
    /// message waits for a slow receiver. Default: 5 s.
    pub stall: Duration,
    /// Bytes that may wait in the queues of all receivers together. Over it, the queues that are larger than
    /// average count as over their budget. Default: a quarter of the machine's or the container's memory.
    pub queue_total: usize,
    /// The longest body a client may send, in bytes: names, separators and payload. Longer ones end
    /// the connection. Default: 256 MiB.
    pub max_payload: u32,
    /// The longest name of a client, in bytes; longer ones are refused with `72`. Default: 1 KiB.
    pub max_name: usize,
    /// The longest topic or mask, in bytes. An operation with a longer one is answered `72`, or ends the connection
    /// if it asks for no acknowledgement. Default: 64 KiB.
    pub max_topic: usize,
    /// The most levels of a topic or mask; more are answered as a topic that is too long. Default: 512.
    pub max_levels: usize,
    /// The most subscriptions and exclusions of one client, together; more are answered as a topic that is too
    /// long. Default: 1,000,000.
    pub max_subscriptions: usize,
    /// The most registered clients; a further one is refused with `74` after the greeting. Clients within the
    /// process are not counted. Default: no bound.
    pub max_connections: Option<usize>,
    /// The most connections that have not registered yet; a further one closes the oldest of them. Default: 1,024.
    pub max_handshakes: usize,
    /// A newcomer takes a name that is taken: the old client is disconnected. Default: off.
    pub force_register: bool,
    /// The size a session's read buffer starts with, in bytes; it grows with the traffic, up to 256
    /// KiB, and is not held while idle. Default: 16 KiB.
    pub buf_size: usize,
    /// Keeps the runtime's workers awake while an answer is due, which saves clients in conversation a wake-up
    /// each time and costs up to one core meanwhile. Default: none; `busrtd` has one.
    pub lookout: Option<Lookout>,
    /// The kernel's buffers of each connection. Default: 1 MiB to send over UNIX sockets, else the system's.
    pub socket_buffers: Buffers,
    /// Permissions of UNIX socket files, as for `chmod`. Default: what the process's umask leaves.
    pub socket_mode: Option<u32>,
    /// How long [`shutdown`](super::Broker::shutdown) lets queues empty. Default: 1 s.
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
            lookout: None,
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

    /// Sets [`lookout`](Options::lookout).
    pub fn lookout(mut self, lookout: Lookout) -> Self {
        self.lookout = Some(lookout);
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
}
