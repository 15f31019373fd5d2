//! The class `Frame`, which a program sends and receives.

use crate::lazy::Lazy;
use busrt::Frame as Received;
use pyo3::exceptions::PyAttributeError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyString, PyTuple};

/// The attributes that a frame has by itself.
#[derive(Clone, Copy)]
pub(crate) enum Name {
    Payload,
    Type,
    Qos,
    Header,
    Topic,
    Sender,
    PrimarySender,
}

const NAMES: [Name; 7] =
    [Name::Payload, Name::Header, Name::Type, Name::Qos, Name::Topic, Name::Sender, Name::PrimarySender];

impl Name {
    /// The name as an object of the interpreter.
    pub(crate) fn text<'py>(self, py: Python<'py>) -> PyResult<&'py Bound<'py, PyString>> {
        static TEXTS: [Lazy<PyString>; 7] = [const { Lazy::new() }; 7];
        let text = match self {
            Name::Payload => "payload",
            Name::Type => "type",
            Name::Qos => "qos",
            Name::Header => "header",
            Name::Topic => "topic",
            Name::Sender => "sender",
            Name::PrimarySender => "primary_sender",
        };
        TEXTS[self as usize].get_or_make(py, || Ok(PyString::intern(py, text).unbind()))
    }

    /// The attribute of a received frame.
    fn of<'py>(self, py: Python<'py>, frame: &Received) -> PyResult<Bound<'py, PyAny>> {
        Ok(match self {
            Name::Payload => PyBytes::new(py, frame.payload()).into_any(),
            Name::Type => (frame.kind() as u8).into_pyobject(py)?.into_any(),
            Name::Qos => 0u8.into_pyobject(py)?.into_any(),
            Name::Header => none(py),
            Name::Topic => frame.topic().into_pyobject(py)?.into_any(),
            Name::Sender => PyString::new(py, frame.sender()).into_any(),
            Name::PrimarySender => PyString::new(py, frame.primary_sender()).into_any(),
        })
    }
}

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

/// The attributes of a frame, and the `__dict__` of its class.
#[pyclass(module = "busrt._busrt", name = "FrameBase", dict, weakref, subclass)]
#[derive(Default)]
pub(crate) struct FrameBase {
    received: Option<Received>,
    /// The values, in the order of `Name`.
    values: [Value; 7],
    /// The `__dict__` of the frame once a program has asked for it. It has all attributes then.
    dict: Option<Py<PyDict>>,
}

/// A frame: something to send, or something received.
///
/// `payload` is bytes, bytearray, memoryview or str (sent as UTF-8), `type` one of the OP_ constants, `qos` a number
/// from 0 to 3, `header` bytes that are sent before the payload, or None, `topic` the topics of a subscription. A
/// received frame has `sender`, `primary_sender` and the `topic` of a publication; its payload is bytes.
#[pyclass(module = "busrt.client", name = "Frame", extends = FrameBase, subclass)]
pub(crate) struct Frame;

impl Frame {
    /// The object for a received frame.
    pub(crate) fn object(py: Python<'_>, received: Received) -> PyResult<Py<Frame>> {
        let base = FrameBase { received: Some(received), values: [const { Value::Lazy }; 7], dict: None };
        Py::new(py, PyClassInitializer::from(base).add_subclass(Frame))
    }

    /// Payload, type, QoS and header, of a frame to be sent.
    pub(crate) fn outgoing<'py>(frame: &Bound<'py, Frame>) -> PyResult<[Bound<'py, PyAny>; 4]> {
        let base = frame.as_super();
        Ok([
            get(base, Name::Payload)?,
            get(base, Name::Type)?,
            get(base, Name::Qos)?,
            get(base, Name::Header)?,
        ])
    }
}

