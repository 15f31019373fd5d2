//! The options of a connection.

use busrt::client::{Config, Overflow, Reconnect, WhileDown};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};
use std::time::Duration;

/// The timeout of a client that has none.
const NO_TIMEOUT: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Reads the options of a connection.
pub(crate) fn config(address: &str, name: &str, options: &Bound<'_, PyDict>) -> PyResult<Config> {
    let mut config = Config::new(address, name);
    for (key, value) in options {
        let key = key.cast_into::<PyString>()?;
        config = set(config, &key.to_cow()?, &value)?;
    }
    Ok(config)
}

fn set(config: Config, key: &str, value: &Bound<'_, PyAny>) -> PyResult<Config> {
    Ok(match key {
        "timeout" => config.timeout(time(value)?.unwrap_or(NO_TIMEOUT)),
        "ping_interval" => config.ping_interval(time(value)?.unwrap_or(NO_TIMEOUT)),
        "silence" => config.silence(time(value)?),
        "busy_poll" => config.busy_poll(time(value)?.unwrap_or_default()),
        "buf_size" => config.buf_size(value.extract()?),
        "queue_size" => config.queue_size(value.extract()?),
        "queue_bytes" => config.queue_bytes(value.extract()?),
        "inbox_bytes" => config.inbox_bytes(value.extract()?),
        "write_through" => config.write_through(value.is_truthy()?),
        "overflow" => config.overflow(overflow(value)?),
        "reconnect" => config.reconnect(reconnect(value)?),
        "while_down" => config.while_down(while_down(value)?),
        _ => return Err(PyTypeError::new_err(format!("unknown option: {key}"))),
    })
}

/// Reads a time in seconds; returns `None` if there is no limit.
pub(crate) fn time(value: &Bound<'_, PyAny>) -> PyResult<Option<Duration>> {
    Ok(crate::waiting::seconds(value.extract()?))
}

fn overflow(value: &Bound<'_, PyAny>) -> PyResult<Overflow> {
    match &*value.extract::<String>()? {
        "wait" => Ok(Overflow::Wait),
        "drop-old" => Ok(Overflow::DropOld),
        "drop-new" => Ok(Overflow::DropNew),
        other => Err(PyValueError::new_err(format!("invalid overflow policy: {other:?}"))),
    }
}

/// Reads False, True, or the shortest delay, the longest delay and the number of attempts (None: no limit).
fn reconnect(value: &Bound<'_, PyAny>) -> PyResult<Option<Reconnect>> {
    let Ok((min, max, tries)) = value.extract::<(f64, f64, Option<u32>)>() else {
        return Ok(value.is_truthy()?.then(Reconnect::new));
    };
    let delay = |seconds| crate::waiting::seconds(Some(seconds)).unwrap_or(NO_TIMEOUT);
    let reconnect = Reconnect::new().delays(delay(min), delay(max));
    Ok(Some(match tries {
        Some(tries) => reconnect.tries(tries),
        None => reconnect.forever(),
    }))
}

/// Reads "fail", ("wait", seconds), or ("queue", bytes).
fn while_down(value: &Bound<'_, PyAny>) -> PyResult<WhileDown> {
    if let Ok((what, bound)) = value.extract::<(String, f64)>() {
        return match &*what {
            "wait" => Ok(WhileDown::Wait(crate::waiting::seconds(Some(bound)).unwrap_or(NO_TIMEOUT))),
            "queue" => Ok(WhileDown::Queue(bound.max(0.0) as usize)),
            _ => Err(PyValueError::new_err(format!("invalid policy: {what:?}"))),
        };
    }
    match &*value.extract::<String>()? {
        "fail" => Ok(WhileDown::Fail),
        other => Err(PyValueError::new_err(format!("invalid policy: {other:?}"))),
    }
}
