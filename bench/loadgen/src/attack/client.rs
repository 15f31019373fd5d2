//! One client of an attack. It connects again when the broker has closed its connection.

use super::Stage;
use crate::net::Conn;
use crate::proto::{Proto, frame};
use crate::scan::Scan;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

pub const PUBLISH: u8 = 1;
pub const SUBSCRIBE: u8 = 2;
pub const UNSUBSCRIBE: u8 = 3;
pub const EXCLUDE: u8 = 4;
pub const UNEXCLUDE: u8 = 5;
pub const MESSAGE: u8 = 0x12;
pub const BROADCAST: u8 = 0x13;

/// QoS: not acknowledged, and acknowledged.
pub const UNACKNOWLEDGED: u8 = 0;
pub const ACKNOWLEDGED: u8 = 1;

/// Returns one frame as bytes.
pub fn encode(operation: u8, qos: u8, parts: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame(&mut bytes, operation, qos, 1, parts);
    bytes
}

/// Returns one acknowledged SUBSCRIBE, UNSUBSCRIBE, EXCLUDE or UNEXCLUDE frame with these topics.
pub fn encode_topics(operation: u8, topics: impl Iterator<Item = String>) -> Vec<u8> {
    let body = topics.collect::<Vec<_>>().join("\0");
    encode(operation, ACKNOWLEDGED, &[body.as_bytes()])
}

pub struct Client {
    stage: Arc<Stage>,
    name: String,
    pub conn: Conn,
    scan: Scan,
}

impl Client {
    /// Connects a client during the preparation.
    pub fn new(stage: &Arc<Stage>, name: &str) -> Client {
        let conn = stage.connect(name);
        Client { stage: stage.clone(), name: name.to_owned(), conn, scan: Scan::new(Proto::Busrt) }
    }

    /// Writes `bytes` and reads until this many acknowledgements have arrived. Returns false if the connection ended;
    /// the client then has a new one.
    pub fn acknowledged(&mut self, bytes: &[u8], count: u64) -> bool {
        self.scan.acks = 0;
        self.exchange(bytes, |scan, _| scan.acks >= count)
    }

    /// Writes `bytes` and reads until this many messages have arrived. Returns false if the connection ended.
    pub fn answered(&mut self, bytes: &[u8], count: usize) -> bool {
        self.exchange(bytes, |_, messages| messages >= count)
    }

    fn exchange(&mut self, bytes: &[u8], done: impl Fn(&Scan, usize) -> bool) -> bool {
        let mut messages = 0;
        let mut alive = self.conn.try_write_all(bytes);
        while alive && !done(&self.scan, messages) {
            match self.scan.read(&mut self.conn, |_| {}) {
                usize::MAX => alive = false,
                n => messages += n,
            }
        }
        if !alive {
            self.reconnect();
        }
        alive
    }

    /// Writes `bytes`. Returns false if the connection ended.
    pub fn write(&mut self, bytes: &[u8]) -> bool {
        let alive = self.conn.try_write_all(bytes);
        if !alive {
            self.reconnect();
        }
        alive
    }

    /// Connects again, with as many attempts as needed: the broker may still hold the name.
    pub fn reconnect(&mut self) {
        loop {
            self.stage.cut.fetch_add(1, Relaxed);
            if let Some(conn) = register(&self.stage.address, &self.name) {
                self.conn = conn;
                self.scan = Scan::new(Proto::Busrt);
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Returns a connection registered as `name`; `None` if the broker refuses it.
pub fn register(address: &str, name: &str) -> Option<Conn> {
    let mut conn = Conn::try_open(address).ok()?;
    let mut greeting = [0; 3];
    let mut registration = (name.len() as u16).to_le_bytes().to_vec();
    registration.extend_from_slice(name.as_bytes());
    let greeted = conn.try_read_exact(&mut greeting) && accepted(&mut conn, &greeting);
    (greeted && accepted(&mut conn, &registration)).then_some(conn)
}

/// Writes one step of the handshake. Returns whether the broker accepts it.
fn accepted(conn: &mut Conn, step: &[u8]) -> bool {
    let mut code = [0];
    conn.try_write_all(step) && conn.try_read_exact(&mut code) && code == [1]
}
