//! The queue of log lines for the thread that writes them.

use log::Level;
use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

const MAX_LINES: usize = 1024;
const MAX_BYTES: usize = 1024 * 1024;

thread_local! {
    /// Set on the thread that writes: its own lines are never dropped, so that the count of dropped lines is not
    /// lost.
    static IS_WRITER: Cell<bool> = const { Cell::new(false) };
}

/// One record of the log, formatted.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) level: Level,
    pub(super) text: Vec<u8>,
}

/// A bounded queue. Adding a line takes a short lock and never waits for the writer: lines that do not fit are
/// dropped and counted.
#[derive(Debug, Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    /// Signalled when there is a line to write.
    filled: Condvar,
    /// Signalled when everything has been written.
    emptied: Condvar,
}

#[derive(Debug, Default)]
struct State {
    lines: VecDeque<Line>,
    bytes: usize,
    dropped: u64,
    /// True while the writer is writing a line.
    writing: bool,
}

impl State {
    fn is_full(&self, len: usize) -> bool {
        // One line of any length fits into an empty queue.
        !self.lines.is_empty() && (self.lines.len() >= MAX_LINES || self.bytes + len > MAX_BYTES)
    }

    fn has_room(&self) -> bool {
        self.lines.len() <= MAX_LINES / 2 && self.bytes <= MAX_BYTES / 2
    }
}

impl Queue {
    /// Adds a line, unless the queue is full.
    pub(super) fn push(&self, level: Level, text: &[u8]) {
        let line = Line { level, text: text.to_vec() };
        let mut state = self.lock();
        if state.is_full(text.len()) && !IS_WRITER.get() {
            state.dropped += 1;
            return;
        }
        state.bytes += line.text.len();
        state.lines.push_back(line);
        drop(state);
        self.filled.notify_one();
    }

    /// Writes every line with `write`, for ever.
    pub(super) fn run(&self, mut write: impl FnMut(&Line)) -> ! {
        IS_WRITER.set(true);
        loop {
            let (line, dropped) = self.next();
            if dropped > 0 {
                log::warn!("{dropped} log lines were dropped: the log is not read fast enough");
            }
            write(&line);
        }
    }

    /// Waits for the next line. Returns it with the number of dropped lines, if there is room again to report that
    /// number.
    fn next(&self) -> (Line, u64) {
        let mut state = self.lock();
        loop {
            if let Some(line) = state.lines.pop_front() {
                state.bytes -= line.text.len();
                state.writing = true;
                let dropped = if state.has_room() { std::mem::take(&mut state.dropped) } else { 0 };
                return (line, dropped);
            }
            state.writing = false;
            self.emptied.notify_all();
            state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits until everything is written, at most for `patience`.
    pub(super) fn flush(&self, patience: Duration) {
        let deadline = Instant::now() + patience;
        let mut state = self.lock();
        while state.writing || !state.lines.is_empty() {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else { return };
            state = self.emptied.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::mpsc::{channel, sync_channel};

    #[test]
    fn a_stuck_writer_delays_nothing() {
        let queue = Arc::new(Queue::default());
        let (release, released) = channel::<()>();
        let (written, lines) = channel();
        let writer = queue.clone();
        std::thread::spawn(move || {
            writer.run(|line| {
                // After the sender is dropped, all lines pass.
                let _ = released.recv();
                let _ = written.send(line.text.clone());
            })
        });
        for i in 0..5000 {
            queue.push(Level::Info, format!("{i}").as_bytes());
        }
        let started = Instant::now();
        queue.flush(Duration::from_millis(50));
        assert!(started.elapsed() < Duration::from_secs(20));
        drop(release);
        queue.flush(Duration::from_secs(20));
        let written: Vec<_> = lines.try_iter().collect();
        // The writer holds one more line.
        assert!((MAX_LINES..=MAX_LINES + 1).contains(&written.len()), "{}", written.len());
        assert_eq!(written[7], b"7");
    }

    #[test]
    fn the_bytes_are_bounded_too() {
        let queue = Queue::default();
        for _ in 0..10 {
            queue.push(Level::Info, &[b'x'; MAX_BYTES / 4]);
        }
        let state = queue.lock();
        assert_eq!((state.lines.len(), state.dropped), (4, 6));
    }

    #[test]
    fn a_line_of_any_length_is_written() {
        let queue = Arc::new(Queue::default());
        let (written, lines) = sync_channel(0);
        let writer = queue.clone();
        std::thread::spawn(move || writer.run(|line| written.send(line.text.len()).unwrap_or(())));
        queue.push(Level::Info, &vec![b'x'; MAX_BYTES * 2]);
        assert_eq!(lines.recv().unwrap(), MAX_BYTES * 2);
        queue.flush(Duration::from_secs(20));
    }
}
