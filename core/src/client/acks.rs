//! Operations that wait for the broker's acknowledgement.

use super::ack_target::AckTarget;
#[cfg(feature = "rpc")]
use super::calls::{Caller, Calls};
use super::client_state::ClientState;
use super::completions::CompletionQueue;
use super::contain::{contain, wake_all};
use super::outcome::{Answer, Failure};
use super::queue_counts::QueueCounts;
use super::subscriptions::Change;
#[cfg(feature = "rpc")]
use crate::frame::Frame;
use parking_lot::Mutex;
use std::collections::VecDeque;
#[cfg(feature = "rpc")]
use std::sync::Arc;
use std::task::Waker;
use tokio::time::Instant;

/// The recipient of an acknowledgement.
#[derive(Debug)]
pub(crate) enum Waiter {
    /// The program.
    Program(AckTarget),
    /// A call, which ends if its request is refused.
    #[cfg(feature = "rpc")]
    Call(u32),
    /// A reply to a call: if it is refused, this is logged.
    #[cfg(feature = "rpc")]
    Reply,
    /// The subscriptions of a client that reconnects, and perhaps the program.
    Topics(Box<Change>),
    /// A probe of the broker's liveness. Any received byte answers it, so that the acknowledgement is ignored.
    Probe,
}

impl Waiter {
    /// Logs a reply that was refused, and drops the waiter. The caller must hold no lock.
    #[cfg_attr(not(feature = "rpc"), expect(unused_variables, reason = "only refused replies are logged"))]
    fn finish(self, answer: Answer) {
        #[cfg(feature = "rpc")]
        if let (Waiter::Reply, Err(failure)) = (&self, answer) {
            log::debug!("a reply was refused: {}", failure.kind());
        }
    }

    /// Returns whether the program's progress depends on the answer. The progress of a call depends on its reply,
    /// which is counted elsewhere.
    fn is_awaited(&self) -> bool {
        match self {
            Waiter::Program(_) => true,
            Waiter::Topics(change) => change.is_awaited(),
            #[cfg(feature = "rpc")]
            Waiter::Call(_) | Waiter::Reply => false,
            Waiter::Probe => false,
        }
    }

    /// Returns true if the program itself waits, for this answer or for the reply to its call.
    fn is_of_program(&self) -> bool {
        #[cfg(feature = "rpc")]
        if let Waiter::Call(_) = self {
            return true;
        }
        self.is_awaited()
    }

    /// Returns the completion queue to which the answer goes.
    fn queue(&self) -> Option<&CompletionQueue> {
        match self {
            Waiter::Program(AckTarget::Queue(queue, _)) => Some(queue),
            _ => None,
        }
    }
}

#[derive(Debug)]
struct Entry {
    op_id: u32,
    /// `None`: the operation waits until the connection ends.
    deadline: Option<Instant>,
    waiter: Waiter,
}

/// The waiting operations of one connection. Acknowledgements arrive in the order of their operations, so that the
/// first entry is nearly always the right one.
#[derive(Debug)]
pub(crate) struct Acks {
    /// The calls of the client, because a refused request ends its call.
    #[cfg(feature = "rpc")]
    calls: Arc<Calls>,
    table: Mutex<Table>,
}

#[derive(Debug)]
struct Table {
    last_id: u32,
    entries: VecDeque<Entry>,
    /// Number of entries for which the program waits.
    awaited: usize,
    /// Number of those entries whose answers go to completion queues.
    queued: QueueCounts,
    /// A time before which no entry expires.
    next_deadline: Option<Instant>,
    ended: bool,
}

impl Table {
    fn remove(&mut self, index: usize) -> Option<Waiter> {
        let waiter = self.entries.remove(index)?.waiter;
        self.awaited -= usize::from(waiter.is_awaited());
        self.queued_no_more(&waiter);
        Some(waiter)
    }

    fn queued_no_more(&mut self, waiter: &Waiter) {
        if let Some(queue) = waiter.queue() {
            self.queued.remove(queue);
        }
    }

