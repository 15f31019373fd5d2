//! Long results, item by item: the asking side and the serving side.
//!
//! The core keeps the cursors of a server and answers the calls for their items. The items come from an iterator of the
//! program. Only the thread or the event loop that answers a call runs it: while `Answering` is advanced, the core asks
//! for items, and the Python side supplies them.

use crate::errors;
use crate::outgoing::Data;
use crate::task::{self, Task, Value};
use crate::waiting;
use busrt::ErrorKind;
use busrt::cursor::{Cursor, CursorMap, CursorStream};
use busrt::rpc::RpcError;
use bytes::Bytes;
use parking_lot::Mutex;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use tokio::sync::{mpsc, oneshot};

/// A cursor of another client. May be used from any thread.
#[pyclass(module = "busrt._busrt", frozen)]
pub(crate) struct RemoteCursor(Arc<tokio::sync::Mutex<CursorStream>>);

impl RemoteCursor {
    pub(crate) fn new(stream: CursorStream) -> RemoteCursor {
        RemoteCursor(Arc::new(tokio::sync::Mutex::new(stream)))
    }
}

#[pymethods]
impl RemoteCursor {
    /// The next `count` items, fewer at the end.
    fn take(&self, py: Python<'_>, count: usize) -> PyResult<Py<PyAny>> {
        task::run_to_object(py, items(self.0.clone(), count))
    }

    fn take_task(&self, py: Python<'_>, count: usize) -> PyResult<Task> {
        Task::spawn(py, false, items(self.0.clone(), count))
    }
}

async fn items(cursor: Arc<tokio::sync::Mutex<CursorStream>>, count: usize) -> busrt::Result<Value> {
    Ok(match cursor.lock().await.next_bulk(count).await {
        Ok(items) => Value::Items(items),
        Err(e) => Value::Failed(e),
    })
}

tokio::task_local! {
    /// Takes the questions that arise while a call is answered.
    static WANTS: mpsc::UnboundedSender<Want>;
}

/// A question for items of an iterator.
pub(crate) struct Want {
    iterator: Arc<Py<PyAny>>,
    count: usize,
    answer: oneshot::Sender<Result<Vec<Bytes>, RpcError>>,
}

/// An iterator of the program. It is freed when it has ended or was not used for long.
struct Items(Arc<Py<PyAny>>);

impl Cursor for Items {
    async fn next(&mut self) -> Result<Option<Bytes>, RpcError> {
        Ok(self.next_bulk(1).await?.pop())
    }

    async fn next_bulk(&mut self, count: usize) -> Result<Vec<Bytes>, RpcError> {
        let (answer, answered) = oneshot::channel();
        let want = Want { iterator: self.0.clone(), count, answer };
        let is_asked = WANTS.try_with(|wants| wants.send(want).is_ok()).unwrap_or(false);
        if !is_asked {
            return Err(RpcError::internal("the cursor is not served"));
        }
        answered.await.unwrap_or_else(|_| Err(RpcError::internal("the cursor was not served")))
    }
}

/// The cursors of an RPC server. May be used from any thread.
#[pyclass(module = "busrt._busrt", frozen)]
pub(crate) struct Cursors(CursorMap);

#[pymethods]
impl Cursors {
    /// Cursors that are dropped when they were not used for `ttl` seconds.
    #[new]
    fn new(ttl: f64) -> Cursors {
        Cursors(CursorMap::new(waiting::seconds(Some(ttl)).unwrap_or(std::time::Duration::MAX)))
    }

    /// Adds an iterator. Returns what the method replies.
    fn add<'py>(&self, py: Python<'py>, iterator: Py<PyAny>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &CursorMap::reply(self.0.add(Items(Arc::new(iterator)))))
    }

    fn __len__(&self) -> usize {
        self.0.len()
    }

    /// Begins to answer a call of `N` or `NB`.
    fn answer(&self, method: String, params: &Bound<'_, PyAny>) -> PyResult<Answering> {
        let (map, params) = (self.0.clone(), Data::of(params)?.into_bytes());
        let (sender, wants) = mpsc::unbounded_channel();
        let answer = async move {
            map.handle(&method, &params).await.unwrap_or_else(|| Err(RpcError::method_not_found()))
        };
        let call = Call { answer: Box::pin(WANTS.scope(sender, answer)), wants };
        Ok(Answering { call: Arc::new(tokio::sync::Mutex::new(call)), want: Mutex::new(None) })
    }
}

