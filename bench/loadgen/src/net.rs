//! Minimal blocking sockets and a level-triggered poller.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

enum Sock {
    Unix(UnixStream),
    Tcp(TcpStream),
}

/// A connection to a broker.
pub struct Conn {
    sock: Sock,
    /// Descriptor for [`Poller::add`], open as long as the connection.
    pub fd: RawFd,
}

impl Conn {
    /// Connects to a UNIX socket (a path that starts with `/`) or to `host:port`. Panics on failure.
    pub fn open(addr: &str) -> Conn {
        Conn::try_open(addr).unwrap_or_else(|e| panic!("{addr}: {e}"))
    }

    /// Connects to a UNIX socket (a path that starts with `/`) or to `host:port`.
    pub fn try_open(addr: &str) -> std::io::Result<Conn> {
        if addr.starts_with('/') {
            let s = UnixStream::connect(addr)?;
            let fd = s.as_raw_fd();
            Ok(Conn { sock: Sock::Unix(s), fd })
        } else {
            let s = TcpStream::connect(addr)?;
            s.set_nodelay(true)?;
            let fd = s.as_raw_fd();
            Ok(Conn { sock: Sock::Tcp(s), fd })
        }
    }

    /// Returns a second handle of the same connection, so that one thread can read while another writes.
    pub fn try_clone(&self) -> std::io::Result<Conn> {
        let sock = match &self.sock {
            Sock::Unix(s) => Sock::Unix(s.try_clone()?),
            Sock::Tcp(s) => Sock::Tcp(s.try_clone()?),
        };
        let fd = match &sock {
            Sock::Unix(s) => s.as_raw_fd(),
            Sock::Tcp(s) => s.as_raw_fd(),
        };
        Ok(Conn { sock, fd })
    }

    /// Limits how long a write waits for room: `write` then returns `None`.
    pub fn write_timeout(&mut self, limit: Duration) -> std::io::Result<()> {
        match &self.sock {
            Sock::Unix(s) => s.set_write_timeout(Some(limit)),
            Sock::Tcp(s) => s.set_write_timeout(Some(limit)),
        }
    }

    /// Makes reads non-blocking.
    pub fn nonblocking(&mut self) {
        match &self.sock {
            Sock::Unix(s) => s.set_nonblocking(true).unwrap(),
            Sock::Tcp(s) => s.set_nonblocking(true).unwrap(),
        }
    }

    /// Returns the number of bytes read; 0 at the end of the stream, `None` if it would block.
    pub fn read(&mut self, buf: &mut [u8]) -> Option<usize> {
        let r = match &mut self.sock {
            Sock::Unix(s) => s.read(buf),
            Sock::Tcp(s) => s.read(buf),
        };
        match r {
            Ok(n) => Some(n),
            Err(e) if e.kind() == ErrorKind::WouldBlock => None,
            Err(_) => Some(0),
        }
    }

    /// Returns the number of bytes written; `None` if there was no room in time, an error if the connection is
    /// closed.
    pub fn write(&mut self, buf: &[u8]) -> std::io::Result<Option<usize>> {
        let r = match &mut self.sock {
            Sock::Unix(s) => s.write(buf),
            Sock::Tcp(s) => s.write(buf),
        };
        match r {
            Ok(n) => Ok(Some(n)),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Fills `buf`, during handshakes and subscriptions.
    pub fn read_exact(&mut self, buf: &mut [u8]) {
        assert!(self.try_read_exact(buf), "handshake read");
    }

    /// Fills `buf`. Returns false if the broker has closed the connection.
    pub fn try_read_exact(&mut self, buf: &mut [u8]) -> bool {
        match &mut self.sock {
            Sock::Unix(s) => s.read_exact(buf),
            Sock::Tcp(s) => s.read_exact(buf),
        }
        .is_ok()
    }

    /// Writes all of `buf`. Panics if the broker closes the connection.
    pub fn write_all(&mut self, buf: &[u8]) {
        assert!(self.try_write_all(buf), "the broker closed the connection on a write");
    }

    /// Writes all of `buf`. Returns false if the broker has closed the connection.
    pub fn try_write_all(&mut self, buf: &[u8]) -> bool {
        match &mut self.sock {
            Sock::Unix(s) => s.write_all(buf),
            Sock::Tcp(s) => s.write_all(buf),
        }
        .is_ok()
    }
}

/// Reports which of many connections are readable. It lives as long as the process.
pub struct Poller {
    ep: RawFd,
}

impl Poller {
    pub fn new() -> Self {
        // SAFETY: no pointers are involved.
        Poller { ep: unsafe { libc::epoll_create1(0) } }
    }

    /// Watches `fd` under the name `token`.
    pub fn add(&mut self, fd: RawFd, token: usize) {
        let mut ev = libc::epoll_event { events: libc::EPOLLIN as u32, u64: token as u64 };
        // SAFETY: the event outlives the call, which copies it; a bad descriptor is an error returned.
        assert_eq!(unsafe { libc::epoll_ctl(self.ep, libc::EPOLL_CTL_ADD, fd, &mut ev) }, 0);
    }

    /// Stops watching `fd`.
    pub fn remove(&mut self, fd: RawFd) {
        // SAFETY: removing needs no event; a descriptor that is not watched is an error returned.
        unsafe { libc::epoll_ctl(self.ep, libc::EPOLL_CTL_DEL, fd, std::ptr::null_mut()) };
    }

    /// Returns the tokens that are readable, at most 256; none after `ms` milliseconds.
    pub fn wait(&mut self, ms: i32) -> Vec<usize> {
        let mut evs = vec![libc::epoll_event { events: 0, u64: 0 }; 256];
        // SAFETY: `evs` has room for the 256 events that are requested.
        let k = unsafe { libc::epoll_wait(self.ep, evs.as_mut_ptr(), 256, ms) };
        evs.iter().take(k.max(0) as usize).map(|e| e.u64 as usize).collect()
    }
}