    /// Finds the entry of an operation. Op ids increase, and wrap around.
    fn find(&self, op_id: u32) -> Option<usize> {
        let first = self.entries.front()?.op_id;
        if first == op_id {
            return Some(0);
        }
        let distance = |id: u32| id.wrapping_sub(first);
        self.entries.binary_search_by_key(&distance(op_id), |entry| distance(entry.op_id)).ok()
    }
}

/// The result of adding an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Registered {
    pub(super) op_id: u32,
    /// The deadline of the entry, if it is earlier than those of all others.
    pub(super) next_deadline: Option<Instant>,
    /// True if the program waits for no other acknowledgement.
    pub(super) is_alone: bool,
}

impl Acks {
    pub(super) fn new(
        #[cfg_attr(not(feature = "rpc"), expect(unused_variables, reason = "only calls are needed"))]
        client: &ClientState,
    ) -> Acks {
        let table = Table {
            last_id: 0,
            entries: VecDeque::new(),
            awaited: 0,
            queued: QueueCounts::default(),
            next_deadline: None,
            ended: false,
        };
        Acks {
            #[cfg(feature = "rpc")]
            calls: client.calls.clone(),
            table: Mutex::new(table),
        }
    }

    /// Adds an entry. It must be called before the bytes can reach the socket.
    ///
    /// # Errors
    ///
    /// The waiter itself if the connection has ended. The caller must drop it without holding a lock.
    pub(super) fn register(&self, deadline: Option<Instant>, waiter: Waiter) -> Result<Registered, Waiter> {
        let mut table = self.table.lock();
        if table.ended {
            return Err(waiter);
        }
        // Operations without acknowledgement have the id 0.
        table.last_id = table.last_id.checked_add(1).unwrap_or(1);
        let op_id = table.last_id;
        let is_alone = table.awaited == 0 && waiter.is_of_program();
        table.awaited += usize::from(waiter.is_awaited());
        if let Some(queue) = waiter.queue() {
            table.queued.add(queue);
        }
        table.entries.push_back(Entry { op_id, deadline, waiter });
        let next_deadline = deadline.filter(|at| table.next_deadline.is_none_or(|next| *at < next));
        table.next_deadline = next_deadline.or(table.next_deadline);
        Ok(Registered { op_id, next_deadline, is_alone })
    }

    /// Delivers the acknowledgements in `acks` (op id, result code) to their waiters, and empties it. Effects that
    /// must happen without a lock are added to `answered`.
    pub(super) fn complete(&self, acks: &mut Vec<(u32, u8)>, answered: &mut Answered) {
        if acks.is_empty() {
            return;
        }
        let mut table = self.table.lock();
        for (op_id, code) in acks.drain(..) {
            let Some(index) = table.find(op_id) else { continue };
            answered.told.extend(table.remove(index).map(|waiter| (waiter, Failure::from_ack(code))));
        }
        drop(table);
        self.tell(answered);
    }

    /// Returns whether the program waits for an acknowledgement.
    pub(crate) fn is_awaited(&self) -> bool {
        self.table.lock().awaited > 0
    }

    /// Returns whether the program waits for an acknowledgement that does not go to the completion queue of that id.
    pub(super) fn is_awaited_elsewhere(&self, queue: usize) -> bool {
        let table = self.table.lock();
        table.awaited > table.queued.at_least(queue)
    }

    /// Fails every entry whose deadline is `now` or before. Returns the next deadline, or an earlier time.
    pub(super) fn expire(&self, now: Instant) -> Option<Instant> {
        let mut late = Vec::new();
        let mut table = self.table.lock();
        if table.next_deadline.is_none_or(|next| next > now) {
            return table.next_deadline;
        }
        let entries = std::mem::take(&mut table.entries);
        let mut next = None;
        table.entries = entries
            .into_iter()
            .filter_map(|entry| match entry.deadline {
                Some(at) if at <= now => {
                    late.push(entry.waiter);
                    None
                }
                at => {
                    next = next.into_iter().chain(at).min();
                    Some(entry)
                }
            })
            .collect();
        table.next_deadline = next;
        table.awaited -= late.iter().filter(|waiter| waiter.is_awaited()).count();
        late.iter().for_each(|waiter| table.queued_no_more(waiter));
        drop(table);
        self.tell_all(late.into_iter().map(|waiter| (waiter, Err(Failure::Timeout))));
        next
    }

