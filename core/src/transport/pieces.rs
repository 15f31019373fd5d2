//! The number of small frames that one system call writes.
//!
//! The kernel frees the memory of a UNIX socket in pieces of up to 36 KiB, each written by one call: more than a thousand
//! small frames. The reader of such a piece, if it works on each frame for a millisecond, seems to take nothing for
//! seconds. Frames are therefore written in small pieces until the reader has shown that it is fast.

use super::Socket;
use std::time::{Duration, Instant};

/// The frames of a small piece, about. A program that works for 2 ms on each frame must be seen to take some within half
/// of the broker's hold time.
const FRAMES: usize = 192;
/// A small piece has at least so many bytes.
const LEAST: usize = 4096;
/// The largest piece that the kernel frees in one step, in bytes.
const KERNEL_PIECE: usize = 36 * 1024;
/// The bytes that are written in small pieces before the reader is looked at again.
const TRIAL: usize = 32 * 1024;
/// The bytes that are written in large pieces once the reader is fast, and for how long.
const CREDIT: usize = 512 * 1024;
const CREDIT_TIME: Duration = Duration::from_millis(500);
/// A fast reader takes at least so many bytes in a millisecond.
const FAST: u64 = 1024;

/// The pieces that are written to one socket. Belongs to the party that writes.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    /// The bytes that were written altogether.
    written: u64,
    /// When the reader was looked at last, and the bytes that it had taken then.
    looked: Option<(Instant, u64)>,
    /// The bytes that may be written in large pieces.
    credit: usize,
    /// The bytes that were written in small pieces since the last look.
    tried: usize,
}

impl Pieces {
    /// The most that the next call may write of `bytes` bytes of `frames` frames.
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

    /// Notes that so many bytes were written.
    pub(super) fn wrote(&mut self, bytes: usize) {
        self.written += bytes as u64;
        if self.credit == 0 {
            self.tried = self.tried.saturating_add(bytes);
            return;
        }
        self.credit = self.credit.saturating_sub(bytes);
        if self.credit == 0 {
            // The reader is looked at before the next piece.
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
