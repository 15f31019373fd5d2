//! RPC calls that wait for their replies.

use super::completions::{CompletionQueue, Raw};
use super::contain::{discard, discard_value, wake_all};
use super::name::Name;
use super::outcome::{Failure, Outcome};
use super::queue_counts::QueueCounts;
use super::slot::Slot;
use super::waker_set::WakerSet;
use crate::frame::Frame;
use crate::proto::op::{FrameKind, primary_name};
use crate::proto::rpc::Envelope;
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use std::collections::VecDeque;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::time::Instant;

/// Maximum number of ended calls whose late replies are recognized and dropped.
const MAX_LATE: usize = 1024;

/// The calls of one client. Replies are removed from the stream of frames when they are received, so that they never
/// queue behind frames.
#[derive(Debug)]
pub(crate) struct Calls {
    table: Mutex<Table>,
    /// Number of calls in the table. Reading it costs less than taking the lock.
    pending: AtomicUsize,
    /// The number of calls in the table plus the calls whose late replies are dropped.
    expected: AtomicUsize,
}

#[derive(Debug)]
struct Table {
    last_id: u32,
    /// The calls by id. The client chooses the ids, so that a fast hash is safe.
    waiting: FxHashMap<u32, Waiting>,
    /// Number of calls whose outcomes go to completion queues.
    queued: QueueCounts,
    /// Calls that have ended without a reply, the oldest first.
    late: VecDeque<(u32, Name)>,
    /// A time before which no call expires.
    next_deadline: Option<Instant>,
    ended: bool,
}

#[derive(Debug)]
struct Waiting {
    /// The primary name of the client that was called.
    target: Name,
    /// `None`: the call waits until the connection ends.
    deadline: Option<Instant>,
    /// True while the request waits for room or for a connection: then the loss of a connection does not affect it.
    unsent: bool,
    caller: Caller,
}

/// The destination of a call's outcome. Completing or dropping it may run foreign code, so that neither may happen
/// under a lock.
#[derive(Debug)]
pub(crate) enum Caller {
    /// The slot of a handle.
    Slot(Arc<Slot<Outcome>>),
    /// A completion queue, and the token of the result.
    Queue(CompletionQueue, u64),
    /// No destination, because the reply is late.
    Late,
}

/// A received reply: the call that it answers, and its frame.
pub(super) type Reply = (Caller, Frame);

impl Caller {
    fn queue(&self) -> Option<&CompletionQueue> {
        match self {
            Caller::Queue(queue, _) => Some(queue),
            _ => None,
        }
    }

    /// Delivers the outcome. Returns the wakers of the tasks that wait for it, which the caller must wake without
    /// holding a lock. If there are many outcomes, the wakers should be woken after all of them are delivered.
    pub(super) fn tell(&self, outcome: Outcome) -> WakerSet {
        match self {
            Caller::Slot(slot) => slot.complete(outcome),
            Caller::Queue(queue, token) => queue.push(*token, Raw::Call(outcome)),
            Caller::Late => {
                outcome.into_iter().for_each(discard);
                WakerSet::default()
            }
        }
    }
}

impl Table {
    fn remove(&mut self, id: u32) -> Option<Waiting> {
        let waiting = self.waiting.remove(&id)?;
        self.queued_no_more(&waiting);
        Some(waiting)
    }

    /// Removes the calls for which `ended` returns true.
    fn remove_if(&mut self, mut ended: impl FnMut(&Waiting) -> bool) -> Vec<(u32, Waiting)> {
        let removed: Vec<_> = self.waiting.extract_if(|_, waiting| ended(waiting)).collect();
        removed.iter().for_each(|(_, waiting)| self.queued_no_more(waiting));
        removed
    }

    fn queued_no_more(&mut self, waiting: &Waiting) {
        if let Some(queue) = waiting.caller.queue() {
            self.queued.remove(queue);
        }
    }

    /// Remembers a call that has ended without a reply. Returns the entry that is dropped to make room for it.
    fn expect_late(&mut self, id: u32, target: Name) -> Option<(u32, Name)> {
        let oldest = if self.late.len() >= MAX_LATE { self.late.pop_front() } else { None };
        self.late.push_back((id, target));
        oldest
    }
}

