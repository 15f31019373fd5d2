//! Reads frames that a program sends: the class `Frame`, and objects with its attributes.

use crate::frame::{Frame, Name};
use busrt::QoS;
use busrt::client::{Deadline, Payload, Request};
use busrt::proto::op;
use busrt::proto::request::{Operation, Topics};
use bytes::Bytes;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{PyByteArray, PyBytes, PyList, PyString};

/// Minimum size of bytes that are shared with the interpreter instead of copied.
const SHARED_BYTES: usize = 4096;

/// The bytes of a payload or a header.
pub(crate) enum Data<'py> {
    Empty,
    Object(Bound<'py, PyBytes>),
    Shared(Bytes),
}

impl<'py> Data<'py> {
    /// Reads the bytes of an object: bytes, bytearray, str, None, or anything with a buffer.
    pub(crate) fn of(object: &Bound<'py, PyAny>) -> PyResult<Data<'py>> {
        if let Ok(bytes) = object.cast::<PyBytes>() {
            return Ok(Data::of_bytes(bytes.clone()));
        }
        if object.is_none() {
            return Ok(Data::Empty);
        }
        if let Ok(text) = object.cast::<PyString>() {
            return Ok(Data::of_bytes(text.encode_utf8()?));
        }
        if let Ok(array) = object.cast::<PyByteArray>() {
            return Ok(Data::Shared(array.to_vec().into()));
        }
        let py = object.py();
        // The buffer protocol is in the stable interface only since Python 3.11.
        let memory = py.import("builtins")?.getattr("memoryview")?;
        let bytes = memory.call1((object,))?.call_method0("tobytes")?;
        Ok(Data::of_bytes(bytes.cast_into::<PyBytes>()?))
    }

    fn of_bytes(bytes: Bound<'py, PyBytes>) -> Data<'py> {
        if bytes.as_bytes().len() >= SHARED_BYTES {
            Data::Shared(Bytes::from_owner(PyBackedBytes::from(bytes)))
        } else {
            Data::Object(bytes)
        }
    }

    fn as_slice(&self) -> &[u8] {
        match self {
            Data::Empty => &[],
            Data::Object(bytes) => bytes.as_bytes(),
            Data::Shared(bytes) => bytes,
        }
    }

    pub(crate) fn payload(&self) -> Payload<'_> {
        match self {
            Data::Shared(bytes) => Payload::Shared(bytes),
            other => Payload::Borrowed(other.as_slice()),
        }
    }

    /// Converts the data to bytes that hold nothing of the interpreter.
    pub(crate) fn into_bytes(self) -> Bytes {
        match self {
            Data::Shared(bytes) => bytes,
            other => Bytes::copy_from_slice(other.as_slice()),
        }
    }
}

/// A text of a program.
pub(crate) struct Text<'py>(Bound<'py, PyBytes>);

impl<'py> Text<'py> {
    pub(crate) fn of(object: &Bound<'py, PyAny>, what: &str) -> PyResult<Text<'py>> {
        match object.cast::<PyString>() {
            Ok(text) => Ok(Text(text.encode_utf8()?)),
            Err(_) => Err(PyTypeError::new_err(format!("the {what} must be a str"))),
        }
    }

    pub(crate) fn as_str(&self) -> &str {
        // The text was encoded as UTF-8, so that the fallback is never used.
        std::str::from_utf8(self.0.as_bytes()).unwrap_or_default()
    }
}

/// The attributes of a frame that affect the request.
pub(crate) struct Parts<'py> {
    tp: u8,
    pub(crate) qos: QoS,
    pub(crate) header: Data<'py>,
    pub(crate) payload: Data<'py>,
    /// The topics of a change of subscriptions, separated by NUL. If the inner value is `None`, the change has no
    /// topics.
    topics: Option<Option<String>>,
}

