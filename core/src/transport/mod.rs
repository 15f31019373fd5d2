//! What carries the bytes: addresses, connected sockets, and the queue in front of a socket.
//!
//! | module | |
//! | --- | --- |
//! | [`address`] | what `--bind` and clients take, as a value |
//! | `socket` / `portable` | one connected stream; the first for Unix, the second on tokio's own types |
//! | [`queue`] | encoded frames that wait to be written |
//! | `handover` | which thread writes: a state machine, tried in every order of steps |
//! | `watch` | whether any of many sockets has something to read |
//! | [`writer`] | writes a queue to a socket, from whoever's thread has something to write |

pub mod address;
pub mod queue;
pub mod writer;

mod handover;
#[cfg(all(test, unix))]
mod tests;
mod watch;

#[cfg(not(all(unix, not(busrt_portable))))]
mod portable;
#[cfg(all(unix, not(busrt_portable)))]
mod socket;

pub use address::Address;
#[cfg(not(all(unix, not(busrt_portable))))]
pub use portable::{Socket, WriteInterest};
pub use queue::{LARGE_PAYLOAD, WriteQueue};
#[cfg(all(unix, not(busrt_portable)))]
pub use socket::{Socket, WriteInterest};
pub use watch::Watch;
pub use writer::{Backlog, Load, Writer};

/// What the kernel may buffer for one socket, in bytes; `None` leaves the system's default. Linux doubles what
/// is asked for, up to `net.core.wmem_max` and `rmem_max`. Over UNIX sockets only the sender's buffer counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Buffers {
    /// `SO_SNDBUF`.
    pub send: Option<usize>,
    /// `SO_RCVBUF`.
    pub receive: Option<usize>,
}

impl Socket {
    /// Opens a connection to a broker.
    ///
    /// # Errors
    /// What the operating system says: no such socket, refused, unreachable, a name that does not
    /// resolve.
    pub async fn connect(address: &Address) -> std::io::Result<Socket> {
        match address {
            #[cfg(unix)]
            Address::Unix(path) => {
                Socket::from_unix(tokio::net::UnixStream::connect(path).await?.into_std()?)
            }
            #[cfg(not(unix))]
            Address::Unix(_) => Err(std::io::Error::new(
                std::io::ErrorKind::Unsupported,
                "UNIX sockets are not available on this system",
            )),
            Address::Tcp(host_port) => {
                let stream = tokio::net::TcpStream::connect(host_port.as_str()).await?;
                // Who tries often enough to reach a port of this machine where nobody listens may be given
                // that very port as its own, and then is connected to itself.
                if stream.local_addr()? == stream.peer_addr()? {
                    return Err(std::io::ErrorKind::ConnectionRefused.into());
                }
                Socket::from_tcp(stream.into_std()?)
            }
        }
    }
}
