//! Helpers of all fuzz targets: choices made from the input, plain models of the protocol, and a session.

pub mod choices;
pub mod matching;
pub mod naive;
pub mod session;
pub mod stream;
