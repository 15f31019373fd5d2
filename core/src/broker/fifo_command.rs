//! One line of a FIFO, read as an operation (docs/protocol.md section 10).

use crate::error::ErrorKind;
use crate::params;
use crate::proto::request::Operation;
use crate::proto::rpc;
use bytes::Bytes;
use std::borrow::Cow;

/// Parses a line without its line feed. Returns `None` for a blank line.
///
/// # Errors
///
/// The reason why the line cannot be executed, for the log.
pub(crate) fn parse_line(line: &[u8]) -> Result<Option<Operation<'_, Bytes>>, Cow<'static, str>> {
    let line = std::str::from_utf8(line).map_err(|_| "the line is not UTF-8")?;
    let line = line.trim_end_matches(['\n', '\r']);
    if line.trim().is_empty() {
        return Ok(None);
    }
    // A NUL would end a name or a topic prematurely.
    if line.contains('\0') {
        return Err("the line contains a NUL".into());
    }
    let (target, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let text = || Bytes::copy_from_slice(rest.as_bytes());
    Ok(Some(if let Some(topic) = target.strip_prefix('=') {
        // The FIFO sends in the broker's name, but shells may not publish on the broker's own topics.
        if topic.starts_with(".broker/") {
            return Err(ErrorKind::AccessDenied.to_string().into());
        }
        Operation::Publish { topic, payload: text() }
    } else if let Some(message) = rest.strip_prefix('.') {
        let notification = [&[rpc::NOTIFICATION], message.as_bytes()].concat();
        Operation::Message { target, payload: notification.into() }
    } else if let Some(call) = rest.strip_prefix(':') {
        let mut words = call.split_whitespace();
        let method = words.next().ok_or("the method is missing")?;
        let params = params::pack(words).map_err(|_| "a parameter is not key=value")?;
        let request = [&rpc::request_header(0, method)[..], &params].concat();
        Operation::Message { target, payload: request.into() }
    } else if target.contains(['*', '?']) {
        Operation::Broadcast { mask: target, payload: text() }
    } else {
        Operation::Message { target, payload: text() }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn unhex(value: &Value) -> Vec<u8> {
        let digits = value.as_str().unwrap();
        (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
    }

    #[test]
    fn wire_vectors() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors/fifo.json");
        let all: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        for vector in all["vectors"].as_array().unwrap() {
            let line = unhex(&vector["line"]);
            let Ok(operation) = parse_line(&line) else {
                assert_eq!(vector["error"], true, "{}", vector["name"]);
                continue;
            };
            let operation = operation.unwrap();
            let name = match operation {
                Operation::Publish { .. } => "publish",
                Operation::Broadcast { .. } => "broadcast",
                Operation::Message { .. } => "message",
                _ => "not a FIFO operation",
            };
            assert_eq!(vector["operation"], json!(name), "{}", vector["name"]);
            assert_eq!(vector["subject"], json!(operation.subject()), "{}", vector["name"]);
            assert_eq!(operation.payload().unwrap(), unhex(&vector["payload"]), "{}", vector["name"]);
        }
    }

    #[test]
    fn blank_lines() {
        for line in [&b""[..], b"   ", b"\r", b"\t \r"] {
            assert_eq!(parse_line(line), Ok(None));
        }
    }
}
