//! Results of operations and calls in a queue, each with the token that the program gave to the operation.

#[cfg(feature = "rpc")]
use super::outcome::Outcome;
use super::outcome::{Answer, Failure};
use super::reading_lease::{Awaited, Readable, ReadingLease};
use super::register::register;
use super::wait::Wait;
use super::wake::WakeUp;
use super::waker_set::WakerSet;
use crate::error::{Error, Result};
use crate::fork::Process;
use crate::frame::Frame;
use parking_lot::{Mutex, MutexGuard};
use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};

/// Collects the results of operations and calls that were started with it. Clones are handles of the same queue.
///
/// All results of one read of a connection cause one wake-up. A result needs no allocation and no task, apart from
/// the growth of the queue. All methods may be called from any thread; the queue may serve any number of clients. It
/// holds up to as many results as operations were started with it, so that the program bounds its size.
///
/// It works only in the process that made it. In a child made by fork it is empty, and waiting for it fails
/// immediately.
#[derive(Clone)]
pub struct CompletionQueue(Arc<Shared>);

struct Shared {
    /// Detects a fork: in a child, the lock may be held for ever by a thread that only exists in the parent.
    process: Process,
    state: Mutex<State>,
    /// The connection of the first client whose operations were started with the queue. A waiting thread polls it as
    /// long as there is no other client.
    lease: OnceLock<Arc<ReadingLease>>,
    serves_many: AtomicBool,
}

#[derive(Default)]
struct State {
    completed: VecDeque<(u64, Raw)>,
    wakers: WakerSet,
}

/// A result as it was received. The error value is created when the program takes it.
pub(super) enum Raw {
    Operation(Answer),
    #[cfg(feature = "rpc")]
    Call(Outcome),
}

/// One result.
#[derive(Debug)]
#[non_exhaustive]
pub struct Completion {
    /// The token that the program gave with the operation or call.
    pub token: u64,
    /// The result.
    pub result: Completed,
}

/// The result of an operation or a call.
#[derive(Debug)]
#[non_exhaustive]
pub enum Completed {
    /// The result of an operation, the same as awaiting it returns ([`PendingOperation`](super::PendingOperation)).
    Operation(Result<()>),
    /// The result of a call: the message that answers it, to be decoded with [`Reply::new`](crate::rpc::Reply::new),
    /// or the reason why there is none.
    Call(Result<Frame>),
}

impl CompletionQueue {
    /// Creates an empty queue.
    pub fn new() -> CompletionQueue {
        CompletionQueue(Arc::new(Shared {
            process: Process::current(),
            state: Mutex::default(),
            lease: OnceLock::new(),
            serves_many: AtomicBool::new(false),
        }))
    }

    /// Returns an id that is unique among the queues that exist at the same time.
    pub(super) fn id(&self) -> usize {
        Arc::as_ptr(&self.0) as usize
    }

