//! A connection, with which the Python classes send and receive.

use crate::call::Call;
use crate::completions::Completions;
use crate::errors;
use crate::events::EventStream;
use crate::operation::ClientFrame;
use crate::options;
use crate::outgoing::{Data, Parts, Text};
use crate::source::{LoopSource, Source};
use crate::taker::Taker;
use crate::task::{self, Task, Value, run};
use crate::waiting;
use busrt::client::{Client, Deadline, TrySend};
use busrt::rpc::{CallRequest, Caller, RpcError, Serving};
use busrt::transport::Socket;
use busrt::{ErrorKind, Result};
use bytes::Bytes;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};
use std::future::Future;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::time::{Duration, Instant};

/// A connection. May be used from any thread.
#[pyclass(module = "busrt._busrt", frozen, weakref)]
pub(crate) struct Link {
    client: Client,
    caller: Caller,
}

impl Link {
    pub(crate) fn new(client: Client) -> Link {
        Link { caller: Caller::new(client.clone()), client }
    }

    /// Waits on this thread for the client that `connecting` yields.
    pub(crate) fn connected(
        py: Python<'_>,
        connecting: impl Future<Output = Result<Value>> + Send + 'static,
    ) -> PyResult<Link> {
        match run(py, true, None, connecting)? {
            Some(Value::Client(client)) => Ok(Link::new(client)),
            _ => Err(errors::new(py, ErrorKind::Timeout, "the client was not connected in time")),
        }
    }
}

type Connecting = Pin<Box<dyn Future<Output = Result<Value>> + Send>>;

/// Returns the future that connects; over a duplicate of the inherited socket `fd`, if there is one.
fn connecting(
    address: &str,
    name: &str,
    options: &Bound<'_, PyDict>,
    fd: Option<i32>,
) -> PyResult<Connecting> {
    let config = options::config(address, name, options)?;
    let Some(fd) = fd.filter(|fd| *fd >= 0) else {
        return Ok(Box::pin(async move { Client::connect(&config).await.map(Value::Client) }));
    };
    // SAFETY: the program guarantees that the descriptor is open; it stays open until this returns, since the
    // interpreter is held.
    let own: OwnedFd = unsafe { BorrowedFd::borrow_raw(fd) }.try_clone_to_owned()?;
    Ok(Box::pin(
        async move { Client::connect_stream(Socket::from_fd(own)?, &config).await.map(Value::Client) },
    ))
}

#[pymethods]
impl Link {
    /// Connects and registers, and waits on this thread.
    #[staticmethod]
    #[pyo3(signature = (address, name, options, fd = None))]
    fn connect(
        py: Python<'_>,
        address: &str,
        name: &str,
        options: &Bound<'_, PyDict>,
        fd: Option<i32>,
    ) -> PyResult<Link> {
        Link::connected(py, connecting(address, name, options, fd)?)
    }

    /// Connects and registers in the background.
    #[staticmethod]
    #[pyo3(signature = (address, name, options, fd = None))]
    fn connect_task(
        py: Python<'_>,
        address: &str,
        name: &str,
        options: &Bound<'_, PyDict>,
        fd: Option<i32>,
    ) -> PyResult<Task> {
        Task::spawn(py, true, connecting(address, name, options, fd)?)
    }

