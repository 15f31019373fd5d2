//! The operations of the bus as async methods, one per kind.

use super::Client;
use super::pending::PendingOperation;
use super::request::{AnswerTo, Request};
use super::topics::{AsTopics, join};
use crate::error::Result;
use crate::proto::op::QoS;
use crate::proto::request::{Operation, Topics};
use bytes::Bytes;

impl Client {
    /// Sends `payload` to the client of exactly the name `target`.
    ///
    /// # Errors
    /// When the QoS asks for an acknowledgement: [`NotRegistered`](crate::ErrorKind::NotRegistered) if no client
    /// has that name, [`NotDelivered`](crate::ErrorKind::NotDelivered) if the receiver's queue refuses it,
    /// [`AccessDenied`](crate::ErrorKind::AccessDenied), [`Timeout`](crate::ErrorKind::Timeout). In any case:
    /// [`ConnectionLost`](crate::ErrorKind::ConnectionLost), [`Data`](crate::ErrorKind::Data) for a name with a NUL,
    /// and [`Timeout`](crate::ErrorKind::Timeout) when the broker takes nothing more from this client.
    pub async fn send(&self, target: &str, payload: impl Into<Bytes>, qos: QoS) -> Result<()> {
        self.run(&Operation::Message { target, payload: payload.into() }, qos).await
    }

    /// Sends `payload` to every client whose name matches `mask`. It is no error if there is none.
    ///
    /// # Errors
    /// The errors of [`send`](Client::send), except the first two.
    pub async fn broadcast(&self, mask: &str, payload: impl Into<Bytes>, qos: QoS) -> Result<()> {
        self.run(&Operation::Broadcast { mask, payload: payload.into() }, qos).await
    }

    /// Sends `payload` to every client with a subscription that matches `topic`. That none has is no
    /// error.
    ///
    /// # Errors
    /// The errors of [`send`](Client::send), except the first two.
    pub async fn publish(&self, topic: &str, payload: impl Into<Bytes>, qos: QoS) -> Result<()> {
        self.run(&Operation::Publish { topic, payload: payload.into() }, qos).await
    }

    /// Does the same as [`publish`](Client::publish), but only for `receiver` and its secondaries.
    ///
    /// # Errors
    /// The errors of [`send`](Client::send), except the first two.
    pub async fn publish_for(
        &self,
        topic: &str,
        receiver: &str,
        payload: impl Into<Bytes>,
        qos: QoS,
    ) -> Result<()> {
        self.run(&Operation::PublishFor { topic, receiver, payload: payload.into() }, qos).await
    }

    /// Subscribes to topic masks, one or many.
    ///
    /// # Errors
    /// [`AccessDenied`](crate::ErrorKind::AccessDenied) if any of them is denied, the others being subscribed
    /// all the same; else as [`send`](Client::send), except the first two.
    pub async fn subscribe(&self, topics: impl AsTopics, qos: QoS) -> Result<()> {
        let Some(joined) = join(&topics)? else { return Ok(()) };
        self.run(&Operation::Subscribe(Topics::Joined(&joined)), qos).await
    }

    /// Ends subscriptions, to the same masks that were subscribed.
    ///
    /// # Errors
    /// The errors of [`send`](Client::send), except the first two.
    pub async fn unsubscribe(&self, topics: impl AsTopics, qos: QoS) -> Result<()> {
        let Some(joined) = join(&topics)? else { return Ok(()) };
        self.run(&Operation::Unsubscribe(Topics::Joined(&joined)), qos).await
    }

    /// Excludes topic masks from what the subscriptions match.
    ///
    /// # Errors
    /// The errors of [`send`](Client::send), except the first two.
    pub async fn exclude(&self, topics: impl AsTopics, qos: QoS) -> Result<()> {
        let Some(joined) = join(&topics)? else { return Ok(()) };
        self.run(&Operation::Exclude(Topics::Joined(&joined)), qos).await
    }

    /// Ends exclusions.
    ///
    /// # Errors
    /// The errors of [`send`](Client::send), except the first two.
    pub async fn unexclude(&self, topics: impl AsTopics, qos: QoS) -> Result<()> {
        let Some(joined) = join(&topics)? else { return Ok(()) };
        self.run(&Operation::Unexclude(Topics::Joined(&joined)), qos).await
    }

    async fn run(&self, operation: &Operation<'_, Bytes>, qos: QoS) -> Result<()> {
        self.run_request(&Request::shared(operation, qos)).await
    }

    /// Sends a request and waits for its outcome.
    #[inline]
    pub(crate) async fn run_request(&self, request: &Request<'_>) -> Result<()> {
        let pending = self.submit_to(request, AnswerTo::Handle).await?;
        if !request.qos.needs_ack() {
            return Ok(());
        }
        pending.await.map_err(|e| e.with_subject(request.operation.subject()))
    }

    /// Sends an operation and hands out its outcome as a future of its own, so that many can be under
    /// way. It waits only for room to send: as [`submit_request`](Client::submit_request).
    ///
    /// # Errors
    /// The errors of [`submit_request`](Client::submit_request).
    pub async fn submit(&self, operation: Operation<'_, Bytes>, qos: QoS) -> Result<PendingOperation> {
        self.submit_to(&Request::shared(&operation, qos), AnswerTo::Handle).await
    }

    /// Tells the broker that this client is alive. It does so by itself at every
    /// [`ping_interval`](super::Config::ping_interval).
    ///
    /// # Errors
    /// [`ConnectionLost`](crate::ErrorKind::ConnectionLost).
    pub async fn ping(&self) -> Result<()> {
        self.submit_to(&Request::new(Operation::Nop, QoS::No), AnswerTo::Nothing).await.map(drop)
    }
}
