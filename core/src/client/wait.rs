//! Waits on a plain thread, without a runtime.

use super::reading_lease::{Awaited, ReadingLease};
use crate::error::Result;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

/// Default interval between two checks.
pub const DEFAULT_SLICE: Duration = Duration::from_millis(50);

/// The time limit of a plain thread's wait, and a check that the thread runs at intervals.
///
/// Without a check, the thread sleeps until it is woken or its time is over. With one, it sleeps in slices of 50 ms
/// by default, and runs the check after each. A language with its own signal handling can run it there.
///
/// A thread that runs the tasks of an async runtime must not wait, because it might wait for one of its own tasks.
pub struct Wait<'a> {
    deadline: Option<Instant>,
    slice: Duration,
    check: Option<&'a mut dyn FnMut() -> Result<()>>,
}

impl<'a> Wait<'a> {
    /// Waits without a time limit.
    pub fn forever() -> Wait<'a> {
        Wait { deadline: None, slice: DEFAULT_SLICE, check: None }
    }

    /// Waits at most for `timeout`. If the end of that time cannot be represented, there is no limit.
    pub fn at_most(timeout: Duration) -> Wait<'a> {
        Wait { deadline: Instant::now().checked_add(timeout), ..Wait::forever() }
    }

    /// Waits until `deadline`, or without a time limit.
    pub fn until(deadline: impl Into<Option<Instant>>) -> Wait<'a> {
        Wait { deadline: deadline.into(), ..Wait::forever() }
    }

    /// Runs `check` on this thread between slices. If it returns an error, the wait ends with that error.
    pub fn check(mut self, check: &'a mut dyn FnMut() -> Result<()>) -> Wait<'a> {
        self.check = Some(check);
        self
    }

    /// Sets the interval between two checks. Minimum: 1 ms.
    pub fn slice(mut self, slice: Duration) -> Wait<'a> {
        self.slice = slice.max(Duration::from_millis(1));
        self
    }

    /// Returns a wait that shares the time and the check of this one, for the first of several successive waits.
    pub fn by_ref(&mut self) -> Wait<'_> {
        let check = self.check.as_mut().map(|check| &mut **check as &mut dyn FnMut() -> Result<()>);
        Wait { deadline: self.deadline, slice: self.slice, check }
    }

    /// Polls until the result is ready. Returns `None` when the time is over. The waker that `poll` receives unparks
    /// this thread.
    ///
    /// # Errors
    ///
    /// The error of the check.
    pub fn on<T>(self, poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> Result<Option<T>> {
        self.run(None, None, poll)
    }

    /// Polls until a result that arrives over the connection of `lease` is ready: if `awaited` is given and polling
    /// pays, this thread polls the socket for a short time before it sleeps. Returns `None` when the time is over.
    pub(crate) fn on_answer<T>(
        self,
        lease: &ReadingLease,
        awaited: Option<&dyn Awaited>,
        poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Result<Option<T>> {
        self.run(Some(lease), awaited, poll)
    }

    fn run<T>(
        self,
        lease: Option<&ReadingLease>,
        awaited: Option<&dyn Awaited>,
        mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Result<Option<T>> {
        let Wait { deadline, slice, mut check } = self;
        let mut polled = lease.zip(awaited);
        let mut has_waited = false;
        let parker = Parker::of_this_thread();
        let waker = Waker::from(parker.clone());
        let mut cx = Context::from_waker(&waker);
        let mut next_check = check.is_some().then(|| Instant::now() + slice);
        loop {
            if let Poll::Ready(result) = poll(&mut cx) {
                if let Some((lease, _)) = lease.zip(awaited).filter(|_| has_waited) {
                    lease.answered();
                }
                return Ok(Some(result));
            }
            has_waited = true;
            // A poll that was given up is not repeated in this wait.
            polled = polled.filter(|(lease, awaited)| {
                lease.poll(*awaited, earlier(deadline, next_check), || parker.is_woken())
            });
            if let (Some(lease), None) = (lease, polled) {
                lease.flush();
                lease.sleeps();
            }
            loop {
                if parker.take() {
                    break;
                }
                let until = earlier(deadline, next_check);
                let Some(until) = until else {
                    std::thread::park();
                    continue;
                };
                let now = Instant::now();
                if now < until {
                    std::thread::park_timeout(until - now);
                    continue;
                }
                if deadline.is_some_and(|deadline| deadline <= now) {
                    // An answer at the last moment counts.
                    return Ok(match poll(&mut cx) {
                        Poll::Ready(result) => Some(result),
                        Poll::Pending => None,
                    });
                }
                if let Some(check) = &mut check {
                    check()?;
                }
                next_check = Some(Instant::now() + slice);
                // The check may have waited on this thread and consumed the wake-up, so that the result is polled
                // again.
                break;
            }
        }
    }
}

impl std::fmt::Debug for Wait<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wait").field("deadline", &self.deadline).finish_non_exhaustive()
    }
}

