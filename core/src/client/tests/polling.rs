//! Plain threads that wait for an answer and poll the socket themselves.

use super::*;
use crate::client::reading_lease::ReadingLease;
use std::io::{Read, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Wake;
use std::time::Instant;
use tokio::runtime::{Builder, Runtime};

/// The length of [`request`] on the wire, in bytes.
pub(super) const REQUEST_BYTES: usize = 12;

pub(super) fn request() -> Request<'static> {
    Request::message("b", b"x", QoS::Processed)
}

/// A client whose threads poll, its broker, and the runtime. A runtime without its own workers runs nothing.
pub(super) struct Bed {
    pub(super) client: Client,
    pub(super) broker: std::os::unix::net::UnixStream,
    runtime: Runtime,
    pub(super) sent: u32,
}

impl Bed {
    /// Returns `None` on a machine with a single core, where threads do not poll.
    fn new(mut builder: Builder, limit: Duration) -> Option<Bed> {
        let runtime = builder.enable_all().build().unwrap();
        let (client, broker) = runtime.block_on(connected(&config().write_through(true)));
        client.0.state.inbox.lease().poll_always(limit);
        let broker = broker.0.into_std().unwrap();
        broker.set_nonblocking(false).unwrap();
        let bed = Bed { client, broker, runtime, sent: 0 };
        bed.lease().is_on().then_some(bed)
    }

    /// Creates a bed whose runtime runs on its own thread.
    pub(super) fn running(limit: Duration) -> Option<Bed> {
        let mut builder = Builder::new_multi_thread();
        builder.worker_threads(1);
        Bed::new(builder, limit)
    }

    /// Creates a bed whose runtime does not run.
    pub(super) fn idle(limit: Duration) -> Option<Bed> {
        Bed::new(Builder::new_current_thread(), limit)
    }

    pub(super) fn lease(&self) -> &ReadingLease {
        self.client.0.state.inbox.lease()
    }

    pub(super) fn send(&mut self) -> (PendingOperation, u32) {
        self.sent += 1;
        let pending = self.client.try_send(&request()).unwrap().sent().unwrap();
        self.broker.read_exact(&mut [0; REQUEST_BYTES]).unwrap();
        (pending, self.sent)
    }

    /// Sends a request that another thread answers while this one waits.
    fn exchange(&mut self) {
        let (pending, id) = self.send();
        let mut broker = self.broker.try_clone().unwrap();
        let looks = self.lease().counts().1;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // Wait until this thread has begun to poll.
                until(|| self.lease().counts().1 > looks);
                broker.write_all(&delivery::ack(id, 1)).unwrap();
            });
            assert!(pending.wait_timeout(PATIENCE).unwrap().is_ok());
        });
    }

    /// Exchanges until the task has lent reading.
    pub(super) fn lend(&mut self) {
        for _ in 0..1000 {
            self.exchange();
            if self.lease().is_lent() {
                return;
            }
        }
        panic!("reading was not lent");
    }

    /// Reads other data that was sent.
    fn drain(&mut self) {
        self.broker.set_nonblocking(true).unwrap();
        while self.broker.read(&mut [0; 1024]).is_ok() {}
        self.broker.set_nonblocking(false).unwrap();
    }

    pub(super) fn write(&mut self, bytes: &[u8]) {
        self.broker.write_all(bytes).unwrap();
    }
}

pub(super) fn until(mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "the condition never became true");
        std::thread::sleep(Duration::from_micros(100));
    }
}

#[test]
fn a_thread_reads_its_answer_itself() {
    let Some(mut bed) = Bed::idle(PATIENCE) else { return };
    // The runtime does not run: only this thread can read.
    (0..20).for_each(|_| bed.exchange());
    assert_eq!(bed.lease().counts().0, 0);
}

