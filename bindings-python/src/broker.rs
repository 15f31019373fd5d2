//! A broker within the process.

use crate::broker_options;
use crate::errors;
use crate::link::Link;
use crate::options;
use crate::task::{self, Task, Value};
use busrt::broker::{Broker as Core, ClientInfo, ClientKind, ClientState};
use busrt::{ErrorKind, Result};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

/// A broker within this process, for tests and for programs of one process. `listen` lets others in. It ends when it is
/// freed, or by `shutdown`, or at the end of a `with`. A client within the process is made with the broker in place of a
/// path: `busrt.connect(broker, 'name')`. May be used from any thread, and not in a child made by fork.
///
/// Options, by keyword (times in seconds): `timeout` of a handshake step and of a silent client (5), `queue_size` (8192
/// frames) and `queue_bytes` (16 MiB) that may wait for one receiver, `queue_total` bytes for all of them (a quarter of
/// the memory), `slow` ('disconnect', 'drop-new', 'drop-old' or 'block': what happens to a receiver that is stuck),
/// `hold` (0.75) and `stall` (5) seconds that a full receiver holds back its senders, `max_payload` (256 MiB),
/// `max_name` (1024) and `max_topic` (65536) in bytes, `max_levels` (512) of a topic, `max_subscriptions` (1,000,000) of
/// one client, `max_connections` (no bound), `max_handshakes` (1024), `force_register` (False), `buf_size` (16384
/// bytes), `socket_mode` (permissions of socket files), `drain` (1 s: how long `shutdown` lets queues empty). An unknown
/// one raises TypeError, an invalid value ValueError.
#[pyclass(module = "busrt", frozen, weakref)]
pub(crate) struct Broker {
    core: Core,
    process: u32,
}

impl Broker {
    fn core(&self, py: Python<'_>) -> PyResult<Core> {
        if self.process != std::process::id() {
            return Err(errors::new(
                py,
                ErrorKind::NotSupported,
                "the broker belongs to the parent of this process",
            ));
        }
        Ok(self.core.clone())
    }
}

async fn listening(core: Core, address: String) -> Result<Value> {
    core.listen(&address).await.map(Value::Text)
}

async fn shutting_down(core: Core) -> Result<Value> {
    core.shutdown().await;
    Ok(Value::Bool(true))
}

#[pymethods]
impl Broker {
    #[new]
    #[pyo3(signature = (**options))]
    fn new(py: Python<'_>, options: Option<&Bound<'_, PyDict>>) -> PyResult<Broker> {
        let options = broker_options::read(options)?;
        // The housekeeping of a broker runs in the runtime.
        let runtime = busrt::runtime::handle().map_err(|e| errors::of(py, &e))?;
        let _entered = runtime.enter();
        Ok(Broker { core: Core::new(options), process: std::process::id() })
    }

    /// Listens on an address: the path of a socket, host:port (port 0 takes a free one) or fifo:PATH. Returns the address
    /// that clients use. Raises an OSError, or ValueError for an address that cannot be used.
    fn listen(&self, py: Python<'_>, address: String) -> PyResult<Py<PyAny>> {
        task::run_to_object(py, listening(self.core(py)?, address))
    }

    fn _listen_task(&self, py: Python<'_>, address: String) -> PyResult<Task> {
        Task::spawn(py, false, listening(self.core(py)?, address))
    }

    /// A connection within the process.
    fn _link_task(&self, py: Python<'_>, name: &str, options: &Bound<'_, PyDict>) -> PyResult<Task> {
        let (core, config) = (self.core(py)?, options::config("", name, options)?);
        Task::spawn(py, true, async move { core.client_with(&config).await.map(Value::Client) })
    }

    /// As `_link_task`, waiting on this thread.
    fn _link(&self, py: Python<'_>, name: &str, options: &Bound<'_, PyDict>) -> PyResult<Link> {
        let (core, config) = (self.core(py)?, options::config("", name, options)?);
        Link::connected(py, async move { core.client_with(&config).await.map(Value::Client) })
    }

    /// The names of the clients that are connected, sorted, without secondary ones.
    fn clients(&self, py: Python<'_>) -> PyResult<Vec<String>> {
        Ok(self.core(py)?.clients().clients.iter().map(|client| client.name.to_string()).collect())
    }

    /// The clients that are connected, sorted by name, without secondary ones: a list of dicts of name, kind ('internal',
    /// 'local_ipc', 'tcp' or 'websocket'), source and port (addresses or None), r_frames, r_bytes, w_frames, w_bytes,
    /// queue (frames that wait for it), instances (1 and its secondaries), dropped (frames), state ('ok', 'lagging' or
    /// 'stuck') and held_senders.
    fn client_stats<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyDict>>> {
        self.core(py)?.clients().clients.iter().map(|client| client_dict(py, client)).collect()
    }

    /// Counters over all clients, those that have left included: a dict of uptime (whole seconds), r_frames, r_bytes,
    /// w_frames, w_bytes, dropped (frames), and clients (registered now, secondary ones included).
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let (stats, dict) = (self.core(py)?.stats(), PyDict::new(py));
        dict.set_item("uptime", stats.uptime)?;
        dict.set_item("r_frames", stats.r_frames)?;
        dict.set_item("r_bytes", stats.r_bytes)?;
        dict.set_item("w_frames", stats.w_frames)?;
        dict.set_item("w_bytes", stats.w_bytes)?;
        dict.set_item("dropped", stats.dropped)?;
        dict.set_item("clients", stats.clients)?;
        Ok(dict)
    }

    /// Ends the connection of the client of that name, and of its secondary clients. Returns whether there was one.
    fn disconnect(&self, py: Python<'_>, name: &str) -> PyResult<bool> {
        Ok(self.core(py)?.disconnect(name))
    }

    /// Announces the end to clients, removes the sockets, writes what waits and ends all connections. May be repeated.
    fn shutdown(&self, py: Python<'_>) -> PyResult<()> {
        task::run(py, false, None, shutting_down(self.core(py)?)).map(drop)
    }

    fn _shutdown_task(&self, py: Python<'_>) -> PyResult<Task> {
        Task::spawn(py, false, shutting_down(self.core(py)?))
    }

    fn __enter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    #[pyo3(signature = (*_args))]
    fn __exit__(slf: &Bound<'_, Self>, _args: &Bound<'_, PyTuple>) -> PyResult<()> {
        slf.call_method0("shutdown").map(drop)
    }
}

fn client_dict<'py>(py: Python<'py>, client: &ClientInfo) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("name", &client.name)?;
    dict.set_item(
        "kind",
        match client.kind {
            ClientKind::Internal => "internal",
            ClientKind::LocalIpc => "local_ipc",
            ClientKind::Tcp => "tcp",
            ClientKind::Websocket => "websocket",
        },
    )?;
    dict.set_item("source", &client.source)?;
    dict.set_item("port", &client.port)?;
    dict.set_item("r_frames", client.r_frames)?;
    dict.set_item("r_bytes", client.r_bytes)?;
    dict.set_item("w_frames", client.w_frames)?;
    dict.set_item("w_bytes", client.w_bytes)?;
    dict.set_item("queue", client.queue)?;
    dict.set_item("instances", client.instances)?;
    dict.set_item("dropped", client.dropped)?;
    dict.set_item(
        "state",
        match client.state {
            ClientState::Ok => "ok",
            ClientState::Lagging => "lagging",
            ClientState::Stuck => "stuck",
        },
    )?;
    dict.set_item("held_senders", client.held_senders)?;
    Ok(dict)
}
