//! What a broker can be told.

use super::lookout::Lookout;
use crate::transport::Buffers;
use std::time::Duration;

/// What happens to a receiver that is *stuck*: its queue is over the budget, and its socket has not
/// taken a byte for the whole stall time. A receiver that is merely slow holds its senders back and
/// loses nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SlowPolicy {
    /// The receiver is disconnected.
    #[default]
    Disconnect,
    /// New frames for it are refused: a message is answered with `77`.
    DropNew,
    /// Its oldest frames make room for new ones.
    DropOld,
    /// Its senders wait for as long as it takes.
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
    /// How long a receiver over its budget may take nothing before it counts as stuck. Default: 200 ms.
    pub stall: Duration,
    /// The longest body a client may send, in bytes: names, separators and payload. Longer ones end
    /// the connection. Default: what the wire can tell, 4 GiB.
    pub max_payload: u32,
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
            stall: Duration::from_millis(200),
            max_payload: u32::MAX,
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
