//! A connected stream socket on Unix.
//!
//! tokio's own socket types register for reading *and* writing at the same time, edge-triggered: every time a peer
//! reads from its socket, the process is woken needlessly. Here a connection is registered only for reading; a
//! second, write-only registration of a duplicated descriptor is made only while a write would block. The
//! registration for reading can be given up and taken back, for a reader that lets other threads poll the socket.
//!
//! A read that does not fill its buffer has normally emptied the socket. The kernel also stops a read before the
//! socket is empty: behind bytes that came with a descriptor (`SCM_RIGHTS`) or other ancillary data, and before an
//! urgent byte (TCP urgent data, `MSG_OOB` over a UNIX socket). The bytes that follow have already arrived, and
//! edge-triggered epoll does not report them again. `recvmsg` reports the first case with `MSG_CTRUNC`, and a
//! priority event reports the second: after such a read the readiness is kept, and the next read asks the kernel.
//!
//! Descriptors that a peer sends are discarded by the kernel, since no read offers room for them. An urgent byte is
//! out of band: the kernel leaves it out of the stream, unless the descriptor was inherited with `SO_OOBINLINE`, and
//! a second urgent byte may put the first one back into the stream.

use super::Buffers;
use bytes::BufMut;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{RecvAncillaryBuffer, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendFlags};
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{SocketAddr, TcpStream};
#[cfg(target_os = "linux")]
use std::os::fd::{AsFd, BorrowedFd};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A connected, non-blocking stream. All methods take `&self` and may be called from any thread of the runtime in
/// which it was made.
#[derive(Debug)]
pub struct Socket {
    fd: Arc<OwnedFd>,
    /// The registration for reading, unless it was given up.
    reading: Option<AsyncFd<Arc<OwnedFd>>>,
    /// `None` for a UNIX socket.
    peer: Option<SocketAddr>,
    /// True after an urgent byte has arrived: from then on, a short read does not mean that the socket is empty.
    urgent: AtomicBool,
}

/// The events for which a connection is registered. Linux reports urgent data as an event of its own.
#[cfg(any(target_os = "linux", target_os = "android"))]
const READ_INTEREST: Interest = Interest::READABLE.add(Interest::PRIORITY);
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const READ_INTEREST: Interest = Interest::READABLE;

/// The events of a peer that has ended its direction, or the whole connection.
#[cfg(target_os = "linux")]
const HANG_UP: PollFlags = PollFlags::RDHUP.union(PollFlags::HUP).union(PollFlags::ERR);
#[cfg(not(target_os = "linux"))]
const HANG_UP: PollFlags = PollFlags::HUP.union(PollFlags::ERR);

