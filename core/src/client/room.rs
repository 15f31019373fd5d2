//! Waits for room to send.

use super::inbox::Blocked;
use super::request::{AnswerTo, Deadline, Request, Submitted, TrySend};
use super::wait::Wait;
use super::{Client, Link};
use crate::error::{Error, ErrorKind, Result};
use crate::transport::writer::next_ticket;
use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::Instant;

/// The state of a client's room for another operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RoomState {
    /// There is room.
    Ready,
    /// Too much data waits to be sent.
    Full,
    /// The client is reconnecting. The policy waits at most this long for it.
    Down(Duration),
}

/// Waits until a client has room to send. It is used after [`TrySend::NoRoom`].
///
/// Room is not reserved: other tasks may take it first. Tasks that have waited longer are woken earlier. While this
/// exists and has found no room, the client receives beyond its bounds, since the broker may in turn be waiting for
/// the client to take frames.
#[derive(Debug)]
pub struct Room {
    client: Client,
    ticket: u64,
    /// Set while it waits.
    blocked: Option<Blocked>,
}

impl Room {
    pub(super) fn new(client: Client) -> Room {
        Room { client, ticket: next_ticket(), blocked: None }
    }

    /// Returns ready when another attempt may succeed. Otherwise the waker is woken when that is the case. Works on
    /// any executor, and without one.
    ///
    /// # Errors
    ///
    /// [`ConnectionLost`](ErrorKind::ConnectionLost): the client has ended, or is not connected and its policy is to
    /// fail ([`WhileDown`](super::WhileDown)).
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        match self.look(cx) {
            Ok(RoomState::Ready) => Poll::Ready(Ok(())),
            Ok(_) => Poll::Pending,
            Err(e) => Poll::Ready(Err(e)),
        }
    }

    fn look(&mut self, cx: &mut Context<'_>) -> Result<RoomState> {
        self.client.check_process()?;
        let state = self.client.0.link.poll_room(self.ticket, cx);
        match state {
            Ok(RoomState::Full | RoomState::Down(_)) => {
                if self.blocked.is_none() {
                    self.blocked = Some(self.client.0.state.inbox.block());
                }
            }
            Ok(RoomState::Ready) | Err(_) => self.blocked = None,
        }
        state
    }

    /// Waits until another attempt may succeed, without a time limit.
    ///
    /// # Errors
    ///
    /// The errors of [`poll`](Room::poll).
    pub async fn ready(&mut self) -> Result<()> {
        poll_fn(|cx| self.poll(cx)).await
    }

    /// Waits on this thread. Returns false when the time of `wait` is over.
    ///
    /// # Errors
    ///
    /// The errors of [`poll`](Room::poll), and the error of the check in `wait`.
    pub fn wait(&mut self, wait: Wait<'_>) -> Result<bool> {
        wait.on(|cx| self.poll(cx))?.transpose().map(|ready| ready.is_some())
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        if self.client.check_process().is_ok() {
            self.client.0.link.forget_room(self.ticket);
        }
    }
}

impl Link {
    fn poll_room(&self, ticket: u64, cx: &mut Context<'_>) -> Result<RoomState> {
        match self {
            Link::Wire(connection) => Ok(match connection.poll_room(ticket, cx) {
                Poll::Pending => RoomState::Full,
                Poll::Ready(true) => RoomState::Ready,
                Poll::Ready(false) => return Err(super::shared::lost()),
            }),
            Link::Reconnecting(link) => link.poll_room(ticket, cx),
            #[cfg(feature = "broker")]
            Link::Local(local) => local.poll_room(ticket, cx),
        }
    }

    pub(super) fn forget_room(&self, ticket: u64) {
        match self {
            Link::Wire(connection) => connection.forget_room(ticket),
            Link::Reconnecting(link) => link.forget_room(ticket),
            #[cfg(feature = "broker")]
            Link::Local(local) => local.forget_room(ticket),
        }
    }
}

/// A request that is sent when there is room. The wait is bounded by the client's timeout or the request's own
/// deadline, and by the policy for the time without a connection. A call has its deadline in the table of calls.
pub(super) struct Sending<'a> {
    room: Room,
    request: Request<'a>,
    to: AnswerTo<'a>,
    /// The end of the wait for room.
    until: Option<Instant>,
    /// The end of the wait for a connection.
    up_until: Option<Instant>,
    /// The time of the alarm that is set.
    alarm: Option<Instant>,
}

impl<'a> Sending<'a> {
    /// Creates the wait of a request that has just been tried without success. The deadlines count from now.
    pub(super) fn new(client: &Client, request: &Request<'a>, to: AnswerTo<'a>) -> Sending<'a> {
        let (now, timeout) = (Instant::now(), client.0.config.timeout);
        let deadline = match request.deadline {
            Deadline::Default => Deadline::Default,
            deadline if request.qos.needs_ack() || to.is_call() => deadline.fixed(now, timeout),
            _ => Deadline::Default,
        };
        let until = if to.is_call() { None } else { deadline.after(now, timeout) };
        Sending {
            room: Room::new(client.clone()),
            request: request.clone().deadline(deadline),
            to,
            until,
            up_until: None,
            alarm: None,
        }
    }

    /// Tries to send whenever there is room.
    ///
    /// # Errors
    ///
    /// The errors of [`Client::submit`]. Nothing of the request has been sent or will be sent.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<super::PendingOperation>> {
        loop {
            let state = match self.room.look(cx) {
                Ok(state) => state,
                Err(e) => return Poll::Ready(Err(e)),
            };
            let now = Instant::now();
            let (until, error) = match state {
                RoomState::Ready => match self.attempt() {
                    Ok(TrySend::Sent(pending)) => return Poll::Ready(Ok(pending)),
                    Ok(TrySend::NoRoom) => continue,
                    Err(e) => return Poll::Ready(Err(e)),
                },
                RoomState::Full => {
                    (self.until, Error::new(ErrorKind::Timeout, "the broker takes no more from this client"))
                }
                RoomState::Down(bound) => {
                    let until = *self.up_until.get_or_insert_with(|| now + bound);
                    let until = self.until_down().map_or(until, |own| own.min(until));
                    (
                        Some(until),
                        Error::new(ErrorKind::ConnectionLost, "the client was not connected in time"),
                    )
                }
            };
            match until {
                Some(until) if until <= now => return Poll::Ready(Err(error)),
                Some(until) => self.set_alarm(until, cx),
                None => {}
            }
            return Poll::Pending;
        }
    }

    /// Returns the deadline that the program has set for the operation. It also ends the wait for a connection.
    fn until_down(&self) -> Option<Instant> {
        match self.request.deadline {
            Deadline::At(at) if self.until.is_some() => Some(at.into()),
            _ => None,
        }
    }

    fn attempt(&mut self) -> Result<Submitted> {
        self.room.client.retry(&self.request, self.to)
    }

    fn set_alarm(&mut self, at: Instant, cx: &mut Context<'_>) {
        if self.alarm.is_some_and(|alarm| alarm != at) {
            self.clear_alarm();
        }
        self.alarm = Some(at);
        self.room.client.0.state.timer.wake_at(at, self.room.ticket, cx.waker());
    }

    fn clear_alarm(&mut self) {
        if let Some(at) = self.alarm.take()
            && self.room.client.check_process().is_ok()
        {
            self.room.client.0.state.timer.forget_wake_at(at, self.room.ticket);
        }
    }
}

impl Drop for Sending<'_> {
    fn drop(&mut self) {
        self.clear_alarm();
    }
}
