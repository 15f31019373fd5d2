//! Remote procedure calls on top of a client (docs/protocol.md section 8).
//!
//! A [`Caller`] makes calls. An [`Rpc`] makes calls and serves requests with its [`Handlers`]. A [`Serving`] returns
//! requests in batches, for programs without a runtime.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use busrt::rpc::{Call, Handlers, Rpc, RpcError};
//! use busrt::{Client, QoS, client::Config};
//! use bytes::Bytes;
//!
//! struct Plant;
//!
//! impl Handlers for Plant {
//!     async fn on_call(&self, call: Call) -> Result<Bytes, RpcError> {
//!         match call.method() {
//!             "echo" => Ok(call.params_bytes()),
//!             _ => Err(RpcError::method_not_found()),
//!         }
//!     }
//! }
//!
//! let client = Client::connect(&Config::new("/tmp/busrt.sock", "plant")).await?;
//! let rpc = Rpc::new(client, Plant);
//! let reply = rpc.call("plant", "echo", "hello", QoS::Processed).await?;
//! assert_eq!(reply.payload(), b"hello");
//! # Ok(()) }
//! ```

mod caller;
mod error;
mod handlers;
mod intake;
mod lanes;
#[cfg(feature = "msgpack")]
mod msgpack;
mod pending;
mod responder;
mod server;
mod work;

pub use caller::{CallRequest, Caller};
pub use error::{Origin, RpcError};
pub use handlers::{Call, Handlers, Notification, Reply};
pub use intake::{Incoming, Intake, Serving};
pub use pending::PendingCall;
pub use responder::Responder;
#[cfg(feature = "blocking")]
pub(crate) use work::Working;

use crate::client::{Attached, Client};
use crate::error::Result;
use crate::proto::op::QoS;
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;

/// The way in which a server handles received items.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Options {
    /// If true, everything is handled one after another, in the order received. Otherwise calls are handled
    /// concurrently, and notifications and frames each in their order. Default: false.
    pub in_order: bool,
    /// Maximum number of calls that are handled concurrently, at least 1. Default: 4096.
    pub max_concurrent: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options { in_order: false, max_concurrent: 4096 }
    }
}

impl Options {
    /// Sets [`in_order`](Options::in_order).
    pub fn in_order(mut self, in_order: bool) -> Options {
        self.in_order = in_order;
        self
    }

    /// Sets [`max_concurrent`](Options::max_concurrent).
    pub fn max_concurrent(mut self, calls: usize) -> Options {
        self.max_concurrent = calls;
        self
    }
}

/// An RPC server and caller over one client. Clones are handles of the same server. When the last one is dropped, no
/// more requests are handled, and the connection ends if there is no other clone of the client.
#[derive(Clone)]
pub struct Rpc(Arc<Inner>);

struct Inner {
    // Field order: the server must end before the client may.
    _attached: Attached,
    caller: Caller,
}

impl Rpc {
    /// Serves `handlers` over `client`, whose frames it takes over from the current consumer: the waiting frames, and
    /// those that an RPC server has taken but not begun to handle. The former consumer gets no more.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn new<T: Into<Bytes> + Send + 'static>(client: Client, handlers: impl Handlers<T>) -> Rpc {
        Rpc::with_options(client, handlers, Options::default())
    }

    /// Does the same as [`new`](Rpc::new), with `options`.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn with_options<T: Into<Bytes> + Send + 'static>(
        client: Client,
        handlers: impl Handlers<T>,
        options: Options,
    ) -> Rpc {
        let attached = server::start(&client, handlers, &options);
        Rpc(Arc::new(Inner { _attached: attached, caller: Caller::new(client) }))
    }

    /// Returns the client over which it serves and calls.
    pub fn client(&self) -> &Client {
        self.0.caller.client()
    }

    /// Returns the calling side alone. A handler that calls should hold this: it keeps the client connected but not
    /// the server running.
    pub fn caller(&self) -> &Caller {
        &self.0.caller
    }

    /// See [`Caller::call`].
    ///
    /// # Errors
    /// The errors of that method.
    pub async fn call(
        &self,
        target: &str,
        method: &str,
        params: impl Into<Bytes>,
        qos: QoS,
    ) -> Result<Reply, RpcError> {
        self.0.caller.call(target, method, params, qos).await
    }

    /// See [`Caller::call_with_deadline`].
    ///
    /// # Errors
    /// The errors of that method.
    pub async fn call_with_deadline(
        &self,
        target: &str,
        method: &str,
        params: impl Into<Bytes>,
        qos: QoS,
        deadline: Duration,
    ) -> Result<Reply, RpcError> {
        self.0.caller.call_with_deadline(target, method, params, qos, deadline).await
    }

    /// See [`Caller::submit`].
    ///
    /// # Errors
    /// The errors of that method.
    pub async fn submit(
        &self,
        target: &str,
        method: &str,
        params: impl Into<Bytes>,
        qos: QoS,
    ) -> Result<PendingCall, RpcError> {
        self.0.caller.submit(target, method, params, qos).await
    }

    /// See [`Caller::call0`].
    ///
    /// # Errors
    /// The errors of that method.
    pub async fn call0(&self, target: &str, method: &str, params: impl Into<Bytes>, qos: QoS) -> Result<()> {
        self.0.caller.call0(target, method, params, qos).await
    }

    /// See [`Caller::notify`].
    ///
    /// # Errors
    /// The errors of that method.
    pub async fn notify(&self, target: &str, payload: impl Into<Bytes>, qos: QoS) -> Result<()> {
        self.0.caller.notify(target, payload, qos).await
    }
}

impl std::fmt::Debug for Rpc {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Rpc").field(self.client()).finish()
    }
}
