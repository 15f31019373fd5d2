//! The state of a connection's incoming byte stream between two reads.

use super::inbox::End;
use crate::proto::decoder::Decoder;
use crate::proto::delivery::Header;

/// The state of the incoming byte stream. The thread that holds its lock reads. Threads only try to take the lock,
/// and never wait for it; and no foreign code runs under it.
#[derive(Debug)]
pub(super) struct Input {
    pub(super) decoder: Decoder<Header>,
    /// The reason why nothing more can be read, after a thread has found it.
    pub(super) end: Option<End>,
}

impl Input {
    /// Creates the input of a registered connection. `leftover` are the bytes that were read together with the
    /// registration.
    pub(super) fn new(leftover: &[u8]) -> Input {
        let mut decoder = Decoder::new(u32::MAX);
        decoder.suspend(leftover);
        Input { decoder, end: None }
    }
}
