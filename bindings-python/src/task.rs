//! Work of the runtime for which an event loop waits.

use crate::errors;
use crate::link::Link;
use busrt::client::Client;
use busrt::{Error, ErrorKind, Result};
use parking_lot::Mutex;
use pyo3::prelude::*;
use std::future::Future;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use tokio::task::AbortHandle;

/// The result of the work.
pub(crate) enum Value {
    Client(Client),
    Bool(bool),
}

/// Work in progress. Its descriptor becomes readable when it is done.
#[pyclass(module = "busrt._busrt", frozen)]
pub(crate) struct Task {
    result: Arc<Mutex<Option<Result<Value>>>>,
    readable: UnixStream,
    abort: AbortHandle,
    is_connecting: bool,
}

impl Task {
    /// Starts the work. `is_connecting` decides how an error is reported.
    pub(crate) fn spawn(
        py: Python<'_>,
        is_connecting: bool,
        work: impl Future<Output = Result<Value>> + Send + 'static,
    ) -> PyResult<Task> {
        let (readable, writable) = UnixStream::pair().map_err(|e| errors::of(py, &e.into()))?;
        let result = Arc::new(Mutex::new(None));
        let place = result.clone();
        let runtime = busrt::runtime::handle().map_err(|e| errors::of(py, &e))?;
        let task = runtime.spawn(async move {
            let done = work.await;
            *place.lock() = Some(done);
            // If this fails, the end of the stream makes the descriptor readable too.
            let _ = (&writable).write(&[1]);
        });
        Ok(Task { result, readable, abort: task.abort_handle(), is_connecting })
    }
}

#[pymethods]
impl Task {
    fn fileno(&self) -> i32 {
        self.readable.as_raw_fd()
    }

    /// Returns the result of the work, once.
    fn result(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let done = self.result.lock().take();
        match done {
            Some(Ok(Value::Client(client))) => Ok(Py::new(py, Link::new(client))?.into_any()),
            Some(Ok(Value::Bool(value))) => Ok(value.into_pyobject(py)?.to_owned().into_any().unbind()),
            Some(Err(e)) if self.is_connecting => Err(errors::of_connect(py, &e)),
            Some(Err(e)) => Err(errors::of(py, &e)),
            None => Err(errors::of(py, &Error::new(ErrorKind::ConnectionLost, "the runtime was shut down"))),
        }
    }

    /// Cancels the work.
    fn cancel(&self) {
        self.abort.abort();
    }
}