impl Calls {
    pub(crate) fn new() -> Calls {
        let table = Table {
            last_id: 0,
            waiting: FxHashMap::default(),
            queued: QueueCounts::default(),
            late: VecDeque::new(),
            next_deadline: None,
            ended: false,
        };
        Calls { table: Mutex::new(table), pending: AtomicUsize::new(0), expected: AtomicUsize::new(0) }
    }

    fn publish_counts(&self, table: &Table) {
        let pending = table.waiting.len();
        self.pending.store(pending, Ordering::SeqCst);
        self.expected.store(pending + table.late.len(), Ordering::SeqCst);
    }

    /// Adds an entry for a call to `target`. Returns its id, and its deadline if it is earlier than all others.
    ///
    /// # Errors
    ///
    /// The caller itself if the client has ended.
    pub(crate) fn register(
        &self,
        target: &str,
        deadline: Option<Instant>,
        caller: Caller,
    ) -> Result<(u32, Option<Instant>), Caller> {
        let target = Name::new(primary_name(target));
        let mut guard = self.table.lock();
        let table = &mut *guard;
        if table.ended {
            return Err(caller);
        }
        let next_deadline = deadline.filter(|at| table.next_deadline.is_none_or(|next| *at < next));
        table.next_deadline = next_deadline.or(table.next_deadline);
        loop {
            // The id 0 would mean that no reply is wanted.
            table.last_id = table.last_id.checked_add(1).unwrap_or(1);
            let id = table.last_id;
            if let Entry::Vacant(free) = table.waiting.entry(id) {
                if let Some(queue) = caller.queue() {
                    table.queued.add(queue);
                }
                free.insert(Waiting { target, deadline, unsent: false, caller });
                self.publish_counts(table);
                return Ok((id, next_deadline));
            }
        }
    }

    /// Sets whether the request of a call is waiting to be sent. Returns false if the call has ended: its request
    /// must not be sent then.
    pub(crate) fn set_unsent(&self, id: u32, unsent: bool) -> bool {
        let mut table = self.table.lock();
        table.waiting.get_mut(&id).map(|waiting| waiting.unsent = unsent).is_some()
    }

    /// Returns true if the call of that id waits for its reply. After it has ended, its request must not be sent.
    pub(crate) fn is_waiting(&self, id: u32) -> bool {
        self.table.lock().waiting.contains_key(&id)
    }

    /// Returns the number of calls that wait for their reply.
    pub(crate) fn pending(&self) -> usize {
        self.pending.load(Ordering::Relaxed)
    }

    /// Returns true if any call waits for its reply.
    pub(crate) fn is_awaited(&self) -> bool {
        self.pending.load(Ordering::SeqCst) > 0
    }

    /// Returns true if a call waits for its reply and its outcome does not go to the completion queue of that id.
    pub(super) fn is_awaited_elsewhere(&self, queue: usize) -> bool {
        self.is_awaited() && {
            let table = self.table.lock();
            table.waiting.len() > table.queued.at_least(queue)
        }
    }

    /// Returns true if a message may be a reply, late or not.
    fn expects_replies(&self) -> bool {
        self.expected.load(Ordering::SeqCst) > 0
    }

    /// Removes the call that `frame` answers. The caller completes the call after the frames that were received
    /// earlier are queued.
    ///
    /// The sender of the frame must be the client that was called: the id alone would let any client answer.
    ///
    /// # Errors
    /// The frame itself if it does not answer a call.
    #[inline]
    pub(super) fn take(&self, frame: Frame) -> Result<Reply, Frame> {
        if frame.kind() != FrameKind::Message || !self.expects_replies() {
            return Err(frame);
        }
        self.take_expected(frame)
    }

    fn take_expected(&self, frame: Frame) -> Result<Reply, Frame> {
        let id = match Envelope::parse(frame.payload()) {
            Ok(Envelope::Reply { id, .. } | Envelope::ErrorReply { id, .. }) => id,
            _ => return Err(frame),
        };
        let sender = frame.primary_sender();
        let mut table = self.table.lock();
        if table.waiting.get(&id).is_some_and(|waiting| waiting.target.is(sender)) {
            let waiting = table.remove(id);
            self.publish_counts(&table);
            return match waiting {
                Some(waiting) => Ok((waiting.caller, frame)),
                None => Err(frame),
            };
        }
        let Some(at) = table.late.iter().position(|(late, target)| *late == id && target.is(sender)) else {
            return Err(frame);
        };
        table.late.remove(at);
        self.publish_counts(&table);
        Ok((Caller::Late, frame))
    }

