//! Restores the subscriptions of a client that reconnects.

use super::connection::Connection;
use super::request::{AnswerTo, Bound, Request, TrySend};
use super::subscriptions::SubscriptionState;
use crate::error::{Error, ErrorKind, Result};
use crate::proto::op::QoS;

/// Restores the subscriptions and exclusions over a connection that is not current yet, in as few frames as possible,
/// and waits until the broker has acknowledged them.
pub(super) async fn restore(subscriptions: &SubscriptionState, connection: &Connection) -> Result<()> {
    let restored = subscriptions.to_restore();
    let mut pending = Vec::new();
    for operation in restored.operations() {
        let request = Request::new(operation, QoS::RealtimeProcessed);
        // They must be sent over this connection, and its queue bound is ignored.
        match connection.try_submit(&request, AnswerTo::Handle, Bound::Unbounded)? {
            TrySend::Sent(operation) => pending.push(operation),
            TrySend::NoRoom => {}
        }
        // Only the program's subscriptions bound the number of operations, so that other tasks must run in between.
        tokio::task::coop::consume_budget().await;
    }
    for confirmation in pending {
        match confirmation.await {
            Err(e) if e.kind() == ErrorKind::AccessDenied => {
                log::warn!("a subscription was not restored: {e}");
            }
            result => {
                result.map_err(|e| Error::new(e.kind(), "subscriptions were not restored").with_source(e))?
            }
        }
    }
    Ok(())
}
