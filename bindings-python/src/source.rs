//! Received frames in batches: for threads that wait, and for event loops.

use crate::errors;
use crate::taker::{Batch, Taker, object};
use crate::waiting::{self, detached};
use busrt::client::WakeFd;
use busrt::rpc::Incoming;
use parking_lot::Mutex;
use pyo3::prelude::*;
use std::collections::VecDeque;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

/// Maximum number of requests in one batch. Any thread of the program may take the requests after the first.
const REQUESTS: usize = 16;

/// Frames for threads that wait for them.
#[pyclass(module = "busrt._busrt", frozen)]
pub(crate) struct Source {
    /// Locked by the waiting thread; `None` after it is stopped.
    taker: Mutex<Option<Taker>>,
    is_stopped: AtomicBool,
    /// Wakes the waiting thread.
    waker: Mutex<Option<Waker>>,
    /// Requests that were taken together with another one.
    requests: Mutex<VecDeque<Incoming>>,
    /// Number of threads that wait for requests.
    idle: AtomicUsize,
}

impl Source {
    pub(crate) fn new(taker: Taker) -> Source {
        Source {
            taker: Mutex::new(Some(taker)),
            is_stopped: AtomicBool::new(false),
            waker: Mutex::default(),
            requests: Mutex::default(),
            idle: AtomicUsize::new(0),
        }
    }

    fn poll(
        &self,
        taker: &mut Option<Taker>,
        cx: &mut Context<'_>,
        batch: &mut Batch,
        most: usize,
    ) -> Poll<Option<usize>> {
        let before = self.waker.lock().replace(cx.waker().clone());
        drop(before);
        match taker {
            Some(taker) if !self.is_stopped.load(Ordering::SeqCst) => taker.poll(cx, batch, most),
            _ => Poll::Ready(None),
        }
    }
}

#[pymethods]
impl Source {
    /// Waits for frames, at most `timeout` seconds, and returns up to `most` of them; None if there will be no more.
    #[pyo3(signature = (most, timeout = None))]
    fn take(&self, py: Python<'_>, most: usize, timeout: Option<f64>) -> PyResult<Option<Vec<Py<PyAny>>>> {
        let mut batch = Batch::default();
        let waiting = match self.taker.try_lock() {
            Some(mut taker) => match (&mut *taker, self.is_stopped.load(Ordering::SeqCst)) {
                (Some(taker), false) => taker.take(&mut batch, most),
                _ => None,
            },
            None => Some(0),
        };
        if waiting == Some(0) {
            let taken = waiting::wait(py, waiting::seconds(timeout), |cx| {
                self.poll(&mut self.taker.lock(), cx, &mut batch, most)
            })?;
            if taken == Some(None) {
                return Ok(None);
            }
        } else if waiting.is_none() {
            return Ok(None);
        }
        batch.into_objects(py).map(Some)
    }

    /// Waits for a request. Returns frame, responder, method, id and the position of its parameters; None if there
    /// will be no more. Any number of threads may wait; one of them takes.
    fn take_request(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        loop {
            let waiting = self.requests.lock().pop_front();
            let taken = match waiting {
                Some(request) => Some(request),
                None => detached(py, || self.wait_request()),
            };
            let Some(request) = taken else { return Ok(None) };
            if let Some(object) = object(py, request)? {
                return Ok(Some(object));
            }
        }
    }

    /// Returns the number of threads that wait for requests.
    fn idle(&self) -> usize {
        self.idle.load(Ordering::SeqCst)
    }

    /// Ends every wait on this source, and returns another source that continues; nothing is lost. Returns None if it
    /// was stopped before.
    fn move_on(&self, py: Python<'_>) -> Option<Source> {
        detached(py, || self.halt()).map(Source::new)
    }

    /// Ends every wait and takes no more. Frames that were not taken are left to the next source.
    fn stop(&self, py: Python<'_>) {
        detached(py, || drop(self.halt()));
    }
}

impl Source {
    fn halt(&self) -> Option<Taker> {
        self.is_stopped.store(true, Ordering::SeqCst);
        let waker = self.waker.lock().take();
        if let Some(waker) = waker {
            waker.wake();
        }
        self.taker.lock().take()
    }

    fn wait_request(&self) -> Option<Incoming> {
        self.idle.fetch_add(1, Ordering::SeqCst);
        let mut taker = self.taker.lock();
        let waiting = self.requests.lock().pop_front();
        let request = waiting.or_else(|| {
            let mut batch = Batch::default();
            // Without a check, the wait never fails.
            let taken =
                busrt::client::Wait::forever().on(|cx| self.poll(&mut taker, cx, &mut batch, REQUESTS));
            let mut taken = taken.ok().flatten().flatten().map(|_| batch.into_incoming())?.into_iter();
            let first = taken.next();
            self.requests.lock().extend(taken);
            first
        });
        drop(taker);
        self.idle.fetch_sub(1, Ordering::SeqCst);
        request
    }
}

/// Frames for an event loop, with a descriptor that is readable while there may be some.
#[pyclass(module = "busrt._busrt", frozen)]
pub(crate) struct LoopSource {
    taker: Mutex<Option<Taker>>,
    fd: WakeFd,
}

impl LoopSource {
    pub(crate) fn new(py: Python<'_>, mut taker: Taker) -> PyResult<LoopSource> {
        let fd = WakeFd::new().map_err(|e| errors::of(py, &e.into()))?;
        taker.set_wake_up(&fd);
        Ok(LoopSource { taker: Mutex::new(Some(taker)), fd })
    }
}

#[pymethods]
impl LoopSource {
    fn fileno(&self) -> i32 {
        self.fd.as_raw_fd()
    }

    /// Up to `most` frames that wait; None when there will be no more. After fewer than `most` the descriptor becomes
    /// readable with the next frame. Of a server also notifications, each a tuple of its frame, and requests.
    fn take(&self, py: Python<'_>, most: usize) -> PyResult<Option<Vec<Py<PyAny>>>> {
        let mut batch = Batch::default();
        let taken = self.taker.lock().as_mut().and_then(|taker| taker.take(&mut batch, most));
        if taken.is_none() {
            return Ok(None);
        }
        batch.into_ordered_objects(py).map(Some)
    }

    /// Takes no more.
    fn stop(&self, py: Python<'_>) {
        let taker = self.taker.lock().take();
        py.detach(|| drop(taker));
    }
}
