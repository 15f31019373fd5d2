//! The broker: to embed in a program, and what `busrtd` runs.
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
//! How a frame travels: a session's task ([`connection`](self)) reads what its socket has, decodes
//! every whole frame in it, looks up where each goes (`courier`), appends it to the receivers' queues
//! (`outbox`), and after the batch writes each touched queue to its socket. There is no router task, no
//! channel and no wake-up in between; a writer task exists only while a socket takes no more.

mod access;
mod admin;
mod backpressure;
mod batch;
mod connection;
mod courier;
#[cfg(unix)]
mod fifo;
#[cfg(unix)]
mod fifo_lines;
mod held;
mod keepalive;
mod listener;
pub(crate) mod local;
mod log_limit;
mod lookout;
mod memory;
mod options;
mod outbox;
mod outgoing;
#[cfg(unix)]
mod owned_file;
#[cfg(unix)]
mod path_lock;
#[cfg(unix)]
mod published_file;
mod registry;
mod routes;
mod run;
mod session;
mod tcp_listener;
#[cfg(unix)]
mod unix_listener;

pub use access::{AccessList, ClientAccess};
pub use admin::{BrokerInfo, BrokerStats, ClientInfo, ClientList};
pub use lookout::Lookout;
pub use options::{Options, SlowPolicy};
pub use session::ClientKind;

use crate::client::{Client, Config};
use crate::error::{Error, ErrorKind, Result};
use crate::proto::delivery::Delivery;
use crate::proto::handshake::check_name;
use crate::proto::op::{BROKER_NAME, FrameKind, RESULT_OK};
use crate::transport::Socket;
use listener::Listener;
use local::LocalLink;
use outbox::{Outlet, Parcel, Push, Scratch};
use parking_lot::Mutex;
use registry::Registry;
use session::{Identity, Session};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Once};
use std::time::Instant;

/// What all sessions of a broker share.
struct Core {
    options: Options,
    registry: Registry,
    admin: admin::Admin,
    clock: keepalive::Clock,
    started: Instant,
    keepalive: Once,
    /// Held while a client comes or goes and that is announced: nobody hears of it in another order.
    announcing: Mutex<()>,
    /// Nobody is let in any more.
    closing: AtomicBool,
}

impl Core {
    /// Registers a client. Its answer, if it is on a socket, is the first thing in its queue.
    fn register(self: &Arc<Self>, identity: Identity, outlet: Outlet) -> Result<Arc<Session>, ErrorKind> {
        let _in_order = self.announcing.lock();
        if self.closing.load(Relaxed) {
            return Err(ErrorKind::Other);
        }
        let (name, kind) = (identity.name.clone(), identity.kind);
        let ip = identity.peer.map(|peer| peer.ip());
        let now = self.clock.now();
        let (session, evicted) =
            self.registry.register(&name, ip, kind, self.options.force_register, |id| {
                if let Outlet::Socket(writer) = &outlet {
                    writer.with(|backlog| backlog.queue().push_kept(|out| out.push(RESULT_OK)));
                }
                Session::new(id, identity, outlet, now, now + keepalive::ping_interval(&self.options))
            })?;
        for old in evicted {
            self.close(&old, "its name was taken over");
        }
        log::debug!("{name} registered");
        if !session.is_secondary() {
            admin::announce_client(self, "reg", &name);
        }
        let core = Arc::downgrade(self);
        self.keepalive.call_once(|| {
            tokio::spawn(keepalive::run(core, self.options.timeout));
        });
        Ok(session)
    }

    /// Unregisters a client, with its secondaries, and closes its connection. Does nothing the second
    /// time.
    fn end(&self, session: &Arc<Session>, reason: &str) {
        let _in_order = self.announcing.lock();
        for gone in self.registry.unregister(session) {
            self.close(&gone, reason);
            if !gone.is_secondary() {
                admin::announce_client(self, "unreg", gone.name());
            }
        }
    }

    /// Closes what has been taken out of the registry.
    fn close(&self, session: &Session, reason: &str) {
        log::debug!("{} unregistered: {reason}", session.name());
        self.admin.bury(session);
        match &session.outlet {
            Outlet::Socket(writer) => writer.close(),
            Outlet::Local(local) => local.inbox.close(ErrorKind::ConnectionLost),
            Outlet::Broker => {}
        }
    }

    /// Publishes in the broker's own name. A subscriber without room does not get it: the broker
    /// waits for nobody.
    fn publish(&self, topic: &str, payload: &[u8]) {
        let Ok(audience) = self.registry.subscribers(None, topic) else { return };
        let delivery = Delivery {
            kind: FrameKind::Publication,
            realtime: true,
            sender: BROKER_NAME,
            topic: Some(topic),
            payload,
        };
        let mut scratch = Scratch::default();
        let parcel = Parcel::for_many(delivery, None, &mut scratch);
        for receiver in audience.iter() {
            match receiver.push(&parcel, &self.options) {
                Push::QueuedFirst => receiver.flush(),
                Push::Queued | Push::Gone => {}
                Push::Full => receiver.refuse(),
            }
        }
    }
}

struct Inner {
    core: Arc<Core>,
    listeners: Mutex<Vec<Listener>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.core.closing.store(true, Relaxed);
        self.listeners.get_mut().clear();
        for session in self.core.registry.sessions() {
            self.core.end(&session, "the broker is gone");
        }
    }
}

