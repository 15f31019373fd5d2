//! The results of operations and calls for an event loop.

use crate::errors::{self, result_code};
use crate::frame::Frame;
use busrt::ErrorKind;
use busrt::client::{Completed, Completion, CompletionQueue, WakeFd, WakeUp};
use pyo3::prelude::*;
use std::os::fd::AsRawFd;

/// Results, each with the token of its operation, and a descriptor that is readable while there may be results.
#[pyclass(module = "busrt._busrt", frozen)]
pub(crate) struct Completions {
    pub(crate) queue: CompletionQueue,
    fd: WakeFd,
    wake_up: WakeUp,
}

#[pymethods]
impl Completions {
    #[new]
    fn new(py: Python<'_>) -> PyResult<Completions> {
        let fd = WakeFd::new().map_err(|e| errors::of(py, &e.into()))?;
        Ok(Completions { queue: CompletionQueue::new(), wake_up: WakeUp::from(&fd), fd })
    }

    fn fileno(&self) -> i32 {
        self.fd.as_raw_fd()
    }

    /// Returns up to `most` results: the token, and the result code of an operation, the frame that answers a call,
    /// or code and text of a failed call. If it returns fewer than `most`, the descriptor becomes readable with the
    /// next result.
    fn take(&self, py: Python<'_>, most: usize) -> PyResult<Vec<(u64, Py<PyAny>)>> {
        let mut batch = vec![];
        self.queue.take_or_arm(&mut batch, most, &self.wake_up);
        batch.into_iter().map(|completion| object(py, completion)).collect()
    }
}

fn object(py: Python<'_>, completion: Completion) -> PyResult<(u64, Py<PyAny>)> {
    let object = match completion.result {
        Completed::Operation(result) => result_code(&result).into_pyobject(py)?.into_any().unbind(),
        Completed::Call(Ok(frame)) => Frame::object(py, frame)?.into_any(),
        Completed::Call(Err(e)) => {
            (e.kind().rpc_code(), e.to_string()).into_pyobject(py)?.into_any().unbind()
        }
        _ => (ErrorKind::Other.rpc_code(), "unknown result").into_pyobject(py)?.into_any().unbind(),
    };
    Ok((completion.token, object))
}
