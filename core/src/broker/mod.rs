//! The broker, which a program can embed and which `busrtd` runs.
//!
//! ```no_run
//! # async fn run() -> busrt::Result<()> {
//! use busrt::broker::{Broker, Options};
//!
//! let broker = Broker::new(Options::default());
//! broker.listen("/tmp/busrt.sock").await?;
//! broker.listen("127.0.0.1:9924").await?;
//! let client = broker.client("in.this.process").await?;
//! client.publish("plant/started", "now", busrt::QoS::No).await?;
//! broker.shutdown().await;
//! # Ok(()) }
//! ```
//!
//! The path of a frame: a session's task (`connection`) reads from its socket and decodes every complete frame. The
//! `dispatcher` looks up the receivers of each frame, the `distributor` appends it to the receivers' queues
//! (`outbox`), and after the batch each touched queue is written to its socket. There is no router task, no channel
//! and no wake-up in between; a writer task exists only while a socket's send buffer is full.
//!
//! | module | |
//! | --- | --- |
//! | `core` | the state that all sessions share; how clients register and leave |
//! | `leaving`, `unregister` | clients that leave; the task that unregisters them |
//! | `listener`, `accept` | opening addresses: `unix_listener`, `tcp_listener`, `fifo`; the accept loop |
//! | `registry` | names, subscriptions and access rules: `membership`, `topic_changes`, `rules`, `bounds` below it |
//! | `audience`, `audience_walk` | the receivers of a frame; searches for them in several steps |
//! | `connection`, `handshake`, `handshakes` | one connection; its registration; the bound for those not registered |
//! | `dispatcher` | routing of operations; `resume` finishes those that are `deferred` |
//! | `distributor`, `pending_writes` | delivery of frames, by `waiting` if they wait; pending flushes |
//! | `frame_batch`, `encoded_frames`, `outbound_frame` | consecutive frames for the same receivers; their encoded bytes; one frame for many receivers |
//! | `outbox`, `slow_receiver` | the queue of a receiver; the rules for those that do not keep up |
//! | `held_sender`, `hold_back` | a sender that waits for room; its session, which is not read from during that time |
//! | `route_cache`, `budget` | receivers of recent frames; the work that one poll may do |
//! | `supervisor`, `housekeeping`, `keepalive` | access to the broker's own thread; its work; pings and silent clients |
//! | `admin`, `questions`, `client_list`, `stats` | the RPC methods of `.broker`; those that take long |
//! | `announce`, `counters` | announcements of the broker; the counters of clients |
//! | `busy_poller`, `reply_tracker` | keeps a worker awake while an answer is expected |

mod accept;
mod access;
mod admin;
mod announce;
mod audience;
mod audience_walk;
mod budget;
mod busy_poller;
mod client_list;
mod connection;
mod core;
mod counter;
mod counters;
mod dispatcher;
mod distributor;
mod encoded_frames;
#[cfg(unix)]
mod fifo;
#[cfg(unix)]
pub(crate) mod fifo_command;
#[cfg(unix)]
pub(crate) mod fifo_lines;
mod frame_batch;
mod handshake;
mod handshakes;
mod held_sender;
mod hold_back;
mod housekeeping;
pub(crate) mod in_process;
mod keepalive;
mod leaving;
mod listener;
mod long_text;
mod memory;
mod options;
mod outbound_frame;
mod outbox;
#[cfg(unix)]
mod owned_file;
#[cfg(unix)]
mod path_lock;
mod pending_writes;
#[cfg(unix)]
mod published_file;
mod questions;
mod registry;
mod reply_tracker;
mod route_cache;
mod session;
mod slow_receiver;
mod stats;
mod supervisor;
mod tcp_listener;
#[cfg(all(test, unix, not(busrt_portable)))]
mod tests;
#[cfg(unix)]
mod unix_listener;
mod unregister;

pub use access::{AccessList, ClientAccess};
pub use admin::BrokerInfo;
pub use busy_poller::BusyPoller;
pub use client_list::{ClientInfo, ClientList, ClientState};
pub use options::{Options, SlowPolicy};
pub use session::ClientKind;
pub use stats::BrokerStats;