    /// Fails all entries, and makes all later registrations fail.
    pub(crate) fn end(&self) {
        let mut table = self.table.lock();
        table.ended = true;
        table.awaited = 0;
        table.queued.clear();
        let entries = std::mem::take(&mut table.entries);
        drop(table);
        self.tell_all(entries.into_iter().map(|entry| (entry.waiter, Err(Failure::Lost))));
    }

    /// Delivers its answer to every waiter, then wakes each waiting task once for all answers. It runs wakers and
    /// loggers: the caller must hold no lock. A panic in one of them does not affect the others.
    fn tell_all(&self, told: impl Iterator<Item = (Waiter, Answer)>) {
        let mut answered = Answered::default();
        answered.told.extend(told);
        self.tell(&mut answered);
        answered.settle();
    }

    /// Delivers its answer to every waiter in `answered`.
    fn tell(&self, answered: &mut Answered) {
        let wakers = &mut answered.wakers;
        for (waiter, answer) in &answered.told {
            match waiter {
                Waiter::Program(told) => wakers.extend(told.tell(*answer)),
                Waiter::Topics(change) => wakers.extend(change.settle(*answer)),
                // A lost connection ends all calls. A late acknowledgement ends none, because the reply may already
                // be in transit.
                #[cfg(feature = "rpc")]
                Waiter::Call(id) => {
                    if let Err(failure @ Failure::Refused(_)) = *answer
                        && let Some(caller) = self.calls.remove(*id)
                    {
                        wakers.extend(caller.tell(Err(failure)));
                        answered.callers.push(caller);
                    }
                }
                #[cfg(feature = "rpc")]
                Waiter::Reply => {}
                Waiter::Probe => {}
            }
        }
    }
}

/// Effects of delivered answers that must happen when no lock is held: wakers and the logger run, and values are
/// dropped whose drop may run code of the program. The effects happen at the latest when this value is dropped.
#[derive(Default)]
pub(super) struct Answered {
    told: Vec<(Waiter, Answer)>,
    #[cfg(feature = "rpc")]
    callers: Vec<Caller>,
    wakers: Vec<Waker>,
}

impl Answered {
    /// Gives a call its reply.
    #[cfg(feature = "rpc")]
    pub(super) fn reply(&mut self, caller: Caller, reply: Frame) {
        self.wakers.extend(caller.tell(Ok(reply)));
        self.callers.push(caller);
    }

    /// Wakes each waiting task once for all answers, and drops the collected values. The buffers are kept. The caller
    /// must hold no lock.
    pub(super) fn settle(&mut self) {
        wake_all(self.wakers.drain(..));
        #[cfg(feature = "rpc")]
        for caller in self.callers.drain(..) {
            contain("the drop of a queue of completions", || drop(caller));
        }
        for (waiter, answer) in self.told.drain(..) {
            contain("the logger or the drop of a queue of completions", || waiter.finish(answer));
        }
    }
}

impl Drop for Answered {
    fn drop(&mut self) {
        self.settle();
    }
}

#[cfg(test)]
mod tests {
    use super::super::config::Config;
    use super::super::pending::PendingOperation;
    use super::super::reading_lease::ReadingLease;
    use super::*;
    use crate::error::ErrorKind;
    use std::time::Duration;

    fn table() -> Acks {
        Acks::new(&ClientState::new(&Config::new("", "me")))
    }

    fn register(acks: &Acks, deadline: Option<Instant>) -> (u32, PendingOperation) {
        let (slot, pending) = PendingOperation::waiting(&ReadingLease::new(Duration::ZERO));
        (acks.register(deadline, Waiter::Program(AckTarget::Slot(slot))).unwrap().op_id, pending)
    }

    fn complete(acks: &Acks, list: &[(u32, u8)]) {
        let mut answered = Answered::default();
        acks.complete(&mut list.to_vec(), &mut answered);
        answered.settle();
    }

