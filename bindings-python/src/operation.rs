//! The class `ClientFrame`: an operation that was sent, for plain threads.

use crate::errors::{self, result_code};
use crate::waiting;
use busrt::client::PendingOperation;
use busrt::proto::op::RESULT_OK;
use busrt::{ErrorKind, QoS};
use parking_lot::Mutex;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};
use std::sync::atomic::{AtomicU8, Ordering};

/// An operation that was sent. May be used from any thread.
#[pyclass(module = "busrt.client", name = "ClientFrame", dict, weakref, subclass, frozen)]
pub(crate) struct ClientFrame {
    /// `None`: no acknowledgement is awaited, or the program has created this object itself.
    pending: Option<PendingOperation>,
    /// True if there was nothing to send: it is completed.
    is_nothing: bool,
    qos: AtomicU8,
    /// The result that the program has set.
    result: Mutex<Option<Py<PyAny>>>,
    /// Created when it is first requested.
    completed: Mutex<Option<Py<PyAny>>>,
}

impl ClientFrame {
    pub(crate) fn of(qos: QoS, pending: Option<PendingOperation>) -> ClientFrame {
        ClientFrame {
            pending: pending.filter(|_| qos.needs_ack()),
            is_nothing: false,
            qos: AtomicU8::new(qos as u8),
            result: Mutex::new(None),
            completed: Mutex::new(None),
        }
    }

    /// An operation that had nothing to send.
    pub(crate) fn completed(qos: QoS) -> ClientFrame {
        ClientFrame { is_nothing: true, ..ClientFrame::of(qos, None) }
    }

    /// Returns true if the program completes it, by the event that it has.
    fn is_of_program(&self) -> bool {
        self.pending.is_none() && !self.is_nothing && self.needs_ack()
    }

    fn needs_ack(&self) -> bool {
        self.qos.load(Ordering::Relaxed) & 1 != 0
    }

    /// Returns the result code, if there is one.
    fn code(&self) -> Option<u8> {
        match &self.pending {
            Some(pending) => pending.result().map(|result| result_code(&result)),
            None => (!self.is_of_program()).then_some(RESULT_OK),
        }
    }

    /// Waits for the result code.
    fn wait(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<Option<u8>> {
        if let Some(code) = self.code() {
            return Ok(Some(code));
        }
        let Some(pending) = &self.pending else { return Ok(None) };
        let ended = waiting::wait_with(py, waiting::seconds(timeout), |wait| pending.wait(wait))?;
        Ok(ended.map(|result| result_code(&result)))
    }
}

#[pymethods]
impl ClientFrame {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> ClientFrame {
        ClientFrame::of(QoS::No, None)
    }

    fn __init__(&self, qos: u8) {
        self.qos.store(qos, Ordering::Relaxed);
    }

    /// Returns the QoS of the operation.
    #[getter]
    fn qos(&self) -> u8 {
        self.qos.load(Ordering::Relaxed)
    }

    #[setter]
    fn set_qos(&self, qos: u8) {
        self.qos.store(qos, Ordering::Relaxed);
    }

    /// Returns the result code, or 0 as long as there is none.
    #[getter]
    fn result(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        if let Some(set) = &*self.result.lock() {
            return Ok(set.clone_ref(py));
        }
        let code =
            if self.pending.is_some() || (self.is_nothing && self.needs_ack()) { self.code() } else { None };
        Ok(code.unwrap_or(0).into_pyobject(py)?.into_any().unbind())
    }

    #[setter]
    fn set_result(&self, value: Py<PyAny>) {
        let before = self.result.lock().replace(value);
        drop(before);
    }

    /// An event that is set when the operation is completed.
    #[getter(completed)]
    fn event(slf: &Bound<'_, ClientFrame>) -> PyResult<Py<PyAny>> {
        let (py, this) = (slf.py(), slf.get());
        if let Some(made) = &*this.completed.lock() {
            return Ok(made.clone_ref(py));
        }
        let made = if !this.is_of_program() {
            Bound::new(py, Completed(slf.clone().unbind()))?.into_any().unbind()
        } else {
            py.import("threading")?.getattr("Event")?.call0()?.unbind()
        };
        if this.is_of_program() {
            // Else the two would keep each other.
            // Another thread may have made one at the same time.
            return Ok(this.completed.lock().get_or_insert(made).clone_ref(py));
        }
        Ok(made)
    }

    #[setter]
    fn set_completed(&self, value: Py<PyAny>) {
        let before = self.completed.lock().replace(value);
        drop(before);
    }

    /// Returns true if the broker has answered, the operation has failed, or its QoS asks for no answer.
    fn is_completed(slf: &Bound<'_, ClientFrame>) -> PyResult<bool> {
        let this = slf.get();
        if let Some(pending) = &this.pending {
            return Ok(pending.is_completed());
        }
        if !this.is_of_program() {
            return Ok(true);
        }
        let event = ClientFrame::event(slf)?;
        event.bind(slf.py()).call_method0("is_set")?.is_truthy()
    }

    /// Waits for the result code, of which 1 is success. `timeout` is in seconds, None means no limit. Raises
    /// TimeoutError. May be called again.
    #[pyo3(signature = (timeout = None))]
    fn wait_completed(slf: &Bound<'_, ClientFrame>, timeout: Option<f64>) -> PyResult<Py<PyAny>> {
        let (py, this) = (slf.py(), slf.get());
        if this.is_of_program() {
            let event = ClientFrame::event(slf)?;
            let is_set = event.bind(py).call_method1("wait", (timeout,))?.is_truthy()?;
            return if is_set { this.result(py) } else { Err(errors::new(py, ErrorKind::Timeout, "")) };
        }
        match this.wait(py, timeout)? {
            Some(code) => Ok(code.into_pyobject(py)?.into_any().unbind()),
            None => Err(errors::new(py, ErrorKind::Timeout, "")),
        }
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        for place in [&self.result, &self.completed] {
            if let Some(place) = place.try_lock()
                && let Some(object) = &*place
            {
                visit.call(object)?;
            }
        }
        Ok(())
    }

    fn __clear__(&self) {
        for place in [&self.result, &self.completed] {
            let before = place.lock().take();
            drop(before);
        }
    }

    fn __repr__(&self) -> String {
        match self.code() {
            Some(code) => format!("<ClientFrame qos={} result={code:#04x}>", self.qos()),
            None => format!("<ClientFrame qos={} under way>", self.qos()),
        }
    }
}

/// The event of an operation. It is like `threading.Event`, but only the operation sets it.
#[pyclass(module = "busrt.client", frozen)]
pub(crate) struct Completed(Py<ClientFrame>);

#[pymethods]
impl Completed {
    /// Returns true if the operation is completed.
    fn is_set(&self, py: Python<'_>) -> PyResult<bool> {
        ClientFrame::is_completed(self.0.bind(py))
    }

    /// Waits for the end of the operation, at most `timeout` seconds. Returns whether it is completed.
    #[pyo3(signature = (timeout = None))]
    fn wait(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<bool> {
        Ok(self.0.get().wait(py, timeout)?.is_some())
    }
}
