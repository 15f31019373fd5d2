//! Dispatches publications to handlers by topic, so that a program need not distinguish topics in one place.
//!
//! ```
//! # fn main() -> busrt::Result<()> {
//! use busrt::client::topic_broker::TopicBroker;
//!
//! let broker = TopicBroker::new();
//! let states = broker.topic("plant/state", 64)?;
//! broker.on_prefix("plant/events/", |frame| async move {
//!     println!("{:?}", frame.topic());
//! })?;
//! // and for each frame received: if let Some(unhandled) = broker.process(frame).await { .. }
//! # drop(states);
//! # Ok(()) }
//! ```

use crate::error::{Error, ErrorKind, Result};
use crate::frame::Frame;
use parking_lot::RwLock;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::future::Future;
use std::ops::Bound;
use std::pin::Pin;
use std::sync::Arc;
use tokio::sync::mpsc;

type Handling = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The receiver of the frames of a topic.
#[derive(Clone)]
enum Handler {
    Channel(mpsc::Sender<Frame>),
    Function(Arc<dyn Fn(Frame) -> Handling + Send + Sync>),
}

/// Dispatches publications by exact topic, otherwise by the longest matching prefix. Handlers can be added and
/// removed at any time and from any thread.
#[derive(Default)]
pub struct TopicBroker(RwLock<Table>);

#[derive(Default)]
struct Table {
    topics: HashMap<String, Handler>,
    prefixes: BTreeMap<String, Handler>,
}

impl Table {
    fn find(&self, topic: &str) -> Option<&Handler> {
        self.topics.get(topic).or_else(|| {
            // All prefixes of a text sort before it, the longest one last.
            let mut below = self.prefixes.range::<str, _>((Bound::Unbounded, Bound::Included(topic))).rev();
            below.find(|(prefix, _)| topic.starts_with(prefix.as_str())).map(|(_, handler)| handler)
        })
    }
}

impl TopicBroker {
    /// Creates a dispatcher without handlers.
    pub fn new() -> TopicBroker {
        TopicBroker::default()
    }

    /// Delivers publications of exactly `topic` to the returned receiver, in which up to `queue` frames (at least 1)
    /// wait. When it is full, [`process`](TopicBroker::process) waits.
    ///
    /// # Errors
    ///
    /// [`Busy`](ErrorKind::Busy) if the topic has a handler.
    pub fn topic(&self, topic: impl Into<String>, queue: usize) -> Result<mpsc::Receiver<Frame>> {
        let (sender, receiver) = mpsc::channel(queue.max(1));
        self.add_topic(topic.into(), Handler::Channel(sender)).map(|()| receiver)
    }

    /// Does the same as [`topic`](TopicBroker::topic), for all topics that start with `prefix`.
    ///
    /// # Errors
    /// [`Busy`](ErrorKind::Busy) when the prefix has a handler.
    pub fn prefix(&self, prefix: impl Into<String>, queue: usize) -> Result<mpsc::Receiver<Frame>> {
        let (sender, receiver) = mpsc::channel(queue.max(1));
        self.add_prefix(prefix.into(), Handler::Channel(sender)).map(|()| receiver)
    }