use crate::client::{Client, Config};
use crate::error::{Error, ErrorKind, Result};
use crate::proto::handshake::check_name;
use crate::shown::shown;
use crate::transport::Socket;
use core::{Core, TOGETHER};
use in_process::{InProgress, LocalLink};
use listener::Listener;
use parking_lot::Mutex;
use session::Session;
use std::sync::Arc;
use unregister::unregister;

struct Inner {
    core: Arc<Core>,
    listeners: Mutex<Vec<Listener>>,
    /// True if the broker is shut down. The lock is held during the shutdown.
    is_shut_down: tokio::sync::Mutex<bool>,
    /// Held while the rules change, so that changes happen one after the other.
    rules: tokio::sync::Mutex<()>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.core.close();
        self.listeners.get_mut().clear();
        self.core.handshakes.close();
        for session in self.core.registry.clients() {
            self.core.end(&session, "the broker was dropped");
        }
        self.core.supervisor.wake();
    }
}

/// A broker. Cloning returns another handle to the same broker; when the last handle is dropped, its listeners and
/// connections close immediately. All methods may be called from any thread, within a tokio runtime.
#[derive(Clone)]
pub struct Broker {
    inner: Arc<Inner>,
}

impl std::fmt::Debug for Broker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Broker").field("options", &self.inner.core.options).finish_non_exhaustive()
    }
}

impl Broker {
    /// Creates a broker without listeners. It has its own thread, which pings clients and watches slow receivers.
    pub fn new(options: Options) -> Broker {
        let broker = Broker::without_thread(options);
        if let Err(e) = housekeeping::start(&broker.inner.core) {
            log::error!(
                "cannot start the broker's thread, so that clients are not pinged and slow ones not watched: {e}"
            );
        }
        broker
    }

    /// A broker whose thread is not started.
    fn without_thread(options: Options) -> Broker {
        let inner = Inner {
            core: Arc::new(Core::new(options)),
            listeners: Mutex::default(),
            is_shut_down: tokio::sync::Mutex::default(),
            rules: tokio::sync::Mutex::default(),
        };
        Broker { inner: Arc::new(inner) }
    }

    /// Listens on an address: the path of a UNIX socket, `host:port` (port 0 chooses a free port), or `fifo:/path`. A
    /// broker can have any number of listeners. Returns the address that clients use.
    ///
    /// All addresses of a host name are bound; `[::]` is IPv6 only. A socket file that a dead broker left behind is
    /// replaced. A socket file that is deleted later is created again.
    ///
    /// # Errors
    /// [`Busy`](ErrorKind::Busy): another process listens there; the error names it. [`Data`](ErrorKind::Data): an
    /// invalid address, or a path longer than the kernel allows. [`Io`](ErrorKind::Io): an error of the operating
    /// system.
    pub async fn listen(&self, address: &str) -> Result<String> {
        self.check_open()?;
        let (listener, bound) = Listener::open(&self.inner.core, address).await?;
        let mut listeners = self.inner.listeners.lock();
        // The broker may have been shut down during the wait: then this listener is closed like the others.
        self.check_open()?;
        listeners.push(listener);
        Ok(bound)
    }

    /// Serves a connection that exists already: one end of a socket pair, or an inherited descriptor. The peer
    /// registers like every client.
    ///
    /// # Errors
    /// The broker is shutting down.
    pub fn attach(&self, socket: Socket) -> Result<()> {
        self.check_open()?;
        tokio::spawn(connection::serve(self.inner.core.clone(), socket, "".into()));
        Ok(())
    }

    /// Registers a client within this process. It has the same type as every client, but no socket. Access rules do
    /// not apply to it.
    ///
    /// # Errors
    ///
    /// The name is taken, or is not a valid client name.
    pub async fn client(&self, name: &str) -> Result<Client> {
        self.client_with(&Config::new("", name)).await
    }

    /// Registers a client within this process with the queue bounds of `config`, whose address is ignored.
    ///
    /// # Errors
    ///
    /// The errors of [`client`](Broker::client).
    pub async fn client_with(&self, config: &Config) -> Result<Client> {
        self.check_open()?;
        let state = crate::client::client_state::ClientState::new(config);
        let link = LocalLink::take_over(&self.inner.core, config.name(), state.clone()).await?;
        Ok(Client::local(link, state, config.clone()))
    }

