//! The configuration of a client.

use super::deadline::{LONGEST_WAIT, interval};
use super::policy::{Overflow, Reconnect, WhileDown};
use crate::transport::Buffers;
use std::time::Duration;

const DEFAULT_BUSY_POLL: Duration = Duration::from_micros(500);
/// Maximum time for which a client polls for an answer.
const MAX_BUSY_POLL: Duration = Duration::from_millis(1);

/// The settings of a client. Every setter takes the value and returns it.
///
/// ```
/// use std::time::Duration;
/// let config = busrt::client::Config::new("/tmp/busrt.sock", "plant.logger").timeout(Duration::from_secs(2));
/// assert_eq!(config.name(), "plant.logger");
/// ```
#[derive(Debug, Clone)]
pub struct Config {
    pub(crate) address: String,
    pub(crate) name: String,
    pub(crate) timeout: Duration,
    pub(crate) ping_interval: Duration,
    pub(crate) queue_size: usize,
    pub(crate) queue_bytes: usize,
    pub(crate) inbox_bytes: usize,
    pub(crate) inbox_awaiting_bytes: usize,
    pub(crate) buf_size: usize,
    pub(crate) socket_buffers: Buffers,
    pub(crate) silence: Option<Duration>,
    pub(crate) overflow: Overflow,
    pub(crate) reconnect: Option<Reconnect>,
    pub(crate) while_down: WhileDown,
    pub(crate) write_through: bool,
    pub(crate) busy_poll: Duration,
    pub(crate) busy_poll_async: Duration,
}

impl Config {
    /// Creates settings for a client named `name` of the broker at `address`: the path of a UNIX socket or
    /// `host:port` (docs/protocol.md section 1). Neither is validated before the client connects.
    pub fn new(address: impl Into<String>, name: impl Into<String>) -> Config {
        Config {
            address: address.into(),
            name: name.into(),
            timeout: Duration::from_secs(5),
            ping_interval: Duration::from_secs(1),
            queue_size: 8192,
            queue_bytes: 16 * 1024 * 1024,
            inbox_bytes: 64 * 1024 * 1024,
            inbox_awaiting_bytes: 64 * 1024 * 1024,
            buf_size: 64 * 1024,
            socket_buffers: Buffers::default(),
            silence: Some(Duration::from_secs(5)),
            overflow: Overflow::default(),
            reconnect: None,
            while_down: WhileDown::default(),
            write_through: false,
            busy_poll: DEFAULT_BUSY_POLL,
            busy_poll_async: Duration::ZERO,
        }
    }

    /// Sets the timeout: the longest time for connecting; for an acknowledgement and for a reply to a call, unless
    /// they have their own [`Deadline`](super::Deadline); for waiting for room to send; and for writing the remaining
    /// data at a disconnect. Minimum: 1 ms. Default: 5 s.
    pub fn timeout(mut self, timeout: Duration) -> Config {
        self.timeout = interval(timeout);
        self
    }

    /// Sets the interval at which the client tells the broker that it is alive. Minimum: 1 ms. Default: 1 s. The
    /// broker disconnects a client from which it has received nothing for 1.25 times its own timeout.
    pub fn ping_interval(mut self, ping_interval: Duration) -> Config {
        self.ping_interval = interval(ping_interval);
        self
    }

    /// Sets the number of sent frames that may wait for the socket. When the bound is reached, operations wait for
    /// room. Minimum: 1. Default: 8192.
    pub fn queue_size(mut self, frames: usize) -> Config {
        self.queue_size = frames.max(1);
        self
    }

    /// Sets the same bound in bytes. An empty queue accepts a frame of any size. Default: 16 MiB.
    pub fn queue_bytes(mut self, bytes: usize) -> Config {
        self.queue_bytes = bytes.max(1);
        self
    }

    /// Sets the bytes of received frames that may wait for the program. Each frame counts with its body and
    /// [`size_of::<Frame>()`](crate::Frame). [`overflow`](Config::overflow) decides what happens when the bound is
    /// reached. The inbox may exceed the bound by one read buffer, and an empty inbox accepts a frame of any size.
    /// Minimum: 1. Default: 64 MiB.
    ///
    /// An RPC server that handles calls beside frames may hold twice as much, so that a slow handler of frames does
    /// not prevent calls from being received.
    pub fn inbox_bytes(mut self, bytes: usize) -> Config {
        self.inbox_bytes = bytes.max(1);
        self
    }

    /// Sets the bytes of received frames that may wait in addition while the client awaits an acknowledgement, a
    /// reply or room to send. The answer may come behind frames that a handler cannot take while it waits for the
    /// answer. Default: 64 MiB.
    pub fn inbox_awaiting_bytes(mut self, bytes: usize) -> Config {
        self.inbox_awaiting_bytes = bytes;
        self
    }

