//! Access to internals for the fuzz targets in `fuzz/`. It is not part of the crate's interface.

use crate::broker::fifo_command::parse_line;
use crate::broker::fifo_lines::LineSplitter;
use crate::proto::request::Operation;
use bytes::Bytes;

/// Returns the lines of a FIFO from which `input` is read in pieces of `piece` bytes. An overlong line is represented
/// by the part of it that is logged.
pub fn split_lines(input: &[u8], piece: usize) -> Vec<Vec<u8>> {
    let mut splitter = LineSplitter::default();
    let mut lines = vec![];
    for mut bytes in input.chunks(piece.max(1)) {
        while let Some(Ok(line) | Err(line)) = splitter.next_line(&mut bytes) {
            lines.push(line);
        }
    }
    lines
}

/// Returns the operation of a line of a FIFO; `None` for a blank line.
///
/// # Errors
///
/// The reason why the line cannot be executed.
pub fn fifo_operation(line: &[u8]) -> Result<Option<Operation<'_, Bytes>>, String> {
    parse_line(line).map_err(|reason| reason.into_owned())
}
