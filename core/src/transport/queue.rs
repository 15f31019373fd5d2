//! Encoded frames that wait to be written to one socket. Small ones are copied into flat buffers, large payloads are
//! kept as shared bytes, and the length of each frame is remembered.

use super::Socket;
use super::pieces::Pieces;
use bytes::Bytes;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, IoSlice};

/// Payloads of at least this length are kept as shared bytes; shorter ones are copied.
pub const LARGE_PAYLOAD: usize = 4096;

/// The length at which a flat buffer is closed and another one begun, so that written data is freed piece by piece.
const FLAT_LIMIT: usize = 256 * 1024;
/// Frames in one piece of at least this length are taken over without a copy, if possible.
const WORTH_TAKING: usize = 4 * 1024;
/// Slices handed to one vectored write.
const MAX_SLICES: usize = 64;
/// Marks a frame that must not be dropped in the list of lengths: an acknowledgement, a ping, a message.
pub(crate) const KEEP: u64 = 1 << 63;

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
    chunks: VecDeque<Chunk>,
    /// The length of each frame that is not written yet; of a partly written first frame, the rest.
    frames: VecDeque<u64>,
    /// True if part of the first frame has been written.
    begun: bool,
    bytes: usize,
    /// How many frames at the front, and how many bytes, are known to be kept: the search for a frame to drop begins
    /// behind them.
    kept: (usize, usize),
}

impl WriteQueue {
    /// Appends one frame. `encode` must write the whole of it.
    pub fn push(&mut self, encode: impl FnOnce(&mut Vec<u8>)) {
        let len = self.append_flat(encode);
        self.frames.push_back(len as u64);
    }

    /// Appends one frame that must not be dropped, such as an acknowledgement or a message.
    pub fn push_kept(&mut self, encode: impl FnOnce(&mut Vec<u8>)) {
        let len = self.append_flat(encode);
        self.frames.push_back(len as u64 | KEEP);
    }

    /// Appends one frame whose payload is not copied, unless it is short.
    ///
    /// `keep` says that it must not be dropped.
    pub fn push_with(&mut self, encode_head: impl FnOnce(&mut Vec<u8>), payload: Bytes, keep: bool) {
        let mut len = self.append_flat(encode_head);
        len += self.append_shared(payload);
        self.frames.push_back(len as u64 | if keep { KEEP } else { 0 });
    }

    /// Appends one frame whose head and payload are shared with other queues, unless they are short.
    pub fn push_shared(&mut self, head: Bytes, payload: Bytes, keep: bool) {
        let len = self.append_shared(head) + self.append_shared(payload);
        self.frames.push_back(len as u64 | if keep { KEEP } else { 0 });
    }

    fn append_shared(&mut self, bytes: Bytes) -> usize {
        if bytes.len() < LARGE_PAYLOAD {
            return self.append_flat(|out| out.extend_from_slice(&bytes));
        }
        let len = bytes.len();
        self.bytes += len;
        self.chunks.push_back(Chunk::Shared(bytes));
        len
    }

    /// Appends encoded frames in one piece, and their lengths.
    pub fn push_all(&mut self, frames: &[u8], lens: &[u64]) {
        if let Some(Chunk::Flat { bytes, .. }) = self.chunks.back()
            && !bytes.is_empty()
            && bytes.len() + frames.len() > FLAT_LIMIT
        {
            // The buffer would grow to twice its limit.
            self.chunks.push_back(Chunk::Flat { bytes: Vec::with_capacity(frames.len()), at: 0 });
        }
        self.append_flat(|out| out.extend_from_slice(frames));
        self.frames.extend(lens);
    }

    /// Appends encoded frames in one piece that is shared with other queues, unless it is short, and their lengths.
    pub fn push_all_shared(&mut self, frames: Bytes, lens: &[u64]) {
        self.append_shared(frames);
        self.frames.extend(lens);
    }

    /// Appends encoded frames as [`push_all`](WriteQueue::push_all) does. If the queue is empty and `frames` is long
    /// enough, `frames` is swapped with the queue's own buffer instead of copied.
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

    /// The number of frames that wait, including a partly written one.
    pub fn frames(&self) -> usize {
        self.frames.len()
    }

    /// The number of bytes that wait.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
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
        Some(self.cut(self.kept.1, len))
    }

    fn cut(&mut self, start: usize, len: usize) -> [Bytes; 2] {
        let (mut skip, mut left) = (start, len);
        let mut shared = [Bytes::new(), Bytes::new()];
        // The rest of a shared chunk whose middle is cut out.
        let mut rest_of_shared = None;
        self.bytes -= len;
        for (index, chunk) in self.chunks.iter_mut().enumerate() {
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
            self.chunks.insert(index, Chunk::Shared(rest));
        }
        self.chunks.retain(|chunk| !chunk.rest().is_empty());
        shared
    }

    /// Appends all of `newer`.
    pub(super) fn append(&mut self, mut newer: WriteQueue) {
        self.chunks.append(&mut newer.chunks);
        self.frames.append(&mut newer.frames);
        self.bytes += newer.bytes;
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
            let piece = bounds.piece.min(pieces.next(socket, self.bytes, self.frames.len()));
            let (wanted, result) = self.write_once(socket, piece);
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
            self.kept = (self.kept.0.saturating_sub(1), self.kept.1);
        }
        self.kept.1 = if self.kept.0 == 0 { 0 } else { self.kept.1.saturating_sub(n) };
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
        self.kept = (0, 0);
    }

    /// All bytes that wait.
    #[cfg(test)]
    pub(crate) fn content(&self) -> Vec<u8> {
        self.chunks.iter().flat_map(|chunk| chunk.rest().to_vec()).collect()
    }

    fn footprint(&self) -> usize {
        let flat = match self.chunks.front() {
            Some(Chunk::Flat { bytes, .. }) => bytes.capacity(),
            _ => 0,
        };
        flat + self.frames.capacity() * 8
    }
}