    /// Calls `handler` with publications of exactly `topic`; [`process`](TopicBroker::process) waits for
    /// it.
    ///
    /// # Errors
    /// [`Busy`](ErrorKind::Busy) when the topic has a handler.
    pub fn on_topic<F, Fut>(&self, topic: impl Into<String>, handler: F) -> Result<()>
    where
        F: Fn(Frame) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        self.add_topic(topic.into(), function(handler))
    }

    /// Does the same as [`on_topic`](TopicBroker::on_topic), for all topics that start with `prefix`.
    ///
    /// # Errors
    /// [`Busy`](ErrorKind::Busy) when the prefix has a handler.
    pub fn on_prefix<F, Fut>(&self, prefix: impl Into<String>, handler: F) -> Result<()>
    where
        F: Fn(Frame) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        self.add_prefix(prefix.into(), function(handler))
    }

    fn add_topic(&self, topic: String, handler: Handler) -> Result<()> {
        let mut table = self.0.write();
        if table.topics.contains_key(&topic) {
            return Err(Error::new(ErrorKind::Busy, format!("the topic {topic:?} has a handler")));
        }
        table.topics.insert(topic, handler);
        Ok(())
    }

    fn add_prefix(&self, prefix: String, handler: Handler) -> Result<()> {
        let mut table = self.0.write();
        if table.prefixes.contains_key(&prefix) {
            return Err(Error::new(ErrorKind::Busy, format!("the prefix {prefix:?} has a handler")));
        }
        table.prefixes.insert(prefix, handler);
        Ok(())
    }

    /// Removes the handler of a topic. Returns whether there was one.
    pub fn remove_topic(&self, topic: &str) -> bool {
        // The values that the handler has captured must be dropped without the lock.
        let handler = self.0.write().topics.remove(topic);
        handler.is_some()
    }

    /// Removes the handler of a prefix. Returns whether there was one.
    pub fn remove_prefix(&self, prefix: &str) -> bool {
        // Dropped without the lock, for the same reason as above.
        let handler = self.0.write().prefixes.remove(prefix);
        handler.is_some()
    }

    /// Passes `frame` to its handler. Returns the frame if no handler took it: it is not a publication, its topic has
    /// no handler, or the receiver has been dropped.
    pub async fn process(&self, frame: Frame) -> Option<Frame> {
        let Some(topic) = frame.topic() else { return Some(frame) };
        let handler = self.0.read().find(topic).cloned();
        match handler {
            None => Some(frame),
            Some(Handler::Channel(sender)) => sender.send(frame).await.err().map(|e| e.0),
            Some(Handler::Function(function)) => {
                function(frame).await;
                None
            }
        }
    }
}

fn function<F, Fut>(handler: F) -> Handler
where
    F: Fn(Frame) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    Handler::Function(Arc::new(move |frame| Box::pin(handler(frame))))
}

impl fmt::Debug for TopicBroker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let table = self.0.read();
        let topics: Vec<String> = table.topics.keys().cloned().collect();
        let prefixes: Vec<String> = table.prefixes.keys().cloned().collect();
        drop(table);
        f.debug_struct("TopicBroker").field("topics", &topics).field("prefixes", &prefixes).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::delivery::Delivery;
    use crate::proto::op::FrameKind;

    fn publication(topic: &str) -> Frame {
        let kind = FrameKind::Publication;
        let delivery = Delivery { kind, realtime: false, sender: "s", topic: Some(topic), payload: b"" };
        Frame::copied(&delivery)
    }

    #[tokio::test]
    async fn the_exact_topic_then_the_longest_prefix() {
        let broker = TopicBroker::new();
        let mut exact = broker.topic("a/b/c", 8).unwrap();
        let mut long = broker.prefix("a/b/", 8).unwrap();
        let mut short = broker.prefix("a/", 8).unwrap();
        let mut other = broker.prefix("a/b/a", 8).unwrap();
        for topic in ["a/b/c", "a/b/d", "a/x", "a/b/ab"] {
            assert!(broker.process(publication(topic)).await.is_none());
        }
        let got = |r: &mut mpsc::Receiver<Frame>| {
            let topic = r.try_recv().unwrap().topic().unwrap().to_owned();
            assert!(r.try_recv().is_err());
            topic
        };
        assert_eq!(got(&mut exact), "a/b/c");
        assert_eq!(got(&mut long), "a/b/d");
        assert_eq!(got(&mut short), "a/x");
        assert_eq!(got(&mut other), "a/b/ab");
        assert_eq!(broker.process(publication("b")).await.unwrap().topic(), Some("b"));
        assert!(broker.remove_prefix("a/"));
        assert!(broker.process(publication("a/x")).await.is_some());
        drop(exact);
        assert!(broker.process(publication("a/b/c")).await.is_some());
    }

    #[tokio::test]
    async fn functions_and_names_taken() {
        let broker = TopicBroker::new();
        let (sender, mut receiver) = mpsc::channel(1);
        broker
            .on_topic("t", move |frame| {
                let sender = sender.clone();
                async move { sender.send(frame).await.unwrap() }
            })
            .unwrap();
        assert_eq!(broker.topic("t", 1).unwrap_err().kind(), ErrorKind::Busy);
        assert!(broker.process(publication("t")).await.is_none());
        assert_eq!(receiver.recv().await.unwrap().topic(), Some("t"));
        assert!(broker.remove_topic("t"));
        assert!(!broker.remove_topic("t"));
    }
}