    /// Locks the content. Returns `None` in a child of the process that made the queue.
    #[inline]
    fn lock(&self) -> Option<MutexGuard<'_, State>> {
        self.0.process.is_current().then(|| self.0.state.lock())
    }

    /// Notes that the result of an operation of the client of `lease` will come to this queue. It must be called
    /// after the operation is registered, because a polling thread checks that before it lends reading.
    pub(crate) fn expect_from(&self, lease: &Arc<ReadingLease>) {
        let first = self.0.lease.get_or_init(|| lease.clone());
        if !Arc::ptr_eq(first, lease) {
            self.0.serves_many.store(true, Ordering::SeqCst);
            first.sleeps();
            lease.sleeps();
        } else if !lease.is_held() && self.lock().is_some_and(|state| !state.wakers.is_empty()) {
            // The wait of these sleepers began when no result was expected.
            lease.sleeps();
        }
    }

    /// Returns the connection that a waiting thread polls.
    fn lease(&self) -> Option<&Arc<ReadingLease>> {
        self.0.lease.get().filter(|_| !self.0.serves_many.load(Ordering::SeqCst))
    }

    /// Notes that the program does not poll for the expected results: the task of the runtime must read.
    fn sleeps(&self) {
        if let Some(lease) = self.0.lease.get() {
            lease.sleeps();
        }
    }

    /// Notes that the program returns to its event loop until a result wakes it: its requests are flushed now.
    fn sleeps_until_woken(&self) {
        if let Some(lease) = self.0.lease.get() {
            lease.flush();
            lease.sleeps();
        }
    }

    /// Appends a result. Returns the wakers of the waiting tasks, which the caller must wake without holding a lock.
    pub(super) fn push(&self, token: u64, result: Raw) -> WakerSet {
        let Some(mut state) = self.lock() else { return WakerSet::default() };
        state.completed.push_back((token, result));
        state.wakers.take()
    }

    /// Appends waiting results to `batch`, at most `most` of them. Returns their number.
    pub fn take(&self, batch: &mut Vec<Completion>, most: usize) -> usize {
        let Some(mut state) = self.lock() else { return 0 };
        let count = state.completed.len().min(most);
        batch.reserve(count);
        batch.extend(state.completed.drain(..count).map(Completion::from));
        drop(state);
        if count == 0 {
            self.sleeps();
        }
        count
    }

    /// Does the same as [`take`](CompletionQueue::take), for event loops. If the queue is empty after it, `wake_up`
    /// is registered and woken once, with the next result. A program that receives `most` results must call again.
    pub fn take_or_arm(&self, batch: &mut Vec<Completion>, most: usize, wake_up: &WakeUp) -> usize {
        let count = self.take(batch, most);
        if count < most && self.0.process.is_current() {
            self.arm(wake_up);
            self.sleeps_until_woken();
        }
        count
    }

    /// Registers `wake_up` if the queue is empty, and wakes it otherwise.
    fn arm(&self, wake_up: &WakeUp) {
        wake_up.reset();
        if !self.register(wake_up.waker()) {
            wake_up.wake();
        }
    }

    /// Takes the oldest result, if there is one.
    pub fn try_take(&self) -> Option<Completion> {
        let taken = self.lock()?.completed.pop_front();
        if taken.is_none() {
            self.sleeps();
        }
        taken.map(Completion::from)
    }

    /// Returns the number of waiting results.
    pub fn len(&self) -> usize {
        self.lock().map_or(0, |state| state.completed.len())
    }

    /// Returns true if no result is waiting.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns ready if a result is waiting. Otherwise the waker is woken once, with the next result. Any number of
    /// tasks and threads may wait; all of them are woken.
    pub fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        let ready = self.poll_completed(cx);
        if ready.is_pending() {
            self.sleeps_until_woken();
        }
        ready
    }

    fn poll_completed(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.register(cx.waker()) { Poll::Pending } else { Poll::Ready(()) }
    }

    /// Registers a waker, unless a result is waiting.
    fn register(&self, waker: &Waker) -> bool {
        register(waker, |registration| match self.lock() {
            Some(mut state) if state.completed.is_empty() => {
                registration.add_to(&mut state.wakers).then_some(true)
            }
            _ => Some(false),
        })
    }

    /// Waits until there is a result.
    pub async fn ready(&self) {
        std::future::poll_fn(|cx| self.poll_ready(cx)).await;
    }

    /// Waits on this thread until there is a result. Returns false when the time is over.
    ///
    /// While all operations that were started with the queue are of one client, the thread polls its connection for a
    /// short time before it sleeps; see [`Config::busy_poll`](super::Config::busy_poll).
    ///
    /// # Errors
    /// The error of the check in `wait`, and [`NotSupported`](crate::ErrorKind::NotSupported) in a child made by fork.
    pub fn wait(&self, wait: Wait<'_>) -> Result<bool> {
        self.0.process.check()?;
        let ready = match self.lease() {
            Some(lease) => wait.on_answer(lease, Some(self), |cx| self.poll_completed(cx)),
            None => wait.on(|cx| self.poll_ready(cx)),
        };
        Ok(ready?.is_some())
    }
}

