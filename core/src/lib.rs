//! A message bus for the programs on one machine and its local network: the broker, its clients and RPC.
//!
//! The bus carries one-to-one messages, one-to-many messages by name mask, and publications by MQTT-style topic, each
//! with one of four [`QoS`] levels; RPC is built on messages. Clients connect over UNIX sockets, over TCP, or within
//! the broker's own process; the client type is the same for all of these.
//!
//! ```no_run
//! # async fn run() -> busrt::Result<()> {
//! # #[cfg(feature = "ipc")] {
//! use busrt::client::{Client, Config};
//! use busrt::QoS;
//!
//! let client = Client::connect(&Config::new("/tmp/busrt.sock", "sensor.1")).await?;
//! client.publish("plant/temperature", "21.5", QoS::Processed).await?;
//! # }
//! # Ok(()) }
//! ```
//!
//! | to | see | feature |
//! | --- | --- | --- |
//! | connect to a broker | [`client`] | `ipc` (default) |
//! | make calls and serve them | [`rpc`] | `rpc` (default) |
//! | do so without an async runtime | [`blocking`] | `blocking` |
//! | connect from a plain thread, for bindings | [`runtime`] | `runtime` |
//! | pack and unpack parameters and results | [`msgpack`] | `msgpack` |
//! | return long results item by item | [`cursor`] | `cursors` |
//! | run a broker within a program | [`broker`] | `broker` |
//! | encode and decode the protocol yourself | [`proto`], [`matching`] | none: no runtime, no sockets |
//!
//! `full` is `ipc`, `rpc`, `broker` and `msgpack`. The features `server` and `cli` build the binaries `busrtd` and
//! `busrt`, `std-alloc` makes them use the system's allocator. The wire protocol is specified in docs/protocol.md in
//! the project's repository.
#![cfg_attr(docsrs, feature(doc_cfg))]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails"))]

mod error;
#[cfg(feature = "_io")]
mod fork;
mod frame;
#[cfg(all(unix, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
#[cfg(any(feature = "rpc", all(feature = "broker", unix)))]
mod log_limit;
pub mod matching;
#[cfg(feature = "msgpack")]
pub mod msgpack;
#[cfg(any(feature = "broker", feature = "cli"))]
pub mod params;
#[cfg(feature = "_io")]
mod poll_tuner;
mod prefetch;
pub mod proto;
#[cfg_attr(not(any(feature = "broker", feature = "rpc")), allow(dead_code, reason = "only errors are shown"))]
mod shown;

#[cfg(feature = "blocking")]
pub mod blocking;
#[cfg(feature = "broker")]
pub mod broker;
#[cfg(feature = "_io")]
pub mod client;
#[cfg(feature = "cursors")]
pub mod cursor;
#[cfg(feature = "rpc")]
pub mod rpc;
#[cfg(feature = "runtime")]
pub mod runtime;
#[cfg(feature = "_io")]
pub mod transport;

/// The crate of [`Bytes`](bytes::Bytes), the type of payloads.
pub use bytes;
#[cfg(feature = "_io")]
pub use client::Client;
pub use error::{Error, ErrorKind, Result};
pub use frame::Frame;
pub use proto::op::{FrameKind, QoS};
