//! A fake broker on a socket, which sends exactly the bytes that a test chooses, at the time that the test chooses.

use super::PATIENCE;
use busrt::client::Config;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

/// A socket on which a fake broker listens.
pub struct FakeListener {
    listener: UnixListener,
    path: String,
    _dir: tempfile::TempDir,
}

/// One connection from the point of view of the fake broker.
pub struct FakeBroker {
    pub stream: UnixStream,
}

/// A request that a client has sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    pub op_id: u32,
    pub flags: u8,
    pub body: Vec<u8>,
}

impl FakeListener {
    pub fn new() -> FakeListener {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bus.sock").display().to_string();
        let listener = UnixListener::bind(&path).unwrap();
        FakeListener { listener, path, _dir: dir }
    }

    /// Returns settings of a client that sends nothing by itself.
    pub fn config(&self) -> Config {
        Config::new(&self.path, "me").ping_interval(Duration::from_secs(3600)).silence(None).timeout(PATIENCE)
    }

    /// Accepts the client and registers it. It blocks, so that the client must connect from another thread.
    pub fn accept(&self) -> FakeBroker {
        let (mut stream, _) = self.listener.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(&[0xeb, 1, 0]).unwrap();
        stream.read_exact(&mut [0; 3]).unwrap();
        stream.write_all(&[1]).unwrap();
        stream.read_exact(&mut [0; 4]).unwrap();
        stream.write_all(&[1]).unwrap();
        FakeBroker { stream }
    }
}

impl FakeBroker {
    /// Returns the next request other than a ping; `None` if the connection has ended or nothing arrives within
    /// `patience`.
    pub fn next_within(&mut self, patience: Duration) -> Option<Sent> {
        loop {
            self.stream.set_read_timeout(Some(patience)).unwrap();
            let mut header = [0; 9];
            self.stream.read_exact(&mut header).ok()?;
            self.stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let len = u32::from_le_bytes(header[5..].try_into().unwrap());
            let mut body = vec![0; len as usize];
            self.stream.read_exact(&mut body).ok()?;
            let op_id = u32::from_le_bytes(header[..4].try_into().unwrap());
            if header[4] != 0 {
                return Some(Sent { op_id, flags: header[4], body });
            }
        }
    }

    pub fn next(&mut self) -> Sent {
        self.next_within(PATIENCE).expect("a request")
    }

    pub fn acknowledge(&mut self, op_id: u32, code: u8) {
        let id = op_id.to_le_bytes();
        self.stream.write_all(&[0xfe, id[0], id[1], id[2], id[3], code]).unwrap();
    }

    /// Sends a one-to-one message from `sender`.
    pub fn message(&mut self, sender: &str, payload: &[u8]) {
        let len = (sender.len() + 1 + payload.len()) as u32;
        let frame = [&[0x12][..], &len.to_le_bytes(), &[0], sender.as_bytes(), &[0], payload].concat();
        self.stream.write_all(&frame).unwrap();
    }
}