impl Awaited for CompletionQueue {
    fn is_awaited_by_others(&self, connection: &dyn Readable) -> bool {
        // Other threads and tasks that wait for this queue have registered their wakers.
        connection.is_awaited(self.lease().map(|_| self.id()))
            || self.lock().is_some_and(|state| !state.wakers.is_empty())
    }
}

#[cfg(test)]
impl CompletionQueue {
    /// Returns true if a thread or a task has registered its waker.
    pub(super) fn is_waited_for(&self) -> bool {
        self.lock().is_some_and(|state| !state.wakers.is_empty())
    }
}

impl Default for CompletionQueue {
    fn default() -> CompletionQueue {
        CompletionQueue::new()
    }
}

impl Drop for CompletionQueue {
    fn drop(&mut self) {
        self.0.process.leak_if_inherited(&self.0);
    }
}

impl From<(u64, Raw)> for Completion {
    fn from((token, result): (u64, Raw)) -> Completion {
        let result = match result {
            Raw::Operation(answer) => Completed::Operation(answer.map_err(Failure::of_operation)),
            #[cfg(feature = "rpc")]
            Raw::Call(outcome) => Completed::Call(outcome.map_err(Failure::of_call)),
        };
        Completion { token, result }
    }
}

impl Completion {
    /// Returns the error, if the operation failed or the call was not answered.
    pub fn error(&self) -> Option<&Error> {
        match &self.result {
            Completed::Operation(result) => result.as_ref().err(),
            Completed::Call(result) => result.as_ref().err(),
        }
    }
}

impl fmt::Debug for CompletionQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CompletionQueue").field("len", &self.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::super::contain::wake_all;
    use super::*;
    use crate::error::ErrorKind;
    use std::time::Duration;

    #[cfg(unix)]
    #[test]
    fn a_descriptor_is_readable_while_results_wait() {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        use std::os::fd::AsFd;

        let descriptor = super::super::wake::WakeFd::new().unwrap();
        let wake_up = WakeUp::from(&descriptor);
        let is_readable = || {
            let mut fds = [PollFd::from_borrowed_fd(descriptor.as_fd(), PollFlags::IN)];
            poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() > 0
        };
        let queue = CompletionQueue::new();
        let push = |token| wake_all(queue.push(token, Raw::Operation(Ok(()))));
        let mut batch = vec![];
        assert_eq!(queue.take_or_arm(&mut batch, 2, &wake_up), 0);
        assert!(!is_readable());
        (0..3).for_each(push);
        assert!(is_readable());
        assert_eq!(queue.take_or_arm(&mut batch, 2, &wake_up), 2);
        assert!(is_readable(), "one result is left");
        assert_eq!(queue.take_or_arm(&mut batch, 2, &wake_up), 1);
        assert!(!is_readable());
        push(3);
        assert!(is_readable());
    }

    #[test]
    fn in_order_and_in_batches() {
        let queue = CompletionQueue::new();
        let mut cx = Context::from_waker(Waker::noop());
        assert!(queue.poll_ready(&mut cx).is_pending());
        assert_eq!(queue.push(1, Raw::Operation(Ok(()))).into_iter().count(), 1);
        for token in 2..5 {
            let wakers = queue.push(token, Raw::Operation(Err(Failure::Refused(0x71))));
            assert_eq!(wakers.into_iter().count(), 0);
        }
        assert!(queue.poll_ready(&mut cx).is_ready());
        let mut batch = vec![];
        assert_eq!((queue.take(&mut batch, 3), queue.len()), (3, 1));
        assert_eq!(queue.take(&mut batch, 3), 1);
        assert_eq!(batch.iter().map(|c| c.token).collect::<Vec<_>>(), [1, 2, 3, 4]);
        assert!(batch[0].error().is_none());
        assert_eq!(batch[3].error().unwrap().kind(), ErrorKind::NotRegistered);
        assert!(!queue.wait(Wait::at_most(Duration::from_millis(1))).unwrap());
    }
}
