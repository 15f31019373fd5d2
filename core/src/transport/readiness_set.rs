//! A set of sockets that can be checked, without waiting, for unread input.

#[cfg(all(target_os = "linux", not(busrt_portable)))]
pub use epoll::ReadinessSet;
#[cfg(not(all(target_os = "linux", not(busrt_portable))))]
pub use nothing::ReadinessSet;

#[cfg(all(target_os = "linux", not(busrt_portable)))]
mod epoll {
    use crate::transport::Socket;
    use rustix::event::epoll;
    use rustix::event::{Timespec, epoll::EventFlags};
    use std::io;
    use std::mem::MaybeUninit;
    use std::os::fd::{AsFd, OwnedFd};

    /// A set of sockets, in addition to the one for which the runtime waits. All methods may be called from any
    /// thread.
    #[derive(Debug)]
    pub struct ReadinessSet(OwnedFd);

    impl ReadinessSet {
        /// Creates an empty set.
        ///
        /// # Errors
        ///
        /// No more descriptors are available, or the system does not support it.
        pub fn new() -> io::Result<ReadinessSet> {
            Ok(ReadinessSet(epoll::create(epoll::CreateFlags::CLOEXEC)?))
        }

        /// Adds a socket, which is removed when it is closed.
        ///
        /// # Errors
        ///
        /// No more kernel memory is available.
        pub fn add(&self, socket: &Socket) -> io::Result<()> {
            // Edge-triggered: input that was reported once, or has been read since, is not reported again.
            let interest = EventFlags::IN | EventFlags::RDHUP | EventFlags::ET;
            Ok(epoll::add(&self.0, socket.as_fd(), epoll::EventData::new_u64(0), interest)?)
        }

        /// Returns true if unread input has arrived on one of them since the last call.
        pub fn has_news(&self) -> bool {
            let mut events = [MaybeUninit::<epoll::Event>::uninit(); 1];
            let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
            // After an error it returns true, so that the caller reads.
            epoll::wait(&self.0, &mut events, Some(&at_once)).map_or(true, |(news, _)| !news.is_empty())
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;
        use std::io::{Read, Write};
        use std::os::unix::net::UnixStream;

        #[tokio::test]
        async fn reports_unread_input_once() {
            let watch = ReadinessSet::new().unwrap();
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            let socket = Socket::from_unix(ours.try_clone().unwrap()).unwrap();
            watch.add(&socket).unwrap();
            assert!(!watch.has_news());
            theirs.write_all(b"1").unwrap();
            assert!(watch.has_news());
            assert!(!watch.has_news());
            theirs.write_all(b"2").unwrap();
            (&ours).read_exact(&mut [0; 2]).unwrap();
            assert!(!watch.has_news());
            drop(theirs);
            assert!(watch.has_news());
        }
    }
}

#[cfg(not(all(target_os = "linux", not(busrt_portable))))]
mod nothing {
    use crate::transport::Socket;
    use std::io;

    /// A set that cannot exist, because this system does not support it.
    #[derive(Debug)]
    pub enum ReadinessSet {}

    impl ReadinessSet {
        /// Returns an error.
        ///
        /// # Errors
        ///
        /// Always.
        pub fn new() -> io::Result<ReadinessSet> {
            Err(io::ErrorKind::Unsupported.into())
        }

        /// Is never called.
        ///
        /// # Errors
        /// None.
        pub fn add(&self, _socket: &Socket) -> io::Result<()> {
            match *self {}
        }

        /// Is never called.
        pub fn has_news(&self) -> bool {
            match *self {}
        }
    }
}