#[test]
fn lent_reading_is_taken_back_when_nothing_polls() {
    let Some(mut bed) = Bed::running(PATIENCE) else { return };
    bed.lend();
    let mut frames = bed.client.frames().unwrap();
    let (looks, message) = (bed.lease().counts().1, message(b"late"));
    bed.write(&message);
    // Nothing is registered for the frame.
    until(|| bed.client.stats().queue == 1);
    assert_eq!(frames.try_recv().unwrap().payload(), b"late");
    assert!(!bed.lease().is_lent());
    assert_eq!(bed.lease().counts().1, looks);
    bed.lend();
    // The end is noticed too.
    bed.broker.shutdown(std::net::Shutdown::Both).unwrap();
    until(|| !bed.client.is_connected());
}

#[test]
fn a_thread_that_sleeps_is_answered_by_the_task() {
    let Some(mut bed) = Bed::running(PATIENCE) else { return };
    bed.lend();
    bed.lease().poll_always(Duration::from_micros(100));
    let (pending, id) = bed.send();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| pending.wait_timeout(PATIENCE).unwrap());
        until(|| !bed.lease().is_lent());
        // It has given up polling before it sleeps.
        bed.broker.try_clone().unwrap().write_all(&delivery::ack(id, 1)).unwrap();
        waiting.join().unwrap().unwrap();
    });
}

/// Returns a queue with an operation in progress.
fn queued(client: &Client) -> CompletionQueue {
    let completions = CompletionQueue::new();
    assert!(client.try_send_to(&request(), &completions, 1).unwrap().is_sent());
    completions
}

