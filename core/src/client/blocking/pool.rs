//! The threads that run blocking handlers.
//!
//! A handler may wait, for a reply to a call of its own too, so that each needs a thread. They are not those of the
//! runtime: a thread is started when all others are busy, up to a maximum, and ends when it has had nothing to do
//! for some seconds.

use crate::client::effects::contain;
use parking_lot::{Condvar, Mutex};
use std::any::Any;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// The stack of a handler's thread.
pub(super) const STACK_BYTES: usize = 1024 * 1024;
/// A thread that has had nothing to do for this time ends.
const IDLE: Duration = Duration::from_secs(5);

type Job = Box<dyn FnOnce() + Send>;
type Panic = Box<dyn Any + Send>;

/// A pool of threads. The threads that are idle end when it is dropped, the others when they have nothing left to
/// do.
#[derive(Debug)]
pub(super) struct Pool(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    name: &'static str,
    max_threads: usize,
    idle: Duration,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    threads: usize,
    /// Threads that wait for a job.
    idle: usize,
    closed: bool,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("jobs", &self.jobs.len()).field("threads", &self.threads).finish()
    }
}

impl Pool {
    /// A pool of up to `max_threads` threads, none of which runs so far.
    pub(super) fn new(name: &'static str, max_threads: usize) -> Pool {
        Pool::with_idle(name, max_threads, IDLE)
    }

    fn with_idle(name: &'static str, max_threads: usize, idle: Duration) -> Pool {
        Pool(Arc::new(Shared {
            name,
            max_threads: max_threads.max(1),
            idle,
            state: Mutex::default(),
            changed: Condvar::new(),
        }))
    }

    /// Runs `work` on a thread of the pool. `None` when no thread can be started and there is none.
    ///
    /// # Panics
    /// With what `work` panics with.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let (sender, receiver) = oneshot::channel::<Result<T, Panic>>();
        let job = Box::new(move || {
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
            // An error: the task that waits was dropped. What the handler returned is dropped here.
            drop(sender.send(result));
        });
        if !self.0.push(job) {
            return None;
        }
        match receiver.await {
            Ok(Ok(value)) => Some(value),
            Ok(Err(panic)) => std::panic::resume_unwind(panic),
            Err(_) => None,
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.0.state.lock().closed = true;
        self.0.changed.notify_all();
    }
}

impl Shared {
    /// Queues a job and sees to a thread for it. Returns false when there can be none.
    fn push(self: &Arc<Self>, job: Job) -> bool {
        let mut state = self.state.lock();
        state.jobs.push_back(job);
        if state.idle >= state.jobs.len() {
            drop(state);
            self.changed.notify_one();
            return true;
        }
        if state.threads >= self.max_threads {
            return true;
        }
        state.threads += 1;
        drop(state);
        let shared = self.clone();
        let started = std::thread::Builder::new()
            .name(self.name.to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || shared.work());
        let Err(e) = started else { return true };
        contain("the logger", || log::warn!("no thread for a blocking handler: {e}"));
        self.give_up_thread()
    }

    /// A thread could not be started. If there is no other, what waits is dropped. Returns whether there is another.
    fn give_up_thread(&self) -> bool {
        let mut state = self.state.lock();
        state.threads -= 1;
        if state.threads > 0 {
            return true;
        }
        let jobs = std::mem::take(&mut state.jobs);
        drop(state);
        drop_jobs(jobs);
        false
    }

    /// A thread of the pool.
    fn work(&self) {
        let mut state = self.state.lock();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                drop(state);
                contain("a blocking handler", job);
                state = self.state.lock();
                continue;
            }
            if state.closed {
                break;
            }
            state.idle += 1;
            let late = self.changed.wait_for(&mut state, self.idle).timed_out();
            state.idle -= 1;
            if late && state.jobs.is_empty() {
                break;
            }
        }
        state.threads -= 1;
    }
}

/// Handlers own what the program gave them.
fn drop_jobs(jobs: VecDeque<Job>) {
    for job in jobs {
        contain("the drop of a handler", || drop(job));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;
    use std::thread::ThreadId;

    fn threads(pool: &Pool) -> usize {
        pool.0.state.lock().threads
    }

    async fn until(holds: impl Fn() -> bool) {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    #[tokio::test]
    async fn as_many_threads_as_wait_and_none_when_idle() {
        const JOBS: usize = 600;
        let pool = Arc::new(Pool::with_idle("test", JOBS, Duration::from_millis(20)));
        let barrier = Arc::new(Barrier::new(JOBS));
        let jobs: Vec<_> = (0..JOBS)
            .map(|_| {
                let (pool, barrier) = (pool.clone(), barrier.clone());
                tokio::spawn(async move { pool.run(move || barrier.wait()).await })
            })
            .collect();
        for job in jobs {
            assert!(job.await.unwrap().is_some());
        }
        until(|| threads(&pool) == 0).await;
        assert_eq!(pool.run(|| 5).await, Some(5));
    }

    #[tokio::test]
    async fn one_thread_runs_in_order() {
        let pool = Pool::new("test", 1);
        let order = Arc::new(Mutex::new(Vec::<(u32, ThreadId)>::new()));
        let jobs = (0..100).map(|n| {
            let order = order.clone();
            pool.run(move || order.lock().push((n, std::thread::current().id())))
        });
        for job in jobs {
            job.await.unwrap();
        }
        let order = order.lock();
        assert!(order.iter().map(|(n, _)| *n).eq(0..100));
        assert!(order.iter().all(|(_, thread)| *thread == order[0].1));
    }

    #[tokio::test]
    async fn a_panic_is_that_of_the_caller() {
        let pool = Arc::new(Pool::new("test", 2));
        let job = tokio::spawn({
            let pool = pool.clone();
            async move { pool.run(|| panic!("as told")).await }
        });
        assert!(job.await.unwrap_err().is_panic());
        assert_eq!(pool.run(|| 5).await, Some(5));
    }

    #[tokio::test]
    async fn the_threads_end_with_the_pool() {
        let pool = Pool::new("test", 2);
        assert_eq!(pool.run(|| 5).await, Some(5));
        let shared = pool.0.clone();
        drop(pool);
        until(|| shared.state.lock().threads == 0).await;
    }
}