    /// Forgets a call whose request has been sent. Its late reply is dropped. Returns true if it was in the table.
    pub(crate) fn forget(&self, id: u32) -> bool {
        self.remove(id).is_some()
    }

    /// Forgets a call whose request was not sent. Returns false if it was not in the table because its outcome has
    /// been delivered.
    pub(crate) fn unregister(&self, id: u32) -> bool {
        let mut table = self.table.lock();
        let waiting = table.remove(id);
        self.publish_counts(&table);
        drop(table);
        // `waiting` may own a waker, whose drop is foreign code.
        waiting.is_some()
    }

    /// Ends a call without a reply. Returns the wakers of the tasks that wait for it, which the caller must wake
    /// without holding a lock.
    #[cfg(feature = "broker")]
    pub(crate) fn fail(&self, id: u32, failure: Failure) -> WakerSet {
        self.remove(id).map(|caller| caller.tell(Err(failure))).unwrap_or_default()
    }

    /// Removes a call that ends without a reply; returns `None` if there is none.
    pub(super) fn remove(&self, id: u32) -> Option<Caller> {
        let mut table = self.table.lock();
        let waiting = table.remove(id)?;
        let forgotten = if waiting.unsent { None } else { table.expect_late(id, waiting.target) };
        self.publish_counts(&table);
        drop(table);
        drop(forgotten);
        Some(waiting.caller)
    }

    /// Fails every call whose deadline is `now` or before. Returns the next deadline, or an earlier time.
    pub(crate) fn expire(&self, now: Instant) -> Option<Instant> {
        let mut late = Vec::new();
        let mut table = self.table.lock();
        if table.next_deadline.is_none_or(|next| next > now) {
            return table.next_deadline;
        }
        let mut next = None;
        let ended = table.remove_if(|waiting| match waiting.deadline {
            Some(at) if at <= now => true,
            at => {
                next = next.into_iter().chain(at).min();
                false
            }
        });
        for (id, waiting) in ended {
            if !waiting.unsent {
                table.expect_late(id, waiting.target);
            }
            late.push(waiting.caller);
        }
        table.next_deadline = next;
        self.publish_counts(&table);
        drop(table);
        fail_all(late, Failure::Timeout);
        next
    }

    /// Fails all calls, and makes all later registrations fail.
    pub(crate) fn end(&self) {
        let mut table = self.table.lock();
        table.ended = true;
        table.late.clear();
        let waiting = std::mem::take(&mut table.waiting);
        table.queued.clear();
        self.publish_counts(&table);
        drop(table);
        fail_all(waiting.into_values().map(|waiting| waiting.caller), Failure::Lost);
    }

    /// Fails every call that has been sent, because the connection is lost. Another connection may follow.
    pub(crate) fn lose(&self) {
        let mut table = self.table.lock();
        table.late.clear();
        let lost = table.remove_if(|waiting| !waiting.unsent);
        self.publish_counts(&table);
        drop(table);
        fail_all(lost.into_iter().map(|(_, waiting)| waiting.caller), Failure::Lost);
    }
}

/// Delivers its reply to every caller, then wakes each waiting task once. The caller of this function must hold no
/// lock.
pub(super) fn answer_all(replies: impl IntoIterator<Item = Reply>) {
    let answers = replies.into_iter().map(|(caller, frame)| (caller, Ok(frame)));
    end_all(answers);
}

/// Delivers `failure` to every caller, then wakes each waiting task once. The caller of this function must hold no
/// lock.
fn fail_all(callers: impl IntoIterator<Item = Caller>, failure: Failure) {
    end_all(callers.into_iter().map(|caller| (caller, Err(failure))));
}

