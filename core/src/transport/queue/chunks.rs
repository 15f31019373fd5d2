//! The bytes of a queue, in chunks: flat buffers that hold copies of small frames, and shared bytes of large ones. The
//! chunks know nothing of frames.

use crate::transport::Socket;
use bytes::Bytes;
use std::collections::VecDeque;
use std::io::{self, IoSlice};

/// Payloads of at least this length are kept as shared bytes; shorter ones are copied.
pub const LARGE_PAYLOAD: usize = 4096;

/// The length at which a flat buffer is closed and another one begun, so that written data is freed piece by piece.
pub(crate) const FLAT_LIMIT: usize = 256 * 1024;
/// Slices handed to one vectored write.
const MAX_SLICES: usize = 64;

#[derive(Debug)]
enum Chunk {
    Flat { bytes: Vec<u8>, at: usize },
    Shared(Bytes),
}

impl Chunk {
    fn rest(&self) -> &[u8] {
        match self {
            Chunk::Flat { bytes, at } => &bytes[*at..],
            Chunk::Shared(bytes) => bytes,
        }
    }
}

/// A stream of bytes that is appended to at its end and written from its front.
#[derive(Debug, Default)]
pub(super) struct Chunks {
    list: VecDeque<Chunk>,
    /// The bytes that are not written yet.
    bytes: usize,
}

impl Chunks {
    /// The number of bytes that are not written yet.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Appends what `encode` writes. Returns its length.
    pub(super) fn append_flat(&mut self, encode: impl FnOnce(&mut Vec<u8>)) -> usize {
        let bytes = match self.list.back_mut() {
            Some(Chunk::Flat { bytes, .. }) if bytes.len() < FLAT_LIMIT => bytes,
            _ => {
                self.list.push_back(Chunk::Flat { bytes: Vec::new(), at: 0 });
                match self.list.back_mut() {
                    Some(Chunk::Flat { bytes, .. }) => bytes,
                    _ => unreachable!("a flat chunk was just pushed"),
                }
            }
        };
        let before = bytes.len();
        encode(bytes);
        let len = bytes.len() - before;
        self.bytes += len;
        len
    }

    /// Appends a copy of `piece`. A buffer that would grow to twice its limit is closed before.
    pub(super) fn append_copy(&mut self, piece: &[u8]) {
        if let Some(Chunk::Flat { bytes, .. }) = self.list.back()
            && !bytes.is_empty()
            && bytes.len() + piece.len() > FLAT_LIMIT
        {
            self.list.push_back(Chunk::Flat { bytes: Vec::with_capacity(piece.len()), at: 0 });
        }
        self.append_flat(|out| out.extend_from_slice(piece));
    }

    /// Appends shared bytes without copying them, unless they are short. Returns their length.
    pub(super) fn append_shared(&mut self, bytes: Bytes) -> usize {
        if bytes.len() < LARGE_PAYLOAD {
            return self.append_flat(|out| out.extend_from_slice(&bytes));
        }
        let len = bytes.len();
        self.bytes += len;
        self.list.push_back(Chunk::Shared(bytes));
        len
    }

    /// Takes over `buffer` without copying it, and leaves an emptied one in its place. There must be no bytes yet.
    pub(super) fn take_over(&mut self, buffer: &mut Vec<u8>) {
        let taken = std::mem::take(buffer);
        self.bytes = taken.len();
        if let Some(Chunk::Flat { bytes, .. }) = self.list.pop_front() {
            *buffer = bytes;
        }
        self.list.push_back(Chunk::Flat { bytes: taken, at: 0 });
    }

    /// Appends all of `newer`.
    pub(super) fn append(&mut self, mut newer: Chunks) {
        self.list.append(&mut newer.list);
        self.bytes += newer.bytes;
    }

