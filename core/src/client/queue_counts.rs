//! Counts the results that are expected in completion queues, so that a thread that waits for one queue can tell its
//! own results from those of others.

use super::completions::CompletionQueue;

/// The expected results of one table. They keep their queues alive, so that the id of a queue is not reused.
#[derive(Debug, Default)]
pub(super) struct QueueCounts {
    /// The queue of the first result that was expected after there were none.
    first: usize,
    /// Number of expected results for that queue.
    own: usize,
    /// Number of expected results for all other queues.
    others: usize,
}

impl QueueCounts {
    /// Counts one more result.
    pub(super) fn add(&mut self, queue: &CompletionQueue) {
        if self.own + self.others == 0 {
            self.first = queue.id();
        }
        *self.count(queue) += 1;
    }

    /// Removes one expected result.
    pub(super) fn remove(&mut self, queue: &CompletionQueue) {
        let count = self.count(queue);
        *count = count.saturating_sub(1);
    }

    /// Removes all expected results.
    pub(super) fn clear(&mut self) {
        *self = QueueCounts::default();
    }

    /// Returns the number of expected results for the queue of that id, or a lower number: only one queue is counted
    /// separately.
    pub(super) fn at_least(&self, queue: usize) -> usize {
        if queue == self.first { self.own } else { 0 }
    }

    fn count(&mut self, queue: &CompletionQueue) -> &mut usize {
        if queue.id() == self.first { &mut self.own } else { &mut self.others }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_queue_is_counted_apart() {
        let [a, b] = [CompletionQueue::new(), CompletionQueue::new()];
        let mut counts = QueueCounts::default();
        (0..2).for_each(|_| counts.add(&a));
        counts.add(&b);
        assert_eq!([counts.at_least(a.id()), counts.at_least(b.id())], [2, 0]);
        (0..2).for_each(|_| counts.remove(&a));
        counts.add(&a);
        assert_eq!([counts.at_least(a.id()), counts.at_least(b.id())], [1, 0]);
        counts.remove(&a);
        counts.remove(&b);
        counts.add(&b);
        assert_eq!([counts.at_least(a.id()), counts.at_least(b.id())], [0, 1]);
    }
}