    /// Sends a frame, waiting at most `timeout` seconds for room.
    #[pyo3(signature = (target, frame, timeout, receiver = None))]
    fn send(
        &self,
        py: Python<'_>,
        target: &Bound<'_, PyAny>,
        frame: &Bound<'_, PyAny>,
        timeout: &Bound<'_, PyAny>,
        receiver: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<ClientFrame> {
        let (parts, target, receiver) = read(target, frame, receiver)?;
        let qos = parts.qos;
        if parts.is_nothing() {
            return Ok(ClientFrame::completed(qos));
        }
        let (target, receiver) = (as_str(&target), as_str(&receiver));
        match self.client.try_send(&parts.request(target, receiver)) {
            Ok(TrySend::Sent(pending)) => return Ok(ClientFrame::of(qos, Some(pending))),
            Ok(TrySend::NoRoom) => {}
            Err(e) => return Err(errors::of(py, &e)),
        }
        let until = deadline(options::time(timeout)?);
        let owned = parts.into_owned(target, receiver);
        loop {
            self.wait_room(py, until)?;
            match self.client.try_send(&owned.request()) {
                Ok(TrySend::Sent(pending)) => return Ok(ClientFrame::of(qos, Some(pending))),
                Ok(TrySend::NoRoom) => {}
                Err(e) => return Err(errors::of(py, &e)),
            }
        }
    }

    /// Calls a method, waiting at most `timeout` seconds for room.
    fn call(
        &self,
        py: Python<'_>,
        target: &Bound<'_, PyAny>,
        method: &Bound<'_, PyBytes>,
        frame: &Bound<'_, PyAny>,
        timeout: &Bound<'_, PyAny>,
    ) -> PyResult<Call> {
        let (parts, target) = (Parts::of(frame)?, Text::of(target, "target")?);
        let request = call_request(target.as_str(), method, &parts)?;
        let mut until = None;
        loop {
            match self.caller.try_call_with_ack(&request) {
                Ok(TrySend::Sent((operation, call))) => return Ok(Call { operation, call }),
                Ok(TrySend::NoRoom) => {}
                Err(e) => return Err(of_call(py, &e)),
            }
            let timeout = options::time(timeout)?;
            self.wait_room(py, *until.get_or_insert_with(|| deadline(timeout)))?;
        }
    }

    /// Sends a frame immediately; the answer goes to `completions` with `token`. Returns whether there was room.
    #[pyo3(signature = (target, frame, completions, token, receiver = None))]
    fn send_to(
        &self,
        py: Python<'_>,
        target: &Bound<'_, PyAny>,
        frame: &Bound<'_, PyAny>,
        completions: &Completions,
        token: u64,
        receiver: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<bool> {
        let (parts, target, receiver) = read(target, frame, receiver)?;
        let request = parts.request(as_str(&target), as_str(&receiver));
        let sent = self.client.try_send_to(&request, &completions.queue, token);
        sent.map(|sent| sent.is_sent()).map_err(|e| errors::of(py, &e))
    }

    /// Calls a method immediately; acknowledgement and reply go to `completions`. Returns the id of the call, None
    /// without room.
    fn call_to(
        &self,
        py: Python<'_>,
        target: &Bound<'_, PyAny>,
        method: &Bound<'_, PyBytes>,
        frame: &Bound<'_, PyAny>,
        completions: &Completions,
        tokens: (u64, u64),
    ) -> PyResult<Option<u32>> {
        let (parts, target) = (Parts::of(frame)?, Text::of(target, "target")?);
        let request = call_request(target.as_str(), method, &parts)?;
        let sent = self.caller.try_call_with_ack_to(&request, &completions.queue, tokens.0, tokens.1);
        sent.map(TrySend::sent).map_err(|e| of_call(py, &e))
    }

    /// Forgets a call.
    fn cancel(&self, id: u32) -> bool {
        self.caller.cancel(id)
    }

    /// Waits for room in the background.
    fn room_task(&self, py: Python<'_>) -> PyResult<Task> {
        let mut room = self.client.room();
        Task::spawn(py, false, async move { room.ready().await.map(|()| Value::Bool(true)) })
    }

    fn is_connected(&self) -> bool {
        self.client.is_connected()
    }

    fn name(&self) -> &str {
        self.client.name()
    }

    fn set_ping_interval(&self, seconds: &Bound<'_, PyAny>) -> PyResult<()> {
        if let Some(interval) = options::time(seconds)? {
            self.client.set_ping_interval(interval);
        }
        Ok(())
    }

    /// Closes the connection without waiting. Data that was sent is still written.
    fn close(&self, py: Python<'_>) {
        py.detach(|| self.client.close());
    }

    /// Closes the connection after everything sent is written, waiting at most `timeout` seconds.
    #[pyo3(signature = (timeout = None))]
    fn disconnect(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<bool> {
        let done = run(py, false, waiting::seconds(timeout), disconnecting(self.client.clone()));
        self.client.close();
        done.map(|done| done.is_some())
    }

    fn disconnect_task(&self, py: Python<'_>) -> PyResult<Task> {
        Task::spawn(py, false, disconnecting(self.client.clone()))
    }

    /// Waits until everything that was sent has been passed to the kernel, at most `timeout` seconds.
    #[pyo3(signature = (timeout = None))]
    fn flush(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<bool> {
        let mut flush = self.client.flush();
        let done = waiting::wait(py, waiting::seconds(timeout), |cx| flush.poll_done(cx))?;
        done.transpose().map(|done| done.is_some()).map_err(|e| errors::of(py, &e))
    }

    fn flush_task(&self, py: Python<'_>) -> PyResult<Task> {
        let flush = self.client.flush();
        Task::spawn(py, false, async move { flush.await.map(|()| Value::Bool(true)) })
    }

    /// Ends the client in order within `timeout` seconds. Returns whether it was done in time.
    fn drain(&self, py: Python<'_>, timeout: f64) -> PyResult<bool> {
        let done = run(py, false, None, draining(self.client.clone(), timeout))?;
        Ok(matches!(done, Some(Value::Bool(true))))
    }

    fn drain_task(&self, py: Python<'_>, timeout: f64) -> PyResult<Task> {
        Task::spawn(py, false, draining(self.client.clone(), timeout))
    }

    /// Connects a secondary client, and waits on this thread.
    #[pyo3(signature = (suffix = None))]
    fn secondary(&self, py: Python<'_>, suffix: Option<String>) -> PyResult<Link> {
        Link::connected(py, secondary(self.client.clone(), suffix))
    }

    #[pyo3(signature = (suffix = None))]
    fn secondary_task(&self, py: Python<'_>, suffix: Option<String>) -> PyResult<Task> {
        Task::spawn(py, true, secondary(self.client.clone(), suffix))
    }

    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let (stats, dict) = (self.client.stats(), PyDict::new(py));
        dict.set_item("r_frames", stats.r_frames)?;
        dict.set_item("r_bytes", stats.r_bytes)?;
        dict.set_item("w_frames", stats.w_frames)?;
        dict.set_item("w_bytes", stats.w_bytes)?;
        dict.set_item("queue", stats.queue)?;
        dict.set_item("dropped", stats.dropped)?;
        dict.set_item("unhandled", stats.unhandled)?;
        Ok(dict)
    }

    /// What happens to the connection, from its present state on, for a thread.
    fn events(&self) -> EventStream {
        EventStream::new(self.client.events())
    }

    /// What happens to the connection, for an event loop.
    fn loop_events(&self, py: Python<'_>) -> PyResult<EventStream> {
        EventStream::for_loop(py, self.client.events())
    }

    /// Calls a method that returns a cursor, waiting on this thread.
    fn cursor(
        &self,
        py: Python<'_>,
        target: String,
        method: String,
        params: &Bound<'_, PyAny>,
    ) -> PyResult<Py<PyAny>> {
        let params = Data::of(params)?.into_bytes();
        task::run_to_object(py, cursor(self.caller.clone(), target, method, params))
    }

    fn cursor_task(
        &self,
        py: Python<'_>,
        target: String,
        method: String,
        params: &Bound<'_, PyAny>,
    ) -> PyResult<Task> {
        let params = Data::of(params)?.into_bytes();
        Task::spawn(py, false, cursor(self.caller.clone(), target, method, params))
    }

    /// All frames, for a thread.
    fn frames(&self, py: Python<'_>) -> PyResult<Source> {
        Ok(Source::new(Taker::Frames(self.client.frames().map_err(|e| errors::of(py, &e))?)))
    }

    /// Returns frames, notifications and requests, each for other threads.
    fn serve(&self) -> (Source, Source, Source) {
        let Serving { frames, notifications, requests, .. } = Serving::new(&self.client);
        let source = |intake| Source::new(Taker::Intake(intake));
        (source(frames), source(notifications), source(requests))
    }

    /// Returns all frames, for an event loop.
    fn loop_frames(&self, py: Python<'_>) -> PyResult<LoopSource> {
        LoopSource::new(py, Taker::Frames(self.client.frames().map_err(|e| errors::of(py, &e))?))
    }

    /// Frames, notifications and requests in the order received, for an event loop.
    fn loop_serve(&self, py: Python<'_>) -> PyResult<LoopSource> {
        LoopSource::new(py, Taker::Intake(Serving::in_order(&self.client).frames))
    }
}

impl Link {
    fn wait_room(&self, py: Python<'_>, until: Option<Instant>) -> PyResult<()> {
        let mut room = self.client.room();
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        match waiting::wait(py, left, |cx| room.poll(cx))? {
            Some(Ok(())) => Ok(()),
            Some(Err(e)) => Err(errors::of(py, &e)),
            None => Err(errors::new(py, ErrorKind::Timeout, "the broker takes no more from this client")),
        }
    }
}

fn deadline(timeout: Option<Duration>) -> Option<Instant> {
    timeout.and_then(|timeout| Instant::now().checked_add(timeout))
}

type Read<'py> = (Parts<'py>, Option<Text<'py>>, Option<Text<'py>>);

fn read<'py>(
    target: &Bound<'py, PyAny>,
    frame: &Bound<'py, PyAny>,
    receiver: Option<&Bound<'py, PyAny>>,
) -> PyResult<Read<'py>> {
    let parts = Parts::of(frame)?;
    let target = if parts.has_target() { Some(Text::of(target, "target")?) } else { None };
    let receiver = receiver.map(|receiver| Text::of(receiver, "receiver")).transpose()?;
    Ok((parts, target, receiver))
}

