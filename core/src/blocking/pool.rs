//! The threads that run blocking handlers.
//!
//! A handler may wait, also for a reply to its own call, so that each needs a thread. These threads do not belong to
//! the runtime: a thread is started when all others are busy, up to a maximum, and ends when it has been idle for
//! some seconds.

use crate::client::effects::contain;
use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// The stack size of a handler's thread, in bytes.
const STACK_BYTES: usize = 1024 * 1024;
/// A thread that has been idle for this time ends.
const IDLE: Duration = Duration::from_secs(5);

type Job = Box<dyn FnOnce() + Send>;

/// A pool of threads. When it is dropped, the idle threads end, and the others end when they have no jobs left.
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
    /// Number of threads that wait for a job.
    idle: usize,
    closed: bool,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("jobs", &self.jobs.len()).field("threads", &self.threads).finish()
    }
}

impl Pool {
    /// Creates a pool of up to `max_threads` threads. No thread is started yet.
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

    /// Queues `job`, which a thread of the pool runs after the jobs that are waiting. Returns false if the pool has
    /// no thread and none can be started: all waiting jobs are dropped then.
    #[must_use = "without a thread the job is dropped"]
    pub(super) fn run(&self, job: impl FnOnce() + Send + 'static) -> bool {
        self.0.push(Box::new(job))
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.0.state.lock().closed = true;
        self.0.changed.notify_all();
    }
}

impl Shared {
    /// Queues a job and makes sure that a thread will run it. Returns false if that is impossible.
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

    /// Handles the failure to start a thread. If there is no other thread, the waiting jobs are dropped. Returns
    /// whether there is another thread.
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

    /// The main function of a thread of the pool.
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

/// Drops jobs. Their handlers own values of the program, whose drops may panic.
fn drop_jobs(jobs: VecDeque<Job>) {
    for job in jobs {
        contain("the drop of a handler", || drop(job));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Barrier, mpsc};
    use std::thread::ThreadId;
    use std::time::Instant;

    fn threads(shared: &Shared) -> usize {
        shared.state.lock().threads
    }

    fn eventually(what: &str, check: impl Fn() -> bool) {
        let start = Instant::now();
        while !check() {
            assert!(start.elapsed() < Duration::from_secs(20), "not in time: {what}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Runs a job and waits for its result.
    fn result<T: Send + 'static>(pool: &Pool, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (sender, receiver) = mpsc::channel();
        assert!(pool.run(move || sender.send(work()).unwrap()));
        receiver.recv().unwrap()
    }

    #[test]
    fn as_many_threads_as_wait_and_none_when_idle() {
        const JOBS: usize = 600;
        let pool = Pool::with_idle("test", JOBS, Duration::from_millis(20));
        let barrier = Arc::new(Barrier::new(JOBS + 1));
        for _ in 0..JOBS {
            let barrier = barrier.clone();
            assert!(pool.run(move || _ = barrier.wait()));
        }
        barrier.wait();
        eventually("idle threads end", || threads(&pool.0) == 0);
        assert_eq!(result(&pool, || 5), 5);
    }

    #[test]
    fn one_thread_runs_in_order() {
        let pool = Pool::new("test", 1);
        let order = Arc::new(Mutex::new(Vec::<(u32, ThreadId)>::new()));
        for n in 0..100 {
            let order = order.clone();
            assert!(pool.run(move || order.lock().push((n, std::thread::current().id()))));
        }
        result(&pool, || ());
        let order = order.lock();
        assert!(order.iter().map(|(n, _)| *n).eq(0..100));
        assert!(order.iter().all(|(_, thread)| *thread == order[0].1));
    }

    #[test]
    fn a_panic_ends_no_thread() {
        let pool = Pool::new("test", 1);
        let thread = result(&pool, || std::thread::current().id());
        assert!(pool.run(|| panic!("as told")));
        assert_eq!(result(&pool, || std::thread::current().id()), thread);
    }

    #[test]
    fn the_threads_end_with_the_pool() {
        let pool = Pool::new("test", 2);
        assert_eq!(result(&pool, || 5), 5);
        let shared = pool.0.clone();
        drop(pool);
        eventually("the threads end", || threads(&shared) == 0);
    }
}
