//! A connected stream socket on Unix.
//!
//! tokio's own socket types register for reading *and* writing at once, edge-triggered: every time a
//! peer takes bytes out of its socket, the process is woken for nothing. Here a connection is
//! registered for reading alone; a second, write-only registration of a duplicated descriptor is made
//! only while a write would block.

use super::Buffers;
use bytes::BufMut;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags};
use std::io::{self, IoSlice};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
#[cfg(target_os = "linux")]
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A connected stream, never blocking. All methods take `&self` and may be called from any thread of
/// the runtime it was made in.
#[derive(Debug)]
pub struct Socket {
    fd: AsyncFd<OwnedFd>,
    peer: Option<SocketAddr>,
}

impl Socket {
    /// Takes over a connected UNIX socket: of [`UnixStream::pair`], inherited, or accepted.
    ///
    /// # Errors
    /// The descriptor cannot be made non-blocking or registered with the runtime.
    pub fn from_unix(stream: UnixStream) -> io::Result<Socket> {
        stream.set_nonblocking(true)?;
        Socket::new(stream.into(), None)
    }

    /// Takes over a connected TCP socket and sets `TCP_NODELAY`.
    ///
    /// # Errors
    /// As [`from_unix`](Socket::from_unix); or the connection has ended already.
    pub fn from_tcp(stream: TcpStream) -> io::Result<Socket> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        let peer = stream.peer_addr()?;
        Socket::new(stream.into(), Some(peer))
    }

    /// Takes over an inherited descriptor of a connected stream socket, UNIX or TCP.
    ///
    /// # Errors
    /// As [`from_tcp`](Socket::from_tcp); or the descriptor is no stream socket.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Socket> {
        if rustix::net::sockopt::socket_type(&fd)? != rustix::net::SocketType::STREAM {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the descriptor is no stream socket"));
        }
        match rustix::net::sockopt::socket_domain(&fd)? {
            rustix::net::AddressFamily::UNIX => Socket::from_unix(fd.into()),
            _ => Socket::from_tcp(fd.into()),
        }
    }

    fn new(fd: OwnedFd, peer: Option<SocketAddr>) -> io::Result<Socket> {
        Ok(Socket { fd: register(fd, Interest::READABLE)?, peer })
    }

    /// Sets the sizes of the kernel's buffers.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_buffers(&self, buffers: Buffers) -> io::Result<()> {
        use rustix::net::sockopt::{set_socket_recv_buffer_size, set_socket_send_buffer_size};
        let fd = self.fd.get_ref();
        buffers.send.map_or(Ok(()), |bytes| set_socket_send_buffer_size(fd, bytes))?;
        buffers.receive.map_or(Ok(()), |bytes| set_socket_recv_buffer_size(fd, bytes))?;
        Ok(())
    }

    /// The peer's address; `None` for a UNIX socket.
    pub fn peer(&self) -> Option<SocketAddr> {
        self.peer
    }

    /// Waits until there may be something to read, the end of the stream included.
    ///
    /// # Errors
    /// The runtime is shutting down.
    pub async fn readable(&self) -> io::Result<()> {
        self.fd.readable().await?.retain_ready();
        Ok(())
    }

    /// Reads into the spare room of `buf`; 0 is the end of the stream. A read that does not fill the
    /// room has emptied the socket: readiness is cleared without asking the kernel once more.
    ///
    /// # Errors
    /// [`WouldBlock`](io::ErrorKind::WouldBlock) when there is nothing, else what the kernel says.
    pub fn try_read_buf(&self, buf: &mut impl BufMut) -> io::Result<usize> {
        let mut emptied = None;
        let result = self.fd.try_io(Interest::READABLE, |fd| {
            let room = buf.chunk_mut();
            let space = room.len();
            // SAFETY: the slice is only written to, by the kernel, never read or de-initialised.
            let room = unsafe { room.as_uninit_slice_mut() };
            let (_, n) = rustix::net::recv(fd, room, RecvFlags::empty())
                .map(|((init, _), received)| (init.len(), received))?;
            // SAFETY: the kernel has just initialised the first `n` bytes of the room.
            unsafe { buf.advance_mut(n) };
            if n > 0 && n < space {
                emptied = Some(n);
                return Err(io::ErrorKind::WouldBlock.into());
            }
            Ok(n)
        });
        emptied.map_or(result, Ok)
    }

    /// Writes as much as the socket takes now. Never raises `SIGPIPE`.
    ///
    /// # Errors
    /// [`WouldBlock`](io::ErrorKind::WouldBlock) when it takes nothing, else what the kernel says.
    pub fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let fd = self.fd.get_ref();
        Ok(match slices {
            [one] => rustix::net::send(fd, one, SendFlags::NOSIGNAL)?,
            many => rustix::net::sendmsg(fd, many, &mut SendAncillaryBuffer::default(), SendFlags::NOSIGNAL)?,
        })
    }

    /// Registers for writability until the value is dropped.
    ///
    /// # Errors
    /// Out of descriptors.
    pub fn write_interest(&self) -> io::Result<WriteInterest<'_>> {
        // epoll takes a descriptor only once, so that the second registration needs a second one.
        let fd = self.fd.get_ref().try_clone()?;
        let fd = register(fd, Interest::WRITABLE)?;
        Ok(WriteInterest { fd, _socket: std::marker::PhantomData })
    }

    /// Ends our direction: the peer sees the end, what it still sends can be read.
    pub fn shutdown_write(&self) {
        // An error means that the connection has ended already.
        let _ = rustix::net::shutdown(self.fd.get_ref(), rustix::net::Shutdown::Write);
    }

    /// Ends both directions: readers wake up, writes fail, the peer sees the end.
    pub fn shutdown(&self) {
        // An error means that the connection has ended already.
        let _ = rustix::net::shutdown(self.fd.get_ref(), rustix::net::Shutdown::Both);
    }
}

#[cfg(target_os = "linux")]
impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.get_ref().as_fd()
    }
}

fn register(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open, always the same, and stays so while the `AsyncFd` owns it.
    Ok(unsafe { AsyncFd::register_with_interest(fd, interest) }?)
}

/// A temporary registration for writability, made by [`Socket::write_interest`].
#[derive(Debug)]
pub struct WriteInterest<'a> {
    fd: AsyncFd<OwnedFd>,
    _socket: std::marker::PhantomData<&'a Socket>,
}

impl WriteInterest<'_> {
    /// Waits until the socket may take something since the last call.
    ///
    /// # Errors
    /// The runtime is shutting down.
    pub async fn ready(&self) -> io::Result<()> {
        self.fd.writable().await?.clear_ready();
        Ok(())
    }
}
