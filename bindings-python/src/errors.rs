//! Maps errors to Python exceptions. The classes are in `busrt/_errors.py`.

use crate::lazy::Lazy;
use busrt::proto::DecodeError;
use busrt::rpc::RpcError;
use busrt::{Error, ErrorKind};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use std::error::Error as _;

/// Returns the exception for an error of the bus.
pub(crate) fn of(py: Python<'_>, error: &Error) -> PyErr {
    make(py, kind_name(error.kind()), error)
}

/// Returns the exception for an error while a client connects.
pub(crate) fn of_connect(py: Python<'_>, error: &Error) -> PyErr {
    let decode = error.source().and_then(|source| source.downcast_ref::<DecodeError>());
    let kind = match decode {
        Some(DecodeError::Version(_)) => "version",
        Some(_) => "protocol",
        None if error.is_refusal() => "refused",
        None => kind_name(error.kind()),
    };
    make(py, kind, error)
}

/// The exception for a call that has failed: RpcException with bytes if the peer says so, else with a text.
pub(crate) fn of_rpc(py: Python<'_>, error: &RpcError) -> PyErr {
    static MAKE: Lazy<PyAny> = Lazy::new();
    if let Some(bus) = error.bus_error()
        && matches!(bus.kind(), ErrorKind::Timeout | ErrorKind::ConnectionLost)
    {
        return of(py, bus);
    }
    let made = MAKE
        .get_or_make(py, || Ok(py.import("busrt._rpc")?.getattr("RpcException")?.unbind()))
        .and_then(|make| match error.bus_error() {
            None => make.call1((PyBytes::new(py, error.data()), error.code())),
            Some(bus) => make.call1((bus.to_string(), error.code())),
        });
    match made {
        Ok(exception) => PyErr::from_value(exception),
        Err(e) => e,
    }
}

/// Returns the exception for an operation over a client that was never connected, or in a state that forbids it.
pub(crate) fn new(py: Python<'_>, kind: ErrorKind, text: &'static str) -> PyErr {
    of(py, &Error::new(kind, text))
}

fn make(py: Python<'_>, kind: &str, error: &Error) -> PyErr {
    static MAKE: Lazy<PyAny> = Lazy::new();
    let made =
        MAKE.get_or_make(py, || Ok(py.import("busrt._errors")?.getattr("make")?.unbind())).and_then(|make| {
            make.call1((kind, error.to_string(), error.code(), error.os_error(), error.subject()))
        });
    match made {
        Ok(exception) => PyErr::from_value(exception),
        Err(e) => e,
    }
}

fn kind_name(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::NotRegistered => "not_registered",
        ErrorKind::Data => "data",
        ErrorKind::Io => "io",
        ErrorKind::NotSupported => "not_supported",
        ErrorKind::Busy => "busy",
        ErrorKind::NotDelivered => "not_delivered",
        ErrorKind::Timeout => "timeout",
        ErrorKind::AccessDenied => "access",
        ErrorKind::ConnectionLost => "lost",
        _ => "other",
    }
}

/// Returns the result code of an operation in the form that existing programs expect.
pub(crate) fn result_code(result: &busrt::Result<()>) -> u8 {
    match result {
        Ok(()) => busrt::proto::op::RESULT_OK,
        Err(e) => e.code().unwrap_or(match e.kind() {
            ErrorKind::ConnectionLost => ErrorKind::Io.code(),
            kind => kind.code(),
        }),
    }
}
