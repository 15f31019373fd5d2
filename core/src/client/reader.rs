//! The task that reads a connection.

use super::answer_poller::AnswerPoller;
use super::effects::contain;
use super::inbox::End;
use super::reading::{Read, Source, io_end};
use super::shared::{Phase, Shared};
use crate::error::ErrorKind;
use crate::proto::request;
use crate::transport::Socket;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// The longest time that the drop of a runtime waits for one connection, to write what its client has sent.
const LAST_WRITE: Duration = Duration::from_secs(1);
/// While the inbox has no room, the broker is told at most this often that the program takes frames.
const REPORT_INTERVAL: Duration = Duration::from_millis(100);

/// The task that reads.
pub(super) struct Reader {
    shared: Arc<Shared>,
    /// Registered for reading, unless reading is lent.
    socket: Socket,
    /// The time of the last look at the program's progress.
    last_check: Instant,
    /// The number of frames that the program had taken at the last report.
    reported: u64,
    /// The position in the outgoing stream at which the last report ends.
    report_end: u64,
    poller: AnswerPoller,
}

impl Reader {
    pub(super) fn new(shared: Arc<Shared>, socket: Socket) -> Reader {
        let last_check = shared.started;
        let reported = shared.client.inbox.taken().0;
        let poller = AnswerPoller::new(shared.config.busy_poll_async);
        Reader { shared, socket, last_check, reported, report_end: 0, poller }
    }

    pub(super) async fn run(mut self) {
        let end = self.read().await;
        self.shared.finish(end);
    }

    async fn read(&mut self) -> End {
        let shared = self.shared.clone();
        let mut is_first = true;
        loop {
            let source = if is_first { Source::Leftover } else { Source::Runtime(&self.socket) };
            match shared.read(source) {
                Ok(Read::Busy) => tokio::task::yield_now().await,
                Ok(Read::NoRoom) => {
                    // Not reading is what holds back the broker, and through it the senders.
                    self.wait_room().await;
                }
                Ok(Read::Some | Read::Nothing) => {
                    is_first = false;
                    // While there is always something to read, this never waits: others must run all the same.
                    tokio::task::coop::consume_budget().await;
                    if let Err(end) = self.poller.poll(&shared).await {
                        return end;
                    }
                    let readable = match shared.client.inbox.lease().lend() {
                        true => self.lend().await,
                        false => self.socket.readable().await,
                    };
                    if let Err(e) = readable {
                        return io_end(&e);
                    }
                }
                Err(end) => return end,
            }
        }
    }

    /// Lets threads that wait for an answer read, until the task has to read again.
    async fn lend(&mut self) -> io::Result<()> {
        let shared = self.shared.clone();
        let lease = shared.client.inbox.lease();
        let mut phase = shared.phase.subscribe();
        self.socket.deregister();
        tokio::select! {
            () = lease.returned() => {}
            _ = phase.wait_for(|phase| *phase != Phase::Open) => {}
        }
        lease.hold();
        self.socket.register()?;
        self.socket.readable().await
    }

    /// Waits until the inbox has room, or the connection is to end. During that time the broker is told that the
    /// program takes frames, if it does: a socket cannot tell, since the kernel frees its memory in large pieces.
    ///
    /// A broker that holds this client back reads no reports. Then the socket has to tell, so that even little room is
    /// used at every look.
    async fn wait_room(&mut self) {
        let shared = self.shared.clone();
        let inbox = &shared.client.inbox;
        shared.parked.store(true, Ordering::Relaxed);
        let mut phase = shared.phase.subscribe();
        let mut room = std::pin::pin!(inbox.wait_room_unless(|| shared.awaits_answer()));
        let mut closing = std::pin::pin!(phase.wait_for(|phase| *phase != Phase::Open));
        loop {
            tokio::select! {
                _ = &mut room => break,
                _ = &mut closing => break,
                () = sleep_until(self.last_check + REPORT_INTERVAL) => {
                    let taken = inbox.taken().0;
                    self.last_check = Instant::now();
                    if taken != self.reported && shared.writer.progress().bytes >= self.report_end {
                        self.report_end = shared.report_progress();
                        self.reported = taken;
                    }
                    if inbox.room(|| shared.awaits_answer()) > 0 {
                        break;
                    }
                }
            }
        }
        shared.note_heard();
        shared.parked.store(false, Ordering::Relaxed);
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if self.shared.has_ended() {
            return;
        }
        // The runtime is being dropped, and no task runs any more. What was sent is written here, and everything that
        // waits fails.
        let shared = &*self.shared;
        shared.stop_sending();
        if !shared.writer.finish_on_this_thread(shared.config.timeout.min(LAST_WRITE)) {
            contain("the logger", || {
                log::warn!(
                    "the runtime of {:?} is gone: not all that was sent is written",
                    shared.config.name
                );
            });
        }
        shared.socket.shutdown_write();
        shared.finish(End::new(ErrorKind::ConnectionLost, "the runtime was shut down"));
    }
}

impl Shared {
    /// Tells the broker that the program takes frames although nothing is read (docs/protocol.md section 3). The
    /// report is sent whatever the bound of the queue is. Returns the position in the outgoing stream that is reached
    /// with it: before that, another report would say no more.
    fn report_progress(&self) -> u64 {
        self.writer.with(|backlog| backlog.queue().push(|out| out.extend_from_slice(&request::PROGRESS)));
        let end = self.writer.position();
        self.writer.flush();
        end
    }
}
