//! Events of a client's connection.

use super::owner::Owner;
use crate::client::{self, Event, Wait};
use crate::error::{Error, ErrorKind, Result};
use std::time::Duration;

/// The events of a client; see [`crate::client::Events`]. As an iterator, it waits for each event and ends with the
/// client.
#[derive(Debug)]
pub struct Events {
    inner: client::Events,
    owner: Owner,
}

impl Events {
    pub(super) fn new(inner: client::Events, owner: Owner) -> Events {
        Events { inner, owner }
    }

    /// Waits for the next event. Returns `None` when the client has ended for good.
    ///
    /// # Errors
    ///
    /// [`NotSupported`](ErrorKind::NotSupported) where blocking clients cannot be used.
    pub fn recv(&mut self) -> Result<Option<Event>> {
        self.recv_with(Wait::forever())
    }

    /// Does the same as [`recv`](Events::recv), but waits no longer than `timeout`.
    ///
    /// # Errors
    /// The errors of [`recv`](Events::recv), and [`Timeout`](ErrorKind::Timeout) when nothing happened.
    pub fn recv_timeout(&mut self, timeout: Duration) -> Result<Option<Event>> {
        self.recv_with(Wait::at_most(timeout))
    }

    /// Does the same as [`recv`](Events::recv), but waits at most for the time of `wait`.
    ///
    /// # Errors
    /// The errors of [`recv_timeout`](Events::recv_timeout), and the error of the check in `wait`.
    pub fn recv_with(&mut self, wait: Wait<'_>) -> Result<Option<Event>> {
        self.owner.check_may_wait()?;
        let received = wait.on(|cx| self.inner.poll_recv(cx))?;
        received.ok_or_else(|| Error::new(ErrorKind::Timeout, "no event came"))
    }

    /// Returns the next event if one is waiting.
    pub fn try_recv(&mut self) -> Option<Event> {
        self.inner.try_recv()
    }
}

impl Iterator for Events {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        self.recv().ok().flatten()
    }
}
