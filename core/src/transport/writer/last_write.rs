//! The last write of a connection whose runtime has ended, so that no task can write the remaining data.

use super::{ANY_SIZE, State, Writer, wake};
use crate::transport::queue::{WriteQueue, Written};
use crate::transport::{Load, Socket};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The pause before the socket is tried again.
const RETRY: Duration = Duration::from_micros(500);

impl Writer {
    /// Closes the writer and writes the waiting data on this thread, for at most `bound`. The socket stays open.
    /// Returns whether everything was written. Frames that are appended from now on are refused.
    ///
    /// A task that was going to write is never polled again; its data is still in the queue. If another thread is
    /// writing now, this waits for it.
    pub fn finish_on_this_thread(&self, bound: Duration) -> bool {
        let started = Instant::now();
        let (socket, queue) = loop {
            let mut state = self.state.lock();
            if state.in_flight == Load::default() || started.elapsed() >= bound {
                let taken = self.take_last(&mut state);
                let waiters = std::mem::take(&mut state.waiters);
                drop(state);
                wake(waiters.into_wakers());
                break taken;
            }
            drop(state);
            std::thread::sleep(RETRY);
        };
        let (Some(socket), Some(mut queue)) = (socket, queue) else { return true };
        loop {
            match queue.write_to(&socket, ANY_SIZE, &mut self.pieces.lock()).1 {
                Ok(Written::All) => return true,
                Ok(Written::Enough) => {}
                // The portable socket learns only from the runtime that it is writable.
                Ok(Written::Blocked) if cfg!(any(not(unix), busrt_portable)) => return false,
                Ok(Written::Blocked) => std::thread::sleep(RETRY),
                Err(_) => return false,
            }
            if started.elapsed() >= bound {
                return false;
            }
        }
    }

    /// Takes the socket and the waiting data. The writer is closed after that.
    fn take_last(&self, state: &mut State) -> (Option<Arc<Socket>>, Option<Box<WriteQueue>>) {
        let queue = state.handover.waiting_mut().take();
        let socket = state.socket.take();
        self.count(state);
        (socket, queue)
    }
}

#[cfg(all(test, unix, not(busrt_portable)))]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    const FRAMES: usize = 100;
    const FRAME_BYTES: usize = 10_000;

    /// Creates a writer on a runtime that ended while a task waited for the socket, and its peer.
    fn abandoned() -> (Arc<Writer>, UnixStream) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let writer = runtime.block_on(async { Writer::new(Arc::new(Socket::from_unix(ours).unwrap())) });
        for _ in 0..FRAMES {
            writer.with(|b| b.queue().push(|out| out.extend_from_slice(&[7; FRAME_BYTES]))).unwrap();
            writer.flush();
        }
        runtime.block_on(tokio::task::yield_now());
        drop(runtime);
        assert!(writer.load().frames > 0);
        (writer, theirs)
    }

    #[test]
    fn all_is_written_without_the_runtime() {
        let (writer, mut peer) = abandoned();
        let reader = std::thread::spawn(move || {
            let mut got = vec![0; FRAMES * FRAME_BYTES];
            peer.read_exact(&mut got).unwrap();
            got.iter().all(|byte| *byte == 7)
        });
        assert!(writer.finish_on_this_thread(Duration::from_secs(60)));
        assert!(writer.is_closed());
        assert!(reader.join().unwrap());
    }

    #[test]
    fn a_peer_that_reads_nothing_is_given_up() {
        let (writer, _peer) = abandoned();
        assert!(!writer.finish_on_this_thread(Duration::from_millis(20)));
        assert!(writer.with(|_| ()).is_none());
    }
}
