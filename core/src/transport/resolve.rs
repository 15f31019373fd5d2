//! Resolves `host:port` to the addresses of that host.

use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};

/// Returns all addresses of `host:port`, each once, in the order of the resolver. An IPv6 address is in brackets and
/// may have a zone: `[fe80::1%eth0]:9924`. An IPv4 address in IPv6 form becomes an IPv4 address.
pub(crate) async fn resolve(host_port: &str) -> io::Result<Vec<SocketAddr>> {
    let invalid = || io::Error::new(io::ErrorKind::InvalidInput, "not host:port");
    let (host, port) = host_port.rsplit_once(':').ok_or_else(invalid)?;
    let port: u16 = port.parse().map_err(|_| invalid())?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let mut addresses: Vec<SocketAddr> = vec![];
    for address in tokio::net::lookup_host((host, port)).await? {
        let address = canonical(address);
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    if addresses.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the host has no address"));
    }
    Ok(addresses)
}

fn canonical(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V6(v6) => match v6.ip().to_ipv4_mapped() {
            Some(v4) => SocketAddr::new(IpAddr::V4(v4), v6.port()),
            // The flow label is not part of the destination.
            None => SocketAddrV6::new(*v6.ip(), v6.port(), 0, v6.scope_id()).into(),
        },
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn resolved(text: &str) -> Vec<String> {
        resolve(text).await.unwrap().iter().map(ToString::to_string).collect()
    }

    #[tokio::test]
    async fn addresses_in_every_form() {
        assert_eq!(resolved("127.0.0.1:9").await, ["127.0.0.1:9"]);
        assert_eq!(resolved("[::1]:9").await, ["[::1]:9"]);
        assert_eq!(resolved("[::ffff:127.0.0.1]:9").await, ["127.0.0.1:9"]);
        assert_eq!(resolved("[fe80::1%7]:9").await, ["[fe80::1%7]:9"]);
    }

    #[tokio::test]
    async fn unresolvable_addresses_are_errors() {
        for text in
            ["", "x", "host:99999", "[fe80::1%no-such-zone]:9", "a\0b:9", ":9", "[]:9", "host.invalid:9"]
        {
            assert!(resolve(text).await.is_err(), "{text:?}");
        }
    }
}
