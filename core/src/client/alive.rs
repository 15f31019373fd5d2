//! Keeps the runtime of the process from being shut down while a connection has unwritten data.

#[cfg(feature = "runtime")]
pub(super) use crate::runtime::Alive;

/// A placeholder: without that runtime, there is nothing to keep.
#[cfg(not(feature = "runtime"))]
#[derive(Debug)]
pub(super) struct Alive;

#[cfg(not(feature = "runtime"))]
impl Alive {
    pub(super) fn current(_name: &str) -> Alive {
        Alive
    }

    pub(super) async fn closing(&mut self) {
        std::future::pending().await
    }

    pub(super) fn is_closing(&self) -> bool {
        false
    }
}
