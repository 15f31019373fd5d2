//! Requests about all clients, which take long to answer. A dedicated thread answers them, one at a time.

use parking_lot::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use tokio::sync::oneshot;

/// An error reply: the code and the reason.
pub(super) type Failure = (i16, String);

/// A request about all clients.
pub(super) enum Question {
    /// The clients whose name matches the filter.
    Clients { filter: Option<String> },
    /// The counters over all clients.
    Stats,
}

/// A question, with the channel for its answer.
pub(super) struct Request {
    pub(super) question: Question,
    /// Takes the packed result.
    pub(super) answer: oneshot::Sender<Result<Vec<u8>, Failure>>,
}

/// Access to the thread that answers, which the first question starts.
#[derive(Debug, Default)]
pub(super) struct Questions {
    requests: Mutex<Option<Sender<Request>>>,
}

impl Questions {
    /// Asks a question. The thread runs `answer_all`; it is started if it is not running yet.
    ///
    /// # Errors
    ///
    /// The system cannot start another thread.
    pub(super) fn ask(
        &self,
        question: Question,
        answer_all: impl FnOnce(&Receiver<Request>) + Send + 'static,
    ) -> std::io::Result<oneshot::Receiver<Result<Vec<u8>, Failure>>> {
        let (answer, receiver) = oneshot::channel();
        let mut requests = self.requests.lock();
        let sender = match &mut *requests {
            Some(sender) => sender,
            none => {
                let (sender, requests) = channel();
                std::thread::Builder::new()
                    .name("busrt-admin".into())
                    .spawn(move || answer_all(&requests))?;
                none.insert(sender)
            }
        };
        // The thread lives as long as the sender. An error only drops the request, which the receiver notices.
        let _ = sender.send(Request { question, answer });
        Ok(receiver)
    }
}