/// A broker. Cloning gives another handle to the same one; when the last handle is dropped, its
/// listeners and connections close at once. All methods may be called from any thread, within a tokio
/// runtime.
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
    /// A broker that nobody can reach yet.
    pub fn new(options: Options) -> Broker {
        let core = Core {
            options,
            registry: Registry::default(),
            admin: admin::Admin::default(),
            clock: keepalive::Clock::default(),
            started: Instant::now(),
            keepalive: Once::new(),
            announcing: Mutex::default(),
            closing: AtomicBool::new(false),
        };
        let inner = Inner { core: Arc::new(core), listeners: Mutex::default() };
        Broker { inner: Arc::new(inner) }
    }

    /// Listens on an address: a UNIX socket's path, `host:port` (port 0 takes a free one), or
    /// `fifo:/path`. Any number of each. Returns the address that clients use.
    ///
    /// A socket file that a dead broker left is replaced.
    ///
    /// # Errors
    /// [`Busy`](ErrorKind::Busy): another broker is alive on that socket. [`Data`](ErrorKind::Data): that is no
    /// address. [`Io`](ErrorKind::Io): what the operating system says.
    pub async fn listen(&self, address: &str) -> Result<String> {
        self.check_open()?;
        let (listener, bound) = Listener::open(&self.inner.core, address).await?;
        let mut listeners = self.inner.listeners.lock();
        // A shutdown may have come in between: then this listener goes as the others did.
        self.check_open()?;
        listeners.push(listener);
        Ok(bound)
    }

    /// Serves a connection that exists already: one end of a socket pair, or an inherited descriptor.
    /// The peer registers as every client does.
    ///
    /// # Errors
    /// The broker is shutting down.
    pub fn attach(&self, socket: Socket) -> Result<()> {
        self.check_open()?;
        tokio::spawn(connection::serve(self.inner.core.clone(), socket, "".into()));
        Ok(())
    }

    /// Registers a client within this process: the same type as every client, without a socket. It is
    /// trusted: access rules do not bind it.
    ///
    /// # Errors
    /// The name is taken, or is none.
    pub async fn client(&self, name: &str) -> Result<Client> {
        self.client_with(&Config::new("", name)).await
    }

    /// As [`client`](Broker::client), with the client's queue bounds in `config`, whose address does
    /// not matter.
    ///
    /// # Errors
    /// As [`client`](Broker::client).
    pub async fn client_with(&self, config: &Config) -> Result<Client> {
        self.check_open()?;
        let inbox = crate::client::inbox::Inbox::new(config);
        let link = LocalLink::register(&self.inner.core, config.name(), inbox.clone())?;
        Ok(Client::local(config.name().to_owned(), link, inbox, config.clone()))
    }

    /// Puts access rules in force, or lifts them, for new clients and for connected ones:
    /// subscriptions that are no longer allowed end, clients that are no longer let in are disconnected.
    pub fn set_access(&self, access: Option<AccessList>) {
        for session in self.inner.core.registry.set_access(access.map(Arc::new)) {
            log::warn!("{} is no longer let in", session.name());
            self.inner.core.end(&session, "no longer let in");
        }
    }

    /// Disconnects the client of that name, with its secondaries. Returns whether there was one.
    pub fn disconnect(&self, name: &str) -> bool {
        let session = self.inner.core.registry.by_name(name);
        if let Some(session) = &session {
            self.inner.core.end(session, "disconnected by the broker's owner");
        }
        session.is_some()
    }

    /// Counters over all clients.
    pub fn stats(&self) -> BrokerStats {
        admin::stats(&self.inner.core)
    }

    /// The clients that are connected, primaries only, sorted by name.
    pub fn clients(&self) -> ClientList {
        admin::clients(&self.inner.core, |_| true)
    }

    /// Shuts down: announces it on `.broker/warn`, lets nobody in any more, removes the sockets and
    /// FIFOs it made, gives queues at most [`Options::drain`] to empty, then disconnects everybody.
    pub async fn shutdown(&self) {
        if self.inner.core.closing.swap(true, Relaxed) {
            return;
        }
        let core = &self.inner.core;
        admin::announce_shutdown(core);
        self.inner.listeners.lock().clear();
        let sessions = core.registry.sessions();
        let emptied = async {
            for session in &sessions {
                if let Outlet::Socket(writer) = &session.outlet {
                    writer.drained().await;
                }
            }
        };
        if tokio::time::timeout(core.options.drain, emptied).await.is_err() {
            log::warn!("not all queues could be emptied within {:?}", core.options.drain);
        }
        for session in core.registry.sessions() {
            core.end(&session, "the broker shuts down");
        }
    }

    fn check_open(&self) -> Result<()> {
        match self.inner.core.closing.load(Relaxed) {
            true => Err(Error::new(ErrorKind::NotSupported, "the broker is shutting down")),
            false => Ok(()),
        }
    }
}

/// Refuses a name that cannot be a client's.
fn valid_name(name: &str) -> Result<()> {
    check_name(name).map_err(|why| Error::new(ErrorKind::Data, format!("{name:?}: {why}")))
}