/// A call for items that is being answered.
struct Call {
    answer: Pin<Box<dyn Future<Output = Result<Bytes, RpcError>> + Send>>,
    wants: mpsc::UnboundedReceiver<Want>,
}

/// What is to be done next for a call.
pub(crate) enum Step {
    Supply(Want),
    Reply(Bytes),
}

impl Call {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Step, RpcError>> {
        if let Poll::Ready(answer) = self.answer.as_mut().poll(cx) {
            return Poll::Ready(answer.map(Step::Reply));
        }
        match self.wants.poll_recv(cx) {
            Poll::Ready(Some(want)) => Poll::Ready(Ok(Step::Supply(want))),
            _ => Poll::Pending,
        }
    }
}

/// A call for items that is being answered, by one thread or task. Dropping it gives it up.
#[pyclass(module = "busrt._busrt", frozen)]
pub(crate) struct Answering {
    call: Arc<tokio::sync::Mutex<Call>>,
    want: Mutex<Option<Want>>,
}

type Question = (Py<PyAny>, usize);

impl Answering {
    fn object(&self, py: Python<'_>, step: Result<Step, RpcError>) -> PyResult<Py<PyAny>> {
        match step {
            Ok(Step::Supply(want)) => {
                let question: Question = (want.iterator.clone_ref(py), want.count);
                let before = self.want.lock().replace(want);
                drop(before);
                Ok(question.into_pyobject(py)?.into_any().unbind())
            }
            Ok(Step::Reply(reply)) => Ok(PyBytes::new(py, &reply).into_any().unbind()),
            Err(e) => Err(errors::of_rpc(py, &e)),
        }
    }
}

#[pymethods]
impl Answering {
    /// Waits for the next step: an iterator and the number of items to supply, or the reply (bytes), or RpcException.
    fn step(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let step = waiting::wait(py, None, |cx| match self.call.try_lock() {
            Ok(mut call) => call.poll(cx),
            Err(_) => Poll::Ready(Err(RpcError::internal("the call is answered by another thread"))),
        })?;
        match step {
            Some(step) => self.object(py, step),
            None => Err(errors::new(py, ErrorKind::Timeout, "timed out")),
        }
    }

    /// The next step if there is one: None while another call uses the cursor.
    fn step_now(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        let Ok(mut call) = self.call.try_lock() else { return Ok(None) };
        match call.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(step) => self.object(py, step).map(Some),
            Poll::Pending => Ok(None),
        }
    }

    /// Waits in the background until `step_of` has the next step.
    fn step_task(&self, py: Python<'_>) -> PyResult<Task> {
        let call = self.call.clone();
        Task::spawn(py, false, async move {
            let mut call = call.lock().await;
            Ok(match std::future::poll_fn(|cx| call.poll(cx)).await {
                Ok(step) => Value::Step(step),
                Err(e) => Value::Failed(e),
            })
        })
    }

    /// The step that a task has yielded.
    fn step_of(&self, py: Python<'_>, task: &Task) -> PyResult<Py<PyAny>> {
        match task.take() {
            Some(Ok(Value::Step(step))) => self.object(py, Ok(step)),
            Some(Ok(Value::Failed(e))) => Err(errors::of_rpc(py, &e)),
            Some(Err(e)) => Err(errors::of(py, &e)),
            _ => Err(errors::new(py, ErrorKind::Other, "the task has no step")),
        }
    }

    /// Supplies the items that were asked for, fewer at the end: bytes, each one MessagePack value.
    fn supply(&self, items: Vec<Bound<'_, PyAny>>) -> PyResult<()> {
        let items: PyResult<Vec<Bytes>> =
            items.iter().map(|item| Data::of(item).map(Data::into_bytes)).collect();
        self.give(Ok(items?));
        Ok(())
    }

    /// Says that the items cannot be supplied.
    fn fail(&self, code: i16, data: &Bound<'_, PyAny>) -> PyResult<()> {
        let data = Data::of(data)?.into_bytes();
        self.give(Err(RpcError::new(code, data)));
        Ok(())
    }
}

impl Answering {
    fn give(&self, result: Result<Vec<Bytes>, RpcError>) {
        let want = self.want.lock().take();
        if let Some(want) = want {
            // The call may have been given up.
            let _ = want.answer.send(result);
        }
    }
}
