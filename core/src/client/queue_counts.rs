//! Counts the results that are to go to completion queues, so that a thread that waits for one queue can tell its own from
//! those of others.

use super::completions::CompletionQueue;

/// The results to come of one table. A queue with results to come is kept by them, so that its id is its own.
#[derive(Debug, Default)]
pub(super) struct QueueCounts {
    /// The queue that the first result went to when there were none.
    first: usize,
    /// The results for that queue.
    own: usize,
    /// The results for all other queues.
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

    /// A result is no longer to come.
    pub(super) fn remove(&mut self, queue: &CompletionQueue) {
        let count = self.count(queue);
        *count = count.saturating_sub(1);
    }

    /// No result is to come any more.
    pub(super) fn clear(&mut self) {
        *self = QueueCounts::default();
    }

    /// Returns how many results are to go to the queue of that id, or less: only for one queue they are counted apart.
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