/// When something begins to wait for incoming data without polling, the task takes reading back.
#[test]
fn the_task_reads_for_waits_that_do_not_poll() {
    type Waits = fn(&Client, &mut std::task::Context<'_>) -> Box<dyn std::any::Any>;
    #[cfg_attr(not(feature = "rpc"), expect(unused_mut, reason = "only calls are added"))]
    let mut waits: Vec<(u32, Waits)> = vec![
        (0, |client, cx| {
            let mut frames = client.frames().unwrap();
            assert!(frames.poll_recv(cx).is_pending());
            Box::new(frames)
        }),
        (0, |client, cx| {
            let mut frames = client.frames().unwrap();
            assert!(frames.poll_batch(cx, &mut vec![], 1, 1).is_pending());
            Box::new(frames)
        }),
        (0, |client, _| {
            let mut frames = client.frames().unwrap();
            frames.set_wake_up(WakeUp::from(std::task::Waker::noop().clone()));
            Box::new(frames)
        }),
        (1, |client, cx| {
            let pending = client.try_send(&request()).unwrap().sent().unwrap();
            assert!(pending.poll_result(cx).is_pending());
            Box::new(pending)
        }),
        (1, |client, cx| {
            let completions = queued(client);
            assert!(completions.poll_ready(cx).is_pending());
            Box::new(completions)
        }),
        (1, |client, _| {
            let completions = queued(client);
            assert!(completions.try_take().is_none());
            Box::new(completions)
        }),
        (1, |client, _| {
            let completions = queued(client);
            assert_eq!(completions.take(&mut vec![], 1), 0);
            Box::new(completions)
        }),
        (1, |client, _| {
            let completions = queued(client);
            let wake_up = WakeUp::from(std::task::Waker::noop().clone());
            assert_eq!(completions.take_or_arm(&mut vec![], 1, &wake_up), 0);
            Box::new(completions)
        }),
    ];
    #[cfg(feature = "rpc")]
    waits.extend::<[(u32, Waits); 2]>([
        (0, |client, cx| {
            let caller = crate::rpc::Caller::new(client.clone());
            let call = crate::rpc::CallRequest::new("srv", "m", b"", QoS::No);
            let pending = caller.try_call(&call).unwrap().sent().unwrap();
            assert!(pending.poll_result(cx).is_pending());
            Box::new(pending)
        }),
        (0, |client, cx| {
            let caller = crate::rpc::Caller::new(client.clone());
            let completions = CompletionQueue::new();
            let call = crate::rpc::CallRequest::new("srv", "m", b"", QoS::No);
            assert!(caller.try_call_to(&call, &completions, 1).unwrap().is_sent());
            assert!(completions.poll_ready(cx).is_pending());
            Box::new((caller, completions))
        }),
    ]);
    for (i, (acknowledged, wait)) in waits.into_iter().enumerate() {
        let Some(mut bed) = Bed::running(PATIENCE) else { return };
        bed.lend();
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        let waiting = wait(&bed.client, &mut cx);
        assert!(!bed.lease().is_lent(), "{i}");
        bed.drain();
        bed.sent += acknowledged;
        // As long as it waits, reading is not lent.
        let loans = bed.lease().counts().0;
        (0..20).for_each(|_| bed.exchange());
        assert_eq!(bed.lease().counts().0, loans, "{i}");
        drop(waiting);
    }
}

#[test]
fn several_threads_wait() {
    let Some(mut bed) = Bed::running(PATIENCE) else { return };
    for round in 0..20 {
        let (first, first_id) = bed.send();
        let (second, second_id) = bed.send();
        let looks = bed.lease().counts().1;
        std::thread::scope(|scope| {
            let polling = scope.spawn(|| first.wait_timeout(PATIENCE).unwrap().unwrap());
            until(|| bed.lease().counts().1 > looks);
            let sleeping = scope.spawn(|| second.wait_timeout(PATIENCE).unwrap().unwrap());
            let mut broker = bed.broker.try_clone().unwrap();
            let acks = [delivery::ack(first_id, 1), delivery::ack(second_id, 1)];
            // The polling thread delivers the answer of the other one; or it leaves, and the other is answered
            // nevertheless.
            let [now, later] = if round % 2 == 0 { [&acks[1], &acks[0]] } else { [&acks[0], &acks[1]] };
            broker.write_all(now).unwrap();
            if round % 2 == 0 {
                sleeping.join().unwrap();
                broker.write_all(later).unwrap();
                polling.join().unwrap();
            } else {
                polling.join().unwrap();
                broker.write_all(later).unwrap();
                sleeping.join().unwrap();
            }
        });
        assert!(!bed.lease().is_lent());
    }
}

/// A waker that runs on the polling thread waits for an answer of the same client.
#[test]
fn a_waker_may_wait_for_the_same_client() {
    struct Waits {
        client: Client,
        waited: AtomicUsize,
    }
    impl Wake for Waits {
        fn wake(self: Arc<Self>) {
            let pending = self.client.try_send(&request()).unwrap().sent().unwrap();
            pending.wait_timeout(PATIENCE).unwrap().unwrap();
            self.waited.fetch_add(1, Ordering::SeqCst);
        }
    }
    let Some(mut bed) = Bed::running(PATIENCE) else { return };
    bed.lend();
    let waker = Arc::new(Waits { client: bed.client.clone(), waited: AtomicUsize::new(0) });
    let events = bed.client.events();
    let (other, other_id) = bed.send();
    let std_waker = waker.clone().into();
    assert!(other.poll_result(&mut std::task::Context::from_waker(&std_waker)).is_pending());
    let (pending, id) = bed.send();
    let looks = bed.lease().counts().1;
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| pending.wait_timeout(PATIENCE).unwrap().unwrap());
        until(|| bed.lease().counts().1 > looks);
        let mut broker = bed.broker.try_clone().unwrap();
        broker.write_all(&delivery::ack(other_id, 1)).unwrap();
        // The waker has sent.
        broker.read_exact(&mut [0; REQUEST_BYTES]).unwrap();
        broker.write_all(&delivery::ack(id + 1, 1)).unwrap();
        until(|| waker.waited.load(Ordering::SeqCst) == 1);
        broker.write_all(&delivery::ack(id, 1)).unwrap();
        waiting.join().unwrap();
    });
    drop(events);
}

