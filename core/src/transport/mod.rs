//! Transports: addresses, connected sockets, and the queue in front of a socket.
//!
//! | module | content |
//! | --- | --- |
//! | [`address`] | parses the addresses of brokers |
//! | `resolve` | the addresses of a host |
//! | `connect` | connects to the first address of a host that answers |
//! | `socket` / `portable` | one connected stream: for Unix, and with tokio's own types for other systems |
//! | `readiness_set` | checks whether any of many sockets has unread input |
//! | [`queue`] | encoded frames that wait to be written to one socket |
//! | `pieces`, `queue_pool` | the size of one write; the memory of emptied queues |
//! | [`load`] | the load of a queue, and the progress of its receiver |
//! | [`queue_totals`] | the load of all queues of a broker |
//! | [`writer`] | writes a queue to a socket, from any thread |
//! | `handover` | decides which thread writes: a state machine, tested in every order of steps |

pub mod address;
pub mod load;
pub mod queue;
pub mod queue_totals;
pub mod writer;

mod connect;
mod handover;
mod pieces;
mod queue_pool;
mod readiness_set;
pub(crate) mod resolve;
#[cfg(all(test, unix))]
mod tests;

#[cfg(not(all(unix, not(busrt_portable))))]
mod portable;
#[cfg(all(unix, not(busrt_portable)))]
mod socket;

pub use address::Address;
pub use load::{Load, Progress};
#[cfg(not(all(unix, not(busrt_portable))))]
pub use portable::{Socket, WriteInterest};
pub use queue::{LARGE_PAYLOAD, WriteQueue};
pub use queue_totals::QueueTotals;
pub use readiness_set::ReadinessSet;
#[cfg(all(unix, not(busrt_portable)))]
pub use socket::{Socket, WriteInterest};
pub use writer::{Backlog, Writer};

/// The sizes of the kernel's buffers for one socket, in bytes; `None` leaves the system's default. Linux doubles the
/// requested size, up to `net.core.wmem_max` and `rmem_max`. Over UNIX sockets only the sender's buffer counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Buffers {
    /// Size of the send buffer (`SO_SNDBUF`).
    pub send: Option<usize>,
    /// Size of the receive buffer (`SO_RCVBUF`).
    pub receive: Option<usize>,
}
