//! The client: one handle for everything a program does on the bus, over a socket or within the process.
//!
//! ```no_run
//! # async fn example() -> busrt::Result<()> {
//! use busrt::{Client, QoS, client::Config};
//!
//! let client = Client::connect(&Config::new("/tmp/busrt.sock", "plant.logger")).await?;
//! let mut frames = client.frames()?;
//! client.subscribe(["plant/#", "+/state"], QoS::Processed).await?;
//! while let Some(frame) = frames.recv().await {
//!     println!("{} {:?}: {} bytes", frame.sender(), frame.topic(), frame.payload().len());
//! }
//! # Ok(()) }
//! ```
//!
//! | module | content |
//! | --- | --- |
//! | `client_state` | the state of a client that outlives its connections |
//! | `coalescing`, `flusher` | requests that wait to be written together, and their flush |
//! | `secondary` | clients that share the name of another one, with a suffix |
//! | `connect`, `connect_blocking`, `alive` | registration, also without a runtime of the program, whose end is then awaited |
//! | `link` | the connection of a client: over a socket, over one after another, or within the process |
//! | `connection`, `shared` | one connection over a socket: its handle, and the state that the next two rows share |
//! | `submit`, `encode`, `burst` | the write path: checks, encoding, coalescing of small requests |
//! | `reader`, `reading`, `input`, `batch` | the task that reads, one read, the decoder's state, the frames of one read |
//! | `heartbeat`, `liveness` | pings, deadlines, and the decision when a silent broker is given up |
//! | `operations`, `topics` | the operations of the bus as async methods; lists of topics |
//! | `request`, `send` | an operation with its options, and the ways to send it: now, in order, or when there is room |
//! | `room`, `flush` | waiting for room in the queue, and until everything is written |
//! | `acks`, `ack_target`, `calls`, `timer` | operations and RPC calls that wait for their answer, and their deadlines |
//! | `reading_lease`, `answer_poller`, `poll_policy` | polling the socket for answers, by threads that wait and by the reader |
//! | `pending`, `completions`, `outcome`, `slot` | the answers, as the program gets them |
//! | `wait`, `register`, `waiters`, `waker_set` | waiting on plain threads, and sets of wakers |
//! | `inbox`, `lane`, `lanes`, `tempo` | received frames that wait for the program |
//! | `local`, `in_process_receiver` | a client within the broker's process |
//! | `reconnect`, `subscriptions`, `resume`, `backlog` | a client that reconnects, and what it restores |
//! | `contain`, `effects` | wakers, callbacks and drops, which never run under a lock |
//! | `events`, `policy` | events of the connection, and the choices of a program |
//! | `stats`, `queue_counts` | the counters of a client |
//! | `deadline` | durations of any length |
//! | `wake` | wakes the taker of a queue, by a waker or a descriptor |
//! | `drain`, `under_way` | an orderly end: work that was begun is finished |
//! | [`topic_broker`] | hands publications to handlers by topic |

mod ack_target;
mod acks;
mod alive;
mod answer_poller;
mod backlog;
mod batch;
mod burst;
pub(crate) mod client_state;
mod coalescing;
mod completions;
mod config;
mod connect;
mod connection;
pub(crate) mod contain;
pub(crate) mod deadline;
mod drain;
pub(crate) mod effects;
mod encode;
mod events;
mod flush;
mod flusher;
mod heartbeat;
mod input;
mod lane;
mod lanes;
mod link;
mod liveness;
mod operations;
mod outcome;
mod pending;
mod policy;
mod poll_policy;
mod queue_counts;
mod reader;
mod reading;
pub(crate) mod reading_lease;
mod reconnect;
mod register;
mod request;
mod resume;
mod room;
mod secondary;
mod send;
mod shared;
mod slot;
mod stats;
mod submit;
mod subscriptions;
mod tempo;
mod timer;
mod topics;
mod under_way;
mod wait;
mod waiters;
mod wake;
mod waker_set;
mod weak;

#[cfg(feature = "rpc")]
mod calls;
#[cfg(feature = "runtime")]
mod connect_blocking;
#[cfg(feature = "rpc")]
mod for_rpc;
#[cfg(feature = "broker")]
mod in_process_receiver;
pub(crate) mod inbox;
#[cfg(feature = "broker")]
mod local;
#[cfg(feature = "rpc")]
mod name;
pub mod topic_broker;

