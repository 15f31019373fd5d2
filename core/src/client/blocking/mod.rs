//! The client for programs without an async runtime: the same names, each call waiting on its thread.
//!
//! ```no_run
//! # fn main() -> busrt::Result<()> {
//! use busrt::blocking::Client;
//! use busrt::{QoS, client::Config};
//!
//! let client = Client::connect(&Config::new("/tmp/busrt.sock", "plant.logger"))?;
//! let frames = client.frames()?;
//! client.subscribe("plant/#", QoS::Processed)?;
//! for frame in frames {
//!     println!("{} {:?}: {} bytes", frame.sender(), frame.topic(), frame.payload().len());
//! }
//! # Ok(()) }
//! ```
//!
//! The clients live in the [runtime](crate::runtime) of the process. Within an async runtime of the program every
//! call fails with [`NotSupported`](ErrorKind::NotSupported), and so does every use of a client in a child made by
//! fork.

#[cfg(feature = "rpc")]
mod pool;
#[cfg(feature = "rpc")]
mod rpc;
mod runtime;
#[cfg(test)]
#[cfg(unix)]
mod tests;
mod written;

#[cfg(feature = "cursors")]
pub use rpc::CursorStream;
#[cfg(feature = "rpc")]
pub use rpc::{Handlers, PendingCall, Rpc};

use super::{AsTopics, Config, Event, EventCallback, Stats};
use crate::error::{Error, ErrorKind, Result};
use crate::frame::Frame;
use crate::proto::op::QoS;
use crate::proto::request::Operation;
use crate::transport::Socket;
use bytes::Bytes;
use runtime::Owner;
use std::sync::Arc;
use std::time::Duration;

/// A client of a broker; see [`crate::Client`], which it is inside. Clones are the same client; all
/// methods may be called from any thread, over and over at the same time.
///
/// When the last clone is dropped, the thread waits until what was sent is in the kernel, at most the
/// [`timeout`](Config::timeout).
#[derive(Debug, Clone)]
pub struct Client {
    inner: crate::Client,
    owner: Owner,
    _writes: Arc<WaitsInDrop>,
}

/// What the clones of a client share. Its drop waits for what they have sent.
#[derive(Debug)]
struct WaitsInDrop(crate::Client);

impl Drop for WaitsInDrop {
    fn drop(&mut self) {
        self.0.wait_written();
    }
}

impl Client {
    /// See [`crate::Client::connect`].
    ///
    /// # Errors
    /// As there.
    pub fn connect(config: &Config) -> Result<Client> {
        Ok(Client::new(crate::Client::connect_blocking(config)?))
    }

    /// See [`crate::Client::connect_stream`]. A [`Socket`] can only be made within a runtime: `socket` is
    /// called there.
    ///
    /// # Errors
    /// As there, and [`Io`](ErrorKind::Io) when `socket` fails.
    pub fn connect_stream(
        socket: impl FnOnce() -> std::io::Result<Socket> + Send + 'static,
        config: &Config,
    ) -> Result<Client> {
        Ok(Client::new(crate::Client::connect_stream_blocking(socket, config)?))
    }

    fn new(inner: crate::Client) -> Client {
        let writes = Arc::new(WaitsInDrop(inner.clone()));
        Client { inner, owner: Owner::current(), _writes: writes }
    }

    /// The async client inside.
    pub fn inner(&self) -> &crate::Client {
        &self.inner
    }

    /// The name this client has registered.
    pub fn name(&self) -> &str {
        self.inner.name()
    }

    /// See [`crate::Client::send`].
    ///
    /// # Errors
    /// As there.
    pub fn send(&self, target: &str, payload: impl Into<Bytes>, qos: QoS) -> Result<()> {
        self.owner.wait(self.inner.send(target, payload, qos))?
    }

    /// See [`crate::Client::broadcast`].
    ///
    /// # Errors
    /// As there.
    pub fn broadcast(&self, mask: &str, payload: impl Into<Bytes>, qos: QoS) -> Result<()> {
        self.owner.wait(self.inner.broadcast(mask, payload, qos))?
    }

