//! How much waits in front of a socket, and how much its peer has taken.

use super::queue::WriteQueue;

/// The amount that waits to be written, including what is being written now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Load {
    /// Whole and partly written frames.
    pub frames: usize,
    /// Their bytes.
    pub bytes: usize,
}

impl Load {
    /// Returns whether both numbers are below those of `bound`.
    pub fn is_below(self, bound: Load) -> bool {
        self.frames < bound.frames && self.bytes < bound.bytes
    }

    pub(super) fn of(queue: &WriteQueue) -> Load {
        Load { frames: queue.frames(), bytes: queue.bytes() }
    }
}

/// How much a receiver has taken since its connection began, and how many writes to it took nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Whole frames.
    pub frames: u64,
    /// Bytes.
    pub bytes: u64,
    /// Attempts in which not a byte was taken.
    pub refusals: u64,
}

impl Progress {
    /// Notes one write.
    pub(super) fn took(&mut self, bytes: usize, frames: usize) {
        self.bytes += bytes as u64;
        self.frames += frames as u64;
        self.refusals += u64::from(bytes == 0);
    }
}
