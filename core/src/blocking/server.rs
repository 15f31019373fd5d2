//! The serving side: one lane for each kind of request. The threads of a lane take received requests and run the
//! handlers.
//!
//! No thread waits for requests. When something has arrived, the intake of a lane wakes the lane, which lets a thread
//! of its pool take it. A thread that takes several requests passes all but the last of them to other threads before
//! it runs a handler, and schedules the next take, so that a handler that waits does not delay others.
//!
//! A lane takes no more requests than it has threads for. If another server takes over, it gets the remaining ones.

use super::handlers::Handlers;
use super::pool::Pool;
use super::source::Source;
use crate::client::Client;
use crate::client::effects::contain;
use crate::rpc::{Call, Incoming, Intake, Options, Responder, RpcError, Serving, Working};
use crate::shown::shown;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Wake, Waker};

/// Maximum number of requests that are taken in one batch.
const BATCH: usize = 16;

/// The lanes of a server.
#[derive(Debug)]
pub(super) struct Server(Vec<Arc<LaneServer>>);

impl Server {
    /// Takes over the frames of the client.
    pub(super) fn start(client: &Client, handlers: Arc<dyn Handlers>, options: &Options) -> Server {
        let lane = |name, intake, max_concurrent: usize| {
            LaneServer::start(name, intake, max_concurrent, handlers.clone())
        };
        if options.in_order {
            let Serving { frames, .. } = Serving::in_order(client);
            return Server(vec![lane("busrt-frames", frames, 1)]);
        }
        let Serving { requests, notifications, frames } = Serving::new(client);
        Server(vec![
            lane("busrt-calls", requests, options.max_concurrent),
            lane("busrt-notify", notifications, 1),
            lane("busrt-frames", frames, 1),
        ])
    }

    /// Stops taking requests. Running handlers continue.
    pub(super) fn close(&self) {
        self.0.iter().for_each(|lane| lane.source.close());
    }

    /// Leaks the lanes in a child made by fork instead of dropping them, because their locks may be held for ever
    /// there.
    pub(super) fn leak(&self) {
        self.0.iter().cloned().for_each(std::mem::forget);
    }
}

/// The received frames of one kind, and the threads that handle them.
struct LaneServer {
    source: Source,
    pool: Pool,
    max_concurrent: usize,
    /// Number of requests that were taken and are not handled yet.
    taken: AtomicUsize,
    handlers: Arc<dyn Handlers>,
}

impl LaneServer {
    fn start(
        name: &'static str,
        intake: Intake,
        max_concurrent: usize,
        handlers: Arc<dyn Handlers>,
    ) -> Arc<LaneServer> {
        let max_concurrent = max_concurrent.max(1);
        let lane = Arc::new(LaneServer {
            source: Source::new(),
            pool: Pool::new(name, max_concurrent),
            max_concurrent,
            taken: AtomicUsize::new(0),
            handlers,
        });
        let waker = Waker::from(Arc::new(WakeLaneServer(Arc::downgrade(&lane))));
        if lane.source.open(intake, waker) {
            lane.schedule();
        }
        lane
    }

    /// Schedules a thread of the pool to take what was received.
    fn schedule(self: &Arc<Self>) {
        let lane = self.clone();
        if !self.pool.run(move || lane.serve()) {
            self.reject_all();
        }
    }

    /// Takes what was received and handles it. Runs on a thread of the pool.
    fn serve(self: Arc<Self>) {
        // A client that drains waits until this is dropped.
        let mut working = None;
        let mut batch = Vec::new();
        loop {
            let more = self.take(&mut batch, &mut working);
            match batch.pop() {
                None if more => continue,
                None => return,
                Some(last) => {
                    batch.drain(..).for_each(|incoming| self.hand_over(incoming));
                    if more && self.max_concurrent > 1 {
                        self.schedule();
                        return self.handle(last);
                    }
                    self.handle(last);
                }
            }
            if !more {
                return;
            }
        }
    }

    /// Takes as many requests as there are threads for. Returns true if more may be waiting.
    fn take(&self, batch: &mut Vec<Incoming>, working: &mut Option<Working>) -> bool {
        let most = || self.max_concurrent.saturating_sub(self.taken.load(Ordering::Relaxed)).min(BATCH);
        self.source.take(batch, working, most, |count| _ = self.taken.fetch_add(count, Ordering::Relaxed))
    }

    /// Lets another thread handle a request that was taken.
    fn hand_over(self: &Arc<Self>, incoming: Incoming) {
        let lane = self.clone();
        // The job is dropped if there is no thread, which would answer the request. But this thread exists.
        let _ = self.pool.run(move || lane.handle(incoming));
    }

    fn handle(&self, incoming: Incoming) {
        match incoming {
            Incoming::Request(call, responder) => self.answer(call, responder),
            Incoming::Notification(notification) => {
                let sender = notification.frame().clone();
                contain(format_args!("the handler of a notification of {}", shown(sender.sender())), || {
                    self.handlers.on_notification(notification);
                });
            }
            Incoming::Frame(frame) => {
                let handled = frame.clone();
                contain(format_args!("the handler of a frame of {}", shown(frame.sender())), || {
                    self.handlers.on_frame(handled);
                });
            }
        }
        self.taken.fetch_sub(1, Ordering::Relaxed);
    }

    fn answer(&self, call: Call, responder: Responder) {
        let mut outcome = None;
        contain(format_args!("the handler of a call of {}", shown(responder.caller())), || {
            outcome = Some(self.handlers.on_call(call));
        });
        responder.send_waiting(outcome.unwrap_or_else(|| Err(RpcError::internal("the handler panicked"))));
    }

    /// Discards what was received if no thread can handle it. Calls are answered with an error, everything else is
    /// dropped. Never waits.
    fn reject_all(&self) {
        let (mut batch, mut working) = (Vec::new(), None);
        loop {
            let more = self.source.take(&mut batch, &mut working, || BATCH, |_| ());
            for incoming in batch.drain(..) {
                match incoming {
                    Incoming::Request(_, responder) => {
                        responder.error(RpcError::internal("the server has no thread for this call"));
                    }
                    dropped => {
                        contain("the drop of a payload", || drop(dropped));
                    }
                }
            }
            if !more {
                return;
            }
        }
    }
}

impl fmt::Debug for LaneServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LaneServer")
            .field("source", &self.source)
            .field("pool", &self.pool)
            .finish_non_exhaustive()
    }
}

/// Wakes a lane that may have been dropped.
struct WakeLaneServer(Weak<LaneServer>);

impl Wake for WakeLaneServer {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if let Some(lane) = self.0.upgrade() {
            lane.schedule();
        }
    }
}
