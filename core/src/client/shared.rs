//! The state that the parts of a connection share: its write path, the task that reads, and the heartbeat.

use super::acks::Acks;
use super::burst::BurstDetector;
use super::client_state::ClientState;
use super::coalescing::Coalescing;
use super::config::Config;
use super::inbox::End;
use super::input::Input;
use crate::error::{Error, ErrorKind};
use crate::proto::request;
use crate::transport::{Socket, Writer};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

/// The stage of a connection's life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Phase {
    Open,
    /// This side is closing the connection: nothing more is sent.
    Closing,
    /// The reader has ended.
    Ended(End),
}

/// The shared state of one connection.
#[derive(Debug)]
pub(super) struct Shared {
    /// This handle is not registered for reading; the reader's task has the registered one.
    pub(super) socket: Socket,
    pub(super) writer: Arc<Writer>,
    pub(super) client: Arc<ClientState>,
    pub(super) acks: Acks,
    pub(super) config: Config,
    /// True if the phase is no longer [`Phase::Open`]. Reading this costs less than reading the phase.
    closing: AtomicBool,
    /// True if the program has begun to close the connection.
    close_begun: AtomicBool,
    pub(super) phase: watch::Sender<Phase>,
    /// The reason why this side has aborted the connection.
    abort_reason: Mutex<Option<End>>,
    /// True while the reader waits for the program to take frames.
    pub(super) parked: AtomicBool,
    pub(super) started: Instant,
    /// The time at which the last byte arrived, in ns since `started`.
    last_heard: AtomicU64,
    /// The number of acknowledgements and replies received.
    pub(super) answers: AtomicU64,
    pub(super) burst: BurstDetector,
    pub(super) coalescing: Coalescing,
    /// The time at which the heartbeat wakes up, in ns since `started`.
    heartbeat_at: AtomicU64,
    /// Wakes the heartbeat before that time.
    pub(super) heartbeat_alarm: Notify,
    /// The thread that reads holds this lock. Threads only try to take it, and never wait for it.
    pub(super) input: Mutex<Input>,
}

impl Shared {
    /// Creates the state of a new connection. `leftover` are the bytes that came after the registration.
    pub(super) fn new(
        socket: Socket,
        writer: Arc<Writer>,
        leftover: &[u8],
        client: Arc<ClientState>,
        config: &Config,
    ) -> Shared {
        Shared {
            socket,
            writer,
            acks: Acks::new(&client),
            client,
            config: config.clone(),
            closing: AtomicBool::new(false),
            close_begun: AtomicBool::new(false),
            phase: watch::Sender::new(Phase::Open),
            abort_reason: Mutex::new(None),
            parked: AtomicBool::new(false),
            started: Instant::now(),
            last_heard: AtomicU64::new(0),
            answers: AtomicU64::new(0),
            burst: BurstDetector::default(),
            coalescing: Coalescing::default(),
            heartbeat_at: AtomicU64::new(u64::MAX),
            heartbeat_alarm: Notify::new(),
            input: Mutex::new(Input::new(leftover)),
        }
    }

    /// Returns the time since the connection began.
    pub(super) fn now(&self) -> Duration {
        Instant::now().duration_since(self.started)
    }

    /// Notes that the broker is alive, or that the client did not read until now.
    pub(super) fn note_heard(&self) {
        self.last_heard.store(self.started.elapsed().as_nanos() as u64, Ordering::Relaxed);
    }

    /// Returns true if a byte arrived after that time since the connection began.
    pub(super) fn has_heard_since(&self, since: Duration) -> bool {
        self.last_heard.load(Ordering::Relaxed) > since.as_nanos() as u64
    }

    /// Returns the time at which the last byte arrived; `now` while the reader waits for the program.
    pub(super) fn last_heard(&self, now: Instant) -> Instant {
        if self.is_parked() {
            now
        } else {
            self.started + Duration::from_nanos(self.last_heard.load(Ordering::Relaxed))
        }
    }

    /// Returns true while the reader waits for the program to take frames.
    pub(super) fn is_parked(&self) -> bool {
        self.parked.load(Ordering::Relaxed)
    }

    /// Returns true if the program awaits an acknowledgement or a reply that does not go to the completion queue of
    /// that id.
    pub(super) fn awaits_answer_elsewhere(&self, queue: usize) -> bool {
        self.client.awaits_reply_elsewhere(queue) || self.acks.is_awaited_elsewhere(queue)
    }

