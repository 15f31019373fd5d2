//! The loop that accepts connections, for every kind of listener.

use super::connection;
use super::core::Core;
use crate::error::{Error, ErrorKind};
use crate::transport::Socket;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// Accepting pauses this long after its first failure, such as running out of descriptors; the pause
/// doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Returns the error for an address that cannot be listened on.
pub(super) fn failed(address: &str, e: io::Error) -> Error {
    Error::new(ErrorKind::Io, format!("cannot listen on {address}")).with_source(e)
}

/// Serves every connection that `accept` returns. Failures of accepting, such as running out of
/// descriptors, are temporary: the first is logged, and accepting continues after a pause.
pub(super) async fn serve_all(
    core: Arc<Core>,
    port: Arc<str>,
    mut accept: impl AsyncFnMut() -> io::Result<Socket>,
) {
    let mut pause = FIRST_PAUSE;
    loop {
        match accept().await {
            Ok(socket) => {
                pause = FIRST_PAUSE;
                tokio::spawn(connection::serve(core.clone(), socket, port.clone()));
            }
            // The peer closed the connection before it was accepted.
            Err(e) if matches!(e.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::NotConnected) => {}
            Err(e) => {
                if pause == FIRST_PAUSE {
                    log::warn!("cannot accept connections on {port}: {e}");
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}