impl Socket {
    /// Takes over a connected UNIX socket: one end of [`UnixStream::pair`], inherited, or accepted.
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
    /// The errors of [`from_unix`](Socket::from_unix); or the connection has ended already.
    pub fn from_tcp(stream: TcpStream) -> io::Result<Socket> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        let peer = stream.peer_addr()?;
        Socket::new(stream.into(), Some(peer))
    }

    /// Takes over an inherited descriptor of a connected stream socket, UNIX or TCP.
    ///
    /// # Errors
    /// The errors of [`from_tcp`](Socket::from_tcp); or the descriptor is not a stream socket.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Socket> {
        if rustix::net::sockopt::socket_type(&fd)? != rustix::net::SocketType::STREAM {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the descriptor is not a stream socket"));
        }
        match rustix::net::sockopt::socket_domain(&fd)? {
            rustix::net::AddressFamily::UNIX => Socket::from_unix(fd.into()),
            _ => Socket::from_tcp(fd.into()),
        }
    }

    fn new(fd: OwnedFd, peer: Option<SocketAddr>) -> io::Result<Socket> {
        let fd = Arc::new(fd);
        let reading = Some(register(fd.clone(), READ_INTEREST)?);
        Ok(Socket { fd, reading, peer, urgent: AtomicBool::new(false) })
    }

    /// Returns another handle of the same connection. It is not registered for reading: of the methods that read,
    /// only [`read_now`](Socket::read_now) works.
    pub(crate) fn unregistered(&self) -> Socket {
        let urgent = AtomicBool::new(self.urgent.load(Ordering::Relaxed));
        Socket { fd: self.fd.clone(), reading: None, peer: self.peer, urgent }
    }

    /// Gives up the registration for reading: incoming data no longer wakes the runtime.
    pub(crate) fn deregister(&mut self) {
        self.reading = None;
    }

    /// Registers for reading with the current runtime, unless this handle is registered. Data that arrived before
    /// counts as new.
    ///
    /// # Errors
    ///
    /// No more kernel memory is available.
    pub(crate) fn register(&mut self) -> io::Result<()> {
        if self.reading.is_none() {
            self.reading = Some(register(self.fd.clone(), READ_INTEREST)?);
        }
        Ok(())
    }

    fn reading(&self) -> io::Result<&AsyncFd<Arc<OwnedFd>>> {
        self.reading.as_ref().ok_or_else(|| io::Error::other("the socket is not registered for reading"))
    }

    /// Sets the sizes of the kernel's buffers.
    ///
    /// # Errors
    /// The error of the kernel.
    pub fn set_buffers(&self, buffers: Buffers) -> io::Result<()> {
        use rustix::net::sockopt::{set_socket_recv_buffer_size, set_socket_send_buffer_size};
        let fd = &*self.fd;
        buffers.send.map_or(Ok(()), |bytes| set_socket_send_buffer_size(fd, bytes))?;
        buffers.receive.map_or(Ok(()), |bytes| set_socket_recv_buffer_size(fd, bytes))?;
        Ok(())
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
        self.reading()?.readable().await?.retain_ready();
        Ok(())
    }

    /// Reads into the spare room of `buf`; 0 means the end of the stream. A read that has emptied the socket clears
    /// the readiness without another system call.
    ///
    /// # Errors
    ///
    /// [`WouldBlock`](io::ErrorKind::WouldBlock) if there is nothing to read, otherwise the error of the kernel.
    pub fn try_read_buf(&self, buf: &mut impl BufMut) -> io::Result<usize> {
        let mut emptied = None;
        let result = self.reading()?.try_io(Interest::READABLE, |fd| {
            let space = buf.chunk_mut().len();
            let (n, cut) = if self.peer.is_some() { (recv(fd, buf)?, false) } else { recvmsg(fd, buf)? };
            if n > 0 && n < space && !cut && !self.has_seen_urgent_data() {
                emptied = Some(n);
                return Err(io::ErrorKind::WouldBlock.into());
            }
            Ok(n)
        });
        emptied.map_or(result, Ok)
    }

    /// Does the same as [`try_read_buf`](Socket::try_read_buf), but always asks the kernel, even if the runtime has
    /// seen no readiness, and does not change the readiness. Any thread may call it, without a runtime.
    ///
    /// # Errors
    ///
    /// The errors of [`try_read_buf`](Socket::try_read_buf).
    pub fn read_now(&self, buf: &mut impl BufMut) -> io::Result<usize> {
        let fd = &*self.fd;
        if self.peer.is_some() { recv(fd, buf) } else { recvmsg(fd, buf).map(|(n, _)| n) }
    }

    /// Returns true if an urgent byte has arrived so far. It must be called after a read: an urgent byte that stopped
    /// that read has either been reported already, or is reported later together with new readiness.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn has_seen_urgent_data(&self) -> bool {
        if self.urgent.load(Ordering::Relaxed) {
            return true;
        }
        let urgent = self.reading().is_ok_and(|fd| fd.try_io(Interest::PRIORITY, |_| Ok(())).is_ok());
        if urgent {
            self.urgent.store(true, Ordering::Relaxed);
        }
        urgent
    }

    /// Other systems do not report urgent data, so that no short read counts as the last one.
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    fn has_seen_urgent_data(&self) -> bool {
        true
    }

    /// Returns true if received bytes are waiting to be read. The end of the stream does not count.
    pub fn has_unread(&self) -> bool {
        let events = self.poll(PollFlags::IN | HANG_UP);
        // A socket whose stream has ended is readable even if no bytes are left.
        events.contains(PollFlags::IN) && (!events.intersects(HANG_UP) || self.unread() > 0)
    }

    /// Returns the number of received bytes that are waiting to be read; 0 if the kernel does not report it.
    pub fn unread(&self) -> usize {
        rustix::io::ioctl_fionread(&*self.fd).map_or(0, |n| usize::try_from(n).unwrap_or(usize::MAX))
    }

    /// Returns the number of bytes that the peer has not read yet, including the kernel's overhead for them; `None`
    /// if the kernel does not report it.
    pub fn unread_by_peer(&self) -> Option<usize> {
        let mut unread: libc::c_int = 0;
        // SAFETY: the request writes one integer, which outlives the call.
        let result = unsafe { libc::ioctl(self.fd.as_raw_fd(), libc::TIOCOUTQ, &raw mut unread) };
        if result == 0 { usize::try_from(unread).ok() } else { None }
    }

    /// Returns true if the peer has ended its direction or the connection is broken, even if unread bytes are left.
    /// [`shutdown`](Socket::shutdown) on this side counts too.
    pub fn peer_has_hung_up(&self) -> bool {
        self.poll(HANG_UP).intersects(HANG_UP)
    }

    /// Returns those of `events` that are present now.
    fn poll(&self, events: PollFlags) -> PollFlags {
        let mut fds = [PollFd::new(&*self.fd, events)];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        loop {
            match rustix::event::poll(&mut fds, Some(&at_once)) {
                Ok(_) => return fds[0].revents(),
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return PollFlags::empty(),
            }
        }
    }

    /// Writes as much as the socket accepts now. Never raises `SIGPIPE`.
    ///
    /// # Errors
    ///
    /// [`WouldBlock`](io::ErrorKind::WouldBlock) if it accepts nothing, otherwise the error of the kernel.
    pub fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let fd = &*self.fd;
        Ok(match slices {
            [one] => rustix::net::send(fd, one, SendFlags::NOSIGNAL)?,
            many => rustix::net::sendmsg(fd, many, &mut SendAncillaryBuffer::default(), SendFlags::NOSIGNAL)?,
        })
    }

    /// Registers for writability until the value is dropped.
    ///
    /// # Errors
    ///
    /// No more descriptors are available.
    pub fn write_interest(&self) -> io::Result<WriteInterest<'_>> {
        // epoll accepts a descriptor only once, so that the second registration needs a duplicate.
        let fd = self.fd.try_clone()?;
        let fd = register(Arc::new(fd), Interest::WRITABLE)?;
        Ok(WriteInterest { fd, _socket: std::marker::PhantomData })
    }

    /// Ends the outgoing direction: the peer sees the end, and its data can still be read.
    pub fn shutdown_write(&self) {
        // An error means that the connection has ended already.
        let _ = rustix::net::shutdown(&*self.fd, rustix::net::Shutdown::Write);
    }

    /// Ends both directions: readers wake up, writes fail, the peer sees the end.
    pub fn shutdown(&self) {
        // An error means that the connection has ended already.
        let _ = rustix::net::shutdown(&*self.fd, rustix::net::Shutdown::Both);
    }
}

