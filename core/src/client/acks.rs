//! Operations that wait for the broker's acknowledgement.

use super::effects::contain;
use super::resume::Change;
use crate::error::{Error, ErrorKind, Result};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::sync::oneshot;
use tokio::time::Instant;

/// What became of an operation.
pub(crate) type Answer = std::result::Result<(), ErrorKind>;

/// The outcome of an operation that has been sent, to be awaited now or later: how a program keeps
/// many operations under way. Dropping it takes nothing back.
#[derive(Debug)]
#[must_use = "the operation's outcome is only told here; drop it if that does not matter"]
pub struct Confirmation(State);

#[derive(Debug)]
enum State {
    Done(Answer),
    Waiting(oneshot::Receiver<Answer>),
}

impl Confirmation {
    pub(crate) fn done(answer: Answer) -> Confirmation {
        Confirmation(State::Done(answer))
    }

    pub(super) fn pending() -> (oneshot::Sender<Answer>, Confirmation) {
        let (sender, receiver) = oneshot::channel();
        (sender, Confirmation(State::Waiting(receiver)))
    }

    /// Whether awaiting it would not wait: the broker has answered, the connection has ended, or the
    /// QoS asked for no answer.
    pub fn is_completed(&self) -> bool {
        match &self.0 {
            State::Done(_) => true,
            State::Waiting(answer) => answer.is_terminated() || !answer.is_empty(),
        }
    }

    pub(crate) fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Answer> {
        if let State::Waiting(receiver) = &mut self.0 {
            let answer = ready!(Pin::new(receiver).poll(cx)).unwrap_or(Err(ErrorKind::ConnectionLost));
            self.0 = State::Done(answer);
        }
        match self.0 {
            State::Done(answer) => Poll::Ready(answer),
            State::Waiting(_) => Poll::Pending,
        }
    }
}

impl Future for Confirmation {
    type Output = Result<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.poll_answer(cx).map_err(|kind| match kind {
            ErrorKind::Timeout => Error::new(kind, "the broker did not acknowledge in time"),
            ErrorKind::ConnectionLost => Error::new(kind, "before the broker acknowledged"),
            kind => Error::refused(kind.code(), ""),
        })
    }
}

/// Whom to tell.
#[derive(Debug)]
pub(crate) enum Waiter {
    /// Somebody who holds a [`Confirmation`].
    Program(oneshot::Sender<Answer>),
    /// Nobody: a reply to a call, whose refusal is only logged.
    #[cfg(feature = "rpc")]
    Reply,
    /// The book of what a client that reconnects is subscribed to, and maybe the program.
    Topics(Box<Change>),
    /// Nobody: any byte of the broker answers.
    Probe,
}

impl Waiter {
    pub(crate) fn confirmation() -> (Waiter, Confirmation) {
        let (sender, confirmation) = Confirmation::pending();
        (Waiter::Program(sender), confirmation)
    }

    /// Whether somebody's progress depends on the answer.
    fn is_awaited(&self) -> bool {
        match self {
            Waiter::Program(_) => true,
            #[cfg(feature = "rpc")]
            Waiter::Reply => false,
            Waiter::Topics(change) => change.is_awaited(),
            Waiter::Probe => false,
        }
    }

    pub(crate) fn tell(self, answer: Answer) {
        match self {
            // An error: the confirmation has been dropped.
            Waiter::Program(sender) => drop(sender.send(answer)),
            #[cfg(feature = "rpc")]
            Waiter::Reply => {
                if let Err(kind) = answer {
                    log::debug!("a reply was refused: {kind}");
                }
            }
            Waiter::Topics(change) => change.settle(answer),
            Waiter::Probe => {}
        }
    }
}

#[derive(Debug)]
struct Entry {
    op_id: u32,
    since: Instant,
    waiter: Waiter,
}

/// The table of one connection. Acknowledgements come in the order of their operations, so that the
/// first entry is nearly always the one.
#[derive(Debug)]
pub(crate) struct Acks(Mutex<Table>);

#[derive(Debug)]
struct Table {
    last_id: u32,
    entries: VecDeque<Entry>,
    /// How many of the entries somebody waits for.
    awaited: usize,
    ended: bool,
}

impl Table {
    fn remove(&mut self, index: usize) -> Option<Waiter> {
        let waiter = self.entries.remove(index)?.waiter;
        self.awaited -= usize::from(waiter.is_awaited());
        Some(waiter)
    }
}

impl Acks {
    pub(crate) fn new() -> Acks {
        Acks(Mutex::new(Table { last_id: 0, entries: VecDeque::new(), awaited: 0, ended: false }))
    }

    /// Makes an entry and returns its op id; `None` when the connection has ended. To be called before
    /// the bytes can reach the socket.
    pub(crate) fn register(&self, since: Instant, waiter: Waiter) -> Option<u32> {
        let mut table = self.0.lock();
        if table.ended {
            return None;
        }
        // 0 is what operations without acknowledgement carry.
        table.last_id = table.last_id.checked_add(1).unwrap_or(1);
        let op_id = table.last_id;
        table.awaited += usize::from(waiter.is_awaited());
        table.entries.push_back(Entry { op_id, since, waiter });
        Some(op_id)
    }

