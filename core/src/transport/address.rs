//! Addresses of brokers (docs/protocol.md section 1).

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
    /// A TCP address, `host:port`; an IPv6 address is in brackets.
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
                format!(
                    "invalid address {text:?}: {why} (a socket's path, or host:port, IPv6 as [addr]:port)"
                ),
            ))
        };
        let Some((host, port)) = text.rsplit_once(':') else {
            return wrong("it is neither a path nor host:port");
        };
        if port.parse::<u16>().is_err() || port.starts_with('+') {
            return wrong("the port must be a number from 0 to 65535");
        }
        let in_brackets = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        if in_brackets.is_some_and(|host| !is_ipv6(host)) {
            return wrong("the brackets must enclose an IPv6 address");
        }
        if host.is_empty() {
            return wrong("the host is missing");
        }
        let forbidden = |c: char| c.is_whitespace() || c.is_control() || ":/[]%".contains(c);
        if in_brackets.is_none() && host.contains(forbidden) {
            return wrong("the host contains an invalid character");
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

/// Returns true for an IPv6 address, with or without a zone such as `%eth0`.
fn is_ipv6(text: &str) -> bool {
    let (address, zone) = text.split_once('%').unwrap_or((text, "1"));
    let forbidden = |c: char| c.is_whitespace() || c.is_control() || "%[]/".contains(c);
    address.parse::<std::net::Ipv6Addr>().is_ok() && !zone.is_empty() && !zone.contains(forbidden)
}

/// Maximum length of the path of a UNIX socket, in bytes: `sun_path` without the NUL at its end.
#[cfg(unix)]
const MAX_SOCKET_PATH_BYTES: usize =
    if cfg!(any(target_os = "linux", target_os = "android")) { 107 } else { 103 };

/// Returns an error for a path that a socket cannot have.
#[cfg(unix)]
pub(crate) fn check_socket_path(path: &std::path::Path) -> std::io::Result<()> {
    let bytes = path.as_os_str().as_encoded_bytes();
    let why = if bytes.len() > MAX_SOCKET_PATH_BYTES {
        format!(
            "the path is {} bytes long, that of a socket may have at most {MAX_SOCKET_PATH_BYTES}",
            bytes.len()
        )
    } else if bytes.contains(&0) {
        "the path contains a NUL".to_owned()
    } else {
        return Ok(());
    };
    Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, why))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_addresses() {
        let texts = [
            "",
            "localhost",
            ":9924",
            "host:",
            "host:99999",
            "host:+1",
            "::1:9924",
            "[]:1",
            "ws://host:1",
            "a b:1",
            "[host]:1",
            "[::1]x:1",
            "[::1",
            "[::1%]:1",
            "[%1]:1",
            "[::1%a b]:1",
            "a\0b:1",
            "fe80::1%1:1",
        ];
        for text in texts {
            let e = text.parse::<Address>().expect_err(text);
            assert_eq!(e.kind(), ErrorKind::Data);
        }
    }

    #[test]
    fn shows_as_it_was_written() {
        for text in [
            "/tmp/busrt.sock",
            "rel.socket",
            "localhost:9924",
            "[::1]:1",
            "[fe80::1%eth0]:1",
            "[::ffff:1.2.3.4]:1",
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_path_longer_than_a_socket_may_have() {
        assert!(check_socket_path("x".repeat(107).as_ref()).is_ok());
        let e = check_socket_path("x".repeat(108).as_ref()).unwrap_err().to_string();
        assert!(e.contains("108") && e.contains("107"), "{e}");
        assert!(check_socket_path("a\0b".as_ref()).is_err());
    }
}