impl<'py> Parts<'py> {
    /// Reads a frame.
    pub(crate) fn of(frame: &Bound<'py, PyAny>) -> PyResult<Parts<'py>> {
        let py = frame.py();
        let [payload, tp, qos, header] = match frame.cast_exact::<Frame>() {
            Ok(frame) => Frame::outgoing(frame)?,
            Err(_) => {
                let optional = |name| frame.getattr_opt(name).map(|value| value.unwrap_or_else(|| none(py)));
                [
                    optional(Name::Payload.text(py)?)?,
                    frame.getattr(Name::Type.text(py)?)?,
                    optional(Name::Qos.text(py)?)?,
                    optional(Name::Header.text(py)?)?,
                ]
            }
        };
        let tp =
            tp.extract::<u8>().map_err(|_| PyValueError::new_err(format!("invalid frame type: {tp}")))?;
        let qos = qos_of(&qos)?;
        let topics = match tp {
            op::OP_SUBSCRIBE | op::OP_UNSUBSCRIBE | op::OP_EXCLUDE | op::OP_UNEXCLUDE => {
                Some(topics_of(&frame.getattr(Name::Topic.text(py)?)?)?)
            }
            op::OP_PUBLISH | op::OP_PUBLISH_FOR | op::OP_MESSAGE | op::OP_BROADCAST => None,
            _ => return Err(PyValueError::new_err(format!("invalid frame type: {tp}"))),
        };
        if topics.is_some() {
            return Ok(Parts { tp, qos, header: Data::Empty, payload: Data::Empty, topics });
        }
        Ok(Parts { tp, qos, header: Data::of(&header)?, payload: Data::of(&payload)?, topics: None })
    }

    /// Returns true if nothing is sent because the change has no topics.
    pub(crate) fn is_nothing(&self) -> bool {
        matches!(self.topics, Some(None))
    }

    /// Returns true if the operation has a target.
    pub(crate) fn has_target(&self) -> bool {
        self.topics.is_none()
    }

    /// Returns the request, to `target`, or to `receiver` for a publication to one client.
    pub(crate) fn request<'a>(&'a self, target: &'a str, receiver: &'a str) -> Request<'a> {
        request(
            self.tp,
            self.qos,
            (target, receiver),
            self.payload.payload(),
            self.header.as_slice(),
            &self.topics,
        )
    }

    /// Converts the parts to a request that holds nothing of the interpreter.
    pub(crate) fn into_owned(self, target: &str, receiver: &str) -> Owned {
        Owned {
            tp: self.tp,
            qos: self.qos,
            target: target.into(),
            receiver: receiver.into(),
            header: self.header.into_bytes(),
            payload: self.payload.into_bytes(),
            topics: self.topics,
        }
    }
}

/// A request that holds nothing of the interpreter.
pub(crate) struct Owned {
    tp: u8,
    qos: QoS,
    target: Box<str>,
    receiver: Box<str>,
    header: Bytes,
    payload: Bytes,
    topics: Option<Option<String>>,
}

impl Owned {
    pub(crate) fn request(&self) -> Request<'_> {
        let names = (&*self.target, &*self.receiver);
        request(self.tp, self.qos, names, Payload::Shared(&self.payload), &self.header, &self.topics)
    }
}

fn request<'a>(
    tp: u8,
    qos: QoS,
    (target, receiver): (&'a str, &'a str),
    payload: Payload<'a>,
    header: &'a [u8],
    topics: &'a Option<Option<String>>,
) -> Request<'a> {
    let joined = || Topics::Joined(topics.as_ref().and_then(|topics| topics.as_deref()).unwrap_or_default());
    let operation = match tp {
        op::OP_PUBLISH => Operation::Publish { topic: target, payload },
        op::OP_PUBLISH_FOR => Operation::PublishFor { topic: target, receiver, payload },
        op::OP_SUBSCRIBE => Operation::Subscribe(joined()),
        op::OP_UNSUBSCRIBE => Operation::Unsubscribe(joined()),
        op::OP_EXCLUDE => Operation::Exclude(joined()),
        op::OP_UNEXCLUDE => Operation::Unexclude(joined()),
        op::OP_BROADCAST => Operation::Broadcast { mask: target, payload },
        _ => Operation::Message { target, payload },
    };
    // The program chooses at each wait how long it awaits the answer.
    Request::new(operation, qos).prefix(header).deadline(Deadline::Never)
}

/// Returns the QoS for a number; None is 0.
pub(crate) fn qos_of(object: &Bound<'_, PyAny>) -> PyResult<QoS> {
    if object.is_none() {
        return Ok(QoS::No);
    }
    match object.extract::<u8>() {
        Ok(0) => Ok(QoS::No),
        Ok(1) => Ok(QoS::Processed),
        Ok(2) => Ok(QoS::Realtime),
        Ok(3) => Ok(QoS::RealtimeProcessed),
        _ => Err(PyValueError::new_err(format!("invalid QoS: {object}"))),
    }
}

fn none(py: Python<'_>) -> Bound<'_, PyAny> {
    py.None().into_bound(py)
}

/// Returns the topics separated by NUL; `None` for an empty list.
fn topics_of(object: &Bound<'_, PyAny>) -> PyResult<Option<String>> {
    if let Ok(text) = object.cast::<PyString>() {
        let text = text.to_cow()?.into_owned();
        return check_topic(&text).map(|()| Some(text));
    }
    let Ok(list) = object.cast::<PyList>() else {
        return Err(PyTypeError::new_err("topics must be a str or a list of str"));
    };
    let mut joined = String::new();
    for (at, topic) in list.iter().enumerate() {
        let Ok(topic) = topic.cast_into::<PyString>() else {
            return Err(PyTypeError::new_err("topics must be a str or a list of str"));
        };
        if at > 0 {
            joined.push('\0');
        }
        let topic = topic.to_cow()?;
        check_topic(&topic)?;
        joined.push_str(&topic);
    }
    Ok(if list.is_empty() { None } else { Some(joined) })
}

fn check_topic(topic: &str) -> PyResult<()> {
    if topic.contains('\0') { Err(PyValueError::new_err("a topic contains a NUL")) } else { Ok(()) }
}