    /// See [`crate::Client::publish`].
    ///
    /// # Errors
    /// As there.
    pub fn publish(&self, topic: &str, payload: impl Into<Bytes>, qos: QoS) -> Result<()> {
        self.owner.wait(self.inner.publish(topic, payload, qos))?
    }

    /// See [`crate::Client::publish_for`].
    ///
    /// # Errors
    /// As there.
    pub fn publish_for(
        &self,
        topic: &str,
        receiver: &str,
        payload: impl Into<Bytes>,
        qos: QoS,
    ) -> Result<()> {
        self.owner.wait(self.inner.publish_for(topic, receiver, payload, qos))?
    }

    /// See [`crate::Client::subscribe`].
    ///
    /// # Errors
    /// As there.
    pub fn subscribe(&self, topics: impl AsTopics, qos: QoS) -> Result<()> {
        self.owner.wait(self.inner.subscribe(topics, qos))?
    }

    /// See [`crate::Client::unsubscribe`].
    ///
    /// # Errors
    /// As there.
    pub fn unsubscribe(&self, topics: impl AsTopics, qos: QoS) -> Result<()> {
        self.owner.wait(self.inner.unsubscribe(topics, qos))?
    }

    /// See [`crate::Client::exclude`].
    ///
    /// # Errors
    /// As there.
    pub fn exclude(&self, topics: impl AsTopics, qos: QoS) -> Result<()> {
        self.owner.wait(self.inner.exclude(topics, qos))?
    }

    /// See [`crate::Client::unexclude`].
    ///
    /// # Errors
    /// As there.
    pub fn unexclude(&self, topics: impl AsTopics, qos: QoS) -> Result<()> {
        self.owner.wait(self.inner.unexclude(topics, qos))?
    }

    /// See [`crate::Client::submit`].
    ///
    /// # Errors
    /// As there.
    pub fn submit(&self, operation: Operation<'_, Bytes>, qos: QoS) -> Result<Confirmation> {
        let inner = self.owner.wait(self.inner.submit(operation, qos))??;
        Ok(Confirmation { inner, owner: self.owner })
    }

    /// See [`crate::Client::frames`].
    ///
    /// # Errors
    /// As there.
    pub fn frames(&self) -> Result<Frames> {
        self.owner.check()?;
        Ok(Frames { inner: self.inner.frames()?, owner: self.owner })
    }

    /// See [`crate::Client::ping`].
    ///
    /// # Errors
    /// As there.
    pub fn ping(&self) -> Result<()> {
        self.owner.wait(self.inner.ping())?
    }

    /// See [`crate::Client::secondary`].
    ///
    /// # Errors
    /// As there.
    pub fn secondary(&self) -> Result<Client> {
        Ok(Client::new(self.owner.wait(self.inner.secondary())??))
    }

    /// See [`crate::Client::secondary_named`].
    ///
    /// # Errors
    /// As there.
    pub fn secondary_named(&self, suffix: &str) -> Result<Client> {
        Ok(Client::new(self.owner.wait(self.inner.secondary_named(suffix))??))
    }

    /// See [`crate::Client::disconnect`].
    ///
    /// # Errors
    /// [`NotSupported`](ErrorKind::NotSupported) where blocking clients cannot be used.
    pub fn disconnect(&self) -> Result<()> {
        self.owner.wait(self.inner.disconnect())
    }

    /// See [`crate::Client::drain`].
    ///
    /// # Errors
    /// [`NotSupported`](ErrorKind::NotSupported) where blocking clients cannot be used.
    pub fn drain(&self, bound: Duration) -> Result<bool> {
        self.owner.wait(self.inner.drain(bound))
    }

    /// See [`crate::Client::events`].
    ///
    /// # Errors
    /// [`NotSupported`](ErrorKind::NotSupported) where blocking clients cannot be used.
    pub fn events(&self) -> Result<Events> {
        self.owner.check()?;
        Ok(Events { inner: self.inner.events(), owner: self.owner })
    }

