//! A broker within the process.

use crate::errors;
use crate::link::Link;
use crate::waiting;
use busrt::ErrorKind;
use busrt::broker::{Broker as Core, Options};
use busrt::client::Client;
use pyo3::prelude::*;
use std::future::Future;
use std::pin::pin;

/// A broker within this process, for tests and for programs of one process. `listen` makes it reachable for others.
/// It ends when it is freed, or by `shutdown`. It may be used from any thread, but not in a child made by fork.
#[pyclass(module = "busrt", frozen, weakref)]
pub(crate) struct Broker {
    core: Core,
    process: u32,
}

fn run<T: Send + 'static>(
    py: Python<'_>,
    work: impl Future<Output = busrt::Result<T>> + Send + 'static,
) -> PyResult<T> {
    let mut task = pin!(busrt::runtime::handle().map_err(|e| errors::of(py, &e))?.spawn(work));
    match waiting::wait(py, None, |cx| task.as_mut().poll(cx))? {
        Some(Ok(done)) => done.map_err(|e| errors::of_connect(py, &e)),
        _ => Err(errors::new(py, ErrorKind::ConnectionLost, "the runtime was shut down")),
    }
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

#[pymethods]
impl Broker {
    #[new]
    fn new(py: Python<'_>) -> PyResult<Broker> {
        let core = run(py, async { Ok(Core::new(Options::new())) })?;
        Ok(Broker { core, process: std::process::id() })
    }

    /// Listens on an address: the path of a socket, host:port (port 0 chooses a free port) or fifo:PATH. Returns the
    /// address that clients use.
    fn listen(&self, py: Python<'_>, address: String) -> PyResult<String> {
        let core = self.core(py)?;
        run(py, async move { core.listen(&address).await })
    }

    /// Returns a connection within the process.
    fn _link(&self, py: Python<'_>, name: String) -> PyResult<Link> {
        let core = self.core(py)?;
        let client: Client = run(py, async move { core.client(&name).await })?;
        Ok(Link::new(client))
    }

    /// Returns the names of the connected clients.
    fn clients(&self, py: Python<'_>) -> PyResult<Vec<String>> {
        Ok(self.core(py)?.clients().clients.iter().map(|client| client.name.to_string()).collect())
    }

    /// Disconnects the client of that name. Returns whether there was one.
    fn disconnect(&self, py: Python<'_>, name: &str) -> PyResult<bool> {
        Ok(self.core(py)?.disconnect(name))
    }

    /// Announces the shutdown, removes sockets, and ends all connections.
    fn shutdown(&self, py: Python<'_>) -> PyResult<()> {
        let core = self.core(py)?;
        run(py, async move {
            core.shutdown().await;
            Ok(())
        })
    }

    fn __enter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    #[pyo3(signature = (*_args))]
    fn __exit__(&self, py: Python<'_>, _args: &Bound<'_, pyo3::types::PyTuple>) -> PyResult<()> {
        self.shutdown(py)
    }
}
