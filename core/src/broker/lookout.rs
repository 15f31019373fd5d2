//! Looking out for the next frame of a conversation for a moment before a worker goes to sleep.
//!
//! Clients that talk to each other, or to the broker, one frame at a time pay for two wake-ups with every
//! frame: that of the receiver, and that of the worker, which went to sleep in the meantime. Waking a core that
//! sleeps costs more than everything the broker does with a small frame. So the broker notes who is *prompt*:
//! whoever sent its last frame shortly after it was given one (an acknowledgement, a message). Once such a
//! client has been given something again, a worker with nothing to do does not go to sleep before the answer is
//! there or was due. Whoever only sends, only receives or takes its time is not waited for; but for the rest of a
//! large frame, of which a good piece has just come.
//!
//! Between two looks every other program may run; only one worker does so at a time; and where others want
//! the cores, which then do not sleep anyway, it stops.

use super::session::Session;
use crate::transport::{Socket, Watch};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// A look that takes this long was interrupted: somebody else wants the core.
const INTERRUPTED: Duration = Duration::from_micros(300);
const LONGEST: Duration = Duration::from_millis(1);
/// After that nobody looks out for so long.
const PAUSE: Duration = Duration::from_millis(100);

/// Keeps a worker of a runtime awake for a moment while a client in conversation is about to answer. The
/// runtime must call [`before_park`](Lookout::before_park), the broker must know of it
/// ([`Options::lookout`](super::Options::lookout)):
///
/// ```no_run
/// # fn run() -> std::io::Result<()> {
/// use busrt::broker::{Broker, Lookout, Options};
/// use std::time::Duration;
///
/// let lookout = Lookout::new(Duration::from_micros(50))?;
/// let runtime = tokio::runtime::Builder::new_multi_thread()
///     .on_thread_park({
///         let lookout = lookout.clone();
///         move || lookout.before_park()
///     })
///     .enable_all()
///     .build()?;
/// runtime.block_on(async {
///     let broker = Broker::new(Options::default().lookout(lookout));
///     // …
/// });
/// # Ok(()) }
/// ```
///
/// Cloning gives another handle to the same one.
#[derive(Debug, Clone)]
pub struct Lookout {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    bound: Duration,
    started: Instant,
    /// Every client's socket.
    watch: Watch,
    /// Until when somebody is about to answer; 0: nobody is. In nanoseconds since the start, as the next.
    expected: AtomicU64,
    /// Until when not to look out.
    paused: AtomicU64,
    /// Whether a worker is looking out.
    busy: AtomicBool,
}

/// What the lookout remembers of one client.
#[derive(Debug, Default)]
pub(super) struct Rhythm {
    /// When it was last given something; 0 after a stream, or when it has answered.
    given: AtomicU64,
    prompt: AtomicBool,
}

impl Rhythm {
    /// It is given something. One that has not answered what it was given before is not prompt any more.
    fn given(&self, now: u64, bound: Duration) {
        let before = self.given.load(Relaxed);
        self.given.store(now, Relaxed);
        if before != 0 && now.saturating_sub(before) >= nanoseconds(bound) {
            self.prompt.store(false, Relaxed);
        }
    }

    /// Whether it is likely to answer soon.
    pub(super) fn is_prompt(&self) -> bool {
        self.prompt.load(Relaxed)
    }

    /// It has sent something.
    fn spoke(&self, now: u64, bound: Duration) {
        let given = self.given.load(Relaxed);
        self.given.store(0, Relaxed);
        let prompt = given != 0 && now.saturating_sub(given) < nanoseconds(bound);
        self.prompt.store(prompt, Relaxed);
    }