    #[tokio::test]
    async fn in_order_and_out_of_order() {
        let acks = table();
        let (ids, pending): (Vec<_>, Vec<_>) = (0..4).map(|_| register(&acks, None)).unzip();
        assert_eq!(ids, [1, 2, 3, 4]);
        complete(&acks, &[(1, 1), (3, 0x71), (99, 1)]);
        let done: Vec<_> = pending.iter().map(PendingOperation::is_completed).collect();
        assert_eq!(done, [true, false, true, false]);
        complete(&acks, &[(2, 1), (4, 0xff)]);
        assert!(!acks.is_awaited());
        let mut kinds = vec![];
        for pending in pending {
            kinds.push(pending.await.err().map(|e| e.kind()));
        }
        assert_eq!(kinds, [None, None, Some(ErrorKind::NotRegistered), Some(ErrorKind::NotDelivered)]);
    }

    #[tokio::test]
    async fn the_end_fails_waiting_and_later_operations() {
        let acks = table();
        let (_, pending) = register(&acks, None);
        acks.end();
        assert!(pending.is_completed() && !pending.is_acknowledged());
        assert_eq!(pending.await.unwrap_err().kind(), ErrorKind::ConnectionLost);
        let (slot, _pending) = PendingOperation::waiting(&ReadingLease::new(Duration::ZERO));
        assert!(acks.register(None, Waiter::Program(AckTarget::Slot(slot))).is_err());
    }

    #[tokio::test]
    async fn each_entry_has_its_own_deadline_or_none() {
        let acks = table();
        let start = Instant::now();
        let after = |seconds| Some(start + Duration::from_secs(seconds));
        let (_, never) = register(&acks, None);
        let (_, second) = register(&acks, after(5));
        let (_, first) = register(&acks, after(1));
        let (id, third) = register(&acks, after(9));
        assert_eq!(acks.expire(start), after(1));
        assert_eq!(acks.expire(start + Duration::from_secs(1)), after(5));
        assert_eq!(first.await.unwrap_err().kind(), ErrorKind::Timeout);
        assert!(!second.is_completed());
        assert_eq!(acks.expire(start + Duration::from_secs(6)), after(9));
        complete(&acks, &[(2, 1), (id, 1)]);
        assert!(third.is_acknowledged() && second.is_completed() && !second.is_acknowledged());
        assert_eq!(acks.expire(start + Duration::from_secs(9)), None);
        assert!(!never.is_completed() && acks.is_awaited());
    }

    #[tokio::test]
    async fn a_completed_operation_stays_completed() {
        let acks = table();
        let (id, mut pending) = register(&acks, None);
        assert!(pending.result().is_none() && pending.wait_timeout(Duration::ZERO).is_none());
        complete(&acks, &[(id, 1)]);
        for _ in 0..2 {
            assert!(pending.is_completed());
            (&mut pending).await.unwrap();
            pending.wait_timeout(Duration::ZERO).unwrap().unwrap();
        }
    }

    #[test]
    fn results_of_one_read_come_with_one_wake_up() {
        let (acks, queue) = (table(), CompletionQueue::new());
        for token in 10..13 {
            acks.register(None, Waiter::Program(AckTarget::Queue(queue.clone(), token))).unwrap();
        }
        complete(&acks, &[(1, 1), (3, 0x71), (2, 1)]);
        let mut batch = vec![];
        queue.take(&mut batch, 10);
        let results: Vec<_> = batch.iter().map(|c| (c.token, c.error().is_none())).collect();
        assert_eq!(results, [(10, true), (12, false), (11, true)]);
    }

    #[test]
    fn ids_wrap_past_zero() {
        let acks = table();
        acks.table.lock().last_id = u32::MAX - 1;
        let (ids, pending): (Vec<_>, Vec<_>) = (0..3).map(|_| register(&acks, None)).unzip();
        assert_eq!(ids, [u32::MAX, 1, 2]);
        complete(&acks, &[(2, 1), (u32::MAX, 1), (1, 1)]);
        assert!(pending.iter().all(PendingOperation::is_acknowledged) && !acks.is_awaited());
    }
}