    /// Removes `len` bytes from `start` on, which are one frame. Returns its shared bytes, which the caller must drop
    /// without a lock. Closing the gap moves at most the content of one flat buffer.
    pub(super) fn cut(&mut self, start: usize, len: usize) -> [Bytes; 2] {
        let (mut skip, mut left) = (start, len);
        let mut shared = [Bytes::new(), Bytes::new()];
        // The rest of a shared chunk whose middle is cut out.
        let mut rest_of_shared = None;
        self.bytes -= len;
        for (index, chunk) in self.list.iter_mut().enumerate() {
            let rest = chunk.rest().len();
            if skip >= rest {
                skip -= rest;
                continue;
            }
            let take = left.min(rest - skip);
            match chunk {
                // The shorter side is moved.
                Chunk::Flat { bytes, at } if skip < rest - skip - take => {
                    bytes.copy_within(*at..*at + skip, *at + take);
                    *at += take;
                }
                Chunk::Flat { bytes, at } => {
                    bytes.drain(*at + skip..*at + skip + take);
                }
                // A frame has at most two shared chunks.
                Chunk::Shared(bytes) => {
                    shared.rotate_left(1);
                    shared[0] = bytes.split_off(skip);
                    let after = shared[0].split_off(take);
                    match bytes.is_empty() {
                        true => *bytes = after,
                        false => rest_of_shared = Some((index + 1, after)),
                    }
                }
            }
            left -= take;
            skip = 0;
            if left == 0 {
                break;
            }
        }
        if let Some((index, rest)) = rest_of_shared {
            self.list.insert(index, Chunk::Shared(rest));
        }
        self.list.retain(|chunk| !chunk.rest().is_empty());
        shared
    }

    /// Writes at most `piece` bytes by one system call. Also returns how many bytes it was given. Nothing is removed.
    pub(super) fn write_once(&self, socket: &Socket, piece: usize) -> (usize, io::Result<usize>) {
        let first = self.list.front().map_or(&[][..], Chunk::rest);
        if self.list.len() == 1 || first.len() >= piece {
            let rest = &first[..first.len().min(piece)];
            return (rest.len(), socket.try_write_vectored(&[IoSlice::new(rest)]));
        }
        let mut slices = [IoSlice::new(&[]); MAX_SLICES];
        let mut count = 0;
        let mut wanted = 0;
        for (slot, chunk) in slices.iter_mut().zip(&self.list) {
            let rest = chunk.rest();
            let rest = &rest[..rest.len().min(piece - wanted)];
            *slot = IoSlice::new(rest);
            wanted += rest.len();
            count += 1;
            if wanted == piece {
                break;
            }
        }
        (wanted, socket.try_write_vectored(&slices[..count]))
    }

    /// Removes `n` bytes at the front, which have been written.
    pub(super) fn advance(&mut self, n: usize) {
        self.bytes -= n;
        let mut left = n;
        while left > 0 {
            let Some(chunk) = self.list.front_mut() else { break };
            let rest = chunk.rest().len();
            if left >= rest {
                left -= rest;
                self.list.pop_front();
                continue;
            }
            match chunk {
                Chunk::Flat { at, .. } => *at += left,
                Chunk::Shared(bytes) => drop(bytes.split_to(left)),
            }
            left = 0;
        }
    }

    /// Removes everything; the first flat buffer stays for the next frames.
    pub(super) fn clear(&mut self) {
        self.list.truncate(1);
        match self.list.front_mut() {
            Some(Chunk::Flat { bytes, at }) => {
                bytes.clear();
                *at = 0;
            }
            _ => self.list.clear(),
        }
        self.bytes = 0;
    }

    /// The capacity of the first flat buffer, which [`clear`](Chunks::clear) keeps, in bytes.
    pub(super) fn kept_capacity(&self) -> usize {
        match self.list.front() {
            Some(Chunk::Flat { bytes, .. }) => bytes.capacity(),
            _ => 0,
        }
    }

    /// All bytes that wait.
    #[cfg(test)]
    pub(super) fn content(&self) -> Vec<u8> {
        self.list.iter().map(Chunk::rest).collect::<Vec<_>>().concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flat_buffers_stay_near_their_limit() {
        let mut chunks = Chunks::default();
        for _ in 0..3 {
            chunks.append_copy(&vec![1; FLAT_LIMIT - 10]);
        }
        let longest = chunks.list.iter().map(|chunk| chunk.rest().len()).max();
        assert_eq!((longest, chunks.list.len()), (Some(FLAT_LIMIT - 10), 3));
    }
}
