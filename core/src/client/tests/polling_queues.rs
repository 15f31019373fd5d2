//! Plain threads that wait for a completion queue and poll the socket themselves.

use super::polling::{Bed, REQUEST_BYTES, request, until};
use super::*;
use std::io::{Read, Write};

impl Bed {
    /// Starts an operation whose result goes to the queue, with its id as the token.
    fn send_to(&mut self, completions: &CompletionQueue) -> u32 {
        self.sent += 1;
        let token = u64::from(self.sent);
        assert!(self.client.try_send_to(&request(), completions, token).unwrap().is_sent());
        self.broker.read_exact(&mut [0; REQUEST_BYTES]).unwrap();
        self.sent
    }

    /// Sends an operation that another thread answers while this one waits for the queue.
    fn exchange_with(&mut self, completions: &CompletionQueue) {
        let id = self.send_to(completions);
        let mut broker = self.broker.try_clone().unwrap();
        let looks = self.lease().counts().1;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                until(|| self.lease().counts().1 > looks);
                broker.write_all(&delivery::ack(id, 1)).unwrap();
            });
            assert!(completions.wait(Wait::at_most(PATIENCE)).unwrap());
        });
        assert_eq!(completions.try_take().unwrap().token, u64::from(id));
    }

    /// Exchanges until the task has lent reading.
    fn lend_with(&mut self, completions: &CompletionQueue) {
        for _ in 0..1000 {
            self.exchange_with(completions);
            if self.lease().is_lent() {
                return;
            }
        }
        panic!("reading was not lent");
    }
}

#[test]
fn a_thread_reads_its_completions_itself() {
    let Some(mut bed) = Bed::idle(PATIENCE) else { return };
    let completions = CompletionQueue::new();
    // The runtime does not run: only this thread can read. An operation of the same queue is in progress all the
    // time.
    bed.send_to(&completions);
    (0..20).for_each(|_| bed.exchange_with(&completions));
}

#[test]
fn reading_is_lent_while_more_completions_are_awaited() {
    let Some(mut bed) = Bed::running(PATIENCE) else { return };
    let completions = CompletionQueue::new();
    let first = bed.send_to(&completions);
    bed.lend_with(&completions);
    // Another thread that waits for the answer to its own operation gets it.
    let (pending, id) = bed.send();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| pending.wait_timeout(PATIENCE).unwrap());
        bed.broker.try_clone().unwrap().write_all(&delivery::ack(id, 1)).unwrap();
        waiting.join().unwrap().unwrap();
    });
    // The answer to the first one arrives while no thread waits: the task takes reading back after some milliseconds.
    bed.write(&delivery::ack(first, 1));
    until(|| completions.len() == 1);
}

#[test]
fn a_queue_of_two_clients_is_not_polled() {
    let Some(mut bed) = Bed::running(PATIENCE) else { return };
    let Some(mut other) = Bed::running(PATIENCE) else { return };
    let completions = CompletionQueue::new();
    bed.lend_with(&completions);
    let id = bed.send_to(&completions);
    let other_id = other.send_to(&completions);
    assert!(!bed.lease().is_lent());
    let looks = [bed.lease().counts().1, other.lease().counts().1];
    for (broker, id) in [(&bed.broker, id), (&other.broker, other_id)] {
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| completions.wait(Wait::at_most(PATIENCE)).unwrap());
            broker.try_clone().unwrap().write_all(&delivery::ack(id, 1)).unwrap();
            assert!(waiting.join().unwrap());
        });
        assert_eq!(completions.try_take().unwrap().token, u64::from(id));
    }
    assert_eq!([bed.lease().counts().1, other.lease().counts().1], looks);
}

/// Two threads wait for one queue. Each result wakes one that takes it, and no thread is left asleep.
#[test]
fn several_threads_wait_for_one_queue() {
    let Some(mut bed) = Bed::running(PATIENCE) else { return };
    let completions = CompletionQueue::new();
    for _ in 0..50 {
        let ids = [bed.send_to(&completions), bed.send_to(&completions)];
        std::thread::scope(|scope| {
            let take = || loop {
                assert!(completions.wait(Wait::at_most(PATIENCE)).unwrap());
                if let Some(completion) = completions.try_take() {
                    return completion.token;
                }
            };
            let waiting = [scope.spawn(take), scope.spawn(take)];
            let mut broker = bed.broker.try_clone().unwrap();
            for id in ids {
                broker.write_all(&delivery::ack(id, 1)).unwrap();
                std::thread::yield_now();
            }
            let mut tokens = waiting.map(|thread| thread.join().unwrap());
            tokens.sort_unstable();
            assert_eq!(tokens, ids.map(u64::from));
        });
    }
}

/// A thread sleeps on a queue, while another thread, which polls for its own answers, starts an operation for that
/// queue.
#[test]
fn the_task_reads_for_a_queue_on_which_a_thread_sleeps() {
    for used_before in [false, true] {
        let Some(mut bed) = Bed::running(PATIENCE) else { return };
        let completions = CompletionQueue::new();
        if used_before {
            bed.exchange_with(&completions);
        }
        std::thread::scope(|scope| {
            bed.lease().poll_always(Duration::from_micros(1));
            let waiting = scope.spawn(|| completions.wait(Wait::at_most(PATIENCE)).unwrap());
            until(|| completions.is_waited_for());
            std::thread::sleep(Duration::from_millis(5));
            bed.lease().poll_always(PATIENCE);
            bed.lend();
            let id = bed.send_to(&completions);
            assert!(!bed.lease().is_lent(), "{used_before}");
            bed.write(&delivery::ack(id, 1));
            assert!(waiting.join().unwrap());
        });
    }
}

/// An event loop waits for the results of one queue, and a polling thread for those of another one.
#[test]
fn reading_is_not_lent_while_another_queue_is_waited_for() {
    let Some(mut bed) = Bed::running(PATIENCE) else { return };
    let (polled, armed) = (CompletionQueue::new(), CompletionQueue::new());
    bed.exchange_with(&polled);
    let first = bed.send_to(&armed);
    let wake_up = WakeUp::from(std::task::Waker::noop().clone());
    assert_eq!(armed.take_or_arm(&mut vec![], 1, &wake_up), 0);
    let loans = bed.lease().counts().0;
    (0..20).for_each(|_| bed.exchange_with(&polled));
    assert_eq!(bed.lease().counts().0, loans);
    bed.write(&delivery::ack(first, 1));
    until(|| armed.len() == 1);
    // When no more results are expected for it, reading is lent again.
    bed.lend_with(&polled);
}