fn earlier(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    a.into_iter().chain(b).min()
}

/// Unparks a thread. The flag distinguishes a wake-up from a spurious return.
struct Parker {
    thread: Thread,
    woken: AtomicBool,
}

thread_local! {
    static PARKER: Arc<Parker> = Parker::new();
}

impl Parker {
    fn new() -> Arc<Parker> {
        Arc::new(Parker { thread: std::thread::current(), woken: AtomicBool::new(false) })
    }

    fn of_this_thread() -> Arc<Parker> {
        // This fails only while the thread ends.
        PARKER.try_with(Arc::clone).unwrap_or_else(|_| Parker::new())
    }

    fn is_woken(&self) -> bool {
        self.woken.load(Ordering::Relaxed)
    }

    fn take(&self) -> bool {
        self.woken.swap(false, Ordering::Acquire)
    }
}

impl Wake for Parker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.woken.swap(true, Ordering::Release) {
            self.thread.unpark();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::effects::wake_all;
    use super::super::slot::Slot;
    use super::*;
    use crate::error::{Error, ErrorKind};

    #[test]
    fn woken_from_another_thread() {
        let slot = Slot::new();
        let thread = std::thread::spawn({
            let slot = slot.clone();
            move || Wait::forever().on(|cx| slot.poll(cx)).unwrap()
        });
        std::thread::sleep(Duration::from_millis(20));
        wake_all(slot.complete(7));
        assert_eq!(thread.join().unwrap(), Some(7));
    }

    #[test]
    fn a_check_may_wait_itself() {
        let (outer, inner) = (Slot::new(), Slot::new());
        inner.complete(());
        let mut check = || {
            // Both wake-ups come while the check waits.
            wake_all(outer.complete(1));
            Wait::at_most(Duration::from_millis(5)).on(|_| Poll::<()>::Pending)?;
            Wait::forever().on(|cx| inner.poll(cx)).map(drop)
        };
        let wait = Wait::at_most(Duration::from_secs(20)).slice(Duration::from_millis(5)).check(&mut check);
        let start = Instant::now();
        assert_eq!(wait.on(|cx| outer.poll(cx)).unwrap(), Some(1));
        assert!(start.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn many_threads_wait_for_the_same_result() {
        let slot = Slot::new();
        let threads: Vec<_> = (0..8)
            .map(|_| {
                let slot = slot.clone();
                std::thread::spawn(move || Wait::at_most(Duration::from_secs(20)).on(|cx| slot.poll(cx)))
            })
            .collect();
        std::thread::sleep(Duration::from_millis(20));
        wake_all(slot.complete(7));
        for thread in threads {
            assert_eq!(thread.join().unwrap().unwrap(), Some(7));
        }
    }

    #[test]
    fn again_and_again() {
        let slot = Slot::<u8>::new();
        for _ in 0..2 {
            assert_eq!(Wait::at_most(Duration::from_millis(5)).on(|cx| slot.poll(cx)).unwrap(), None);
        }
        slot.complete(1);
        assert_eq!(Wait::at_most(Duration::ZERO).on(|cx| slot.poll(cx)).unwrap(), Some(1));
    }

    #[test]
    fn a_check_ends_the_wait() {
        let slot = Slot::<()>::new();
        let mut checks = 0;
        let mut check = || {
            checks += 1;
            if checks < 3 { Ok(()) } else { Err(Error::new(ErrorKind::Other, "interrupted")) }
        };
        let wait = Wait::at_most(Duration::MAX).slice(Duration::ZERO).check(&mut check);
        assert_eq!(wait.on(|cx| slot.poll(cx)).unwrap_err().context(), "interrupted");
        assert_eq!(checks, 3);
    }
}
