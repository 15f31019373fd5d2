//! The task that reads one connection: hands out what comes until it ends.

use super::batch::Batch;
use super::connection::{Phase, Shared};
use super::effects::contain;
use super::inbox::End;
use crate::error::ErrorKind;
use crate::proto::decoder::Decoder;
use crate::proto::delivery::Header;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// The longest time that the drop of a runtime waits for one connection, to write what its client has sent.
const LAST_WRITE: Duration = Duration::from_secs(1);

fn io_end(e: &io::Error) -> End {
    End::new(ErrorKind::ConnectionLost, format!("the connection broke: {e}"))
}

/// The task that reads.
pub(super) struct Reader {
    pub(super) shared: Arc<Shared>,
    pub(super) decoder: Decoder<Header>,
}

impl Reader {
    pub(super) async fn run(mut self) {
        let end = self.read().await;
        self.shared.finish(end);
    }

    async fn read(&mut self) -> End {
        let shared = self.shared.clone();
        // What came with the registration may be whole frames already.
        if let Err(end) = self.receive(false) {
            return end;
        }
        loop {
            // Not reading is what holds back the broker, and through it the senders.
            self.wait_room().await;
            // While there is always something to read, this never waits: others must run all the same.
            tokio::task::coop::consume_budget().await;
            if let Err(e) = shared.socket.readable().await {
                return io_end(&e);
            }
            if let Err(end) = self.receive(true) {
                return end;
            }
        }
    }

    /// Waits until the program has room for more, or the connection is to end.
    async fn wait_room(&self) {
        let shared = &*self.shared;
        let awaited = || shared.acks.is_awaited();
        if !shared.purpose.inbox.must_wait(awaited) {
            return;
        }
        shared.parked.store(true, Ordering::Relaxed);
        let mut phase = shared.phase.subscribe();
        tokio::select! {
            _ = shared.purpose.inbox.wait_room_unless(awaited) => {}
            _ = phase.wait_for(|phase| *phase != Phase::Open) => {}
        }
        shared.hear();
        shared.parked.store(false, Ordering::Relaxed);
    }

    /// Reads once, unless told not to, and hands out what came.
    fn receive(&mut self, from_socket: bool) -> std::result::Result<(), End> {
        let shared = &*self.shared;
        let mut batch = Batch::take();
        let read = match self.decoder.large_body() {
            Some(mut room) if from_socket => shared.socket.try_read_buf(&mut room),
            _ => {
                self.decoder.resume(&mut batch.buf);
                if from_socket {
                    batch.buf.reserve(shared.config.buf_size);
                    shared.socket.try_read_buf(&mut batch.buf)
                } else {
                    Ok(batch.buf.len().max(1))
                }
            }
        };
        let result = match read {
            Ok(0) => Err(End::new(ErrorKind::ConnectionLost, "the broker closed the connection")),
            Ok(_) => {
                shared.hear();
                let decoded = batch.decode(&mut self.decoder, &shared.purpose.inbox);
                shared.acks.complete(&mut batch.acks, &mut batch.told);
                shared.purpose.inbox.append(&mut batch.frames);
                decoded.map_err(|e| {
                    End::new(ErrorKind::Data, format!("what the broker sent cannot be read: {e}"))
                })
            }
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                self.decoder.suspend(&batch.buf);
                Ok(())
            }
            Err(e) => Err(io_end(&e)),
        };
        batch.give();
        result
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
        shared.refuse();
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