#[test]
fn checks_and_deadlines_hold_while_a_thread_polls() {
    let Some(mut bed) = Bed::running(PATIENCE) else { return };
    let (pending, _) = bed.send();
    let mut checks = 0;
    let mut check = || {
        checks += 1;
        if checks < 3 { Ok(()) } else { Err(Error::new(ErrorKind::Other, "interrupted")) }
    };
    let start = Instant::now();
    let wait = Wait::forever().slice(Duration::from_millis(1)).check(&mut check);
    assert_eq!(pending.wait(wait).unwrap_err().context(), "interrupted");
    assert!(pending.wait_timeout(Duration::from_millis(5)).is_none());
    assert!(start.elapsed() < PATIENCE / 2);
    let short = request().deadline(Duration::from_millis(5));
    let pending = bed.client.try_send(&short).unwrap().sent().unwrap();
    assert_eq!(pending.wait_timeout(PATIENCE).unwrap().unwrap_err().kind(), ErrorKind::Timeout);
}

#[test]
fn the_end_ends_a_poll() {
    for by_runtime in [false, true] {
        let Some(mut bed) = Bed::running(PATIENCE) else { return };
        bed.lend();
        let (pending, _) = bed.send();
        let looks = bed.lease().counts().1;
        let Bed { client, broker, runtime, .. } = bed;
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| pending.wait_timeout(PATIENCE).unwrap().unwrap_err().kind());
            until(|| client.0.state.inbox.lease().counts().1 > looks);
            if by_runtime {
                drop(runtime);
            } else {
                broker.shutdown(std::net::Shutdown::Both).unwrap();
            }
            assert_eq!(waiting.join().unwrap(), ErrorKind::ConnectionLost);
        });
        until(|| !client.is_connected());
    }
}

#[test]
fn closing_does_not_wait_for_lent_reading() {
    let Some(mut bed) = Bed::running(PATIENCE) else { return };
    bed.lend();
    bed.client.close();
    let mut rest = vec![];
    bed.broker.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, b"");
}

#[test]
fn a_full_inbox_leaves_reading_to_the_task() {
    let Some(mut bed) = Bed::running(PATIENCE) else { return };
    let _frames = bed.client.frames().unwrap();
    bed.lend();
    let (pending, id) = bed.send();
    let mut flood: Vec<u8> = (0..2000).flat_map(|_| message(&[0; 1000])).collect();
    flood.extend(delivery::ack(id, 1));
    bed.write(&flood);
    assert!(pending.wait_timeout(PATIENCE).unwrap().is_ok());
    assert_eq!(bed.client.stats().queue, 2000);
}

#[test]
fn a_client_that_only_receives_never_polls() {
    let Some(mut bed) = Bed::running(PATIENCE) else { return };
    let mut frames = bed.client.frames().unwrap();
    let mut batch = vec![];
    for _ in 0..50 {
        let mut broker = bed.broker.try_clone().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| broker.write_all(&message(b"four")).unwrap());
            let taken = frames.wait_batch(&mut batch, 8, 1 << 20, Wait::at_most(PATIENCE)).unwrap();
            assert!(taken.unwrap() > 0);
        });
    }
    assert_eq!(bed.lease().counts(), (0, 0));
    // The answer to a sent message is polled for.
    assert!(bed.client.try_send(&Request::message("b", b"x", QoS::No)).unwrap().is_sent());
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| frames.wait_batch(&mut batch, 8, 1 << 20, Wait::at_most(PATIENCE)));
        until(|| bed.lease().counts().1 > 0);
        bed.broker.write_all(&message(b"four")).unwrap();
        assert_eq!(waiting.join().unwrap().unwrap(), Some(1));
    });
}

#[test]
fn it_can_be_switched_off() {
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let config = config().busy_poll(Duration::ZERO);
    let (client, broker) = runtime.block_on(connected(&config));
    let broker = broker.0.into_std().unwrap();
    broker.set_nonblocking(false).unwrap();
    for id in 1..20 {
        let pending = client.try_send(&request()).unwrap().sent().unwrap();
        let mut broker = broker.try_clone().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| broker.write_all(&delivery::ack(id, 1)).unwrap());
            assert!(pending.wait_timeout(PATIENCE).unwrap().is_ok());
        });
    }
    assert_eq!(client.0.state.inbox.lease().counts(), (0, 0));
}
