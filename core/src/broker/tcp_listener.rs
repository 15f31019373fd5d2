//! Listening on TCP, on every address of a host name.

use super::Core;
use super::accept::{failed, serve_all};
use crate::error::Result;
use crate::transport::Socket;
use crate::transport::resolve::resolve;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::JoinHandle;

/// Maximum number of connections that the kernel queues until they are accepted; `somaxconn` may reduce it.
const BACKLOG: u32 = 1024;
/// Number of free ports that are tried to find one that is free on all addresses of a host.
const FREE_PORT_ATTEMPTS: u32 = 32;

/// Binds all addresses of `host_port` and begins to accept. Returns the address for clients: the given host with the
/// port that was bound.
pub(super) async fn open(core: &Arc<Core>, host_port: &str) -> Result<(Vec<JoinHandle<()>>, String)> {
    let addresses = resolve(host_port).await.map_err(|e| failed(host_port, e))?;
    let listeners = bind_all(&addresses).map_err(|e| failed(host_port, e))?;
    let host = host_port.rsplit_once(':').map_or(host_port, |(host, _)| host);
    let mut reached = host_port.to_owned();
    for listener in &listeners {
        let bound = listener.local_addr()?;
        reached = format!("{host}:{}", bound.port());
        if reached == bound.to_string() {
            log::info!("listening on {bound}");
        } else {
            log::info!("listening on {bound} for {reached}");
        }
    }
    let accept_from = |listener: TcpListener| {
        let accept = async move || Socket::from_tcp(listener.accept().await?.0.into_std()?);
        tokio::spawn(serve_all(core.clone(), host_port.into(), accept))
    };
    Ok((listeners.into_iter().map(accept_from).collect(), reached))
}

/// Binds each of `addresses`, which differ only in the host. Port 0 becomes the same free port on all of them.
fn bind_all(addresses: &[SocketAddr]) -> io::Result<Vec<TcpListener>> {
    let free_port = addresses.iter().any(|address| address.port() == 0);
    let mut attempt = 1;
    loop {
        match try_bind_all(addresses) {
            // The port that is free on one address is in use on another one.
            Err(e) if free_port && addresses.len() > 1 && is_taken(&e) && attempt < FREE_PORT_ATTEMPTS => {
                attempt += 1;
            }
            result => return result,
        }
    }
}

fn is_taken(e: &io::Error) -> bool {
    e.kind() == io::ErrorKind::AddrInUse
}

fn try_bind_all(addresses: &[SocketAddr]) -> io::Result<Vec<TcpListener>> {
    let mut listeners: Vec<TcpListener> = vec![];
    let mut unavailable = None;
    for address in addresses {
        let mut address = *address;
        if let (0, Some(first)) = (address.port(), listeners.first()) {
            address.set_port(first.local_addr()?.port());
        }
        match bind(address) {
            Ok(listener) => listeners.push(listener),
            // A host name may have addresses that this machine does not have now, such as ::1 without IPv6.
            Err(e) if addresses.len() > 1 && !is_taken(&e) => {
                log::warn!("cannot listen on {address}: {e}");
                unavailable = Some(e);
            }
            Err(e) => {
                return Err(match addresses.len() {
                    1 => e,
                    _ => io::Error::new(e.kind(), format!("{address}: {e}")),
                });
            }
        }
    }
    match unavailable {
        Some(e) if listeners.is_empty() => Err(e),
        _ => Ok(listeners),
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    #[cfg(unix)]
    {
        // A port whose last connections are in the state TIME-WAIT can be bound again. On Windows, the option would
        // let several processes bind one port.
        socket.set_reuseaddr(true)?;
        if address.is_ipv6() {
            // Otherwise [::] takes the port of 0.0.0.0 too, and the two cannot both be bound.
            rustix::net::sockopt::set_ipv6_v6only(&socket, true)?;
        }
    }
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_free_port_on_all_addresses() {
        let hosts = ["127.0.0.1:0", "127.0.0.2:0", "127.0.0.3:0"].map(|text| text.parse().unwrap());
        let listeners = bind_all(&hosts).unwrap();
        let ports: Vec<_> = listeners.iter().map(|listener| listener.local_addr().unwrap().port()).collect();
        assert!(ports[0] != 0 && ports.iter().all(|port| *port == ports[0]), "{ports:?}");
    }

    #[tokio::test]
    async fn an_address_that_is_taken_is_an_error_for_all() {
        let taken = TcpListener::bind("127.0.0.2:0").await.unwrap();
        let port = taken.local_addr().unwrap().port();
        let hosts = ["127.0.0.1", "127.0.0.2"].map(|host| format!("{host}:{port}").parse().unwrap());
        let e = bind_all(&hosts).unwrap_err();
        assert_eq!(e.kind(), io::ErrorKind::AddrInUse);
        assert!(e.to_string().contains(&taken.local_addr().unwrap().to_string()), "{e}");
    }

    #[tokio::test]
    async fn an_address_of_another_machine_is_left_out() {
        let hosts = ["192.0.2.1:0", "127.0.0.1:0"].map(|text| text.parse().unwrap());
        assert_eq!(bind_all(&hosts).unwrap().len(), 1);
        assert!(bind_all(&hosts[..1]).is_err());
    }
}
