//! The class `Frame`, which a program sends and receives.

use busrt::Frame as Received;
use pyo3::exceptions::PyAttributeError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyString, PyTuple};

/// The value of an attribute.
#[derive(Default)]
enum Value {
    /// The attribute does not exist.
    #[default]
    Missing,
    /// The value is created from the received frame when it is first requested.
    Lazy,
    Set(Py<PyAny>),
}

/// A frame that is sent or was received.
///
/// `payload` is bytes, bytearray, memoryview or str (sent as UTF-8), `type` one of the OP_ constants, `qos` a number
/// from 0 to 3, `header` bytes that are sent before the payload, or None, `topic` the topics of a subscription. A
/// received frame has `sender`, `primary_sender` and the `topic` of a publication; its payload is bytes.
#[pyclass(module = "busrt.client", name = "Frame", dict, weakref, subclass)]
#[derive(Default)]
pub(crate) struct Frame {
    received: Option<Received>,
    payload: Value,
    tp: Value,
    qos: Value,
    header: Value,
    topic: Value,
    sender: Value,
    primary_sender: Value,
}

impl Frame {
    pub(crate) fn of(received: Received) -> Frame {
        Frame {
            received: Some(received),
            payload: Value::Lazy,
            tp: Value::Lazy,
            qos: Value::Lazy,
            header: Value::Lazy,
            topic: Value::Lazy,
            sender: Value::Lazy,
            primary_sender: Value::Lazy,
        }
    }

    /// Returns payload, type, QoS and header of a frame to be sent.
    pub(crate) fn outgoing<'py>(&mut self, py: Python<'py>) -> PyResult<[Bound<'py, PyAny>; 4]> {
        Ok([
            self.payload(py)?.into_bound(py),
            self.tp(py)?.into_bound(py),
            self.qos(py)?.into_bound(py),
            self.header(py)?.into_bound(py),
        ])
    }

    fn values(&self) -> [&Value; 7] {
        [&self.payload, &self.tp, &self.qos, &self.header, &self.topic, &self.sender, &self.primary_sender]
    }
}

/// Returns the value of an attribute, which is created from the received frame the first time.
fn get<'py>(
    py: Python<'py>,
    value: &mut Value,
    received: Option<&Received>,
    name: &'static str,
    make: impl FnOnce(&Received) -> PyResult<Bound<'py, PyAny>>,
) -> PyResult<Py<PyAny>> {
    match (&*value, received) {
        (Value::Set(set), _) => Ok(set.clone_ref(py)),
        (Value::Lazy, Some(received)) => {
            let made = make(received)?.unbind();
            *value = Value::Set(made.clone_ref(py));
            Ok(made)
        }
        _ => Err(PyAttributeError::new_err(format!("'Frame' object has no attribute '{name}'"))),
    }
}

#[pymethods]
impl Frame {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Frame {
        Frame::default()
    }

    #[pyo3(signature = (payload = None, tp = None, qos = None))]
    fn __init__(
        &mut self,
        py: Python<'_>,
        payload: Option<Py<PyAny>>,
        tp: Option<Py<PyAny>>,
        qos: Option<Py<PyAny>>,
    ) -> PyResult<()> {
        let number = |value: Option<Py<PyAny>>, default: u8| match value {
            Some(value) => Ok::<_, PyErr>(value),
            None => Ok(default.into_pyobject(py)?.into_any().unbind()),
        };
        self.payload = Value::Set(payload.unwrap_or_else(|| py.None()));
        self.tp = Value::Set(number(tp, busrt::proto::op::OP_MESSAGE)?);
        self.qos = Value::Set(number(qos, 0)?);
        self.header = Value::Set(py.None());
        self.topic = Value::Set(py.None());
        Ok(())
    }

    #[getter]
    fn payload(&mut self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        get(py, &mut self.payload, self.received.as_ref(), "payload", |frame| {
            Ok(PyBytes::new(py, frame.payload()).into_any())
        })
    }

