//! The options of a broker within the process.

use crate::waiting;
use busrt::broker::{Options, SlowPolicy};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};
use std::time::Duration;

/// Reads the options of a broker.
pub(crate) fn read(options: Option<&Bound<'_, PyDict>>) -> PyResult<Options> {
    let mut read = Options::new();
    for (key, value) in options.into_iter().flatten() {
        let key = key.cast_into::<PyString>()?;
        read = set(read, &key.to_cow()?, &value)?;
    }
    Ok(read)
}

fn set(options: Options, key: &str, value: &Bound<'_, PyAny>) -> PyResult<Options> {
    Ok(match key {
        "timeout" => options.timeout(time(value)?),
        "queue_size" => options.queue_size(value.extract()?),
        "queue_bytes" => options.queue_bytes(value.extract()?),
        "queue_total" => options.queue_total(value.extract()?),
        "slow" => options.slow(slow(value)?),
        "hold" => options.hold(time(value)?),
        "stall" => options.stall(time(value)?),
        "max_payload" => options.max_payload(value.extract()?),
        "max_name" => options.max_name(value.extract()?),
        "max_topic" => options.max_topic(value.extract()?),
        "max_levels" => options.max_levels(value.extract()?),
        "max_subscriptions" => options.max_subscriptions(value.extract()?),
        "max_connections" => match value.extract()? {
            Some(count) => options.max_connections(count),
            None => options,
        },
        "max_handshakes" => options.max_handshakes(value.extract()?),
        "force_register" => options.force_register(value.is_truthy()?),
        "buf_size" => options.buf_size(value.extract()?),
        "socket_mode" => match value.extract()? {
            Some(mode) => options.socket_mode(mode),
            None => options,
        },
        "drain" => options.drain(time(value)?),
        _ => return Err(PyTypeError::new_err(format!("unknown option: {key}"))),
    })
}

fn time(value: &Bound<'_, PyAny>) -> PyResult<Duration> {
    let seconds: f64 = value.extract()?;
    waiting::seconds(Some(seconds)).ok_or_else(|| PyValueError::new_err(format!("invalid time: {seconds}")))
}

fn slow(value: &Bound<'_, PyAny>) -> PyResult<SlowPolicy> {
    match &*value.extract::<String>()? {
        "disconnect" => Ok(SlowPolicy::Disconnect),
        "drop-new" => Ok(SlowPolicy::DropNew),
        "drop-old" => Ok(SlowPolicy::DropOld),
        "block" => Ok(SlowPolicy::Block),
        other => Err(PyValueError::new_err(format!("invalid policy for slow receivers: {other:?}"))),
    }
}
