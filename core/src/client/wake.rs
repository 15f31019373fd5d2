//! The wake-up with which a queue tells a program that it holds something: a waker, or a descriptor that becomes
//! readable.
//!
//! A queue and its taker agree on this protocol, which costs one wake-up for each batch:
//!
//! 1. The taker takes until the queue is empty, calls [`WakeUp::reset`], and registers [`WakeUp::waker`] under the
//!    queue's lock if the queue is still empty.
//! 2. The thread that appends removes the registered waker under the lock and wakes it after the lock is released.
//!
//! A taker that stops before the queue is empty, after it has called `reset`, calls [`WakeUp::wake`].

use std::task::Waker;

#[cfg(unix)]
pub use descriptor::WakeFd;

/// Wakes the taker of a queue: a task or a thread through its [`Waker`], or an event loop through a [`WakeFd`].
///
/// Each value belongs to one queue. If two queues shared a descriptor, the one that is emptied first would reset it
/// for the other.
#[derive(Debug, Clone)]
pub struct WakeUp {
    waker: Waker,
    #[cfg(unix)]
    descriptor: Option<WakeFd>,
}

impl WakeUp {
    /// The waker that the queue registers.
    pub(crate) fn waker(&self) -> &Waker {
        &self.waker
    }

    /// Makes the descriptor unreadable. The caller must check the queue once more after this, since an earlier
    /// wake-up is lost.
    pub(crate) fn reset(&self) {
        #[cfg(unix)]
        if let Some(descriptor) = &self.descriptor {
            descriptor.reset();
        }
    }

    /// Wakes the taker. It runs foreign code: the caller must hold no lock.
    pub(crate) fn wake(&self) {
        super::contain::contain("a waker", || self.waker.wake_by_ref());
    }
}

impl From<Waker> for WakeUp {
    fn from(waker: Waker) -> WakeUp {
        WakeUp {
            waker,
            #[cfg(unix)]
            descriptor: None,
        }
    }
}

#[cfg(unix)]
mod descriptor {
    use super::WakeUp;
    use std::io;
    use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::task::{Wake, Waker};

    /// A descriptor that is readable while a queue may hold something, for `poll`, `epoll` and event loops. It is an
    /// eventfd on Linux, a socket pair elsewhere. Clones share the descriptor, which is closed when the last clone
    /// and the queue are dropped.
    ///
    /// The program only waits for it to become readable, and does not read from it: taking from the queue until it is
    /// empty makes it unreadable. The descriptor may be readable even though the queue is empty.
    #[derive(Debug, Clone)]
    pub struct WakeFd(Arc<Signal>);

    /// The two ends of the descriptor.
    #[derive(Debug)]
    struct Signal {
        pair: pair::Pair,
        /// Set by the first wake-up after a reset: further ones need no system call.
        is_set: AtomicBool,
    }

    impl WakeFd {
        /// Creates a descriptor that is not readable. Programs that this process executes do not inherit it.
        ///
        /// # Errors
        ///
        /// No more descriptors are available.
        pub fn new() -> io::Result<WakeFd> {
            Ok(WakeFd(Arc::new(Signal { pair: pair::Pair::new()?, is_set: AtomicBool::new(false) })))
        }

        pub(super) fn reset(&self) {
            // It is cleared even if `is_set` is false: a wake-up that has set the flag may write only now.
            self.0.pair.clear();
            self.0.is_set.store(false, Ordering::SeqCst);
        }
    }

    impl AsFd for WakeFd {
        fn as_fd(&self) -> BorrowedFd<'_> {
            self.0.pair.readable_end()
        }
    }

    impl AsRawFd for WakeFd {
        fn as_raw_fd(&self) -> RawFd {
            self.as_fd().as_raw_fd()
        }
    }

    impl Wake for Signal {
        fn wake(self: Arc<Signal>) {
            self.wake_by_ref();
        }

        fn wake_by_ref(self: &Arc<Signal>) {
            if !self.is_set.swap(true, Ordering::SeqCst) {
                self.pair.set();
            }
        }
    }

    impl From<WakeFd> for WakeUp {
        fn from(descriptor: WakeFd) -> WakeUp {
            WakeUp { waker: Waker::from(descriptor.0.clone()), descriptor: Some(descriptor) }
        }
    }

    impl From<&WakeFd> for WakeUp {
        fn from(descriptor: &WakeFd) -> WakeUp {
            descriptor.clone().into()
        }
    }

    #[cfg(all(target_os = "linux", not(busrt_portable)))]
    mod pair {
        use rustix::event::{EventfdFlags, eventfd};
        use std::io;
        use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

        /// An eventfd.
        #[derive(Debug)]
        pub(super) struct Pair(OwnedFd);

        impl Pair {
            pub(super) fn new() -> io::Result<Pair> {
                Ok(Pair(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
            }

            pub(super) fn readable_end(&self) -> BorrowedFd<'_> {
                self.0.as_fd()
            }

            /// Makes the descriptor readable. An error means that its counter is full, so that it is readable.
            pub(super) fn set(&self) {
                let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
            }

            /// Makes the descriptor unreadable. An error means that it already is.
            pub(super) fn clear(&self) {
                let _ = rustix::io::read(&self.0, &mut [0; 8]);
            }
        }
    }

    #[cfg(not(all(target_os = "linux", not(busrt_portable))))]
    mod pair {
        use std::io::{self, Read, Write};
        use std::os::fd::{AsFd, BorrowedFd};
        use std::os::unix::net::UnixStream;

        /// A pair of sockets: waiting bytes in the first one make it readable.
        #[derive(Debug)]
        pub(super) struct Pair(UnixStream, UnixStream);

        impl Pair {
            pub(super) fn new() -> io::Result<Pair> {
                let (ours, theirs) = UnixStream::pair()?;
                ours.set_nonblocking(true)?;
                theirs.set_nonblocking(true)?;
                Ok(Pair(ours, theirs))
            }

            pub(super) fn readable_end(&self) -> BorrowedFd<'_> {
                self.0.as_fd()
            }

            /// Makes the descriptor readable. An error means that it already holds bytes.
            pub(super) fn set(&self) {
                let _ = (&self.1).write(&[1]);
            }

            /// Makes the descriptor unreadable.
            pub(super) fn clear(&self) {
                let mut bytes = [0; 64];
                while matches!((&self.0).read(&mut bytes), Ok(n) if n == bytes.len()) {}
            }
        }
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use std::os::fd::AsFd;

    fn is_readable(descriptor: &WakeFd) -> bool {
        let mut fds = [PollFd::from_borrowed_fd(descriptor.as_fd(), PollFlags::IN)];
        poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() > 0
    }

    #[test]
    fn readable_from_the_first_wake_up_until_the_reset() {
        let descriptor = WakeFd::new().unwrap();
        let wake_up = WakeUp::from(&descriptor);
        for _ in 0..3 {
            assert!(!is_readable(&descriptor));
            (0..300).for_each(|_| wake_up.wake());
            assert!(is_readable(&descriptor));
            wake_up.reset();
        }
        assert!(!is_readable(&descriptor));
    }

    #[test]
    fn a_clone_of_the_waker_wakes_the_same_taker() {
        let descriptor = WakeFd::new().unwrap();
        let (first, second) = (WakeUp::from(&descriptor), WakeUp::from(descriptor.clone()));
        assert!(first.waker().will_wake(second.waker()));
        let clone = second.waker().clone();
        drop(second);
        clone.wake();
        first.reset();
        assert!(!is_readable(&descriptor));
    }
}
