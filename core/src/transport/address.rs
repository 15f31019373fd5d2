//! Where a broker listens (PROTOCOL.md section 1).

use crate::error::{Error, ErrorKind};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// The address of a broker.
///
/// ```
/// use busrt::transport::Address;
/// assert!(matches!("/tmp/busrt.sock".parse(), Ok(Address::Unix(_))));
/// assert!(matches!("bus.ipc".parse(), Ok(Address::Unix(_))));
/// assert!(matches!("127.0.0.1:9924".parse(), Ok(Address::Tcp(_))));
/// assert!(matches!("[::1]:9924".parse(), Ok(Address::Tcp(_))));
/// assert!("localhost".parse::<Address>().is_err());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    /// A UNIX stream socket: the address starts with `/` or ends with `.sock`, `.socket` or `.ipc`.
    Unix(PathBuf),
    /// `host:port`, an IPv6 address in brackets.
    Tcp(String),
}

impl FromStr for Address {
    type Err = Error;

    fn from_str(text: &str) -> Result<Address, Error> {
        if text.starts_with('/') || [".sock", ".socket", ".ipc"].iter().any(|end| text.ends_with(end)) {
            return Ok(Address::Unix(text.into()));
        }
        let wrong = |why: &str| {
            Err(Error::new(
                ErrorKind::Data,
                format!("{text:?} is no address: {why} (a socket's path, or host:port, IPv6 as [addr]:port)"),
            ))
        };
        let Some((host, port)) = text.rsplit_once(':') else {
            return wrong("it is neither a path nor host:port");
        };
        if port.parse::<u16>().is_err() {
            return wrong("the port is no number from 0 to 65535");
        }
        let bracketed = host.starts_with('[') && host.ends_with(']') && host.len() > 2;
        if host.is_empty() {
            return wrong("the host is missing");
        }
        if !bracketed && (host.contains([':', '/', '[', ']']) || host.contains(char::is_whitespace)) {
            return wrong("that is no host");
        }
        Ok(Address::Tcp(text.to_owned()))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Unix(path) => write!(f, "{}", path.display()),
            Address::Tcp(host_port) => f.write_str(host_port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_address() {
        for text in
            ["", "localhost", ":9924", "host:", "host:99999", "::1:9924", "[]:1", "ws://host:1", "a b:1"]
        {
            let e = text.parse::<Address>().expect_err(text);
            assert_eq!(e.kind(), ErrorKind::Data);
        }
    }

    #[test]
    fn shows_as_it_was_written() {
        for text in ["/tmp/busrt.sock", "rel.socket", "localhost:9924", "[::1]:1"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
    }
}