#[cfg(target_os = "linux")]
impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Reads from a TCP socket into the spare room of `buf`.
fn recv(fd: &OwnedFd, buf: &mut impl BufMut) -> io::Result<usize> {
    let room = buf.chunk_mut();
    // SAFETY: the slice is only written to, by the kernel, never read or de-initialised.
    let room = unsafe { room.as_uninit_slice_mut() };
    let (_, n) = rustix::net::recv(fd, room, RecvFlags::empty())?;
    // SAFETY: the kernel has just initialised the first `n` bytes of the room.
    unsafe { buf.advance_mut(n) };
    Ok(n)
}

/// Reads from a UNIX socket into the spare room of `buf`. Returns the number of bytes, and whether ancillary
/// data came with them, which ends a read early and is discarded.
fn recvmsg(fd: &OwnedFd, buf: &mut impl BufMut) -> io::Result<(usize, bool)> {
    let room = buf.chunk_mut();
    // SAFETY: `buf` lends this memory exclusively while the slice exists. The slice is only passed to the kernel,
    // which writes to it: its bytes are not read here.
    let room = unsafe { std::slice::from_raw_parts_mut(room.as_mut_ptr(), room.len()) };
    let mut slices = [IoSliceMut::new(room)];
    let received =
        rustix::net::recvmsg(fd, &mut slices, &mut RecvAncillaryBuffer::default(), RecvFlags::empty())?;
    // SAFETY: the kernel has just initialised the first `received.bytes` bytes of the room.
    unsafe { buf.advance_mut(received.bytes) };
    Ok((received.bytes, received.flags.contains(ReturnFlags::CTRUNC)))
}

fn register(fd: Arc<OwnedFd>, interest: Interest) -> io::Result<AsyncFd<Arc<OwnedFd>>> {
    // SAFETY: an `OwnedFd` is open, does not change, and stays open while the `AsyncFd` holds it.
    Ok(unsafe { AsyncFd::register_with_interest(fd, interest) }?)
}

/// A temporary registration for writability, made by [`Socket::write_interest`].
#[derive(Debug)]
pub struct WriteInterest<'a> {
    fd: AsyncFd<Arc<OwnedFd>>,
    _socket: std::marker::PhantomData<&'a Socket>,
}

impl WriteInterest<'_> {
    /// Waits until the socket may accept data again.
    ///
    /// # Errors
    ///
    /// The runtime is shutting down.
    pub async fn ready(&self) -> io::Result<()> {
        self.fd.writable().await?.clear_ready();
        Ok(())
    }
}
