//! Encoded frames that wait to be written to one socket. The queue remembers the length of each frame, so that it knows
//! which are written and can drop whole ones; their bytes are in `chunks`.

mod chunks;

use super::Socket;
use super::pieces::Pieces;
use bytes::Bytes;
use chunks::Chunks;
use std::collections::VecDeque;
use std::io;

pub(super) use chunks::FLAT_LIMIT;
pub use chunks::LARGE_PAYLOAD;

/// Frames in one piece of at least this length are taken over without a copy, if possible.
const WORTH_TAKING: usize = 4 * 1024;
/// Marks a frame that must not be dropped in the list of lengths: an acknowledgement, a ping, a message.
pub(crate) const KEEP: u64 = 1 << 63;

/// The reason for which [`WriteQueue::write_to`] stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Written {
    /// Everything is written.
    All,
    /// The socket takes no more for now.
    Blocked,
    /// The bound of one call is reached, and more waits.
    Enough,
}

/// How much one call of [`WriteQueue::write_to`] may write.
#[derive(Debug, Clone, Copy)]
pub(super) struct WriteBounds {
    /// Bytes in one system call.
    pub(super) piece: usize,
    /// Bytes in one call; the last system call may exceed it.
    pub(super) most: usize,
}

/// A queue of encoded frames.
#[derive(Debug, Default)]
pub struct WriteQueue {
    chunks: Chunks,
    /// The length of each frame that is not written yet; of a partly written first frame, the rest.
    frames: VecDeque<u64>,
    /// True if part of the first frame has been written.
    begun: bool,
    /// How many frames at the front, and how many bytes, are known to be kept: the search for a frame to drop begins
    /// behind them.
    kept: (usize, usize),
}

impl WriteQueue {
    /// Appends one frame. `encode` must write the whole of it.
    pub fn push(&mut self, encode: impl FnOnce(&mut Vec<u8>)) {
        let len = self.chunks.append_flat(encode);
        self.frames.push_back(len as u64);
    }

    /// Appends one frame that must not be dropped, such as an acknowledgement or a message.
    pub fn push_kept(&mut self, encode: impl FnOnce(&mut Vec<u8>)) {
        let len = self.chunks.append_flat(encode);
        self.frames.push_back(len as u64 | KEEP);
    }

    /// Appends one frame whose payload is not copied, unless it is short.
    ///
    /// `keep` says that it must not be dropped.
    pub fn push_with(&mut self, encode_head: impl FnOnce(&mut Vec<u8>), payload: Bytes, keep: bool) {
        let mut len = self.chunks.append_flat(encode_head);
        len += self.chunks.append_shared(payload);
        self.frames.push_back(len as u64 | if keep { KEEP } else { 0 });
    }

    /// Appends one frame whose head and payload are shared with other queues, unless they are short.
    pub fn push_shared(&mut self, head: Bytes, payload: Bytes, keep: bool) {
        let len = self.chunks.append_shared(head) + self.chunks.append_shared(payload);
        self.frames.push_back(len as u64 | if keep { KEEP } else { 0 });
    }

    /// Appends encoded frames in one piece, and their lengths.
    pub fn push_all(&mut self, frames: &[u8], lens: &[u64]) {
        self.chunks.append_copy(frames);
        self.frames.extend(lens);
    }

    /// Appends encoded frames in one piece that is shared with other queues, unless it is short, and their lengths.
    pub fn push_all_shared(&mut self, frames: Bytes, lens: &[u64]) {
        self.chunks.append_shared(frames);
        self.frames.extend(lens);
    }

    /// Appends encoded frames as [`push_all`](WriteQueue::push_all) does. If the queue is empty and `frames` is long
    /// enough, `frames` is swapped with the queue's own buffer instead of copied.
    pub fn push_all_taking(&mut self, frames: &mut Vec<u8>, lens: &[u64]) {
        if !self.is_empty() || frames.len() < WORTH_TAKING {
            return self.push_all(frames, lens);
        }
        self.chunks.take_over(frames);
        self.frames.extend(lens);
    }

    /// The number of frames that wait, including a partly written one.
    pub fn frames(&self) -> usize {
        self.frames.len()
    }

    /// The number of bytes that wait.
    pub fn bytes(&self) -> usize {
        self.chunks.bytes()
    }

    /// Returns whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.bytes() == 0
    }

    /// Drops the oldest frame that may be dropped and of which nothing has been written. Returns its shared bytes,
    /// which the caller must drop without a lock, because they belong to others. Closing the gap moves at most the
    /// content of one flat buffer.
    pub(super) fn drop_oldest(&mut self) -> Option<[Bytes; 2]> {
        if self.begun && self.kept.0 == 0 {
            self.kept = (1, (self.frames.front()? & !KEEP) as usize);
        }
        while let Some(frame) = self.frames.get(self.kept.0).filter(|frame| **frame & KEEP != 0) {
            self.kept = (self.kept.0 + 1, self.kept.1 + (frame & !KEEP) as usize);
        }
        let len = self.frames.remove(self.kept.0)? as usize;
        Some(self.chunks.cut(self.kept.1, len))
    }

    /// Appends all of `newer`.
    pub(super) fn append(&mut self, mut newer: WriteQueue) {
        self.chunks.append(newer.chunks);
        self.frames.append(&mut newer.frames);
    }

    /// Writes until everything is written, the socket takes no more, or the bound is reached. Also returns the number
    /// of bytes written.
    pub(super) fn write_to(
        &mut self,
        socket: &Socket,
        bounds: WriteBounds,
        pieces: &mut Pieces,
    ) -> (usize, io::Result<Written>) {
        let mut total = 0;
        while !self.is_empty() {
            if total >= bounds.most {
                return (total, Ok(Written::Enough));
            }
            let piece = bounds.piece.min(pieces.next(socket, self.bytes(), self.frames.len()));
            let (wanted, result) = self.chunks.write_once(socket, piece);
            match result {
                Ok(0) => return (total, Err(io::ErrorKind::WriteZero.into())),
                Ok(n) => {
                    total += n;
                    pieces.wrote(n);
                    self.consume(n);
                    // A short write means that the socket is full: another attempt would be in vain.
                    if n < wanted {
                        return (total, Ok(Written::Blocked));
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return (total, Ok(Written::Blocked)),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return (total, Err(e)),
            }
        }
        (total, Ok(Written::All))
    }

    /// Removes `n` bytes at the front, which have been written.
    fn consume(&mut self, n: usize) {
        if n == self.bytes() {
            self.clear();
            return;
        }
        let mut left = n as u64;
        while let Some(frame) = self.frames.front_mut() {
            let len = *frame & !KEEP;
            if left < len {
                *frame -= left;
                self.begun |= left > 0;
                break;
            }
            left -= len;
            self.begun = false;
            self.frames.pop_front();
            self.kept = (self.kept.0.saturating_sub(1), self.kept.1);
        }
        self.kept.1 = if self.kept.0 == 0 { 0 } else { self.kept.1.saturating_sub(n) };
        self.chunks.advance(n);
    }

    /// Empties the queue; its first flat buffer stays for the next frames.
    pub(super) fn clear(&mut self) {
        self.chunks.clear();
        self.frames.clear();
        self.begun = false;
        self.kept = (0, 0);
    }

    /// The memory that an emptied queue keeps, in bytes.
    pub(super) fn footprint(&self) -> usize {
        self.chunks.kept_capacity() + self.frames.capacity() * 8
    }

    /// All bytes that wait.
    #[cfg(test)]
    pub(crate) fn content(&self) -> Vec<u8> {
        self.chunks.content()
    }
}

#[cfg(test)]
mod tests;