fn none(py: Python<'_>) -> Bound<'_, PyAny> {
    py.None().into_bound(py)
}

/// Reads an attribute. One of a received frame is made the first time.
fn get<'py>(slf: &Bound<'py, FrameBase>, name: Name) -> PyResult<Bound<'py, PyAny>> {
    let py = slf.py();
    let mut this = slf.borrow_mut();
    let this = &mut *this;
    let found = match (&this.dict, &mut this.values[name as usize], &this.received) {
        (Some(dict), ..) => dict.bind(py).get_item(name.text(py)?)?,
        (None, Value::Set(set), _) => Some(set.bind(py).clone()),
        (None, value @ Value::Lazy, Some(received)) => {
            let made = name.of(py, received)?;
            *value = Value::Set(made.clone().unbind());
            Some(made)
        }
        _ => None,
    };
    match (found, name) {
        (Some(found), _) => Ok(found),
        (None, Name::Topic) => Ok(none(py)),
        (None, _) => Err(missing(name.text(py)?)),
    }
}

fn missing(name: &Bound<'_, PyString>) -> PyErr {
    PyAttributeError::new_err(format!("'Frame' object has no attribute '{name}'"))
}

fn set(slf: &Bound<'_, FrameBase>, name: Name, value: Bound<'_, PyAny>) -> PyResult<()> {
    let dict = slf.borrow().dict.as_ref().map(|dict| dict.bind(slf.py()).clone());
    if let Some(dict) = dict {
        return dict.set_item(name.text(slf.py())?, value);
    }
    let before = std::mem::replace(&mut slf.borrow_mut().values[name as usize], Value::Set(value.unbind()));
    // What this runs may look at the frame.
    drop(before);
    Ok(())
}

fn delete(slf: &Bound<'_, FrameBase>, name: Name) -> PyResult<()> {
    let text = name.text(slf.py())?;
    let dict = slf.borrow().dict.as_ref().map(|dict| dict.bind(slf.py()).clone());
    let is_missing = match dict {
        Some(dict) if dict.contains(text)? => return dict.del_item(text),
        Some(_) => true,
        None => {
            let before = std::mem::take(&mut slf.borrow_mut().values[name as usize]);
            matches!(before, Value::Missing)
        }
    };
    if is_missing { Err(missing(text)) } else { Ok(()) }
}

