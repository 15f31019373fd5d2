//! Consecutive small frames for the same receivers, encoded for the wire.

use crate::proto::delivery::{Delivery, HEADER_LEN};
use crate::transport::queue::KEEP;
use bytes::Bytes;
use std::cell::Cell;

/// Maximum size of the buffers that each thread keeps for reuse, in bytes.
const SPARE_BYTES: usize = 512 * 1024;

/// Encoded frames in one contiguous buffer.
#[derive(Debug, Default)]
pub(super) struct EncodedFrames {
    pub(super) bytes: Vec<u8>,
    /// The length of each frame, marked with [`KEEP`] if it must not be dropped.
    pub(super) lens: Vec<u64>,
    /// The bytes at the start of each frame after its length: the header and the sender.
    head: Vec<u8>,
}

thread_local! {
    /// Buffers for one value per thread, so that a session that waits for input holds none.
    static SPARE: Cell<EncodedFrames> = const { Cell::new(EncodedFrames::new()) };
}

impl EncodedFrames {
    pub(super) const fn new() -> EncodedFrames {
        EncodedFrames { bytes: Vec::new(), lens: Vec::new(), head: Vec::new() }
    }

    /// Returns an empty value, with the buffers that this thread has kept, if any.
    pub(super) fn take(frame: &Delivery<'_>) -> EncodedFrames {
        let mut taken = SPARE.try_with(Cell::take).unwrap_or_default();
        taken.head.clear();
        Delivery { topic: None, payload: &[], ..*frame }.encode(&mut taken.head);
        taken
    }

    /// Leaves the buffers to the next batch on this thread.
    pub(super) fn give(mut self) {
        self.bytes.clear();
        self.lens.clear();
        if (1..=SPARE_BYTES).contains(&self.bytes.capacity()) {
            // This fails only while the thread ends.
            let _ = SPARE.try_with(|spare| spare.set(self));
        }
    }

    pub(super) fn add(&mut self, frame: &Delivery<'_>, keep: bool) {
        frame.encode(&mut self.bytes);
        self.lens.push(frame.wire_len() as u64 | if keep { KEEP } else { 0 });
    }

    /// Adds a frame that has the head of the first one, followed by the given bytes.
    #[inline]
    pub(super) fn add_alike(&mut self, rest: &[u8], keep: bool) {
        let len = self.head.len() + rest.len();
        self.bytes.reserve(len);
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&self.head);
        self.bytes.extend_from_slice(rest);
        self.bytes[start + 1..start + 5].copy_from_slice(&((len - HEADER_LEN) as u32).to_le_bytes());
        self.lens.push(len as u64 | if keep { KEEP } else { 0 });
    }

    /// Releases unused capacity, since the frames may wait for long.
    pub(super) fn shrink(&mut self) {
        self.bytes.shrink_to_fit();
    }

    /// The total length of all frames, in bytes.
    pub(super) fn len(&self) -> usize {
        self.lens.iter().map(|len| (len & !KEEP) as usize).sum()
    }

    /// Takes the encoded bytes, so that many queues can share them. The lengths of the frames stay.
    pub(super) fn take_bytes(&mut self) -> Bytes {
        std::mem::take(&mut self.bytes).into()
    }

    /// Returns the frames and bytes of the longest prefix that has at most `frames` frames and `bytes` bytes.
    pub(super) fn prefix(&self, frames: usize, bytes: usize) -> (usize, usize) {
        let mut fits = (0, 0);
        for len in self.lens.iter().take(frames) {
            let end = fits.1 + (len & !KEEP) as usize;
            if end > bytes {
                break;
            }
            fits = (fits.0 + 1, end);
        }
        fits
    }

    /// Iterates over the frames, each parsed and encoded.
    pub(super) fn frames(&self) -> impl Iterator<Item = (Delivery<'_>, &[u8])> {
        let mut bytes = &self.bytes[..];
        self.lens.iter().filter_map(move |len| {
            let (frame, rest) = bytes.split_at_checked((len & !KEEP) as usize)?;
            bytes = rest;
            // Parsing cannot fail: the frame was encoded by this type.
            Some((Delivery::parse(frame).ok()?, frame))
        })
    }
}
