//! A call that was sent, for plain threads.

use crate::errors::result_code;
use crate::frame::Frame;
use crate::waiting;
use busrt::client::PendingOperation;
use busrt::rpc::{PendingCall, Reply, RpcError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

/// The outcome of a call: the message that answers it, if there is one, and code and data of an error.
type Outcome = (Option<Py<Frame>>, i16, Option<Py<PyBytes>>);

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
        let answered = waiting::wait_with(py, waiting::seconds(timeout), |wait| self.operation.wait(wait))?;
        Ok(answered.map(|result| result_code(&result)))
    }

    /// Returns true if the reply has arrived or the call has failed.
    fn is_completed(&self) -> bool {
        self.call.is_completed()
    }

    /// Waits for the reply, at most `timeout` seconds. Returns None, or the frame of the reply, or that of the peer's error
    /// reply with its code and data, or code and text of another failure without a frame.
    #[pyo3(signature = (timeout = None))]
    fn outcome(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<Option<Outcome>> {
        let result = match self.call.result() {
            Some(result) => Some(result),
            None => waiting::wait_with(py, waiting::seconds(timeout), |wait| self.call.wait(wait))?,
        };
        result.map(|result| outcome(py, &result, self.call.reply_frame())).transpose()
    }
}

fn outcome(
    py: Python<'_>,
    result: &Result<Reply, RpcError>,
    frame: Option<busrt::Frame>,
) -> PyResult<Outcome> {
    let frame = frame.map(|frame| Frame::object(py, frame)).transpose()?;
    Ok(match result {
        Ok(_) => (frame, 0, None),
        Err(e) => (frame, e.code(), Some(PyBytes::new(py, e.data()).unbind())),
    })
}