#[cfg(test)]
#[cfg(unix)]
mod tests;

pub use completions::{Completed, Completion, CompletionQueue};
pub use config::Config;
pub use events::{Event, EventCallback, Events};
pub use flush::Flush;
pub use lanes::Frames;
pub use pending::PendingOperation;
pub use policy::{Overflow, Reconnect, WhileDown};
pub use request::{Deadline, Payload, Request, TrySend};
pub use room::Room;
pub use stats::Stats;
pub use topics::AsTopics;
pub use wait::{DEFAULT_SLICE, Wait};
#[cfg(unix)]
pub use wake::WakeFd;
pub use wake::WakeUp;
pub use weak::WeakClient;

#[cfg(feature = "rpc")]
pub(crate) use calls::Caller as CallTarget;
#[cfg(feature = "blocking")]
pub(crate) use connect_blocking::{check_plain_thread, run};
#[cfg(feature = "rpc")]
pub(crate) use lane::{Attached, Lane, Took};
#[cfg(feature = "rpc")]
pub(crate) use outcome::{Failure, Outcome};
#[cfg(feature = "rpc")]
pub(crate) use request::{AnswerTo, Bound};
#[cfg(feature = "rpc")]
pub(crate) use slot::Slot;
#[cfg(feature = "blocking")]
pub(crate) use topics::join as join_topics;
#[cfg(feature = "rpc")]
pub(crate) use under_way::UnderWay;
#[cfg(feature = "rpc")]
pub(crate) use waker_set::WakerSet;

#[cfg(feature = "broker")]
use crate::broker::in_process::LocalLink;
use crate::error::{Error, Result};
use crate::fork::Process;
use crate::transport::Socket;
use client_state::ClientState;
use connection::Connection;
use link::Link;
use reconnect::ReconnectingLink;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
#[cfg(any(feature = "rpc", feature = "blocking"))]
use std::time::Duration;

/// A client of a broker. Clones are the same client; all methods may be called from any thread, over
/// and over at the same time.
///
/// A client works only in the process that connected it. In a child made by fork every operation fails with
/// [`NotSupported`](crate::ErrorKind::NotSupported), queries tell of a client that is not connected, and a drop leaves
/// the parent's connection alone.
///
/// An operation whose [`QoS`](crate::QoS) asks for an acknowledgement is over when the broker has answered, any
/// other when it is queued or written; dropping its future takes back nothing that is under way. When the
/// last clone is dropped, what was sent is still written, by a task if it does not fit the socket
/// immediately; [`disconnect`](Client::disconnect) waits for it. If the runtime is dropped too, its drop writes the
/// rest, for at most one second (on Unix). [`std::process::exit`] waits for clients of the process's own runtime
/// alone: with any other, await `disconnect` before.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    /// A child made by fork must not use the client of its parent.
    process: Process,
    config: Config,
    link: Link,
    state: Arc<ClientState>,
    /// The number of the last secondary, shared by a primary and all its secondaries.
    secondaries: Arc<AtomicU32>,
}

impl Client {
    /// Connects to the broker and registers the name in `config`. The first error is returned, unless
    /// [`Reconnect::retry_first`] is set.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) with the operating system's error as its source when nothing listens there,
    /// [`Busy`](crate::ErrorKind::Busy) and the other kinds of docs/protocol.md section 2 when the name is refused,
    /// [`Timeout`](crate::ErrorKind::Timeout), [`Data`](crate::ErrorKind::Data) when the address is none,
    /// [`NotSupported`](crate::ErrorKind::NotSupported) when the peer is no broker.
    pub async fn connect(config: &Config) -> Result<Client> {
        let state = ClientState::of_connection(config);
        let connection = connect::connect_first(config, state.clone()).await?;
        Ok(Client::over(connection, config.clone(), state, None))
    }

    /// Registers over a socket that is connected already: of a pair, inherited, handed in by a service
    /// manager. The address in `config` is only used for [`secondary`](Client::secondary) clients, which
    /// cannot be made if it is empty.
    ///
    /// # Errors
    /// The errors of [`connect`](Client::connect).
    pub async fn connect_stream(socket: Socket, config: &Config) -> Result<Client> {
        let state = ClientState::of_connection(config);
        let connection = connect::connect_stream(socket, config, state.clone()).await?;
        Ok(Client::over(connection, config.clone(), state, None))
    }