#[pymethods]
impl FrameBase {
    #[getter]
    fn payload<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        get(slf, Name::Payload)
    }

    #[setter]
    fn set_payload(slf: &Bound<'_, Self>, value: Bound<'_, PyAny>) -> PyResult<()> {
        set(slf, Name::Payload, value)
    }

    #[deleter]
    fn delete_payload(slf: &Bound<'_, Self>) -> PyResult<()> {
        delete(slf, Name::Payload)
    }

    #[getter(r#type)]
    fn tp<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        get(slf, Name::Type)
    }

    #[setter(r#type)]
    fn set_tp(slf: &Bound<'_, Self>, value: Bound<'_, PyAny>) -> PyResult<()> {
        set(slf, Name::Type, value)
    }

    #[deleter(r#type)]
    fn delete_tp(slf: &Bound<'_, Self>) -> PyResult<()> {
        delete(slf, Name::Type)
    }

    #[getter]
    fn qos<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        get(slf, Name::Qos)
    }

    #[setter]
    fn set_qos(slf: &Bound<'_, Self>, value: Bound<'_, PyAny>) -> PyResult<()> {
        set(slf, Name::Qos, value)
    }

    #[deleter]
    fn delete_qos(slf: &Bound<'_, Self>) -> PyResult<()> {
        delete(slf, Name::Qos)
    }

    #[getter]
    fn header<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        get(slf, Name::Header)
    }

    #[setter]
    fn set_header(slf: &Bound<'_, Self>, value: Bound<'_, PyAny>) -> PyResult<()> {
        set(slf, Name::Header, value)
    }

    #[deleter]
    fn delete_header(slf: &Bound<'_, Self>) -> PyResult<()> {
        delete(slf, Name::Header)
    }

    #[getter]
    fn topic<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        get(slf, Name::Topic)
    }

    #[setter]
    fn set_topic(slf: &Bound<'_, Self>, value: Bound<'_, PyAny>) -> PyResult<()> {
        set(slf, Name::Topic, value)
    }

    #[deleter]
    fn delete_topic(slf: &Bound<'_, Self>) -> PyResult<()> {
        delete(slf, Name::Topic)
    }

    #[getter]
    fn sender<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        get(slf, Name::Sender)
    }

    #[setter]
    fn set_sender(slf: &Bound<'_, Self>, value: Bound<'_, PyAny>) -> PyResult<()> {
        set(slf, Name::Sender, value)
    }

    #[deleter]
    fn delete_sender(slf: &Bound<'_, Self>) -> PyResult<()> {
        delete(slf, Name::Sender)
    }

    #[getter]
    fn primary_sender<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        get(slf, Name::PrimarySender)
    }

    #[setter]
    fn set_primary_sender(slf: &Bound<'_, Self>, value: Bound<'_, PyAny>) -> PyResult<()> {
        set(slf, Name::PrimarySender, value)
    }

    #[deleter]
    fn delete_primary_sender(slf: &Bound<'_, Self>) -> PyResult<()> {
        delete(slf, Name::PrimarySender)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        for value in &self.values {
            if let Value::Set(object) = value {
                visit.call(object)?;
            }
        }
        visit.call(&self.dict)
    }

    fn __clear__(&mut self) {
        *self = FrameBase::default();
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
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

#[pymethods]
impl Frame {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> PyClassInitializer<Frame> {
        PyClassInitializer::from(FrameBase::default()).add_subclass(Frame)
    }

    #[pyo3(signature = (payload = None, tp = None, qos = None))]
    fn __init__<'py>(
        slf: &Bound<'py, Self>,
        payload: Option<Bound<'py, PyAny>>,
        tp: Option<Bound<'py, PyAny>>,
        qos: Option<Bound<'py, PyAny>>,
    ) -> PyResult<()> {
        let py = slf.py();
        let number = |value: Option<Bound<'py, PyAny>>, default: u8| match value {
            Some(value) => Ok::<_, PyErr>(value),
            None => Ok(default.into_pyobject(py)?.into_any()),
        };
        let attributes = [
            (Name::Payload, payload.unwrap_or_else(|| none(py))),
            (Name::Header, none(py)),
            (Name::Type, number(tp, busrt::proto::op::OP_MESSAGE)?),
            (Name::Qos, number(qos, 0)?),
        ];
        let is_subclass = !slf.is_exact_instance_of::<Frame>();
        for (name, value) in attributes {
            if is_subclass {
                // It may have a property or an attribute of that name.
                slf.setattr(name.text(py)?, value)?;
            } else {
                set(slf.as_super(), name, value)?;
            }
        }
        Ok(())
    }

    /// The attributes of the frame, as those of any object.
    #[getter(__dict__)]
    fn dict<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyDict>> {
        let (py, base) = (slf.py(), slf.as_super());
        let dict = own_dict(py)?.call_method1("__get__", (slf,))?.cast_into::<PyDict>()?;
        if base.borrow().dict.is_none() {
            for name in NAMES {
                if !matches!(base.borrow().values[name as usize], Value::Missing) {
                    dict.set_item(name.text(py)?, get(base, name)?)?;
                }
            }
            base.borrow_mut().dict = Some(dict.clone().unbind());
        }
        Ok(dict)
    }

    #[setter(__dict__)]
    fn set_dict<'py>(slf: &Bound<'py, Self>, dict: Bound<'py, PyDict>) -> PyResult<()> {
        own_dict(slf.py())?.call_method1("__set__", (slf, &dict))?;
        let before = slf.as_super().borrow_mut().dict.replace(dict.unbind());
        drop(before);
        Ok(())
    }

    /// The attributes, for copies and pickles.
    fn __getstate__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyDict>> {
        Frame::dict(slf)?.copy()
    }

    fn __setstate__<'py>(slf: &Bound<'py, Self>, state: &Bound<'py, PyDict>) -> PyResult<()> {
        Frame::dict(slf)?.update(state.as_mapping())
    }
}

/// The descriptor of the `__dict__` that the base has.
fn own_dict(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
    static DESCRIPTOR: Lazy<PyAny> = Lazy::new();
    const NAME: &str = "__dict__";
    DESCRIPTOR.get_or_make(py, || Ok(py.get_type::<FrameBase>().getattr(NAME)?.get_item(NAME)?.unbind()))
}
