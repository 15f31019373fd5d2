//! Looking out for the next request for a moment before going to sleep.
//!
//! A client that waits for each answer before it asks again pays for two wake-ups with every request:
//! its own, and that of the worker, which went to sleep in the meantime. Waking a core that sleeps costs
//! more than everything the broker does with a small frame. So a session whose last frames came one by
//! one, and shortly after each other, asks again and again for the next, up to
//! [`Options::busy_poll`](super::Options::busy_poll). Between two looks it lets every other task and every
//! other program run; only one session of a broker does so at a time; one that receives batches, or
//! rarely anything, never does; and where others want the cores, which then do not sleep anyway, it stops.

use super::Core;
use crate::transport::Socket;
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Poll;
use std::time::{Duration, Instant};

/// Up to this many frames in one read are "one by one".
const FEW_FRAMES: u64 = 2;
/// A look that takes this long was interrupted: somebody else wants the core.
const INTERRUPTED: Duration = Duration::from_micros(300);
/// After that nobody looks out for so long.
const PAUSE: Duration = Duration::from_millis(100);

/// What one session remembers.
#[derive(Debug, Default)]
pub(super) struct Lookout {
    /// When the last few frames had been dealt with; `None` after a batch.
    last: Option<Instant>,
    /// Whether they came shortly after those before.
    quick: bool,
    /// Until when not to look out.
    paused: Option<Instant>,
}

impl Lookout {
    /// To be called after each read, with the number of frames in it and whether the client waited for an
    /// answer that it now has.
    pub(super) fn dealt_with(&mut self, core: &Core, frames: u64, answered: bool) {
        if !answered || frames > FEW_FRAMES || core.options.busy_poll.is_zero() {
            self.last = None;
            self.quick = false;
            return;
        }
        let now = Instant::now();
        self.quick = self.last.is_some_and(|last| now - last < core.options.busy_poll);
        self.last = Some(now);
        if self.paused.is_some_and(|until| now < until) {
            self.quick = false;
        }
    }

    /// Waits until there may be something to read.
    ///
    /// # Errors
    /// The runtime is shutting down.
    pub(super) async fn readable(&mut self, core: &Core, socket: &Socket) -> io::Result<()> {
        if let (Some(last), true) = (self.last, self.quick)
            && !core.busy.swap(true, Relaxed)
        {
            let seen = look(socket, last + core.options.busy_poll).await;
            core.busy.store(false, Relaxed);
            match seen {
                Seen::Something(result) => return result,
                Seen::Nothing => {}
                Seen::Interruption => self.paused = Some(Instant::now() + PAUSE),
            }
        }
        socket.readable().await
    }
}

enum Seen {
    Something(io::Result<()>),
    Nothing,
    Interruption,
}

/// Looks until there is something or `until` has passed.
async fn look(socket: &Socket, until: Instant) -> Seen {
    let mut readable = pin!(socket.readable());
    let mut last = Instant::now();
    loop {
        let now = poll_fn(|cx| Poll::Ready(readable.as_mut().poll(cx))).await;
        if let Poll::Ready(result) = now {
            return Seen::Something(result);
        }
        let now = Instant::now();
        if now - last > INTERRUPTED {
            return Seen::Interruption;
        }
        if now >= until {
            return Seen::Nothing;
        }
        last = now;
        // First whoever else wants this core, then every other task and the runtime's own look at all
        // sockets.
        std::thread::yield_now();
        tokio::task::yield_now().await;
    }
}
