//! The private module `busrt._busrt`: the client of the crate `busrt` for the Python packages `busrt` and
//! `busrt_async`.
//!
//! | module | |
//! | --- | --- |
//! | `waiting` | waits without the interpreter and checks for signals; the end of the interpreter |
//! | `errors` | maps errors to exceptions |
//! | `frame` | the class `Frame` |
//! | `outgoing` | reads frames that a program sends |
//! | `operation`, `call` | operations and calls for which a plain thread waits |
//! | `link` | a connection |
//! | `options` | the options of a connection |
//! | `source`, `taker` | received frames and requests, in batches |
//! | `responder` | the answer to a request |
//! | `completions`, `task` | results for event loops |
//! | `events` | what happens to a connection |
//! | `topics` | finds the handlers of a topic |
//! | `cursor` | long results, item by item |
//! | `broker`, `broker_options` | a broker within the process |

mod broker;
mod broker_options;
mod call;
mod completions;
mod cursor;
mod errors;
mod events;
mod frame;
mod lazy;
mod link;
mod operation;
mod options;
mod outgoing;
mod responder;
mod source;
mod taker;
mod task;
mod topics;
mod waiting;

use pyo3::prelude::*;

#[pymodule(gil_used = true)]
fn _busrt(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<frame::FrameBase>()?;
    module.add_class::<frame::Frame>()?;
    module.add_class::<operation::ClientFrame>()?;
    module.add_class::<operation::Completed>()?;
    module.add_class::<call::Call>()?;
    module.add_class::<link::Link>()?;
    module.add_class::<source::Source>()?;
    module.add_class::<source::LoopSource>()?;
    module.add_class::<responder::Responder>()?;
    module.add_class::<completions::Completions>()?;
    module.add_class::<task::Task>()?;
    module.add_class::<events::EventStream>()?;
    module.add_class::<topics::TopicMatcher>()?;
    module.add_class::<cursor::RemoteCursor>()?;
    module.add_class::<cursor::Cursors>()?;
    module.add_class::<cursor::Answering>()?;
    module.add_class::<broker::Broker>()?;
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    // With the first object of a class that has a `__dict__`, pyo3 initializes a `PyOnceLock`; see lazy.rs.
    Py::new(module.py(), operation::ClientFrame::completed(busrt::QoS::No))?;
    waiting::register(module)
}
