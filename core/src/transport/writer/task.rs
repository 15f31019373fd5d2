//! The task that continues when a caller's thread has not written everything: the socket takes no more, or much has
//! been written. It ends when nothing waits.

use super::{ANY_SIZE, FLUSH_BYTES, Writer};
use crate::transport::queue::{WriteBounds, WriteQueue, Written};
use crate::transport::{Load, Socket, WriteInterest};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// A write is tried again after this time even if the kernel does not report the socket as writable: the kernel does so
/// only when a good part of its buffer is free, and a slow but steady reader frees little at a time.
const RETRY_INTERVAL: Duration = Duration::from_millis(25);
/// A socket that was not writable for this long has a slow reader. It is then written in small pieces, because the
/// kernel frees only whole pieces.
const SLOW_READER: Duration = Duration::from_millis(10);
const SMALL_PIECES: WriteBounds = WriteBounds { piece: 4096, most: FLUSH_BYTES };

impl Writer {
    /// Lets a task write the rest. `blocked` says that the socket takes no more for now.
    pub(super) fn drain_by_task(self: &Arc<Self>, socket: Arc<Socket>, blocked: bool) {
        let writer = self.clone();
        self.runtime.spawn(async move {
            if writer.drain(&socket, blocked).await.is_err() {
                writer.close();
            }
        });
    }

    /// Writes until nothing waits any more, whenever the socket takes something.
    async fn drain(&self, socket: &Socket, mut blocked: bool) -> io::Result<()> {
        let mut interest: Option<WriteInterest<'_>> = None;
        loop {
            let waited = Instant::now();
            if blocked && interest.is_none() {
                interest = socket.write_interest().ok();
            }
            match &interest {
                _ if !blocked => tokio::task::yield_now().await,
                // Out of descriptors: readiness cannot be awaited, so a write is tried again after a pause.
                None => tokio::time::sleep(SLOW_READER).await,
                Some(interest) => {
                    if let Ok(ready) = tokio::time::timeout(RETRY_INTERVAL, interest.ready()).await {
                        ready?;
                    }
                }
            }
            let bounds = if waited.elapsed() < SLOW_READER { ANY_SIZE } else { SMALL_PIECES };
            let Some(mut queue) = self.take_out() else { return Ok(()) };
            let mut total = 0;
            loop {
                let frames = queue.frames();
                let (n, result) = queue.write_to(socket, bounds, &mut self.pieces.lock());
                total += n;
                match result? {
                    Written::All => match self.next_round(queue, n, frames) {
                        Some(next) if total < FLUSH_BYTES => queue = next,
                        Some(next) => {
                            blocked = false;
                            self.put_back_unwritten(next);
                            break;
                        }
                        None => return Ok(()),
                    },
                    written @ (Written::Blocked | Written::Enough) => {
                        blocked = written == Written::Blocked;
                        self.put_back(queue, n, frames);
                        break;
                    }
                }
            }
        }
    }

    /// Takes out what waits; only for the writing party. `None` once closed.
    fn take_out(&self) -> Option<Box<WriteQueue>> {
        let mut state = self.state.lock();
        let queue = state.handover.waiting_mut().take()?;
        state.in_flight = Load::of(&queue);
        Some(queue)
    }
}
