//! The client for programs without an async runtime. It has the same names as the async client; each call waits on
//! its thread.
//!
//! ```no_run
//! # fn main() -> busrt::Result<()> {
//! use busrt::blocking::Client;
//! use busrt::{QoS, client::Config};
//!
//! let client = Client::connect(&Config::new("/tmp/busrt.sock", "plant.logger"))?;
//! let frames = client.frames()?;
//! client.subscribe("plant/#", QoS::Processed)?;
//! for frame in frames {
//!     println!("{} {:?}: {} bytes", frame.sender(), frame.topic(), frame.payload().len());
//! }
//! # Ok(()) }
//! ```
//!
//! **Time limits.** An operation or a call waits for its answer at most for the client's
//! [`timeout`](crate::client::Config::timeout). A [`Request`](crate::client::Request) or a
//! [`CallRequest`](crate::rpc::CallRequest) can have its own deadline, or none. Methods that receive wait without a
//! limit, and have a variant with a timeout. Each method that waits has a variant whose name ends in `_with` and that
//! takes a [`Wait`](crate::client::Wait): the longest time for which this thread waits, and a check that runs at
//! intervals, for programs that must check for signals.
//!
//! **Threads.** Any number of threads may use one client at the same time. A waiting thread sleeps and does not delay
//! other threads. Within an async runtime of the program every method that waits fails with
//! [`NotSupported`](crate::ErrorKind::NotSupported), and so does every use of a client in a child made by fork.
//!
//! The clients live in the [runtime](crate::runtime) of the process, which reads their sockets. The rest of this
//! module needs no runtime: operations are written on the thread of the program.
//!
//! | file | |
//! | --- | --- |
//! | `client`, `pending` | operations and their outcomes |
//! | `frames`, `events` | received frames, and events of the connection |
//! | `rpc`, `cursor` | calls, long results |
//! | `handlers`, `server`, `source`, `pool` | serving: threads that take requests and handle them |
//! | `owner`, `poll` | checks of the process and the thread; waiting on a thread |

mod client;
#[cfg(feature = "cursors")]
mod cursor;
mod events;
mod frames;
#[cfg(feature = "rpc")]
mod handlers;
mod owner;
mod pending;
mod poll;
#[cfg(feature = "rpc")]
mod pool;
#[cfg(feature = "rpc")]
mod rpc;
#[cfg(feature = "rpc")]
mod server;
#[cfg(feature = "rpc")]
mod source;
#[cfg(test)]
#[cfg(unix)]
mod tests;

pub use client::Client;
#[cfg(feature = "cursors")]
pub use cursor::CursorStream;
pub use events::Events;
pub use frames::Frames;
#[cfg(feature = "rpc")]
pub use handlers::Handlers;
pub use pending::PendingOperation;
#[cfg(feature = "rpc")]
pub use rpc::{Caller, PendingCall, Rpc};
