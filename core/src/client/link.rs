//! The connection of a client: over a socket, over one socket after another, or within the broker's process.

use super::connection::Connection;
#[cfg(feature = "broker")]
use super::local::Local;
use super::reconnect::ReconnectingLink;
use super::request::{AnswerTo, Bound, Request, Submitted};
use crate::error::Result;

/// The connection of a client.
pub(super) enum Link {
    /// Over one socket, with which the client ends.
    Wire(Connection),
    /// Over a socket, and over a new one whenever the connection is lost.
    Reconnecting(ReconnectingLink),
    /// Within the broker's process.
    #[cfg(feature = "broker")]
    Local(Local),
}

impl Link {
    /// Tries to send an operation on the caller's thread.
    #[inline]
    pub(super) fn try_submit(
        &self,
        request: &Request<'_>,
        to: AnswerTo<'_>,
        bound: Bound,
    ) -> Result<Submitted> {
        match self {
            Link::Wire(connection) => connection.try_submit(request, to, bound),
            Link::Reconnecting(link) => link.try_submit(request, to, bound),
            #[cfg(feature = "broker")]
            Link::Local(local) => local.try_submit(request, to, bound),
        }
    }

    /// Sends a ping.
    pub(super) fn ping(&self) -> Result<()> {
        match self {
            Link::Wire(connection) => connection.ping(),
            Link::Reconnecting(link) => link.ping(),
            #[cfg(feature = "broker")]
            Link::Local(local) => local.ping(),
        }
    }

    /// Returns whether an operation could be sent now.
    pub(super) fn is_connected(&self) -> bool {
        match self {
            Link::Wire(connection) => connection.is_connected(),
            Link::Reconnecting(link) => link.is_connected(),
            #[cfg(feature = "broker")]
            Link::Local(local) => local.is_connected(),
        }
    }

    /// The number of operations sent, and the bytes of their bodies.
    pub(super) fn sent(&self) -> (u64, u64) {
        match self {
            Link::Wire(connection) => connection.sent(),
            Link::Reconnecting(link) => link.sent(),
            #[cfg(feature = "broker")]
            Link::Local(local) => local.sent(),
        }
    }

    /// Ends the connection after what was sent is written and the broker has taken it, or after the timeout.
    pub(super) async fn disconnect(&self) {
        match self {
            Link::Wire(connection) => connection.disconnect().await,
            Link::Reconnecting(link) => link.disconnect().await,
            #[cfg(feature = "broker")]
            Link::Local(local) => local.disconnect(),
        }
    }

    /// Begins to end the connection as [`disconnect`](Link::disconnect) does, without waiting.
    pub(super) fn begin_close(&self, why: &'static str) {
        match self {
            Link::Wire(connection) => connection.begin_close(why),
            Link::Reconnecting(link) => link.begin_close(why),
            #[cfg(feature = "broker")]
            Link::Local(local) => local.disconnect(),
        }
    }

    /// Ends the connection now. What was sent is still written, in the background if the socket does not take it now.
    pub(super) fn close(&self, why: &'static str) {
        match self {
            Link::Wire(connection) => connection.close(why),
            Link::Reconnecting(link) => link.close(why),
            #[cfg(feature = "broker")]
            Link::Local(local) => local.disconnect(),
        }
    }
}
