//! Restoring what a client that reconnects has subscribed to.

use super::connection::Connection;
use super::request::{AnswerTo, Bound, Request, TrySend};
use super::subscriptions::SubscriptionState;
use crate::error::{Error, ErrorKind, Result};
use crate::proto::op::QoS;

/// Restores the subscriptions and exclusions over a connection that is not in force yet, in as few frames as possible,
/// and waits until the broker has acknowledged them.
pub(super) async fn restore(subscriptions: &SubscriptionState, connection: &Connection) -> Result<()> {
    let restored = subscriptions.to_restore();
    let mut pending = Vec::new();
    for operation in restored.operations() {
        let request = Request::new(operation, QoS::RealtimeProcessed);
        // Another connection would not do: the bound of this one does not count.
        match connection.try_submit(&request, AnswerTo::Handle, Bound::Unbounded)? {
            TrySend::Sent(operation) => pending.push(operation),
            TrySend::NoRoom => {}
        }
        // The number of operations is bounded by the program's subscriptions. Other tasks run in between.
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
