//! The incoming byte stream of a connection between two reads.

use super::inbox::End;
use crate::proto::decoder::Decoder;
use crate::proto::delivery::Header;

/// The state of the incoming byte stream. The thread that holds its lock reads. The lock is only tried, never waited
/// for, and no foreign code runs under it.
#[derive(Debug)]
pub(super) struct Input {
    pub(super) decoder: Decoder<Header>,
    /// The reason for which nothing more can be read, once a thread has found it.
    pub(super) end: Option<End>,
}

impl Input {
    /// The input after the registration; `leftover` has been read with it.
    pub(super) fn new(leftover: &[u8]) -> Input {
        let mut decoder = Decoder::new(u32::MAX);
        decoder.suspend(leftover);
        Input { decoder, end: None }
    }
}
