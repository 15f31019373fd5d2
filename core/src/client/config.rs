//! The configuration of a client.

use super::deadline::{LONGEST_WAIT, interval};
use super::policy::{Overflow, Reconnect, WhileDown};
use crate::transport::Buffers;
use std::time::Duration;

const DEFAULT_BUSY_POLL: Duration = Duration::from_micros(500);
/// The longest time for which a client polls for an answer.
const MAX_BUSY_POLL: Duration = Duration::from_millis(1);

/// The settings of a client. Every setter takes the value and hands it back.
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
    /// Settings for the client `name` of the broker at `address` (docs/protocol.md section 1): a socket's
    /// path or `host:port`. Neither is looked at before the client connects.
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

    /// The longest time for connecting, for an acknowledgement and for a reply to a call unless they have a
    /// [`Deadline`](super::Deadline) of their own, for room to send, and for what is left to be written at a
    /// disconnect. At least 1 ms, 5 s unless set.
    pub fn timeout(mut self, timeout: Duration) -> Config {
        self.timeout = interval(timeout);
        self
    }

    /// How often the client tells the broker that it is alive, at least 1 ms; 1 s unless set. The broker
    /// closes a client that it has not heard of for 1.25 times its own timeout.
    pub fn ping_interval(mut self, ping_interval: Duration) -> Config {
        self.ping_interval = interval(ping_interval);
        self
    }

    /// How many frames that were sent may wait for the socket, at least 1; 8192 unless set. When the bound is reached,
    /// operations wait for room.
    pub fn queue_size(mut self, frames: usize) -> Config {
        self.queue_size = frames.max(1);
        self
    }

    /// The same bound in bytes, 16 MiB unless set. An empty queue takes a frame of any size.
    pub fn queue_bytes(mut self, bytes: usize) -> Config {
        self.queue_bytes = bytes.max(1);
        self
    }

    /// How many bytes of received frames may wait for the program, at least 1; 64 MiB unless set. Each frame counts
    /// with its body and [`size_of::<Frame>()`](crate::Frame). What happens then is set by
    /// [`overflow`](Config::overflow). One read buffer may come on top, and an empty inbox takes a frame of any size.
    ///
    /// An RPC server that handles calls beside frames may hold twice as much, so that a slow handler of frames does not
    /// keep calls from being received.
    pub fn inbox_bytes(mut self, bytes: usize) -> Config {
        self.inbox_bytes = bytes.max(1);
        self
    }

    /// How many bytes of received frames may wait on top of that while an acknowledgement, a reply or room to send is
    /// awaited; 64 MiB unless set. The answer comes behind frames that a handler cannot take while it waits for it.
    pub fn inbox_awaiting_bytes(mut self, bytes: usize) -> Config {
        self.inbox_awaiting_bytes = bytes;
        self
    }

    /// The bytes that one read takes from the socket at most: at least 256; 64 KiB unless set.
    pub fn buf_size(mut self, bytes: usize) -> Config {
        self.buf_size = bytes.max(256);
        self
    }

    /// The kernel's buffers of the connection; the system's defaults unless set. Larger ones speed up large
    /// payloads.
    pub fn socket_buffers(mut self, buffers: Buffers) -> Config {
        self.socket_buffers = buffers;
        self
    }

    /// After how long without a byte from the broker it is asked whether it is alive; a broker that does not
    /// answer within the [`timeout`](Config::timeout), or within 100 ms if that is shorter, is given up: the
    /// connection ends. At least 1 ms, 5 s unless set; `None`: never. While the program takes no frames and reading has stopped, nothing is asked.
    pub fn silence(mut self, silence: impl Into<Option<Duration>>) -> Config {
        self.silence = silence.into().map(interval);
        self
    }

    /// The treatment of received frames when the inbox is full. Reading stops unless set.
    pub fn overflow(mut self, overflow: Overflow) -> Config {
        self.overflow = overflow;
        self
    }

    /// The client connects again when its connection is lost: under the same name, its subscriptions and
    /// exclusions restored, the consumer of its frames unchanged. What was under way fails with
    /// [`ConnectionLost`](crate::ErrorKind::ConnectionLost): nothing is sent twice. Off unless set.
    ///
    /// The first connection is retried only with [`Reconnect::retry_first`]. Clients of a stream without an
    /// address and clients within the broker's process do not reconnect.
    pub fn reconnect(mut self, reconnect: impl Into<Option<Reconnect>>) -> Config {
        self.reconnect = reconnect.into();
        self
    }

    /// The treatment of operations while a client that reconnects is not connected. They fail unless set.
    pub fn while_down(mut self, policy: WhileDown) -> Config {
        self.while_down = match policy {
            WhileDown::Wait(bound) => WhileDown::Wait(bound.min(LONGEST_WAIT)),
            policy => policy,
        };
        self
    }

    /// Writes every operation before the call that sends it returns, if the socket takes it; off unless set.
    ///
    /// Else operations that follow each other within microseconds are written together: up to 4 KiB wait for at most
    /// about 1 ms, as long as the client's runtime runs its tasks. What waits is lost if the process ends in that time
    /// without [`flush`](super::Client::flush), [`disconnect`](super::Client::disconnect) or a drop of the client.
    pub fn write_through(mut self, write_through: bool) -> Config {
        self.write_through = write_through;
        self
    }

    /// The longest time for which a plain thread that waits polls the socket itself before it sleeps: at most 1 ms, 500 µs
    /// unless set. Zero: it does not poll. This concerns the clients of the feature `blocking` and everything that
    /// takes a [`Wait`](super::Wait), for an acknowledgement, for a reply, for a completion queue that serves only this
    /// client, and for frames if the client has sent something since it last waited for them.
    ///
    /// Waking a core that sleeps often costs more than the exchange itself. Polling costs at most this much processor
    /// time in one wait, and nothing while nothing is awaited. Within the bound it is learned for how long polling pays;
    /// where it does not pay, or where other programs want the cores, the client does not poll. A client that only
    /// receives never polls, nor does one on a machine with a single core.
    ///
    /// While a thread exchanges one message after another with its answers awaited this way, and nothing else waits for
    /// anything, the client's runtime does not read: what comes between two waits may be noticed up to 10 ms later.
    pub fn busy_poll(mut self, bound: Duration) -> Config {
        self.busy_poll = bound.min(MAX_BUSY_POLL);
        self
    }

    /// Does the same as [`busy_poll`](Config::busy_poll) for the task that reads, which polls while an acknowledgement
    /// or a reply is awaited, by tasks too: at most 1 ms. Zero unless set: it does not poll.
    ///
    /// It pays for a program that awaits one answer after another and has little else to do: in a runtime with several
    /// threads, the task takes one of them from other tasks for as long as it polls.
    pub fn busy_poll_async(mut self, bound: Duration) -> Config {
        self.busy_poll_async = bound.min(MAX_BUSY_POLL);
        self
    }

    /// Returns true if clients of this configuration come back.
    pub(crate) fn reconnects(&self) -> bool {
        self.reconnect.is_some() && !self.address.is_empty()
    }

    /// The address of the broker.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The name to register.
    pub fn name(&self) -> &str {
        &self.name
    }
}
