//! Limits the number of small frames that one system call writes.
//!
//! The kernel frees the memory of a UNIX socket in pieces of up to 36 KiB, each written by one call: this may be more
//! than a thousand small frames. If the reader of such a piece works on each frame for a millisecond, it appears to
//! read nothing for seconds. Frames are therefore written in small pieces until the reader has shown that it is fast.

use super::Socket;
use std::time::{Duration, Instant};

/// Approximate number of frames of a small piece. A program that works for 2 ms on each frame must visibly read some
/// within half of the broker's hold time.
const FRAMES: usize = 192;
/// Minimum size of a small piece, in bytes.
const LEAST: usize = 4096;
/// The largest piece that the kernel frees in one step, in bytes.
const KERNEL_PIECE: usize = 36 * 1024;
/// Number of bytes that are written in small pieces before the reader's progress is checked again.
const TRIAL: usize = 32 * 1024;
/// Number of bytes that are written in large pieces after the reader was found to be fast.
const CREDIT: usize = 512 * 1024;
const CREDIT_TIME: Duration = Duration::from_millis(500);
/// Minimum number of bytes that a fast reader reads in a millisecond.
const FAST: u64 = 1024;

/// The sizes of the pieces that are written to one socket. The value belongs to the writing party.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    /// Number of bytes written so far.
    written: u64,
    /// The time of the last check of the reader, and the bytes that it had read then.
    looked: Option<(Instant, u64)>,
    /// Number of bytes that may be written in large pieces.
    credit: usize,
    /// Number of bytes that were written in small pieces since the last check.
    tried: usize,
}

impl Pieces {
    /// Returns the maximum number of bytes that the next call may write, out of `bytes` bytes of `frames` frames.
    pub(super) fn next(&mut self, socket: &Socket, bytes: usize, frames: usize) -> usize {
        let small = (bytes / frames.max(1)).saturating_mul(FRAMES).max(LEAST);
        // The piece that the kernel frees in one step holds few frames.
        if bytes <= small || small >= KERNEL_PIECE {
            return usize::MAX;
        }
        if self.credit == 0 && self.tried >= TRIAL || self.looked.is_none() {
            self.look(socket);
        }
        let is_recent = || self.looked.is_none_or(|(at, _)| at.elapsed() < CREDIT_TIME);
        if self.credit > 0 && is_recent() { self.credit } else { small }
    }

    /// Notes that this many bytes were written.
    pub(super) fn wrote(&mut self, bytes: usize) {
        self.written += bytes as u64;
        if self.credit == 0 {
            self.tried = self.tried.saturating_add(bytes);
            return;
        }
        self.credit = self.credit.saturating_sub(bytes);
        if self.credit == 0 {
            // The reader is checked before the next piece.
            self.tried = TRIAL;
        }
    }

    fn look(&mut self, socket: &Socket) {
        let Some(unread) = socket.unread_by_peer() else {
            self.credit = usize::MAX;
            return;
        };
        let now = Instant::now();
        let taken = self.written.saturating_sub(unread as u64);
        if let Some((at, before)) = self.looked {
            let elapsed = u64::try_from(now.duration_since(at).as_micros()).unwrap_or(u64::MAX).max(1);
            let is_fast = taken.saturating_sub(before).saturating_mul(1000) / elapsed >= FAST;
            self.credit = if is_fast { CREDIT } else { 0 };
        }
        self.looked = Some((now, taken));
        self.tried = 0;
    }
}
