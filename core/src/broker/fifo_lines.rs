//! Splits the bytes read from a FIFO into lines of a bounded length.

/// Maximum length of a line, without its line feed. A longer one is skipped.
pub(crate) const MAX_LINE_BYTES: usize = 1024 * 1024;
/// Maximum memory that is kept for the next incomplete line, in bytes.
const KEPT_BYTES: usize = 64 * 1024;
/// Bytes of an overlong line that are returned, to be shown in the log.
const EXCERPT_BYTES: usize = 512;

/// The state between two reads: the beginning of a line whose end has not come yet.
#[derive(Debug, Default)]
pub(crate) struct LineSplitter {
    beginning: Vec<u8>,
    /// True if the line is too long: the rest of it is skipped.
    overlong: bool,
}

impl LineSplitter {
    /// Takes the next line out of `input`, without its line feed. Returns `None` if no line is complete; all of
    /// `input` is consumed then. `Err` has the beginning of a line that was too long.
    pub(crate) fn next_line(&mut self, input: &mut &[u8]) -> Option<Result<Vec<u8>, Vec<u8>>> {
        let Some(end) = input.iter().position(|byte| *byte == b'\n') else {
            let rest = std::mem::take(input);
            self.append(rest);
            return None;
        };
        let (rest, after) = input.split_at(end);
        *input = &after[1..];
        self.append(rest);
        let line = if self.beginning.capacity() > KEPT_BYTES {
            std::mem::take(&mut self.beginning)
        } else {
            let line = self.beginning.clone();
            self.beginning.clear();
            line
        };
        Some(if std::mem::take(&mut self.overlong) { Err(line) } else { Ok(line) })
    }

    fn append(&mut self, bytes: &[u8]) {
        if self.overlong {
            return;
        }
        if self.beginning.len() + bytes.len() > MAX_LINE_BYTES {
            let missing = EXCERPT_BYTES.saturating_sub(self.beginning.len()).min(bytes.len());
            self.beginning.extend_from_slice(&bytes[..missing]);
            self.beginning.truncate(EXCERPT_BYTES);
            self.beginning.shrink_to_fit();
            self.overlong = true;
            return;
        }
        self.beginning.extend_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Splits `input`, read in pieces of `size` bytes, into lines; a line that is too long becomes `None`.
    fn split(input: &[u8], size: usize) -> Vec<Option<Vec<u8>>> {
        let mut splitter = LineSplitter::default();
        let mut lines = vec![];
        for mut piece in input.chunks(size) {
            while let Some(line) = splitter.next_line(&mut piece) {
                lines.push(line.ok());
            }
        }
        lines
    }

    #[test]
    fn lines_in_pieces_of_any_size() {
        for size in 1..12 {
            let lines = split(b"one\n\ntwo\r\nincomplete", size);
            assert_eq!(lines, [Some(b"one".to_vec()), Some(vec![]), Some(b"two\r".to_vec())]);
        }
    }

    #[test]
    fn the_longest_line_and_one_more() {
        let longest = vec![b'x'; MAX_LINE_BYTES];
        let mut input = longest.clone();
        input.push(b'\n');
        input.extend(vec![b'y'; MAX_LINE_BYTES + 1]);
        input.extend(b"\nnext\n");
        for size in [1000, 65_536, input.len()] {
            assert_eq!(split(&input, size), [Some(longest.clone()), None, Some(b"next".to_vec())]);
        }
    }
}
