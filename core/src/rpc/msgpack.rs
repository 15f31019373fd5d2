//! MessagePack parameters and results of calls.
//!
//! ```
//! use busrt::bytes::Bytes;
//! use busrt::msgpack;
//! use busrt::rpc::{Call, Handlers, RpcError};
//! use serde::Deserialize;
//!
//! #[derive(Deserialize)]
//! struct Sum {
//!     a: i64,
//!     b: i64,
//! }
//!
//! struct Calculator;
//!
//! impl Handlers for Calculator {
//!     async fn on_call(&self, call: Call) -> Result<Bytes, RpcError> {
//!         match call.method() {
//!             "add" => {
//!                 let Sum { a, b } = call.unpack_params()?;
//!                 Ok(msgpack::pack(&(a.saturating_add(b)))?)
//!             }
//!             _ => Err(RpcError::method_not_found()),
//!         }
//!     }
//! }
//! ```

use super::{Call, Notification, Reply, RpcError};
use crate::msgpack::{self, explained};
use serde::de::DeserializeOwned;

impl Call {
    /// Unpacks the parameters, MessagePack by convention. Structs may be maps or arrays.
    ///
    /// # Errors
    ///
    /// -32602 with a text for the caller that says what was expected and what was found.
    pub fn unpack_params<T: DeserializeOwned>(&self) -> Result<T, RpcError> {
        explained(self.params())
            .map_err(|text| RpcError::invalid_params(format!("invalid parameters: {text}")))
    }
}

impl Reply {
    /// Unpacks the result, MessagePack by convention. Structs may be maps or arrays.
    ///
    /// # Errors
    ///
    /// -32700 with a text that says what was expected and what was found.
    pub fn unpack<T: DeserializeOwned>(&self) -> Result<T, RpcError> {
        explained(self.payload()).map_err(|text| RpcError::parse(format!("unexpected result: {text}")))
    }
}

impl Notification {
    /// Unpacks the payload.
    ///
    /// # Errors
    /// The errors of [`msgpack::unpack`].
    pub fn unpack<T: DeserializeOwned>(&self) -> crate::Result<T> {
        msgpack::unpack(self.payload())
    }
}