    /// See [`crate::Client::on_event`]. The callback must not wait, so that it cannot use blocking clients.
    pub fn on_event(&self, callback: impl Fn(&Event) + Send + Sync + 'static) -> EventCallback {
        self.inner.on_event(callback)
    }

    /// Whether this client can send.
    pub fn is_connected(&self) -> bool {
        self.owner.is_current() && self.inner.is_connected()
    }

    /// See [`crate::Client::closed`].
    ///
    /// # Errors
    /// [`NotSupported`](ErrorKind::NotSupported) where blocking clients cannot be used.
    pub fn closed(&self) -> Result<Error> {
        self.owner.wait(self.inner.closed())
    }

    /// What the client has done so far.
    pub fn stats(&self) -> Stats {
        self.inner.stats()
    }
}

/// The outcome of an operation that has been sent; see [`super::PendingOperation`].
#[derive(Debug)]
#[must_use = "the operation's outcome is only told here; drop it if that does not matter"]
pub struct Confirmation {
    inner: super::PendingOperation,
    owner: Owner,
}

impl Confirmation {
    /// Whether [`wait`](Confirmation::wait) would not wait.
    pub fn is_completed(&self) -> bool {
        self.owner.check().is_err() || self.inner.is_completed()
    }

    /// Waits for the outcome.
    ///
    /// # Errors
    /// As those of the operation.
    pub fn wait(self) -> Result<()> {
        self.owner.wait(self.inner)?
    }
}

/// The events of a client; see [`super::Events`]. As an iterator it waits for each of them and ends with the
/// client.
#[derive(Debug)]
pub struct Events {
    inner: super::Events,
    owner: Owner,
}

impl Events {
    /// Waits for the next event; `None` when the client has ended for good.
    ///
    /// # Errors
    /// [`NotSupported`](ErrorKind::NotSupported) where blocking clients cannot be used.
    pub fn recv(&mut self) -> Result<Option<Event>> {
        self.owner.check()?;
        match self.inner.try_recv() {
            Some(event) => Ok(Some(event)),
            None => self.owner.wait(self.inner.recv()),
        }
    }

    /// The next event if one waits.
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

/// The frames a client receives; see [`super::Frames`]. As an iterator it waits for each of them and ends
/// with the connection.
#[derive(Debug)]
pub struct Frames {
    inner: super::Frames,
    owner: Owner,
}

impl Frames {
    /// Waits for the next frame; `None` when the connection has ended and everything received has been
    /// taken.
    ///
    /// # Errors
    /// [`NotSupported`](ErrorKind::NotSupported) where blocking clients cannot be used.
    pub fn recv(&mut self) -> Result<Option<Frame>> {
        self.owner.check()?;
        match self.inner.try_recv() {
            Some(frame) => Ok(Some(frame)),
            None => self.owner.wait(self.inner.recv()),
        }
    }

    /// As [`recv`](Frames::recv), but waits no longer than `timeout`.
    ///
    /// # Errors
    /// As [`recv`](Frames::recv), and [`Timeout`](ErrorKind::Timeout) when no frame came.
    pub fn recv_timeout(&mut self, timeout: Duration) -> Result<Option<Frame>> {
        self.owner.check()?;
        if let Some(frame) = self.inner.try_recv() {
            return Ok(Some(frame));
        }
        let timed = async { tokio::time::timeout(timeout, self.inner.recv()).await };
        self.owner.wait(timed)?.map_err(|_| Error::new(ErrorKind::Timeout, "no frame came"))
    }

    /// The next frame if one waits.
    pub fn try_recv(&mut self) -> Option<Frame> {
        self.inner.try_recv()
    }
}

impl Iterator for Frames {
    type Item = Frame;

    fn next(&mut self) -> Option<Frame> {
        match self.recv() {
            Ok(frame) => frame,
            Err(e) => {
                log::error!("no more frames: {e}");
                None
            }
        }
    }
}
