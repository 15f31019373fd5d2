//! Finds the handlers of a topic.

use busrt::matching::topics::TopicTrie;
use parking_lot::Mutex;
use pyo3::prelude::*;

/// Topic masks, each with the numbers of its handlers. May be used from any thread.
#[pyclass(module = "busrt._busrt", frozen)]
pub(crate) struct TopicMatcher(Mutex<TopicTrie>);

#[pymethods]
impl TopicMatcher {
    #[new]
    fn new() -> TopicMatcher {
        TopicMatcher(Mutex::new(TopicTrie::new()))
    }

    fn insert(&self, mask: &str, id: u32) -> bool {
        self.0.lock().insert(mask, id)
    }

    fn remove(&self, mask: &str, id: u32) -> bool {
        self.0.lock().remove(mask, id)
    }

    /// The numbers whose masks match the topic, ascending.
    fn find(&self, topic: &str) -> Vec<u32> {
        let mut found = vec![];
        self.0.lock().matches(topic, &mut found);
        found
    }
}
