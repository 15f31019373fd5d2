//! `send` and `publish`, and the sources of payloads.

use crate::args::{Args, Message, Publication};
use crate::failure::{Failure, Result};
use crate::output::Output;
use busrt::{Error, ErrorKind, QoS};
use bytes::Bytes;
use std::ffi::OsStr;
use std::io::{IsTerminal, Read, Write};

pub(crate) async fn send(args: &Args, message: &Message, out: &mut Output) -> Result<()> {
    let payload = payload(message.payload.as_deref(), out)?;
    let client = crate::connection::connect(args).await?;
    if message.target.contains(['*', '?']) {
        client.broadcast(&message.target, payload, QoS::Processed).await?;
    } else {
        client.send(&message.target, payload, QoS::Processed).await.map_err(|e| about(&message.target, e))?;
    }
    client.disconnect().await;
    out.done()
}

pub(crate) async fn publish(args: &Args, publication: &Publication, out: &mut Output) -> Result<()> {
    let payload = payload(publication.payload.as_deref(), out)?;
    let client = crate::connection::connect(args).await?;
    client.publish(&publication.topic, payload, QoS::Processed).await?;
    client.disconnect().await;
    out.done()
}

/// Adds the target to an error that does not name it.
pub(crate) fn about(target: &str, e: Error) -> Error {
    if e.kind() == ErrorKind::NotRegistered { Error::new(e.kind(), target.to_owned()) } else { e }
}

/// Returns the payload of the command line, or the content of the standard input.
pub(crate) fn payload(given: Option<&OsStr>, out: &Output) -> Result<Bytes> {
    match given {
        Some(text) => Ok(text.to_owned().into_encoded_bytes().into()),
        None => from_stdin(out),
    }
}

/// Reads the whole standard input. The client is not connected yet, so that no peer waits for it.
pub(crate) fn from_stdin(out: &Output) -> Result<Bytes> {
    let mut stdin = std::io::stdin();
    if stdin.is_terminal() && !out.is_silent() {
        let _ = writeln!(std::io::stderr(), "busrt: reading the payload from the terminal, Ctrl-D ends it");
    }
    let mut bytes = vec![];
    stdin
        .read_to_end(&mut bytes)
        .map_err(|e| Failure::Other(format!("cannot read the standard input: {e}")))?;
    Ok(bytes.into())
}
