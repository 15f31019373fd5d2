//! Work of the runtime whose end an event loop or a plain thread waits for.

use crate::cursor::{RemoteCursor, Step};
use crate::errors;
use crate::link::Link;
use crate::waiting;
use busrt::client::Client;
use busrt::cursor::CursorStream;
use busrt::rpc::RpcError;
use busrt::{Error, ErrorKind, Result};
use bytes::Bytes;
use parking_lot::Mutex;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};
use std::future::Future;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::AbortHandle;

/// The result of the work.
pub(crate) enum Value {
    Client(Client),
    Bool(bool),
    Text(String),
    Cursor(CursorStream),
    Items(Vec<Bytes>),
    Step(Step),
    /// A call has failed.
    Failed(RpcError),
}

impl Value {
    fn into_object(self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        Ok(match self {
            Value::Client(client) => Py::new(py, Link::new(client))?.into_any(),
            Value::Bool(value) => value.into_pyobject(py)?.to_owned().into_any().unbind(),
            Value::Text(text) => text.into_pyobject(py)?.into_any().unbind(),
            Value::Cursor(cursor) => Py::new(py, RemoteCursor::new(cursor))?.into_any(),
            Value::Items(items) => {
                PyList::new(py, items.iter().map(|item| PyBytes::new(py, item)))?.into_any().unbind()
            }
            Value::Step(_) => py.None(),
            Value::Failed(e) => return Err(errors::of_rpc(py, &e)),
        })
    }
}

/// Runs work in the runtime and waits for its end on this thread, at most `timeout`. `is_connecting` decides how an
/// error is told.
pub(crate) fn run(
    py: Python<'_>,
    is_connecting: bool,
    timeout: Option<Duration>,
    work: impl Future<Output = Result<Value>> + Send + 'static,
) -> PyResult<Option<Value>> {
    let told = |e: &Error| if is_connecting { errors::of_connect(py, e) } else { errors::of(py, e) };
    let mut task = pin!(busrt::runtime::handle().map_err(|e| told(&e))?.spawn(work));
    match waiting::wait(py, timeout, |cx| task.as_mut().poll(cx)) {
        Ok(Some(Ok(done))) => done.map(Some).map_err(|e| told(&e)),
        Ok(Some(Err(_))) => Err(errors::new(py, ErrorKind::ConnectionLost, "the runtime was shut down")),
        Ok(None) => {
            task.abort();
            Ok(None)
        }
        Err(e) => {
            task.abort();
            Err(e)
        }
    }
}

/// Runs work in the runtime and waits for what it yields.
pub(crate) fn run_to_object(
    py: Python<'_>,
    work: impl Future<Output = Result<Value>> + Send + 'static,
) -> PyResult<Py<PyAny>> {
    match run(py, false, None, work)? {
        Some(value) => value.into_object(py),
        None => Ok(py.None()),
    }
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

    pub(crate) fn take(&self) -> Option<Result<Value>> {
        self.result.lock().take()
    }
}

#[pymethods]
impl Task {
    fn fileno(&self) -> i32 {
        self.readable.as_raw_fd()
    }

    /// Returns the result of the work, once.
    fn result(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        match self.take() {
            Some(Ok(value)) => value.into_object(py),
            Some(Err(e)) if self.is_connecting => Err(errors::of_connect(py, &e)),
            Some(Err(e)) => Err(errors::of(py, &e)),
            None => Err(errors::new(py, ErrorKind::ConnectionLost, "the runtime was shut down")),
        }
    }

    /// Cancels the work.
    fn cancel(&self) {
        self.abort.abort();
    }
}