fn as_str<'a>(text: &'a Option<Text<'_>>) -> &'a str {
    text.as_ref().map(Text::as_str).unwrap_or_default()
}

fn call_request<'a>(
    target: &'a str,
    method: &'a Bound<'_, PyBytes>,
    parts: &'a Parts<'_>,
) -> PyResult<CallRequest<'a>> {
    let method = std::str::from_utf8(method.as_bytes())
        .map_err(|_| pyo3::exceptions::PyValueError::new_err("the method is not UTF-8"))?;
    let request = CallRequest::new(target, method, parts.payload.payload(), parts.qos);
    Ok(request.deadline(Deadline::Never))
}

fn of_call(py: Python<'_>, e: &RpcError) -> PyErr {
    match e.bus_error() {
        Some(e) => errors::of(py, e),
        None => errors::new(py, ErrorKind::Other, "the call could not be sent"),
    }
}

async fn disconnecting(client: Client) -> Result<Value> {
    client.disconnect().await;
    Ok(Value::Bool(true))
}

async fn draining(client: Client, timeout: f64) -> Result<Value> {
    let bound = waiting::seconds(Some(timeout)).unwrap_or(Duration::MAX);
    Ok(Value::Bool(client.drain(bound).await))
}

async fn secondary(client: Client, suffix: Option<String>) -> Result<Value> {
    let made = match suffix {
        Some(suffix) => client.secondary_named(&suffix).await,
        None => client.secondary().await,
    };
    made.map(Value::Client)
}

async fn cursor(caller: Caller, target: String, method: String, params: Bytes) -> Result<Value> {
    Ok(match caller.cursor(&target, &method, params).await {
        Ok(cursor) => Value::Cursor(cursor),
        Err(e) => Value::Failed(e),
    })
}
