//! Our broker and clients, and those of the crate busrt 0.5.6 ("theirs"), behind one interface each, so that one set
//! of tests runs over every combination of them. All functions block the calling thread, but never for ever.

mod bed;
mod ours;
mod peer;
mod process;
mod rpc;
mod theirs;

pub use bed::{Bed, Maker, Transport};
pub use peer::{Kind, Op, Peer, Seen};
pub use process::{Busrtd, Cli};
pub use rpc::{Event, RpcKind, RpcPeer, RpcResult};

use std::time::Duration;

/// A timeout after which anything counts as hanging. No test measures time.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Runs a future to completion on `runtime`.
pub fn wait<T>(runtime: &tokio::runtime::Runtime, future: impl Future<Output = T>) -> T {
    runtime.block_on(async { tokio::time::timeout(PATIENCE, future).await }).expect("it hangs")
}

/// Calls `attempt` until it returns a value.
pub fn until<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let started = std::time::Instant::now();
    loop {
        if let Some(result) = attempt() {
            return result;
        }
        assert!(started.elapsed() < PATIENCE, "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