    /// Returns true if the program awaits an acknowledgement or a reply.
    pub(super) fn awaits_answer(&self) -> bool {
        self.client.awaits_reply() || self.acks.is_awaited()
    }

    /// Tells the broker that this client is alive.
    pub(super) fn ping(&self) {
        self.writer.with(|backlog| backlog.queue().push(|out| out.extend_from_slice(&request::PING)));
        self.writer.flush();
    }
}

/// The time at which the heartbeat checks the deadlines next.
impl Shared {
    /// Makes the heartbeat check the deadlines at `at` or earlier.
    pub(super) fn wake_heartbeat_at(&self, at: Instant) {
        let at = at.saturating_duration_since(self.started).as_nanos() as u64;
        if self.heartbeat_at.fetch_min(at, Ordering::SeqCst) > at {
            self.heartbeat_alarm.notify_one();
        }
    }

    /// Notes that the heartbeat checks the deadlines now: deadlines that are registered later must wake it.
    pub(super) fn heartbeat_looks(&self) {
        self.heartbeat_at.store(u64::MAX, Ordering::SeqCst);
    }

    /// Notes that the heartbeat sleeps until `until`.
    pub(super) fn heartbeat_sleeps(&self, until: Instant) {
        let until = until.saturating_duration_since(self.started).as_nanos() as u64;
        self.heartbeat_at.fetch_min(until, Ordering::SeqCst);
    }
}

/// The close of the connection.
impl Shared {
    /// Closes the connection for the program. Data that the socket accepts now is written on this thread.
    pub(super) fn begin_close(&self, why: &'static str) {
        self.closing.store(true, Ordering::Relaxed);
        if self.close_begun.swap(true, Ordering::Relaxed) {
            return;
        }
        self.writer.flush();
        // Tasks that wait for room notice that the connection is closing.
        self.writer.wake_waiters();
        if self.writer.load().frames == 0 {
            self.socket.shutdown_write();
        }
        // Wakes the heartbeat, which waits until the remaining data is written.
        self.advance(Phase::Closing);
        if self.client.subscriptions.is_none() {
            self.client.stop(End::new(ErrorKind::ConnectionLost, why));
        }
    }

    /// Closes the connection without waiting for the broker.
    pub(super) fn abort(&self, end: End) {
        *self.abort_reason.lock() = Some(end);
        self.closing.store(true, Ordering::Relaxed);
        self.writer.close();
        self.advance(Phase::Closing);
    }

    /// Makes all further requests fail.
    pub(super) fn stop_sending(&self) {
        self.closing.store(true, Ordering::Relaxed);
    }

    /// Fails everything that waits, because the reader has ended.
    pub(super) fn finish(&self, end: End) {
        self.closing.store(true, Ordering::Relaxed);
        self.writer.close();
        let end = self.abort_reason.lock().take().unwrap_or(end);
        // Operations fail before the end is reported to the program.
        self.acks.end();
        if self.client.subscriptions.is_none() {
            self.client.stop(end.clone());
            self.client.tell_end();
        } else {
            self.client.lose();
        }
        self.advance(Phase::Ended(end));
    }

    fn advance(&self, to: Phase) {
        self.phase.send_if_modified(|phase| {
            let is_later = !matches!(phase, Phase::Ended(_));
            if is_later {
                *phase = to;
            }
            is_later
        });
    }

    /// Returns true if nothing more is read.
    pub(super) fn has_ended(&self) -> bool {
        matches!(*self.phase.borrow(), Phase::Ended(_))
    }

    /// Returns true if this side is closing the connection, or it has ended.
    pub(super) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }

    /// Waits until the connection has ended and returns the reason.
    pub(super) async fn wait_ended(&self) -> End {
        let mut phase = self.phase.subscribe();
        match phase.wait_for(|phase| matches!(phase, Phase::Ended(_))).await.as_deref() {
            Ok(Phase::Ended(end)) => end.clone(),
            // The sender cannot have been dropped while `self` is borrowed.
            _ => End::new(ErrorKind::ConnectionLost, "the client was dropped"),
        }
    }
}

pub(super) fn lost() -> Error {
    Error::new(ErrorKind::ConnectionLost, "the client is not connected")
}
