//! Reads once from a connection, on any thread: the reader's task does this, and threads that wait for an answer and
//! poll the socket themselves.

use super::batch::Batch;
use super::inbox::End;
use super::reading_lease::{Look, Readable};
use super::shared::Shared;
use crate::error::ErrorKind;
use crate::proto::decoder::Decoder;
use crate::proto::delivery::Header;
use crate::transport::Socket;
use bytes::BufMut;
use std::io;
use std::sync::atomic::Ordering;

/// Minimum number of bytes that are read in one call, even if there is less room.
const MIN_READ_BYTES: usize = 4096;

/// The source of the bytes.
#[derive(Debug, Clone, Copy)]
pub(super) enum Source<'a> {
    /// The bytes that came with the registration. Nothing is read.
    Leftover,
    /// The socket, if the runtime has seen that it is readable.
    Runtime(&'a Socket),
    /// The socket, even if the runtime has not seen that it is readable.
    Kernel,
}

impl Source<'_> {
    fn is_leftover(self) -> bool {
        matches!(self, Source::Leftover)
    }
}

/// The result of one read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Read {
    /// Bytes were read, and everything in them was queued or completed.
    Some,
    /// There is nothing to read.
    Nothing,
    /// Another thread is reading.
    Busy,
    /// The inbox has no room.
    NoRoom,
}

impl Shared {
    /// Reads once from the socket, even if the runtime has not seen that it is readable. Returns true if bytes were
    /// read.
    ///
    /// # Errors
    /// The reason why nothing more can be read.
    pub(super) fn read_from_kernel(&self) -> Result<bool, End> {
        Ok(self.read(Source::Kernel)? == Read::Some)
    }

    /// Reads once and delivers the data. It runs wakers and loggers: the caller must hold no lock.
    pub(super) fn read(&self, source: Source<'_>) -> Result<Read, End> {
        let mut batch = Batch::take();
        let result = self.read_locked(source, &mut batch);
        if matches!(result, Ok(Read::Some) | Err(_)) {
            batch.settle();
        }
        batch.give();
        result
    }

    /// Reads once, and queues or completes the data. The input is locked until this returns: `batch` keeps the
    /// effects for later.
    fn read_locked(&self, source: Source<'_>, batch: &mut Batch) -> Result<Read, End> {
        let Some(mut input) = self.input.try_lock() else { return Ok(Read::Busy) };
        if let Some(end) = &input.end {
            return Err(end.clone());
        }
        let room = match source {
            Source::Leftover => usize::MAX,
            // A connection that is being closed is read to its end.
            _ if self.is_closing() => usize::MAX,
            _ => match self.client.inbox.room(|| self.awaits_answer()) {
                0 => return Ok(Read::NoRoom),
                room => room,
            },
        };
        let read = self.read_at_most(&mut input.decoder, batch, source, room.max(MIN_READ_BYTES));
        if let Err(end) = &read {
            // The system reports an error only once, and data after invalid bytes cannot be interpreted: no other
            // thread may continue to read.
            input.end = Some(end.clone());
        }
        read
    }

    fn read_at_most(
        &self,
        decoder: &mut Decoder<Header>,
        batch: &mut Batch,
        source: Source<'_>,
        most: usize,
    ) -> Result<Read, End> {
        let read = match decoder.large_body() {
            Some(body) if !source.is_leftover() => self.read_socket(source, body.limit(most)),
            _ => {
                decoder.resume(&mut batch.buf);
                if source.is_leftover() {
                    Ok(batch.buf.len().max(1))
                } else {
                    let most = most.min(self.config.buf_size);
                    batch.buf.reserve(most);
                    self.read_socket(source, (&mut batch.buf).limit(most))
                }
            }
        };
        match read {
            Ok(0) => Err(End::new(ErrorKind::ConnectionLost, "the broker closed the connection")),
            Ok(_) => {
                self.note_heard();
                let decoded = batch.decode(decoder, &self.client);
                self.answers.fetch_add(batch.answers(), Ordering::Relaxed);
                batch.hand_out(&self.client, &self.acks);
                let unreadable = |e| End::new(ErrorKind::Data, format!("the broker sent invalid data: {e}"));
                decoded.map(|()| Read::Some).map_err(unreadable)
            }
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                decoder.suspend(&batch.buf);
                Ok(Read::Nothing)
            }
            Err(e) => Err(io_end(&e)),
        }
    }

    fn read_socket(&self, source: Source<'_>, mut room: impl BufMut) -> io::Result<usize> {
        match source {
            Source::Runtime(socket) => socket.try_read_buf(&mut room),
            _ => self.socket.read_now(&mut room),
        }
    }
}

/// Any thread may read, also without a runtime. Frames are queued first, then acknowledgements and replies are
/// completed. The reader's task reports the end of the connection.
impl Readable for Shared {
    fn read_now(&self) -> Look {
        if self.client.inbox.is_inherited() || self.has_ended() {
            return Look::Over;
        }
        match self.read(Source::Kernel) {
            Ok(Read::Some) => Look::Some,
            Ok(Read::Nothing | Read::Busy) => Look::Nothing,
            Ok(Read::NoRoom) => Look::Over,
            Err(_) => {
                // The reader's task finds the end in the input.
                self.socket.shutdown();
                Look::Over
            }
        }
    }

    fn flush(&self) {
        self.flush_before_waiting();
    }

    fn is_awaited(&self, except: Option<usize>) -> bool {
        let is_answer_awaited =
            except.map_or_else(|| self.awaits_answer(), |queue| self.awaits_answer_elsewhere(queue));
        is_answer_awaited || self.client.inbox.is_awaited()
    }
}

pub(super) fn io_end(e: &io::Error) -> End {
    End::new(ErrorKind::ConnectionLost, format!("the connection broke: {e}"))
}
