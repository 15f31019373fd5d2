//! What the fuzz targets share: choices made from the input, plain models of the protocol, and a session.

pub mod choices;
pub mod matching;
pub mod naive;
pub mod session;
pub mod stream;
