//! Encoded frames that wait to be written to one socket: small ones copied into flat buffers, large
//! payloads kept as shared bytes, frame borders remembered.

use super::Socket;
use bytes::Bytes;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, IoSlice};

/// From this length on a payload is kept as shared bytes, below it is copied.
pub const LARGE_PAYLOAD: usize = 4096;

/// A flat buffer is closed at this length and another begun, so that what has been written is freed
/// piece by piece.
const FLAT_LIMIT: usize = 256 * 1024;
/// Frames in one piece of this length are taken as they are if possible, not copied.
const WORTH_TAKING: usize = 4 * 1024;
/// Slices handed to one vectored write.
const MAX_SLICES: usize = 64;
/// Marks a frame that may not be dropped in the list of lengths.
const KEEP: u64 = 1 << 63;

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

/// Whether [`WriteQueue::write_to`] is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Written {
    /// Everything is written.
    All,
    /// The socket takes no more for now.
    Blocked,
}

/// A queue of encoded frames.
#[derive(Debug, Default)]
pub struct WriteQueue {
    chunks: VecDeque<Chunk>,
    /// The length of each frame, what has been written of the first one taken off.
    frames: VecDeque<u64>,
    /// Whether part of the first frame has been written.
    begun: bool,
    bytes: usize,
}

impl WriteQueue {
    /// Appends one frame that `encode` writes out whole.
    pub fn push(&mut self, encode: impl FnOnce(&mut Vec<u8>)) {
        let len = self.append_flat(encode);
        self.frames.push_back(len as u64);
    }

    /// As [`push`](WriteQueue::push), for frames that must not be dropped, as acknowledgements are.
    pub fn push_kept(&mut self, encode: impl FnOnce(&mut Vec<u8>)) {
        let len = self.append_flat(encode);
        self.frames.push_back(len as u64 | KEEP);
    }

    /// Appends one frame whose payload is not copied, unless it is short.
    pub fn push_with(&mut self, encode_head: impl FnOnce(&mut Vec<u8>), payload: Bytes) {
        if payload.len() < LARGE_PAYLOAD {
            return self.push(|out| {
                encode_head(out);
                out.extend_from_slice(&payload);
            });
        }
        let len = self.append_flat(encode_head) + payload.len();
        self.bytes += payload.len();
        self.chunks.push_back(Chunk::Shared(payload));
        self.frames.push_back(len as u64);
    }

    /// Appends encoded frames in one piece, and their lengths.
    pub fn push_all(&mut self, frames: &[u8], lens: &[u64]) {
        if let Some(Chunk::Flat { bytes, .. }) = self.chunks.back()
            && !bytes.is_empty()
            && bytes.len() + frames.len() > FLAT_LIMIT
        {
            // It would grow to twice its limit.
            self.chunks.push_back(Chunk::Flat { bytes: Vec::with_capacity(frames.len()), at: 0 });
        }
        self.append_flat(|out| out.extend_from_slice(frames));
        self.frames.extend(lens);
    }

    /// As [`push_all`](WriteQueue::push_all), but where nothing else waits and `frames` is worth it, it is not
    /// copied: it changes places with the queue's own buffer.
    pub fn push_all_taking(&mut self, frames: &mut Vec<u8>, lens: &[u64]) {
        if !self.is_empty() || frames.len() < WORTH_TAKING {
            return self.push_all(frames, lens);
        }
        let taken = std::mem::take(frames);
        self.bytes = taken.len();
        if let Some(Chunk::Flat { bytes, .. }) = self.chunks.pop_front() {
            *frames = bytes;
        }
        self.chunks.push_back(Chunk::Flat { bytes: taken, at: 0 });
        self.frames.extend(lens);
    }