    /// A client of a new connection; of a secondary, `family` is one of the clients it belongs to.
    fn over(
        connection: Connection,
        config: Config,
        state: Arc<ClientState>,
        family: Option<&Client>,
    ) -> Client {
        let secondaries = family.map(|client| client.0.secondaries.clone()).unwrap_or_default();
        let link = match config.reconnect.clone().filter(|_| config.reconnects()) {
            Some(plan) => {
                let primary = family.and_then(|client| match &client.0.link {
                    Link::Reconnecting(link) => Some(link),
                    _ => None,
                });
                Link::Reconnecting(ReconnectingLink::start(connection, &config, plan, state.clone(), primary))
            }
            None => {
                state.events.tell(Event::Connected);
                Link::Wire(connection)
            }
        };
        Client::new(config, link, state, secondaries)
    }

    /// A client within the broker's process.
    #[cfg(feature = "broker")]
    pub(crate) fn local(link: LocalLink, state: Arc<ClientState>, config: Config) -> Client {
        state.events.tell(Event::Connected);
        let link = Link::Local(local::Local::new(link, state.clone()));
        Client::new(config, link, state, Arc::default())
    }

    fn new(config: Config, link: Link, state: Arc<ClientState>, secondaries: Arc<AtomicU32>) -> Client {
        Client(Arc::new(Inner { process: Process::current(), config, link, state, secondaries }))
    }

    /// The name this client has registered.
    pub fn name(&self) -> &str {
        &self.0.config.name
    }

    /// The frames this client receives. Frames that come before it is called wait, up to
    /// [`inbox_bytes`](Config::inbox_bytes).
    ///
    /// # Errors
    /// [`Busy`](crate::ErrorKind::Busy) when they are taken already: by an earlier [`Frames`] that still exists, or by
    /// an RPC server.
    pub fn frames(&self) -> Result<Frames> {
        self.check_process()?;
        Frames::attach(&self.0.state.inbox)
    }

    /// Ends the connection for all clones, after what was sent is written and the broker has taken it, or
    /// after the timeout. Operations that the broker has not answered by then, and calls immediately, fail
    /// with [`ConnectionLost`](crate::ErrorKind::ConnectionLost).
    pub async fn disconnect(&self) {
        if self.check_process().is_err() {
            return;
        }
        self.0.link.disconnect().await;
    }

    /// The events of the connection, beginning with its present state: a stream of its own for each caller.
    pub fn events(&self) -> Events {
        if self.check_process().is_err() {
            return Events::ended();
        }
        self.0.state.events.subscribe()
    }

    /// Calls `callback` with the present state now and with every event from now on: one at a time, in the order in
    /// which [`events`](Client::events) yields them. It runs on the threads that serve the connection and must not
    /// wait.
    ///
    /// The callback is taken back when the value returned is dropped; [`detach`](EventCallback::detach) keeps it until
    /// the client ends for good. What it has captured is dropped then.
    ///
    /// ```no_run
    /// # fn example(client: busrt::Client) {
    /// client.on_event(|event| println!("{event:?}")).detach();
    /// # }
    /// ```
    pub fn on_event(&self, callback: impl Fn(&Event) + Send + Sync + 'static) -> EventCallback {
        if self.check_process().is_err() {
            return EventCallback::none();
        }
        self.0.state.events.add_callback(Box::new(callback))
    }

    /// Returns true if this client can send.
    pub fn is_connected(&self) -> bool {
        if self.check_process().is_err() {
            return false;
        }
        self.0.link.is_connected() && !self.0.state.inbox.has_ended()
    }

    /// Waits until the connection has ended and tells why. A client that reconnects ends when the program ends
    /// it, or when it gives up.
    pub async fn closed(&self) -> Error {
        if let Err(e) = self.check_process() {
            return e;
        }
        self.0.state.inbox.wait_end().await
    }
}

impl Client {
    /// The client's [`timeout`](Config::timeout).
    #[cfg(any(feature = "rpc", feature = "blocking"))]
    pub(crate) fn timeout(&self) -> Duration {
        self.0.config.timeout
    }

    /// See [`Process::check`]: to be called before anything of the client is touched.
    #[inline]
    pub(crate) fn check_process(&self) -> Result<()> {
        self.0.process.check()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // The link checks the process itself.
        self.process.leak_if_inherited(&self.state);
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("name", &self.name())
            .field("connected", &self.is_connected())
            .finish_non_exhaustive()
    }
}