    /// Sets the maximum number of bytes that one read takes from the socket. Minimum: 256. Default: 64 KiB.
    pub fn buf_size(mut self, bytes: usize) -> Config {
        self.buf_size = bytes.max(256);
        self
    }

    /// Sets the sizes of the kernel's socket buffers. Larger ones speed up large payloads. Default: the system's
    /// defaults.
    pub fn socket_buffers(mut self, buffers: Buffers) -> Config {
        self.socket_buffers = buffers;
        self
    }

    /// Sets the time without a byte from the broker after which the client probes whether the broker is alive. If the
    /// broker does not answer within the [`timeout`](Config::timeout), or within 100 ms if the timeout is shorter,
    /// the connection ends. While the program takes no frames and reading has stopped, the client does not probe.
    /// `None`: the client never probes. Minimum: 1 ms. Default: 5 s.
    pub fn silence(mut self, silence: impl Into<Option<Duration>>) -> Config {
        self.silence = silence.into().map(interval);
        self
    }

    /// Sets the treatment of received frames when the inbox is full. Default: reading stops.
    pub fn overflow(mut self, overflow: Overflow) -> Config {
        self.overflow = overflow;
        self
    }

    /// Makes the client connect again when its connection is lost: under the same name, with its subscriptions and
    /// exclusions restored, and with the same consumer of its frames. Operations and calls in progress fail with
    /// [`ConnectionLost`](crate::ErrorKind::ConnectionLost); nothing is sent twice. Default: off.
    ///
    /// The first connection is retried only with [`Reconnect::retry_first`]. Clients of a stream without an address
    /// and clients within the broker's process do not reconnect.
    pub fn reconnect(mut self, reconnect: impl Into<Option<Reconnect>>) -> Config {
        self.reconnect = reconnect.into();
        self
    }

    /// Sets the treatment of operations while a client that reconnects is not connected. Default: they fail.
    pub fn while_down(mut self, policy: WhileDown) -> Config {
        self.while_down = match policy {
            WhileDown::Wait(bound) => WhileDown::Wait(bound.min(LONGEST_WAIT)),
            policy => policy,
        };
        self
    }

    /// Makes every operation write before the call that sends it returns, if the socket accepts the data. Default:
    /// off.
    ///
    /// If it is off, operations that follow each other within microseconds are written together: up to 4 KiB wait for
    /// at most about 1 ms, as long as the client's runtime runs its tasks. The waiting data is lost if the process
    /// ends in that time without [`flush`](super::Client::flush), [`disconnect`](super::Client::disconnect) or a drop
    /// of the client.
    pub fn write_through(mut self, write_through: bool) -> Config {
        self.write_through = write_through;
        self
    }

    /// Sets the longest time for which a waiting plain thread polls the socket itself before it sleeps. Zero: it does
    /// not poll. Maximum: 1 ms. Default: 500 µs. This concerns the clients of the feature `blocking` and all methods
    /// that take a [`Wait`](super::Wait), when they wait for an acknowledgement, for a reply, for a completion queue
    /// that serves only this client, and for frames if the client has sent something since it last waited for them.
    ///
    /// Waking a sleeping core often costs more than the exchange itself. Polling costs at most this much processor
    /// time in one wait, and nothing while nothing is awaited. Within the bound, the client learns how long polling
    /// pays; it does not poll where polling does not pay, or while other programs use the cores. A client that only
    /// receives never polls, nor does one on a machine with a single core.
    ///
    /// While a thread exchanges one message after another and awaits the answers this way, and nothing else waits,
    /// the client's runtime does not read: data that arrives between two waits may be noticed up to 10 ms later.
    pub fn busy_poll(mut self, bound: Duration) -> Config {
        self.busy_poll = bound.min(MAX_BUSY_POLL);
        self
    }

    /// Does the same as [`busy_poll`](Config::busy_poll) for the task that reads: it polls while tasks or threads
    /// await an acknowledgement or a reply. Zero: it does not poll. Maximum: 1 ms. Default: zero.
    ///
    /// This pays for a program that awaits one answer after another and has little else to do: in a runtime with
    /// several threads, the polling task occupies one of them.
    pub fn busy_poll_async(mut self, bound: Duration) -> Config {
        self.busy_poll_async = bound.min(MAX_BUSY_POLL);
        self
    }

    /// Returns true if clients of this configuration reconnect.
    pub(crate) fn reconnects(&self) -> bool {
        self.reconnect.is_some() && !self.address.is_empty()
    }

    /// Returns the address of the broker.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Returns the name to register.
    pub fn name(&self) -> &str {
        &self.name
    }
}
