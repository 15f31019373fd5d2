//! The failures of a command.

use crate::payload::{Payload, visible};
use busrt::proto::rpc;
use busrt::rpc::RpcError;
use owo_colors::{OwoColorize, Style};
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

pub(crate) type Result<T> = std::result::Result<T, Failure>;

#[derive(Debug)]
pub(crate) enum Failure {
    /// The command line is wrong.
    Usage(clap::Error),
    Bus(busrt::Error),
    Rpc(RpcError),
    /// The standard output cannot be written to.
    Output(io::Error),
    Other(String),
}

impl From<busrt::Error> for Failure {
    fn from(e: busrt::Error) -> Failure {
        Failure::Bus(e)
    }
}

impl From<RpcError> for Failure {
    fn from(e: RpcError) -> Failure {
        Failure::Rpc(e)
    }
}

impl Failure {
    /// Reports the failure in one line on the standard error output. Returns the exit code.
    pub(crate) fn report(self) -> ExitCode {
        let text = match self {
            Failure::Usage(e) => {
                let _ = e.print();
                return ExitCode::from(2);
            }
            // `busrt … | head`: the reader has closed the pipe.
            Failure::Output(e) if e.kind() == io::ErrorKind::BrokenPipe => return ExitCode::SUCCESS,
            Failure::Output(e) => format!("cannot write to the standard output: {e}"),
            Failure::Bus(e) => e.to_string(),
            Failure::Rpc(e) => rpc_text(&e),
            Failure::Other(text) => text,
        };
        let mut stderr = io::stderr();
        let name = if stderr.is_terminal() && may_colour() {
            "busrt:".style(Style::new().red().bold()).to_string()
        } else {
            "busrt:".to_owned()
        };
        // Nothing can be done about an error here; `eprintln` would panic.
        let _ = writeln!(stderr, "{name} {}", one_line(&text));
        ExitCode::FAILURE
    }
}

fn rpc_text(e: &RpcError) -> String {
    let data = Payload::of(e.data()).compact();
    match &*data {
        "" => format!("RPC error {}{}", e.code(), usual_text(e.code())),
        data => format!("RPC error {}: {data}", e.code()),
    }
}

/// Returns a text for errors of peers that send only a code.
fn usual_text(code: i16) -> &'static str {
    match code {
        rpc::CODE_PARSE => ": parse error",
        rpc::CODE_INVALID_REQUEST => ": invalid request",
        rpc::CODE_METHOD_NOT_FOUND => ": method not found",
        rpc::CODE_INVALID_PARAMS => ": invalid parameters",
        rpc::CODE_INTERNAL => ": internal error",
        rpc::CODE_NOT_FOUND => ": not found",
        _ => "",
    }
}

fn one_line(text: &str) -> String {
    visible(text)
        .split(['\n', '\t'])
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}

/// Returns true if the environment lets programs use colours.
pub(crate) fn may_colour() -> bool {
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    !set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_one_line() {
        assert_eq!(one_line("a\n\n  b\r\n\u{1b}[1mc"), "a b\\r \\u{1b}[1mc");
        assert_eq!(rpc_text(&RpcError::new(-32603, "it\nbroke")), "RPC error -32603: it\nbroke");
        assert_eq!(rpc_text(&RpcError::new(5, &b"\x81\xa1a\x01"[..])), r#"RPC error 5: {"a":1}"#);
        assert_eq!(rpc_text(&RpcError::new(5, &b"\xff\xff"[..])), "RPC error 5: ffff");
        assert_eq!(rpc_text(&RpcError::new(5, "")), "RPC error 5");
        assert_eq!(rpc_text(&RpcError::new(-32601, "")), "RPC error -32601: method not found");
    }
}
