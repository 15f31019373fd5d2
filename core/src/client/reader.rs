//! The task that reads from a connection.

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

/// Maximum time for which the drop of a runtime waits for one connection, to write what its client has sent.
const LAST_WRITE: Duration = Duration::from_secs(1);
/// Minimum interval between two reports to the broker that the program takes frames although the inbox has no room.
const REPORT_INTERVAL: Duration = Duration::from_millis(100);

/// The task that reads.
pub(super) struct Reader {
    shared: Arc<Shared>,
    /// The handle that is registered for reading, unless reading is lent.
    socket: Socket,
    /// The time at which the program's progress was last checked.
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
                    // Because the client does not read, the broker and the senders are held back.
                    self.wait_room().await;
                }
                Ok(Read::Some | Read::Nothing) => {
                    is_first = false;
                    // While there is always something to read, the loop never waits, so that it must yield to other
                    // tasks here.
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

    /// Lends reading to threads that wait for an answer, until this task must read again.
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

    /// Waits until the inbox has room, or the connection is to be closed. During that time, the broker is told when
    /// the program takes frames: it cannot see this from its socket, since the kernel frees the socket's memory in
    /// large pieces.
    ///
    /// A broker that holds this client back reads no reports. It can then only see progress from its socket, so that
    /// at every check even a small amount of room is used.
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
        // The runtime is being dropped, and no task runs any more. Queued data is written here, and everything that
        // waits fails.
        let shared = &*self.shared;
        shared.stop_sending();
        if !shared.writer.finish_on_this_thread(shared.config.timeout.min(LAST_WRITE)) {
            contain("the logger", || {
                log::warn!(
                    "the runtime of {:?} was shut down: not all queued data is written",
                    shared.config.name
                );
            });
        }
        shared.socket.shutdown_write();
        shared.finish(End::new(ErrorKind::ConnectionLost, "the runtime was shut down"));
    }
}

impl Shared {
    /// Reports to the broker that the program takes frames although nothing is read (docs/protocol.md section 3). The
    /// report is sent even if the queue is full. Returns the position in the outgoing stream at which the report
    /// ends: until that is reached, another report would add nothing.
    fn report_progress(&self) -> u64 {
        self.writer.with(|backlog| backlog.queue().push(|out| out.extend_from_slice(&request::PROGRESS)));
        let end = self.writer.position();
        self.writer.flush();
        end
    }
}
