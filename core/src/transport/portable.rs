//! A connected stream socket with tokio's own types, for systems without `AsyncFd`. On Unix it is built with `--cfg
//! busrt_portable`, so that tests can cover it.

use super::Buffers;
use bytes::BufMut;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpStream;
#[cfg(unix)]
use tokio::net::UnixStream;

/// A connected, non-blocking stream. All methods take `&self` and may be called from any thread of the runtime in
/// which it was made.
#[derive(Debug)]
pub struct Socket {
    stream: Arc<Stream>,
    peer: Option<SocketAddr>,
}

#[derive(Debug)]
enum Stream {
    #[cfg(unix)]
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Socket {
    /// Takes over a connected UNIX socket: one end of a pair, inherited, or accepted.
    ///
    /// # Errors
    /// The descriptor cannot be made non-blocking or registered with the runtime.
    #[cfg(unix)]
    pub fn from_unix(stream: std::os::unix::net::UnixStream) -> io::Result<Socket> {
        stream.set_nonblocking(true)?;
        Ok(Socket { stream: Arc::new(Stream::Unix(UnixStream::from_std(stream)?)), peer: None })
    }

    /// Takes over a connected TCP socket and sets `TCP_NODELAY`.
    ///
    /// # Errors
    /// The socket cannot be made non-blocking or registered; or the connection has ended already.
    pub fn from_tcp(stream: std::net::TcpStream) -> io::Result<Socket> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        let peer = stream.peer_addr()?;
        Ok(Socket { stream: Arc::new(Stream::Tcp(TcpStream::from_std(stream)?)), peer: Some(peer) })
    }

    /// Takes over an inherited descriptor of a connected stream socket, UNIX or TCP.
    ///
    /// # Errors
    /// The errors of [`from_tcp`](Socket::from_tcp).
    #[cfg(unix)]
    pub fn from_fd(fd: std::os::fd::OwnedFd) -> io::Result<Socket> {
        let stream = std::net::TcpStream::from(fd);
        match stream.local_addr() {
            Ok(_) => Socket::from_tcp(stream),
            Err(_) => Socket::from_unix(std::os::fd::OwnedFd::from(stream).into()),
        }
    }

    /// Returns another handle of the same connection.
    pub(crate) fn unregistered(&self) -> Socket {
        Socket { stream: self.stream.clone(), peer: self.peer }
    }

    /// Does nothing: tokio's types stay registered.
    pub(crate) fn deregister(&mut self) {}

    /// Does nothing: tokio's types stay registered.
    ///
    /// # Errors
    ///
    /// None in this implementation.
    pub(crate) fn register(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// Sets the sizes of the kernel's buffers.
    ///
    /// # Errors
    /// The error of the operating system.
    pub fn set_buffers(&self, buffers: Buffers) -> io::Result<()> {
        let socket = self.socket();
        buffers.send.map_or(Ok(()), |bytes| socket.set_send_buffer_size(bytes))?;
        buffers.receive.map_or(Ok(()), |bytes| socket.set_recv_buffer_size(bytes))
    }

    /// Returns the peer's address; `None` for a UNIX socket.
    pub fn peer(&self) -> Option<SocketAddr> {
        self.peer
    }

    /// Waits until there may be something to read, or the end of the stream.
    ///
    /// # Errors
    ///
    /// The runtime is shutting down.
    pub async fn readable(&self) -> io::Result<()> {
        match &*self.stream {
            #[cfg(unix)]
            Stream::Unix(s) => s.readable().await,
            Stream::Tcp(s) => s.readable().await,
        }
    }

    /// Reads into the spare room of `buf`; 0 means the end of the stream. Only a read that finds nothing clears the
    /// readiness, so that bytes behind an urgent byte or behind a message with a descriptor are read too.
    ///
    /// # Errors
    ///
    /// [`WouldBlock`](io::ErrorKind::WouldBlock) if there is nothing to read, otherwise the error of the system.
    pub fn try_read_buf(&self, buf: &mut impl BufMut) -> io::Result<usize> {
        match &*self.stream {
            #[cfg(unix)]
            Stream::Unix(s) => s.try_read_buf(buf),
            Stream::Tcp(s) => s.try_read_buf(buf),
        }
    }

    /// Does the same as [`try_read_buf`](Socket::try_read_buf): this implementation only reads what the runtime has
    /// seen.
    ///
    /// # Errors
    ///
    /// The errors of [`try_read_buf`](Socket::try_read_buf).
    pub fn read_now(&self, buf: &mut impl BufMut) -> io::Result<usize> {
        self.try_read_buf(buf)
    }

    /// Writes as much as the socket accepts now.
    ///
    /// # Errors
    ///
    /// [`WouldBlock`](io::ErrorKind::WouldBlock) if it accepts nothing, otherwise the error of the system.
    pub fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match &*self.stream {
            #[cfg(unix)]
            Stream::Unix(s) => s.try_write_vectored(slices),
            Stream::Tcp(s) => s.try_write_vectored(slices),
        }
    }