    /// Sets or removes the access rules, for new clients and for connected ones. Operations that the rules forbid are
    /// refused from now on, subscriptions that are no longer allowed end, and clients that are no longer admitted are
    /// disconnected. Returns when all of this is done; other clients are served during that time.
    pub async fn set_access(&self, access: Option<AccessList>) {
        let _one_by_one = self.inner.rules.lock().await;
        let core = &self.inner.core;
        core.registry.set_access(access.map(Arc::new));
        let mut next = Some(0);
        while let Some(start) = next {
            let (sessions, then) = core.registry.clients_from(start);
            for session in sessions {
                if core.registry.admits(&session) {
                    let mut cursor = core.registry.revoke(&session, None);
                    while cursor.is_some() {
                        tokio::task::yield_now().await;
                        cursor = core.registry.revoke(&session, cursor);
                    }
                } else {
                    log::warn!(
                        "client disconnected: {} is no longer admitted",
                        shown(session.name().as_bytes())
                    );
                    self.end(&session, "no longer admitted").await;
                }
            }
            tokio::task::yield_now().await;
            next = then;
        }
        core.registry.revoked();
    }

    /// Disconnects the client of that name, with its secondaries. Returns whether there was such a client. If it has
    /// many secondaries, they are disconnected one after another, and then the client itself, shortly after this
    /// method returns.
    pub fn disconnect(&self, name: &str) -> bool {
        let session = self.inner.core.registry.by_name(name);
        if let Some(session) = &session {
            unregister(&self.inner.core, session, "disconnected by the broker's owner");
        }
        session.is_some()
    }

    /// Returns counters over all clients.
    pub fn stats(&self) -> BrokerStats {
        stats::totals(&self.inner.core)
    }

    /// Returns the connected clients, primaries only, sorted by name.
    pub fn clients(&self) -> ClientList {
        client_list::clients(&self.inner.core, |_| true)
    }

    /// Shuts down. The broker refuses new clients, reads nothing more from connected ones, removes the sockets and
    /// FIFOs that it made, and announces the shutdown on `.broker/warn`. It then waits at most [`Options::drain`]
    /// until the queues and the kernel's buffers are empty, and disconnects all clients. Acknowledged frames are
    /// delivered to every receiver that reads them within that time. A concurrent second call also returns when the
    /// broker is shut down.
    pub async fn shutdown(&self) {
        let core = &self.inner.core;
        let mut is_shut_down = self.inner.is_shut_down.lock().await;
        if *is_shut_down {
            return;
        }
        // Streams end after the announcement.
        let announcing = InProgress::begin(core);
        core.close();
        // Dropped without the lock, because a listener removes its file.
        let listeners = std::mem::take(&mut *self.inner.listeners.lock());
        drop(listeners);
        core.handshakes.close();
        announce::announce_shutdown(&core.registry, &core.counters).await;
        drop(announcing);
        for session in core.registry.clients() {
            session.nudge.notify_one();
        }
        let ended = async {
            loop {
                let changed = core.connection_changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                if !core.registry.has_connections() {
                    break;
                }
                changed.await;
            }
        };
        if tokio::time::timeout(core.options.drain, ended).await.is_err() {
            log::warn!("not all queues were empty after {:?}", core.options.drain);
        }
        for session in core.registry.clients() {
            self.end(&session, "the broker is shutting down").await;
        }
        *is_shut_down = true;
    }

    /// Unregisters a client and its secondaries. Yields after each step, so that other tasks run in between.
    async fn end(&self, session: &Arc<Session>, reason: &str) {
        while !self.inner.core.end_some(session, reason, TOGETHER).is_complete {
            tokio::task::yield_now().await;
        }
        tokio::task::yield_now().await;
    }

    fn check_open(&self) -> Result<()> {
        match self.inner.core.is_closing() {
            true => Err(Error::new(ErrorKind::NotSupported, "the broker is shutting down")),
            false => Ok(()),
        }
    }
}

/// Returns an error if a client must not have this name.
fn valid_name(name: &str, options: &Options) -> Result<()> {
    check_name(name).map_err(|why| Error::new(ErrorKind::Data, format!("{name:?}: {why}")))?;
    match name.len() > options.max_name {
        true => {
            let why = format!("a name of {} bytes is longer than {}", name.len(), options.max_name);
            Err(Error::new(ErrorKind::Data, why))
        }
        false => Ok(()),
    }
}