    #[setter]
    fn set_payload(&mut self, value: Py<PyAny>) {
        self.payload = Value::Set(value);
    }

    #[getter(r#type)]
    fn tp(&mut self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        get(py, &mut self.tp, self.received.as_ref(), "type", |frame| {
            Ok((frame.kind() as u8).into_pyobject(py)?.into_any())
        })
    }

    #[setter(r#type)]
    fn set_tp(&mut self, value: Py<PyAny>) {
        self.tp = Value::Set(value);
    }

    #[getter]
    fn qos(&mut self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        get(py, &mut self.qos, self.received.as_ref(), "qos", |_| Ok(0u8.into_pyobject(py)?.into_any()))
    }

    #[setter]
    fn set_qos(&mut self, value: Py<PyAny>) {
        self.qos = Value::Set(value);
    }

    #[getter]
    fn header(&mut self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        get(py, &mut self.header, self.received.as_ref(), "header", |_| Ok(py.None().into_bound(py)))
    }

    #[setter]
    fn set_header(&mut self, value: Py<PyAny>) {
        self.header = Value::Set(value);
    }

    #[getter]
    fn topic(&mut self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        get(py, &mut self.topic, self.received.as_ref(), "topic", |frame| {
            Ok(frame.topic().into_pyobject(py)?.into_any())
        })
    }

    #[setter]
    fn set_topic(&mut self, value: Py<PyAny>) {
        self.topic = Value::Set(value);
    }

    #[getter]
    fn sender(&mut self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        get(py, &mut self.sender, self.received.as_ref(), "sender", |frame| {
            Ok(PyString::new(py, frame.sender()).into_any())
        })
    }

    #[setter]
    fn set_sender(&mut self, value: Py<PyAny>) {
        self.sender = Value::Set(value);
    }

    #[getter]
    fn primary_sender(&mut self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        get(py, &mut self.primary_sender, self.received.as_ref(), "primary_sender", |frame| {
            Ok(PyString::new(py, frame.primary_sender()).into_any())
        })
    }

    #[setter]
    fn set_primary_sender(&mut self, value: Py<PyAny>) {
        self.primary_sender = Value::Set(value);
    }

    /// Returns the attributes, for copies and pickles.
    fn __getstate__<'py>(slf: &Bound<'py, Frame>) -> PyResult<Bound<'py, PyDict>> {
        let py = slf.py();
        let state = PyDict::new(py);
        for name in ["payload", "type", "qos", "header", "topic", "sender", "primary_sender"] {
            match slf.getattr(name) {
                Ok(value) => state.set_item(name, value)?,
                Err(e) if e.is_instance_of::<PyAttributeError>(py) => {}
                Err(e) => return Err(e),
            }
        }
        let own = slf.getattr(intern!(py, "__dict__"))?;
        state.update(own.cast::<PyDict>()?.as_mapping())?;
        Ok(state)
    }

    fn __setstate__(slf: &Bound<'_, Frame>, state: &Bound<'_, PyDict>) -> PyResult<()> {
        for (name, value) in state {
            slf.setattr(name.cast_into::<PyString>()?, value)?;
        }
        Ok(())
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        for value in self.values() {
            if let Value::Set(object) = value {
                visit.call(object)?;
            }
        }
        Ok(())
    }

    fn __clear__(&mut self) {
        *self = Frame::default();
    }

    fn __repr__(slf: &Bound<'_, Frame>) -> PyResult<String> {
        let part = |name: &str| slf.getattr(name).and_then(|value| Ok(value.repr()?.to_string()));
        let mut parts = vec![];
        for name in ["type", "sender", "topic", "qos"] {
            if let Ok(text) = part(name) {
                parts.push(format!("{name}={text}"));
            }
        }
        Ok(format!("<Frame {}>", parts.join(" ")))
    }
}
