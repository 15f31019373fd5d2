//! Opens a connection to a broker.

use super::resolve::resolve;
use super::{Address, Socket};
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// Time after which the next address of a host is tried in parallel (RFC 8305).
const NEXT_ADDRESS_DELAY: Duration = Duration::from_millis(250);

impl Socket {
    /// Opens a connection to a broker. If a host has several addresses, the next one is tried when one has failed or
    /// has not answered for 250 ms; the first established connection is used.
    ///
    /// # Errors
    /// The error of the operating system: no such socket, refused, unreachable, a name that does not resolve. A
    /// socket's path that is longer than the system allows.
    pub async fn connect(address: &Address) -> io::Result<Socket> {
        match address {
            #[cfg(unix)]
            Address::Unix(path) => {
                super::address::check_socket_path(path)?;
                Socket::from_unix(tokio::net::UnixStream::connect(path).await?.into_std()?)
            }
            #[cfg(not(unix))]
            Address::Unix(_) => Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "UNIX sockets are not available on this system",
            )),
            Address::Tcp(host_port) => {
                let addresses = alternate_families(resolve(host_port).await?);
                let stream = connect_first(&addresses, NEXT_ADDRESS_DELAY).await?;
                Socket::from_tcp(stream.into_std()?)
            }
        }
    }
}

/// Alternates IPv6 and IPv4 addresses, beginning with the family that the resolver prefers, so that a network without
/// one of them costs at most one delay.
fn alternate_families(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_v4 = addresses.first().is_some_and(SocketAddr::is_ipv4);
    let (mut preferred, mut other): (VecDeque<_>, VecDeque<_>) =
        addresses.into_iter().partition(|address| address.is_ipv4() == first_is_v4);
    let mut ordered = vec![];
    while !preferred.is_empty() || !other.is_empty() {
        ordered.extend(preferred.pop_front());
        ordered.extend(other.pop_front());
    }
    ordered
}

/// Connects to the first of `addresses` that answers.
async fn connect_first(addresses: &[SocketAddr], delay: Duration) -> io::Result<TcpStream> {
    let mut waiting = addresses.iter().copied();
    // The other attempts are cancelled when the set is dropped.
    let mut attempts = JoinSet::new();
    let mut failures = vec![];
    loop {
        let started = waiting.next().map(|address| {
            attempts.spawn(async move { (address, connect_one(address).await) });
        });
        // If no address is left, only the running attempts are awaited.
        let next_start = async {
            match started {
                Some(()) => tokio::time::sleep(delay).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            finished = attempts.join_next() => match finished {
                Some(Ok((_, Ok(stream)))) => return Ok(stream),
                Some(Ok((address, Err(e)))) => failures.push((address, e)),
                Some(Err(e)) => return Err(io::Error::other(e)),
                None => return Err(combine(failures)),
            },
            () = next_start => {}
        }
    }
}

async fn connect_one(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    // A client that repeatedly connects to an unused port of its own machine may get that very port as its local
    // port, and is then connected to itself.
    if stream.local_addr()? == stream.peer_addr()? {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    Ok(stream)
}

/// Combines the failures into one error. Its kind is that of an address whose machine answered, if there is one,
/// because that is more informative than an unreachable network.
fn combine(mut failures: Vec<(SocketAddr, io::Error)>) -> io::Error {
    if failures.len() == 1
        && let Some((_, e)) = failures.pop()
    {
        return e;
    }
    let answered = failures.iter().find(|(_, e)| e.kind() == io::ErrorKind::ConnectionRefused);
    let Some((_, e)) = answered.or(failures.first()) else {
        return io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    };
    let texts: Vec<_> = failures.iter().map(|(address, e)| format!("{address}: {e}")).collect();
    io::Error::new(e.kind(), texts.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::{TcpListener, TcpSocket};

    async fn listener() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    /// Returns an address where connections wait for ever, because its backlog is full.
    async fn silent() -> (TcpListener, Vec<TcpStream>, SocketAddr) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(0).unwrap();
        let address = listener.local_addr().unwrap();
        let mut filling = vec![];
        while let Ok(stream) =
            tokio::time::timeout(Duration::from_millis(200), TcpStream::connect(address)).await
        {
            filling.push(stream.unwrap());
        }
        (listener, filling, address)
    }

    async fn refusing() -> SocketAddr {
        listener().await.1
    }

    #[tokio::test]
    async fn an_address_that_does_not_answer_holds_up_the_next_for_the_delay() {
        let (_silent, _filling, first) = silent().await;
        let (_listener, second) = listener().await;
        let started = std::time::Instant::now();
        let stream = connect_first(&[first, second], NEXT_ADDRESS_DELAY).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), second);
        assert!(started.elapsed() >= NEXT_ADDRESS_DELAY);
        // The system itself would give up the attempt only after minutes.
        assert!(started.elapsed() < Duration::from_secs(30));
    }

    #[tokio::test]
    async fn an_address_that_refuses_holds_up_nothing() {
        let (_listener, second) = listener().await;
        let addresses = [refusing().await, refusing().await, second];
        let work = connect_first(&addresses, Duration::MAX);
        let stream = tokio::time::timeout(Duration::from_secs(30), work).await.unwrap().unwrap();
        assert_eq!(stream.peer_addr().unwrap(), second);
    }

    #[tokio::test]
    async fn the_first_address_wins_if_it_answers() {
        let (_listener, first) = listener().await;
        let stream = connect_first(&[first, refusing().await], NEXT_ADDRESS_DELAY).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), first);
    }

    #[tokio::test]
    async fn all_failures_are_reported() {
        let (first, second) = (refusing().await, refusing().await);
        let e = connect_first(&[first, second], NEXT_ADDRESS_DELAY).await.unwrap_err();
        assert_eq!(e.kind(), io::ErrorKind::ConnectionRefused);
        let text = e.to_string();
        assert!(text.contains(&first.to_string()) && text.contains(&second.to_string()), "{text}");
        let e = connect_first(&[], NEXT_ADDRESS_DELAY).await.unwrap_err();
        assert_eq!(e.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn families_take_turns() {
        let parse =
            |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<SocketAddr>>();
        let given = parse(&["[::1]:1", "[::2]:1", "127.0.0.1:1", "[::3]:1", "127.0.0.2:1"]);
        let wanted = parse(&["[::1]:1", "127.0.0.1:1", "[::2]:1", "127.0.0.2:1", "[::3]:1"]);
        assert_eq!(alternate_families(given), wanted);
    }
}
