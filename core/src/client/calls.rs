//! RPC calls that wait for their reply.

use super::effects::contain;
use crate::error::ErrorKind;
use crate::frame::Frame;
use crate::proto::op::primary_name;
use crate::proto::rpc::Envelope;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::oneshot;

/// The frame of a reply or an error reply, or why there will be none.
pub(crate) type Outcome = std::result::Result<Frame, ErrorKind>;

/// The table of one client. Replies are taken out of the stream of frames by whoever receives, so that
/// they never queue behind frames.
#[derive(Debug)]
pub(crate) struct Calls {
    table: Mutex<Table>,
    /// As many as the table has: a look at it costs less than the lock.
    pending: AtomicUsize,
}

#[derive(Debug)]
struct Table {
    last_id: u32,
    waiting: HashMap<u32, Waiting>,
    ended: bool,
}

#[derive(Debug)]
struct Waiting {
    /// The primary name of the client that was called.
    target: Box<str>,
    caller: Caller,
}

/// The program that waits for the outcome of a call. Ending and dropping it runs the program's waker, so that
/// neither happens under a lock.
#[derive(Debug)]
pub(super) struct Caller(oneshot::Sender<Outcome>);

impl Caller {
    pub(super) fn end(self, outcome: Outcome) {
        // An error: the call has just been dropped.
        drop(self.0.send(outcome));
    }
}

impl Calls {
    pub(crate) fn new() -> Calls {
        let table = Table { last_id: 0, waiting: HashMap::new(), ended: false };
        Calls { table: Mutex::new(table), pending: AtomicUsize::new(0) }
    }

    /// Makes an entry for a call to `target` and returns its id; `None` when the connection has ended.
    pub(crate) fn register(&self, target: &str) -> Option<(u32, oneshot::Receiver<Outcome>)> {
        let target = Box::from(primary_name(target));
        let mut table = self.table.lock();
        if table.ended {
            return None;
        }
        loop {
            // 0 would mean that no reply is wanted.
            table.last_id = table.last_id.checked_add(1).unwrap_or(1);
            let id = table.last_id;
            if let Entry::Vacant(free) = table.waiting.entry(id) {
                let (sender, receiver) = oneshot::channel();
                free.insert(Waiting { target, caller: Caller(sender) });
                self.pending.store(table.waiting.len(), Ordering::SeqCst);
                return Some((id, receiver));
            }
        }
    }

    /// Whether a call waits for its reply.
    pub(crate) fn is_awaited(&self) -> bool {
        self.pending.load(Ordering::SeqCst) > 0
    }

    /// Removes the call that `frame`, a message, answers, and returns who waits for it.
    ///
    /// The sender of the frame must be the client that was called: the id alone would let any client answer.
    ///
    /// # Errors
    /// The frame itself when it answers no call.
    pub(super) fn take(&self, frame: Frame) -> Result<(Caller, Frame), Frame> {
        if !self.is_awaited() {
            return Err(frame);
        }
        let id = match Envelope::parse(frame.payload()) {
            Ok(Envelope::Reply { id, .. } | Envelope::ErrorReply { id, .. }) => id,
            _ => return Err(frame),
        };
        let mut table = self.table.lock();
        match table.waiting.entry(id) {
            Entry::Occupied(entry) if *entry.get().target == *frame.primary_sender() => {
                let waiting = entry.remove();
                self.pending.store(table.waiting.len(), Ordering::SeqCst);
                Ok((waiting.caller, frame))
            }
            _ => Err(frame),
        }
    }

    /// Forgets a call.
    pub(crate) fn forget(&self, id: u32) {
        let mut table = self.table.lock();
        let waiting = table.waiting.remove(&id);
        self.pending.store(table.waiting.len(), Ordering::SeqCst);
        drop(table);
        // Drops the waker of the program.
        drop(waiting);
    }

    /// Fails everything, now and from now on.
    pub(crate) fn end(&self) {
        self.fail(true);
    }

    /// Fails everything that waits: the connection is lost, but another may come.
    pub(crate) fn lose(&self) {
        self.fail(false);
    }

    fn fail(&self, ended: bool) {
        let mut table = self.table.lock();
        table.ended |= ended;
        let waiting = std::mem::take(&mut table.waiting);
        self.pending.store(0, Ordering::SeqCst);
        drop(table);
        for (_, call) in waiting {
            contain("the waker of a caller", || call.caller.end(Err(ErrorKind::ConnectionLost)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::delivery::Delivery;
    use crate::proto::op::FrameKind;
    use crate::proto::rpc::{error_header, reply_header};

    fn message(sender: &str, payload: Vec<u8>) -> Frame {
        let delivery =
            Delivery { kind: FrameKind::Message, realtime: false, sender, topic: None, payload: &payload };
        Frame::copied(&delivery)
    }

    fn reply(sender: &str, id: u32) -> Frame {
        message(sender, reply_header(id).to_vec())
    }

    /// Ends the call that a frame answers; returns whether there was one.
    fn complete(calls: &Calls, frame: Frame) -> bool {
        calls.take(frame).map(|(caller, frame)| caller.end(Ok(frame))).is_ok()
    }

    #[test]
    fn a_reply_must_fit_in_id_and_primary_name() {
        let calls = Calls::new();
        let (id, mut outcome) = calls.register("srv%%2").unwrap();
        assert_eq!(id, 1);
        for stranger in
            [reply("other", 1), reply("srv", 2), message("srv", vec![0, 1, 2]), message("srv", vec![])]
        {
            assert!(!complete(&calls, stranger));
        }
        assert!(outcome.try_recv().is_err());
        assert!(complete(&calls, message("srv%%1", error_header(1, -32603).to_vec())));
        assert!(outcome.try_recv().unwrap().is_ok());
        assert!(!calls.is_awaited());
        assert!(!complete(&calls, reply("srv", 1)));
    }

    #[test]
    fn ids_wrap_past_zero_and_skip_those_in_use() {
        let calls = Calls::new();
        let first = calls.register("a").unwrap();
        calls.table.lock().last_id = u32::MAX - 1;
        let ids: Vec<_> = (0..2).map(|_| calls.register("a").unwrap().0).collect();
        assert_eq!((first.0, &ids[..]), (1, &[u32::MAX, 2][..]));
    }

    #[test]
    fn forgotten_and_lost() {
        let calls = Calls::new();
        let (id, mut outcome) = calls.register("a").unwrap();
        let (_, mut lost) = calls.register("a").unwrap();
        calls.forget(id);
        assert!(!complete(&calls, reply("a", id)));
        assert!(outcome.try_recv().is_err());
        calls.lose();
        let (_, mut next) = calls.register("a").unwrap();
        assert_eq!(lost.try_recv().unwrap().unwrap_err(), ErrorKind::ConnectionLost);
        calls.end();
        assert_eq!(next.try_recv().unwrap().unwrap_err(), ErrorKind::ConnectionLost);
        assert!(calls.register("a").is_none());
    }
}
