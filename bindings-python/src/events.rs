//! The events of a connection: for threads that wait, and for event loops.

use crate::errors;
use crate::waiting;
use busrt::ErrorKind;
use busrt::client::{Event, Events};
use parking_lot::Mutex;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

/// The events of one client. Used by one thread, or by one event loop, at a time.
#[pyclass(module = "busrt._busrt", frozen)]
pub(crate) struct EventStream {
    events: Mutex<Events>,
    /// Readable while there may be events, for an event loop.
    signal: Option<(UnixStream, Waker)>,
}

/// The writable end of a signal.
struct WritableEnd(UnixStream);

impl Wake for WritableEnd {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // A full buffer tells as much.
        let _ = (&self.0).write(&[1]);
    }
}

impl EventStream {
    pub(crate) fn new(events: Events) -> EventStream {
        EventStream { events: Mutex::new(events), signal: None }
    }

    pub(crate) fn for_loop(py: Python<'_>, events: Events) -> PyResult<EventStream> {
        let pair = || {
            let (readable, writable) = UnixStream::pair()?;
            readable.set_nonblocking(true)?;
            writable.set_nonblocking(true)?;
            Ok::<_, std::io::Error>((readable, Waker::from(Arc::new(WritableEnd(writable)))))
        };
        let signal = pair().map_err(|e| errors::of(py, &e.into()))?;
        signal.1.wake_by_ref();
        Ok(EventStream { events: Mutex::new(events), signal: Some(signal) })
    }
}

#[pymethods]
impl EventStream {
    /// Waits for the next event, at most `timeout` seconds; None when there will be no more.
    ///
    /// # Errors
    /// TimeoutError.
    #[pyo3(signature = (timeout = None))]
    fn wait<'py>(&self, py: Python<'py>, timeout: Option<f64>) -> PyResult<Option<Bound<'py, PyDict>>> {
        match waiting::wait(py, waiting::seconds(timeout), |cx| self.events.lock().poll_recv(cx))? {
            Some(Some(event)) => attributes(py, &event).map(Some),
            Some(None) => Ok(None),
            None => Err(errors::new(py, ErrorKind::Timeout, "timed out")),
        }
    }

    fn fileno(&self) -> i32 {
        self.signal.as_ref().map_or(-1, |(readable, _)| readable.as_raw_fd())
    }

    /// The events that wait, and whether these are the last ones. The descriptor becomes readable with the next one.
    fn take<'py>(&self, py: Python<'py>) -> PyResult<(Vec<Bound<'py, PyDict>>, bool)> {
        let Some((readable, waker)) = &self.signal else { return Ok((vec![], true)) };
        let mut discarded = [0; 64];
        while (&*readable).read(&mut discarded).is_ok_and(|length| length == discarded.len()) {}
        let mut taken = vec![];
        let is_last = loop {
            match self.events.lock().poll_recv(&mut Context::from_waker(waker)) {
                Poll::Ready(Some(event)) => taken.push(attributes(py, &event)?),
                Poll::Ready(None) => break true,
                Poll::Pending => break false,
            }
        };
        Ok((taken, is_last))
    }
}

/// The attributes of the Python class `ConnectionEvent`.
fn attributes<'py>(py: Python<'py>, event: &Event) -> PyResult<Bound<'py, PyDict>> {
    let attributes = PyDict::new(py);
    let kind = match event {
        Event::Connected => "connected",
        Event::Disconnected { reason, last, .. } => {
            attributes.set_item("reason", PyString::new(py, reason))?;
            attributes.set_item("last", last)?;
            "lost"
        }
        Event::Reconnecting { attempt, delay, .. } => {
            attributes.set_item("attempt", attempt)?;
            attributes.set_item("delay", delay.as_secs_f64())?;
            "reconnecting"
        }
        Event::Dropped { frames, .. } => {
            attributes.set_item("frames", frames)?;
            "dropped"
        }
        _ => "other",
    };
    attributes.set_item("kind", kind)?;
    Ok(attributes)
}