/// The memory of emptied queues that one thread keeps for reuse: idle connections hold none.
#[derive(Default)]
struct Pool {
    // Boxed, because queues are moved between this list, their connection and the writing party.
    #[expect(clippy::vec_box)]
    queues: Vec<Box<WriteQueue>>,
    bytes: usize,
}

const POOL_BYTES: usize = 4 * 1024 * 1024;

thread_local! {
    static POOL: RefCell<Pool> = RefCell::default();
}

/// An empty queue, with buffers if this thread has kept some.
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
        queue.content()
    }

    #[test]
    fn frames_are_counted_as_they_leave() {
        let mut queue = WriteQueue::default();
        queue.push(|out| out.extend_from_slice(b"12345"));
        queue.push_kept(|out| out.extend_from_slice(b"ack"));
        queue.push_with(|out| out.extend_from_slice(b"head"), Bytes::from(vec![7; LARGE_PAYLOAD]), false);
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
        queue.push_with(|out| out.extend_from_slice(b"H"), Bytes::from(vec![b'x'; LARGE_PAYLOAD]), false);
        queue.push(|out| out.extend_from_slice(b"bb"));
        queue.consume(1);
        assert_eq!(queue.drop_oldest().unwrap()[0].len(), LARGE_PAYLOAD);
        assert_eq!(content(&queue), b"aaaACKbb");
        assert!(queue.drop_oldest().is_some());
        assert_eq!(queue.drop_oldest(), None);
        assert_eq!(content(&queue), b"aaaACK");
        assert_eq!((queue.frames(), queue.bytes()), (2, 6));
        queue.consume(3);
        queue.push(|out| out.extend_from_slice(b"cc"));
        assert!(queue.drop_oldest().is_some());
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
        assert!(queue.drop_oldest().is_some());
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

    proptest::proptest! {
        /// Against a plain list of frames, whatever is appended, written and dropped in between.
        #[test]
        fn drops_and_writes_like_a_list(steps in proptest::collection::vec((0_u8..7, 1_usize..40), 1..120)) {
            let mut queue = WriteQueue::default();
            let mut model: VecDeque<(bool, Vec<u8>)> = VecDeque::new();
            let mut begun = false;
            for (number, (action, size)) in steps.into_iter().enumerate() {
                let frame = vec![number as u8; size];
                match action {
                    0 => queue.push(|out| out.extend_from_slice(&frame)),
                    1 => queue.push_kept(|out| out.extend_from_slice(&frame)),
                    2 | 3 => {
                        let payload = vec![number as u8; LARGE_PAYLOAD + size];
                        let shared = Bytes::from(payload.clone());
                        queue.push_with(|out| out.extend_from_slice(&frame), shared, action == 2);
                        model.push_back((action == 2, [frame.clone(), payload].concat()));
                    }
                    // Several frames in one piece, shared or not.
                    6 => {
                        let lens = [size, size * size, LARGE_PAYLOAD - 40 + size];
                        let frames = lens.map(|len| vec![number as u8; len]);
                        queue.push_all_shared(frames.concat().into(), &lens.map(|len| len as u64));
                        model.extend(frames.map(|frame| (false, frame)));
                    }
                    4 => {
                        let mut n = (size * size * 7).min(queue.bytes());
                        queue.consume(n);
                        while let Some((_, front)) = model.front_mut().filter(|_| n > 0) {
                            let taken = n.min(front.len());
                            begun = taken < front.len();
                            front.drain(..taken);
                            n -= taken;
                            if front.is_empty() {
                                model.pop_front();
                            }
                        }
                    }
                    _ => {
                        let first = usize::from(begun);
                        let oldest = (first..model.len()).find(|at| !model[*at].0);
                        proptest::prop_assert_eq!(queue.drop_oldest().is_some(), oldest.is_some());
                        oldest.map(|at| model.remove(at));
                    }
                }
                if action < 2 {
                    model.push_back((action == 1, frame));
                }
                let wanted: Vec<u8> = model.iter().flat_map(|(_, frame)| frame.clone()).collect();
                proptest::prop_assert_eq!(content(&queue), wanted);
                proptest::prop_assert_eq!((queue.frames(), queue.is_empty()), (model.len(), model.is_empty()));
            }
        }
    }
}