fn end_all(outcomes: impl IntoIterator<Item = (Caller, Outcome)>) {
    let mut wakers = vec![];
    for (caller, outcome) in outcomes {
        wakers.extend(caller.tell(outcome));
        // The last caller of a queue drops the queue, with its wake-up and results.
        discard_value("a caller", caller);
    }
    wake_all(wakers);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::delivery::Delivery;
    use crate::proto::rpc::{error_header, reply_header};
    use std::time::Duration;

    fn message(sender: &str, payload: Vec<u8>) -> Frame {
        let delivery =
            Delivery { kind: FrameKind::Message, realtime: false, sender, topic: None, payload: &payload };
        Frame::copied(&delivery)
    }

    fn reply(sender: &str, id: u32) -> Frame {
        message(sender, reply_header(id).to_vec())
    }

    fn register(calls: &Calls, target: &str, deadline: Option<Instant>) -> (u32, Arc<Slot<Outcome>>) {
        let slot = Slot::new();
        (calls.register(target, deadline, Caller::Slot(slot.clone())).unwrap().0, slot)
    }

    /// Completes the call that a frame answers. Returns whether the frame is a reply, late or not.
    fn complete(calls: &Calls, frame: Frame) -> bool {
        calls.take(frame).map(|reply| answer_all([reply])).is_ok()
    }

    fn failure(slot: &Slot<Outcome>) -> Option<Failure> {
        slot.get().and_then(Result::err)
    }

    #[test]
    fn a_reply_must_fit_in_id_and_primary_name() {
        for target in ["srv", &"long".repeat(20)] {
            let calls = Calls::new();
            let (id, outcome) = register(&calls, &format!("{target}%%2"), None);
            assert_eq!(id, 1);
            for stranger in
                [reply("other", 1), reply(target, 2), message(target, vec![0, 1, 2]), message(target, vec![])]
            {
                assert!(!complete(&calls, stranger));
            }
            assert!(!outcome.is_completed());
            assert!(complete(&calls, message(&format!("{target}%%1"), error_header(1, -32603).to_vec())));
            assert!(outcome.get().unwrap().is_ok());
            assert!(!calls.is_awaited());
            assert!(!complete(&calls, reply(target, 1)));
        }
    }

    #[test]
    fn ids_wrap_past_zero_and_skip_those_in_use() {
        let calls = Calls::new();
        let first = register(&calls, "a", None).0;
        calls.table.lock().last_id = u32::MAX - 1;
        let ids: Vec<_> = (0..2).map(|_| register(&calls, "a", None).0).collect();
        assert_eq!((first, &ids[..]), (1, &[u32::MAX, 2][..]));
    }

    #[test]
    fn forgotten_and_lost() {
        let calls = Calls::new();
        let (id, forgotten) = register(&calls, "a", None);
        let (_, lost) = register(&calls, "a", None);
        assert!(calls.forget(id) && !calls.forget(id));
        assert!(complete(&calls, reply("a", id)), "a late reply is recognized");
        assert!(!complete(&calls, reply("a", id)), "only once");
        assert!(!forgotten.is_completed());
        calls.lose();
        let (_, next) = register(&calls, "a", None);
        assert_eq!(failure(&lost), Some(Failure::Lost));
        calls.end();
        assert_eq!(failure(&next), Some(Failure::Lost));
        assert!(calls.register("a", None, Caller::Late).is_err());
    }

    #[test]
    fn a_request_that_was_not_sent_survives_the_connection_and_is_not_sent_after_its_end() {
        let calls = Calls::new();
        let (id, outcome) = register(&calls, "a", None);
        assert!(calls.set_unsent(id, true));
        calls.lose();
        assert!(!outcome.is_completed() && calls.set_unsent(id, false));
        calls.lose();
        assert_eq!(failure(&outcome), Some(Failure::Lost));
        assert!(!calls.set_unsent(id, false));
    }

    #[test]
    fn deadlines() {
        let calls = Calls::new();
        let start = Instant::now();
        let after = |seconds| Some(start + Duration::from_secs(seconds));
        let (_, never) = register(&calls, "a", None);
        let (id, first) = register(&calls, "a", after(1));
        let (_, second) = register(&calls, "a", after(2));
        assert_eq!(calls.expire(start), after(1));
        assert_eq!(calls.expire(start + Duration::from_secs(1)), after(2));
        assert_eq!(failure(&first), Some(Failure::Timeout));
        assert!(complete(&calls, reply("a", id)), "a late reply is dropped");
        assert_eq!(calls.expire(start + Duration::from_secs(3)), None);
        assert_eq!(failure(&second), Some(Failure::Timeout));
        assert!(!never.is_completed());
    }

    #[test]
    fn late_replies_are_remembered_up_to_a_number() {
        let calls = Calls::new();
        for _ in 0..MAX_LATE + 10 {
            let id = register(&calls, "a", None).0;
            calls.forget(id);
        }
        assert_eq!(calls.table.lock().late.len(), MAX_LATE);
        assert!(!complete(&calls, reply("a", 10)) && complete(&calls, reply("a", 11)));
    }
}