    /// Returns the registration for [`WriteInterest::ready`]; tokio's types are already registered for writing.
    ///
    /// # Errors
    ///
    /// None in this implementation.
    pub fn write_interest(&self) -> io::Result<WriteInterest<'_>> {
        Ok(WriteInterest { socket: self })
    }

    /// Ends the outgoing direction: the peer sees the end, and its data can still be read.
    pub fn shutdown_write(&self) {
        self.end(std::net::Shutdown::Write);
    }

    /// Ends both directions: readers wake up, writes fail, the peer sees the end.
    pub fn shutdown(&self) {
        self.end(std::net::Shutdown::Both);
    }

    /// Returns the number of bytes that the peer has not read yet, which is unknown in this implementation.
    pub fn unread_by_peer(&self) -> Option<usize> {
        None
    }

    /// Returns true if received bytes are waiting to be read. The end of the stream does not count.
    pub fn has_unread(&self) -> bool {
        self.peek(&mut [MaybeUninit::uninit()]).is_ok_and(|n| n > 0)
    }

    /// Returns the number of received bytes that are waiting to be read, or a lower number: at most 4096 are counted.
    pub fn unread(&self) -> usize {
        self.peek(&mut [MaybeUninit::uninit(); 4096]).unwrap_or(0)
    }

    /// Returns true if the peer has ended its direction or the connection is broken. This implementation can only
    /// find out when no unread bytes are left; before that it returns `false`.
    pub fn peer_has_hung_up(&self) -> bool {
        match self.peek(&mut [MaybeUninit::uninit()]) {
            Ok(n) => n == 0,
            Err(e) => !matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted),
        }
    }

    /// Examines received bytes without consuming them.
    fn peek(&self, room: &mut [MaybeUninit<u8>]) -> io::Result<usize> {
        self.socket().peek(room)
    }

    fn end(&self, how: std::net::Shutdown) {
        // An error means that the connection has ended already.
        let _ = self.socket().shutdown(how);
    }

    fn socket(&self) -> socket2::SockRef<'_> {
        match &*self.stream {
            #[cfg(unix)]
            Stream::Unix(s) => socket2::SockRef::from(s),
            Stream::Tcp(s) => socket2::SockRef::from(s),
        }
    }
}

/// Waits for writability, made by [`Socket::write_interest`].
#[derive(Debug)]
pub struct WriteInterest<'a> {
    socket: &'a Socket,
}

impl WriteInterest<'_> {
    /// Waits until the socket may accept data.
    ///
    /// # Errors
    ///
    /// The runtime is shutting down.
    pub async fn ready(&self) -> io::Result<()> {
        match &*self.socket.stream {
            #[cfg(unix)]
            Stream::Unix(s) => s.writable().await,
            Stream::Tcp(s) => s.writable().await,
        }
    }
}