    /// Takes back an entry whose operation was not sent after all. The caller drops the waiter, when it holds no
    /// lock.
    pub(crate) fn unregister(&self, op_id: u32) -> Option<Waiter> {
        let mut table = self.0.lock();
        let index = table.entries.iter().rposition(|e| e.op_id == op_id)?;
        table.remove(index)
    }

    /// Tells those that the acknowledgements in `acks` (op id, result code) are for, and empties it.
    /// `told` is scratch space.
    pub(crate) fn complete(&self, acks: &mut Vec<(u32, u8)>, told: &mut Vec<(Waiter, Answer)>) {
        if acks.is_empty() {
            return;
        }
        let mut table = self.0.lock();
        for (op_id, code) in acks.drain(..) {
            let Some(index) = table.entries.iter().position(|e| e.op_id == op_id) else { continue };
            let answer = ErrorKind::from_ack(code).map_or(Ok(()), Err);
            told.extend(table.remove(index).map(|waiter| (waiter, answer)));
        }
        drop(table);
        tell_all(told.drain(..));
    }

    /// Whether somebody waits for an acknowledgement.
    pub(crate) fn is_awaited(&self) -> bool {
        self.0.lock().awaited > 0
    }

    /// Fails every entry made at `limit` or before. Returns when the oldest of the others was made.
    pub(crate) fn expire(&self, limit: Instant) -> Option<Instant> {
        let mut late = Vec::new();
        let mut table = self.0.lock();
        // Entries are in the order of their times, but for what blocked senders change by a hair.
        while table.entries.front().is_some_and(|e| e.since <= limit) {
            late.extend(table.remove(0));
        }
        let oldest = table.entries.front().map(|e| e.since);
        drop(table);
        tell_all(late.into_iter().map(|waiter| (waiter, Err(ErrorKind::Timeout))));
        oldest
    }

    /// Fails everything, now and from now on.
    pub(crate) fn end(&self) {
        let mut table = self.0.lock();
        table.ended = true;
        table.awaited = 0;
        let entries = std::mem::take(&mut table.entries);
        drop(table);
        tell_all(entries.into_iter().map(|entry| (entry.waiter, Err(ErrorKind::ConnectionLost))));
    }
}

/// Tells every waiter its answer, which runs wakers and loggers: the caller holds no lock. A panic in one of
/// them keeps no other from being told.
fn tell_all(mut told: impl Iterator<Item = (Waiter, Answer)>) {
    while !contain("a waker", || told.by_ref().for_each(|(waiter, answer)| waiter.tell(answer))) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn register(acks: &Acks, since: Instant) -> (u32, Confirmation) {
        let (waiter, confirmation) = Waiter::confirmation();
        (acks.register(since, waiter).unwrap(), confirmation)
    }

    fn complete(acks: &Acks, list: &[(u32, u8)]) {
        acks.complete(&mut list.to_vec(), &mut vec![]);
    }

    #[tokio::test]
    async fn in_order_and_out_of_order() {
        let acks = Acks::new();
        let now = Instant::now();
        let (ids, confirmations): (Vec<_>, Vec<_>) = (0..4).map(|_| register(&acks, now)).unzip();
        assert_eq!(ids, [1, 2, 3, 4]);
        complete(&acks, &[(1, 1), (3, 0x71), (99, 1)]);
        let done: Vec<_> = confirmations.iter().map(Confirmation::is_completed).collect();
        assert_eq!(done, [true, false, true, false]);
        complete(&acks, &[(2, 1), (4, 0xff)]);
        assert!(!acks.is_awaited());
        let mut kinds = vec![];
        for confirmation in confirmations {
            kinds.push(confirmation.await.err().map(|e| e.kind()));
        }
        assert_eq!(kinds, [None, None, Some(ErrorKind::NotRegistered), Some(ErrorKind::NotDelivered)]);
    }

    #[tokio::test]
    async fn the_end_fails_what_waits_and_what_comes() {
        let acks = Acks::new();
        let (_, confirmation) = register(&acks, Instant::now());
        acks.end();
        assert!(confirmation.is_completed());
        assert_eq!(confirmation.await.unwrap_err().kind(), ErrorKind::ConnectionLost);
        assert!(acks.register(Instant::now(), Waiter::confirmation().0).is_none());
    }

    #[tokio::test]
    async fn what_is_late_fails_and_the_rest_stays() {
        let acks = Acks::new();
        let start = Instant::now();
        let (_, first) = register(&acks, start);
        let (id, second) = register(&acks, start + Duration::from_secs(2));
        assert_eq!(acks.expire(start + Duration::from_secs(1)), Some(start + Duration::from_secs(2)));
        assert_eq!(first.await.unwrap_err().kind(), ErrorKind::Timeout);
        assert!(!second.is_completed());
        complete(&acks, &[(1, 1), (id, 1)]);
        second.await.unwrap();
    }

    #[tokio::test]
    async fn a_completed_confirmation_stays_completed() {
        let acks = Acks::new();
        let (id, mut confirmation) = register(&acks, Instant::now());
        complete(&acks, &[(id, 1)]);
        for _ in 0..2 {
            assert!(confirmation.is_completed());
            (&mut confirmation).await.unwrap();
        }
    }

    #[test]
    fn ids_wrap_past_zero() {
        let acks = Acks::new();
        acks.0.lock().last_id = u32::MAX;
        assert_eq!(register(&acks, Instant::now()).0, 1);
        assert!(acks.unregister(1).is_some());
        assert!(!acks.is_awaited());
    }
}
