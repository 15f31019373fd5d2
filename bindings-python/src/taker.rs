//! Takes received frames: all frames, or those of an RPC server.

use crate::frame::Frame;
use crate::responder::Responder;
use busrt::Frame as Received;
use busrt::client::{Frames, WakeFd};
use busrt::rpc::{Incoming, Intake};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use std::task::{Context, Poll};

/// Maximum size of one batch, in bytes.
const BATCH_BYTES: usize = 1024 * 1024;

/// A part of the items that a client receives.
pub(crate) enum Taker {
    Frames(Frames),
    Intake(Intake),
}

/// The frames and requests of one batch.
#[derive(Default)]
pub(crate) struct Batch {
    frames: Vec<Received>,
    incoming: Vec<Incoming>,
}

impl Taker {
    /// Takes up to `most` frames. Pending until there is one; `None` if there will be no more.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        batch: &mut Batch,
        most: usize,
    ) -> Poll<Option<usize>> {
        match self {
            Taker::Frames(frames) => frames.poll_batch(cx, &mut batch.frames, most, BATCH_BYTES),
            Taker::Intake(intake) => intake.poll_batch(cx, &mut batch.incoming, most),
        }
    }

    /// Takes up to `most` waiting frames. Returns `None` if there will be no more.
    pub(crate) fn take(&mut self, batch: &mut Batch, most: usize) -> Option<usize> {
        match self {
            Taker::Frames(frames) => frames.take_batch(&mut batch.frames, most, BATCH_BYTES),
            Taker::Intake(intake) => intake.take_batch(&mut batch.incoming, most),
        }
    }

    pub(crate) fn set_wake_up(&mut self, fd: &WakeFd) {
        match self {
            Taker::Frames(frames) => frames.set_wake_up(fd),
            Taker::Intake(intake) => intake.set_wake_up(fd),
        }
    }
}

impl Batch {
    pub(crate) fn into_objects(self, py: Python<'_>) -> PyResult<Vec<Py<PyAny>>> {
        let mut objects = Vec::with_capacity(self.frames.len() + self.incoming.len());
        for frame in self.frames {
            objects.push(Frame::object(py, frame)?.into_any());
        }
        for incoming in self.incoming {
            objects.extend(object(py, incoming)?);
        }
        Ok(objects)
    }

    /// The same for a part that has everything in the order received: the frame of a notification is in a tuple of one.
    pub(crate) fn into_ordered_objects(mut self, py: Python<'_>) -> PyResult<Vec<Py<PyAny>>> {
        let incoming = std::mem::take(&mut self.incoming);
        let mut objects = self.into_objects(py)?;
        objects.reserve(incoming.len());
        for incoming in incoming {
            let is_notification = matches!(incoming, Incoming::Notification(_));
            let Some(object) = object(py, incoming)? else { continue };
            objects.push(if is_notification {
                (object,).into_pyobject(py)?.into_any().unbind()
            } else {
                object
            });
        }
        Ok(objects)
    }

    pub(crate) fn into_incoming(self) -> Vec<Incoming> {
        self.incoming
    }
}

/// Converts a frame or a notification to its frame, and a request to frame, responder, method, id and the position of
/// its parameters.
pub(crate) fn object(py: Python<'_>, incoming: Incoming) -> PyResult<Option<Py<PyAny>>> {
    Ok(Some(match incoming {
        Incoming::Frame(frame) => Frame::object(py, frame)?.into_any(),
        Incoming::Notification(notification) => Frame::object(py, notification.frame().clone())?.into_any(),
        Incoming::Request(call, responder) => {
            let frame = Frame::object(py, call.frame().clone())?;
            let method = PyBytes::new(py, call.method().as_bytes());
            let at = call.frame().payload().len() - call.params().len();
            let responder = Py::new(py, Responder::new(responder))?;
            (frame, responder, method, call.id(), at).into_pyobject(py)?.into_any().unbind()
        }
        _ => return Ok(None),
    }))
}