    /// What it sends or gets is more than one frame at a time.
    pub(super) fn forget(&self) {
        self.given.store(0, Relaxed);
        self.prompt.store(false, Relaxed);
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Lookout {
    /// One that waits up to `bound` for an answer, at most 1 ms: so long nothing but clients may be heard.
    ///
    /// # Errors
    /// [`Unsupported`](io::ErrorKind::Unsupported) on systems other than Linux; out of descriptors.
    pub fn new(bound: Duration) -> io::Result<Lookout> {
        let inner = Inner {
            bound: bound.min(LONGEST),
            started: Instant::now(),
            watch: Watch::new()?,
            expected: AtomicU64::new(0),
            paused: AtomicU64::new(0),
            busy: AtomicBool::new(false),
        };
        Ok(Lookout { inner: Arc::new(inner) })
    }

    /// Returns when there is something to do, or nothing is expected any more: mostly at once. To be called by
    /// [`Builder::on_thread_park`](tokio::runtime::Builder::on_thread_park).
    pub fn before_park(&self) {
        let inner = &*self.inner;
        let until = inner.expected.load(Relaxed);
        if until == 0 || inner.busy.swap(true, Relaxed) {
            return;
        }
        let now = inner.now();
        if now < until && now >= inner.paused.load(Relaxed) {
            inner.look(now, until);
        }
        inner.busy.store(false, Relaxed);
    }

    /// Another client's socket to look at.
    pub(super) fn watch(&self, socket: &Socket) {
        // Without, its frames do not end a look.
        if let Err(e) = self.inner.watch.add(socket) {
            log::debug!("no looking out for a connection: {e}");
        }
    }

    /// A piece of a large frame has come: whoever sends it is writing the rest just now.
    pub(super) fn rest_is_due(&self) {
        let inner = &*self.inner;
        inner.expected.store(inner.now().saturating_add(nanoseconds(inner.bound)), Relaxed);
    }

    /// A frame of `sender` has been dealt with, and what came of it is about to be written to `receivers`.
    pub(super) fn exchanged<'a>(&self, sender: &Session, receivers: impl Iterator<Item = &'a Session>) {
        let inner = &*self.inner;
        let now = inner.now();
        sender.rhythm.spoke(now, inner.bound);
        let mut expected = 0;
        for receiver in receivers {
            receiver.rhythm.given(now, inner.bound);
            if receiver.rhythm.is_prompt() {
                expected = now.saturating_add(nanoseconds(inner.bound));
            }
        }
        inner.expected.store(expected, Relaxed);
    }
}

impl Inner {
    /// Never 0.
    fn now(&self) -> u64 {
        nanoseconds(self.started.elapsed()).max(1)
    }

    fn look(&self, began: u64, until: u64) {
        let mut last = began;
        while !self.watch.has_news() {
            let now = self.now();
            if now - last > nanoseconds(INTERRUPTED) {
                self.paused.store(now + nanoseconds(PAUSE), Relaxed);
                return;
            }
            if now >= until {
                return;
            }
            last = now;
            std::thread::yield_now();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUND: Duration = Duration::from_nanos(50);

    #[test]
    fn who_answers_soon_is_prompt() {
        let rhythm = Rhythm::default();
        let prompt_after = |given: Option<u64>, spoke: u64| {
            given.inspect(|at| rhythm.given(*at, BOUND));
            rhythm.spoke(spoke, BOUND);
            rhythm.is_prompt()
        };
        assert!(!prompt_after(None, 10));
        assert!(prompt_after(Some(20), 60));
        // Too late this time.
        assert!(!prompt_after(Some(70), 120));
        assert!(prompt_after(Some(130), 131));
        // What it sends after that answers nothing.
        assert!(!prompt_after(None, 132));
        assert!(prompt_after(Some(140), 141));
        // It is given one thing after another, and says nothing.
        for now in [150, 160, 200, 250] {
            rhythm.given(now, BOUND);
            assert_eq!(rhythm.is_prompt(), now < 250);
        }
        assert!(prompt_after(Some(260), 270));
        rhythm.forget();
        assert!(!rhythm.is_prompt());
    }

    #[cfg(all(target_os = "linux", not(busrt_portable)))]
    #[tokio::test]
    async fn a_look_ends_with_news_or_in_time() {
        use std::io::Write;
        let lookout = Lookout::new(LONGEST).unwrap();
        let (ours, mut theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let socket = Socket::from_unix(ours).unwrap();
        lookout.watch(&socket);
        // Nothing is expected.
        lookout.before_park();
        lookout.inner.expected.store(u64::MAX, Relaxed);
        theirs.write_all(b"1").unwrap();
        lookout.before_park();
        // Somebody writes.
        lookout.rest_is_due();
        assert!(lookout.inner.expected.load(Relaxed) > lookout.inner.now());
        theirs.write_all(b"2").unwrap();
        lookout.before_park();
        // It was due a moment ago, or is in a moment.
        for until in [1, lookout.inner.now() + 100_000] {
            lookout.inner.expected.store(until, Relaxed);
            lookout.before_park();
        }
        assert!(!lookout.inner.busy.load(Relaxed));
    }
}
