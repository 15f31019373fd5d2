//! The answer to a request.

use crate::outgoing::Data;
use busrt::rpc::{Responder as Core, RpcError};
use parking_lot::Mutex;
use pyo3::prelude::*;

/// Answers one request, once. A request whose responder is dropped is answered with an error. Never waits.
#[pyclass(module = "busrt._busrt", frozen)]
pub(crate) struct Responder(Mutex<Option<Core>>);

impl Responder {
    pub(crate) fn new(responder: Core) -> Responder {
        Responder(Mutex::new(Some(responder)))
    }

    fn take(&self) -> Option<Core> {
        self.0.lock().take()
    }
}

#[pymethods]
impl Responder {
    /// Answers with a result: bytes, bytearray, memoryview, str or None.
    fn reply(&self, result: &Bound<'_, PyAny>) -> PyResult<()> {
        let result = Data::of(result)?.into_bytes();
        if let Some(responder) = self.take() {
            responder.reply(result);
        }
        Ok(())
    }

    /// Answers with an error.
    fn error(&self, code: i16, data: &Bound<'_, PyAny>) -> PyResult<()> {
        let data = Data::of(data)?.into_bytes();
        if let Some(responder) = self.take() {
            responder.error(RpcError::new(code, data));
        }
        Ok(())
    }
}
