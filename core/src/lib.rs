//! A message bus for the programs on one machine and its local network.
#![cfg_attr(docsrs, feature(doc_cfg))]

mod error;
mod frame;
pub mod matching;
#[cfg(any(feature = "broker", feature = "cli"))]
pub mod params;
pub mod proto;

#[cfg(feature = "broker")]
pub mod broker;
#[cfg(feature = "_io")]
pub mod client;
#[cfg(feature = "cursors")]
pub mod cursor;
#[cfg(feature = "rpc")]
pub mod rpc;
#[cfg(feature = "_io")]
pub mod transport;

#[cfg(feature = "_io")]
pub use client::Client;
#[cfg(feature = "blocking")]
pub use client::blocking;
pub use error::{Error, ErrorKind, Result};
pub use frame::Frame;
pub use proto::op::{FrameKind, QoS};