    fn append_flat(&mut self, encode: impl FnOnce(&mut Vec<u8>)) -> usize {
        let bytes = match self.chunks.back_mut() {
            Some(Chunk::Flat { bytes, .. }) if bytes.len() < FLAT_LIMIT => bytes,
            _ => {
                self.chunks.push_back(Chunk::Flat { bytes: Vec::new(), at: 0 });
                match self.chunks.back_mut() {
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

    /// Frames that wait, a partly written one included.
    pub fn frames(&self) -> usize {
        self.frames.len()
    }

    /// Bytes that wait.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Drops the oldest frame of which nothing has been written and that may be dropped; its length.
    /// Costs as much as is copied to close the gap: this is for receivers that are stuck.
    pub(super) fn drop_oldest(&mut self) -> Option<usize> {
        let first = usize::from(self.begun);
        let index = (first..self.frames.len()).find(|i| self.frames[*i] & KEEP == 0)?;
        let start: u64 = self.frames.iter().take(index).map(|len| len & !KEEP).sum();
        let len = self.frames.remove(index)? as usize;
        self.cut(start as usize, len);
        Some(len)
    }

    fn cut(&mut self, start: usize, len: usize) {
        let (mut skip, mut left) = (start, len);
        self.bytes -= len;
        for chunk in &mut self.chunks {
            let rest = chunk.rest().len();
            if skip >= rest {
                skip -= rest;
                continue;
            }
            let take = left.min(rest - skip);
            match chunk {
                Chunk::Flat { bytes, at } => {
                    bytes.drain(*at + skip..*at + skip + take);
                }
                // Large payloads end with their frame and begin after its head: never cut in two.
                Chunk::Shared(bytes) => *bytes = Bytes::new(),
            }
            left -= take;
            skip = 0;
            if left == 0 {
                break;
            }
        }
        self.chunks.retain(|chunk| !chunk.rest().is_empty());
    }

    /// Appends all of `newer`.
    pub(super) fn append(&mut self, mut newer: WriteQueue) {
        self.chunks.append(&mut newer.chunks);
        self.frames.append(&mut newer.frames);
        self.bytes += newer.bytes;
    }

    /// Writes until everything is gone or the socket takes no more, at most `piece` bytes at a time. Returns
    /// the bytes written too.
    pub(super) fn write_to(&mut self, socket: &Socket, piece: usize) -> (usize, io::Result<Written>) {
        let mut total = 0;
        while !self.is_empty() {
            let (wanted, result) = self.write_once(socket, piece);
            match result {
                Ok(0) => return (total, Err(io::ErrorKind::WriteZero.into())),
                Ok(n) => {
                    total += n;
                    self.consume(n);
                    // A short write says that the socket is full: asking once more would only cost.
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

    fn write_once(&self, socket: &Socket, piece: usize) -> (usize, io::Result<usize>) {
        let first = self.chunks.front().map_or(&[][..], Chunk::rest);
        if self.chunks.len() == 1 || first.len() >= piece {
            let rest = &first[..first.len().min(piece)];
            return (rest.len(), socket.try_write_vectored(&[IoSlice::new(rest)]));
        }
        let mut slices = [IoSlice::new(&[]); MAX_SLICES];
        let mut count = 0;
        let mut wanted = 0;
        for (slot, chunk) in slices.iter_mut().zip(&self.chunks) {
            *slot = IoSlice::new(chunk.rest());
            wanted += slot.len();
            count += 1;
        }
        (wanted, socket.try_write_vectored(&slices[..count]))
    }

    fn consume(&mut self, n: usize) {
        self.bytes -= n;
        if self.bytes == 0 {
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
        }
        let mut left = n;
        while left > 0 {
            let Some(chunk) = self.chunks.front_mut() else { break };
            let rest = chunk.rest().len();
            if left >= rest {
                left -= rest;
                self.chunks.pop_front();
                continue;
            }
            match chunk {
                Chunk::Flat { at, .. } => *at += left,
                Chunk::Shared(bytes) => drop(bytes.split_to(left)),
            }
            left = 0;
        }
    }

    /// Empties the queue; its first flat buffer stays for the next frames.
    fn clear(&mut self) {
        self.chunks.truncate(1);
        match self.chunks.front_mut() {
            Some(Chunk::Flat { bytes, at }) => {
                bytes.clear();
                *at = 0;
            }
            _ => self.chunks.clear(),
        }
        self.frames.clear();
        self.bytes = 0;
        self.begun = false;
    }

    fn footprint(&self) -> usize {
        let flat = match self.chunks.front() {
            Some(Chunk::Flat { bytes, .. }) => bytes.capacity(),
            _ => 0,
        };
        flat + self.frames.capacity() * 8
    }
}

/// What one thread keeps of emptied queues: idle connections hold none.
#[derive(Default)]
struct Pool {
    // Boxed because queues travel between here, their connection and whoever writes them out.
    #[expect(clippy::vec_box)]
    queues: Vec<Box<WriteQueue>>,
    bytes: usize,
}

const POOL_BYTES: usize = 4 * 1024 * 1024;

thread_local! {
    static POOL: RefCell<Pool> = RefCell::default();
}

/// An empty queue, with buffers if this thread has some left over.
pub(super) fn take() -> Box<WriteQueue> {
    let pooled = POOL.try_with(|pool| {
        let mut pool = pool.borrow_mut();
        let queue = pool.queues.pop()?;
        pool.bytes -= queue.footprint();
        Some(queue)
    });
    pooled.ok().flatten().unwrap_or_default()
}

/// Takes back a queue, to be reused by this thread.
pub(super) fn give(mut queue: Box<WriteQueue>) {
    queue.clear();
    let footprint = queue.footprint();
    // Fails only while the thread ends.
    let _ = POOL.try_with(|pool| {
        let mut pool = pool.borrow_mut();
        if footprint <= 2 * FLAT_LIMIT && pool.bytes + footprint <= POOL_BYTES {
            pool.bytes += footprint;
            pool.queues.push(queue);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(queue: &WriteQueue) -> Vec<u8> {
        queue.chunks.iter().flat_map(|c| c.rest().to_vec()).collect()
    }

    #[test]
    fn frames_are_counted_as_they_leave() {
        let mut queue = WriteQueue::default();
        queue.push(|out| out.extend_from_slice(b"12345"));
        queue.push_kept(|out| out.extend_from_slice(b"ack"));
        queue.push_with(|out| out.extend_from_slice(b"head"), Bytes::from(vec![7; LARGE_PAYLOAD]));
        assert_eq!((queue.frames(), queue.bytes()), (3, 12 + LARGE_PAYLOAD));
        queue.consume(6);
        assert_eq!((queue.frames(), queue.bytes()), (2, 6 + LARGE_PAYLOAD));
        queue.consume(2);
        assert_eq!(queue.frames(), 1);
        queue.consume(4 + 100);
        assert_eq!((queue.frames(), queue.bytes()), (1, LARGE_PAYLOAD - 100));
        queue.consume(LARGE_PAYLOAD - 100);
        assert!(queue.is_empty());
        assert_eq!(queue.frames(), 0);
    }

    #[test]
    fn the_oldest_whole_droppable_frame_goes() {
        let mut queue = WriteQueue::default();
        queue.push(|out| out.extend_from_slice(b"aaaa"));
        queue.push_kept(|out| out.extend_from_slice(b"ACK"));
        queue.push_with(|out| out.extend_from_slice(b"H"), Bytes::from(vec![b'x'; LARGE_PAYLOAD]));
        queue.push(|out| out.extend_from_slice(b"bb"));
        queue.consume(1);
        assert_eq!(queue.drop_oldest(), Some(1 + LARGE_PAYLOAD));
        assert_eq!(content(&queue), b"aaaACKbb");
        assert_eq!(queue.drop_oldest(), Some(2));
        assert_eq!(queue.drop_oldest(), None);
        assert_eq!(content(&queue), b"aaaACK");
        assert_eq!((queue.frames(), queue.bytes()), (2, 6));
        queue.consume(3);
        queue.push(|out| out.extend_from_slice(b"cc"));
        assert_eq!(queue.drop_oldest(), Some(2));
        assert_eq!(content(&queue), b"ACK");
    }

    #[test]
    fn frames_in_one_piece_are_taken_or_copied() {
        let piece = |byte: u8| vec![byte; WORTH_TAKING];
        let lens = [100, WORTH_TAKING as u64 - 100];
        let mut queue = WriteQueue::default();
        let mut frames = piece(b'a');
        queue.push_all_taking(&mut frames, &lens);
        assert_eq!((frames.len(), queue.frames(), queue.bytes()), (0, 2, WORTH_TAKING));
        let mut frames = piece(b'b');
        queue.push_all_taking(&mut frames, &lens);
        assert_eq!((frames, queue.frames(), queue.bytes()), (piece(b'b'), 4, 2 * WORTH_TAKING));
        assert_eq!(content(&queue), [piece(b'a'), piece(b'b')].concat());
        // Partly written, and some of it dropped.
        queue.consume(50);
        assert_eq!(queue.drop_oldest(), Some(WORTH_TAKING - 100));
        assert_eq!(content(&queue), [&[b'a'; 50][..], &piece(b'b')].concat());
        queue.consume(50 + WORTH_TAKING);
        assert!(queue.is_empty());
        let mut frames = piece(b'c');
        queue.push_all_taking(&mut frames, &lens);
        // The buffer that was emptied comes back.
        assert!(frames.is_empty() && frames.capacity() >= WORTH_TAKING);
        queue.push(|out| out.extend_from_slice(b"d"));
        assert_eq!(content(&queue), [&piece(b'c')[..], b"d"].concat());
        let mut few = b"e".to_vec();
        let mut queue = WriteQueue::default();
        queue.push_all_taking(&mut few, &[1]);
        assert_eq!((few, content(&queue)), (b"e".to_vec(), b"e".to_vec()));
    }

    #[test]
    fn flat_buffers_stay_near_their_limit() {
        let mut queue = WriteQueue::default();
        for _ in 0..3 {
            queue.push_all(&vec![1; FLAT_LIMIT - 10], &[FLAT_LIMIT as u64 - 10]);
        }
        let longest = queue.chunks.iter().map(|chunk| chunk.rest().len()).max();
        assert_eq!((longest, queue.chunks.len()), (Some(FLAT_LIMIT - 10), 3));
    }

    #[test]
    fn emptied_queues_are_reused() {
        let mut queue = take();
        queue.push(|out| out.extend_from_slice(&[0; 100]));
        give(queue);
        let queue = take();
        assert!(queue.is_empty() && queue.footprint() >= 100);
    }
}
