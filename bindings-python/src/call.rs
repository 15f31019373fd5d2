//! A call that was sent, for plain threads.

use crate::errors::result_code;
use crate::frame::Frame;
use crate::waiting;
use busrt::client::PendingOperation;
use busrt::rpc::{PendingCall, Reply, RpcError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

/// The outcome of a call: the reply, or an error with its code, its text, and true if the error came from the peer.
type Outcome = (Option<Py<Frame>>, i16, Py<PyBytes>, bool);

/// A call that was sent. It is forgotten when this is dropped. May be used from any thread.
#[pyclass(module = "busrt._busrt", frozen)]
pub(crate) struct Call {
    pub(crate) operation: PendingOperation,
    pub(crate) call: PendingCall,
}

#[pymethods]
impl Call {
    /// Waits until the broker has answered, at most `timeout` seconds. Returns the result code, or None after that
    /// time.
    #[pyo3(signature = (timeout = None))]
    fn acknowledged(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<Option<u8>> {
        if let Some(result) = self.operation.result() {
            return Ok(Some(result_code(&result)));
        }
        if self.call.is_completed() {
            // The peer has answered, so that the broker must have accepted the request.
            return Ok(Some(busrt::proto::op::RESULT_OK));
        }
        waiting::wait(py, waiting::seconds(timeout), |cx| {
            self.operation.poll_result(cx).map(|result| result_code(&result))
        })
    }

    /// Returns true if the reply has arrived or the call has failed.
    fn is_completed(&self) -> bool {
        self.call.is_completed()
    }

    /// Waits for the reply, at most `timeout` seconds. Returns None after that time. Otherwise returns the frame of
    /// the reply with code 0, or the code and the text of the failure and whether the peer sent it.
    #[pyo3(signature = (timeout = None))]
    fn outcome(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<Option<Outcome>> {
        let result = match self.call.result() {
            Some(result) => Some(result),
            None => waiting::wait(py, waiting::seconds(timeout), |cx| self.call.poll_result(cx))?,
        };
        result.map(|result| outcome(py, result)).transpose()
    }
}

fn outcome(py: Python<'_>, result: Result<Reply, RpcError>) -> PyResult<Outcome> {
    match result {
        Ok(reply) => {
            let frame = Py::new(py, Frame::of(reply.frame().clone()))?;
            Ok((Some(frame), 0, PyBytes::new(py, b"").unbind(), true))
        }
        Err(e) => Ok((None, e.code(), PyBytes::new(py, e.data()).unbind(), e.bus_error().is_none())),
    }
}
