//! Helpers of all tests: a broker on temporary addresses, clients over every transport, and a peer that
//! speaks the wire protocol by hand.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

#[cfg(feature = "server")]
pub mod daemon;
pub mod fake;
pub mod probe;
pub mod proxy;
pub mod random;
pub mod raw;
pub mod slow;
#[cfg(all(feature = "server", feature = "rpc"))]
pub mod storm;
#[cfg(all(feature = "server", feature = "rpc"))]
pub mod traffic;

use busrt::broker::{Broker, Options};
use busrt::client::{Client, Config, Frames};
use busrt::{Frame, QoS};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// A timeout for a loaded machine; it is only reached if something is broken.
pub const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    Unix,
    Tcp,
    Local,
}

pub const TRANSPORTS: [Transport; 3] = [Transport::Unix, Transport::Tcp, Transport::Local];

/// Returns the bytes that a frame with a body of that length holds in an inbox.
pub fn held_by(body: usize) -> usize {
    size_of::<Frame>() + body
}

/// A broker that listens on a temporary socket and a free port.
pub struct Bus {
    pub broker: Broker,
    pub path: String,
    pub port: String,
    pub transport: Transport,
    pub _dir: tempfile::TempDir,
}

impl Bus {
    pub async fn start(options: Options) -> Bus {
        Bus::start_for(Transport::Unix, options).await
    }

    pub async fn start_for(transport: Transport, options: Options) -> Bus {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bus.sock").display().to_string();
        let broker = Broker::new(options);
        broker.listen(&path).await.unwrap();
        let port = broker.listen("127.0.0.1:0").await.unwrap();
        Bus { broker, path, port, transport, _dir: dir }
    }

    pub fn config(&self, name: &str) -> Config {
        let address = if self.transport == Transport::Tcp { &self.port } else { &self.path };
        Config::new(address, name).timeout(PATIENCE)
    }

    pub async fn client(&self, name: &str) -> Client {
        self.try_client(name).await.unwrap()
    }

    pub async fn try_client(&self, name: &str) -> busrt::Result<Client> {
        match self.transport {
            Transport::Local => self.broker.client_with(&self.config(name)).await,
            _ => Client::connect(&self.config(name)).await,
        }
    }

    /// Connects a client and takes its frames.
    pub async fn listener(&self, name: &str) -> (Client, Frames) {
        let client = self.client(name).await;
        let frames = client.frames().unwrap();
        (client, frames)
    }

    pub fn peer(&self, name: &str) -> Peer {
        Peer::register(&self.path, name)
    }
}

/// Returns true if all clients except the broker's own have left.
pub fn no_client_is_left(bus: &Bus) -> bool {
    bus.broker.clients().clients.iter().all(|client| client.name == ".broker")
}

/// Runs a case over each transport, each on its own broker.
pub async fn on_every_transport(case: impl AsyncFn(Bus)) {
    for transport in TRANSPORTS {
        case(Bus::start_for(transport, Options::default()).await).await;
    }
}

pub async fn next(frames: &mut Frames) -> Frame {
    tokio::time::timeout(PATIENCE, frames.recv()).await.expect("a frame in time").expect("a frame")
}

/// Asserts that no frame is waiting: a marker to the client itself must come next.
pub async fn nothing_waits(client: &Client, frames: &mut Frames) {
    client.send(client.name(), "marker", QoS::Processed).await.unwrap();
    let frame = next(frames).await;
    assert_eq!(frame.payload(), b"marker", "an unexpected frame: {frame:?}");
}

/// Waits until `holds` returns true, which is called repeatedly.
pub async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let started = std::time::Instant::now();
    while !holds() {
        assert!(started.elapsed() < PATIENCE, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Speaks the wire protocol on a blocking socket.
pub struct Peer {
    pub stream: UnixStream,
}

impl Peer {
    pub fn connect(path: &str) -> Peer {
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Peer { stream }
    }

    pub fn register(path: &str, name: &str) -> Peer {
        let mut peer = Peer::connect(path);
        assert_eq!(peer.try_register(name), 1);
        peer
    }

    /// Registers, and returns the broker's answer.
    pub fn try_register(&mut self, name: &str) -> u8 {
        assert_eq!(self.read(3), [0xeb, 1, 0]);
        self.write(&[0xeb, 1, 0]);
        assert_eq!(self.read(1), [1]);
        self.write(&(name.len() as u16).to_le_bytes());
        self.write(name.as_bytes());
        self.read(1)[0]
    }

    pub fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    pub fn read(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.stream.read_exact(&mut bytes).unwrap();
        bytes
    }

    pub fn operation(op_id: u32, flags: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = op_id.to_le_bytes().to_vec();
        bytes.push(flags);
        bytes.extend_from_slice(&(body.len() as u32).to_le_bytes());
        bytes.extend_from_slice(body);
        bytes
    }

    pub fn send(&mut self, op_id: u32, flags: u8, body: &[u8]) {
        self.write(&Peer::operation(op_id, flags, body));
    }

    /// Returns the next header other than a ping, and its body.
    pub fn next(&mut self) -> ([u8; 6], Vec<u8>) {
        loop {
            let header: [u8; 6] = self.read(6).try_into().unwrap();
            let len = u32::from_le_bytes(header[1..5].try_into().unwrap());
            match header[0] {
                0 => {}
                0xfe => return (header, vec![]),
                _ => return (header, self.read(len as usize)),
            }
        }
    }

    pub fn ping(&mut self) {
        self.write(&[0; 9]);
    }

    /// Reads to the end. Returns true if the broker closed the connection, and false after a timeout.
    pub fn is_closed(&mut self) -> bool {
        let mut rest = [0; 4096];
        loop {
            match self.stream.read(&mut rest) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => return true,
                Err(_) => return false,
            }
        }
    }
}
