//! Checks that a broker behaves as the wire vectors specify: the handshakes and exchanges of `tests/vectors`, over a
//! UNIX socket.
#![cfg(all(unix, feature = "broker", feature = "ipc"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod common;

use busrt::broker::{AccessList, ClientAccess, Options};
use common::{Bus, PATIENCE};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;

const GREETING: [u8; 3] = [0xeb, 1, 0];
/// An unsubscription from the topic `never`, acknowledged, with operation id 0xaaaaaaaa.
const HARMLESS: &[u8] = b"\xaa\xaa\xaa\xaa\x43\x05\0\0\0never";
const HARMLESS_ACK: &[u8] = b"\xfe\xaa\xaa\xaa\xaa\x01";

fn vectors(file: &str) -> Vec<Value> {
    let path = format!("{}/../tests/vectors/{file}.json", env!("CARGO_MANIFEST_DIR"));
    let all: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    all["vectors"].as_array().unwrap().clone()
}

fn unhex(value: &Value) -> Vec<u8> {
    let digits = value.as_str().unwrap();
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}

/// A connection to the broker on which nothing has been sent yet.
struct Wire(UnixStream);

impl Wire {
    fn connect(bus: &Bus) -> Wire {
        let stream = UnixStream::connect(&bus.path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Wire(stream)
    }

    fn register(bus: &Bus, name: &str) -> Wire {
        let mut wire = Wire::connect(bus);
        assert_eq!(wire.read(3), GREETING);
        wire.send(&GREETING);
        wire.send(&(name.len() as u16).to_le_bytes());
        wire.send(name.as_bytes());
        assert_eq!(wire.read(2), [1, 1], "{name}");
        wire
    }

    fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).unwrap();
    }

    /// Reads this many bytes, or fewer at the end of the stream.
    fn read(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![];
        match (&mut self.0).take(count as u64).read_to_end(&mut bytes) {
            Err(e) if e.kind() != ErrorKind::ConnectionReset => panic!("{e}"),
            _ => bytes,
        }
    }

    /// Returns the next frame other than a ping; empty at the end of the stream.
    fn frame(&mut self) -> Vec<u8> {
        loop {
            let mut frame = self.read(6);
            match frame.first() {
                Some(0) => continue,
                None | Some(0xfe) => return frame,
                Some(_) => {}
            }
            let len = u32::from_le_bytes([frame[1], frame[2], frame[3], frame[4]]);
            frame.extend(self.read(len as usize));
            return frame;
        }
    }

    fn is_quiet(&mut self) -> bool {
        self.send(HARMLESS);
        self.frame() == HARMLESS_ACK
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handshakes() {
    for vector in vectors("handshakes") {
        let given = &vector["given"];
        let mut options = Options::default().force_register(given["force_register"] == true);
        if let Some(count) = given["max_connections"].as_u64() {
            options = options.max_connections(count as usize);
        }
        let bus = Bus::start(options).await;
        if let Some(names) = given["access"].as_array() {
            let name = |name: &Value| name.as_str().unwrap().to_owned();
            let rules = names
                .iter()
                .fold(AccessList::new(), |list, allowed| list.client(name(allowed), ClientAccess::all()));
            bus.broker.set_access(Some(rules)).await;
        }
        let registered = given["registered"].as_array().cloned().unwrap_or_default();
        let _registered: Vec<Wire> =
            registered.iter().map(|name| Wire::register(&bus, name.as_str().unwrap())).collect();
        let mut wire = Wire::connect(&bus);
        for step in vector["steps"].as_array().unwrap() {
            let bytes = unhex(&step["bytes"]);
            if step["from"] == "client" {
                wire.send(&bytes);
            } else {
                assert_eq!(wire.read(bytes.len()), bytes, "{} {}", vector["name"], step["meaning"]);
            }
        }
        match vector["outcome"].as_str().unwrap() {
            "registered" => assert!(wire.is_quiet(), "{}", vector["name"]),
            _ => assert_eq!(wire.frame(), b"", "{}", vector["name"]),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exchanges() {
    for vector in vectors("exchanges") {
        let bus = Bus::start(Options::default()).await;
        let mut clients: BTreeMap<String, Wire> = BTreeMap::new();
        for name in vector["clients"].as_array().unwrap() {
            let name = name.as_str().unwrap();
            clients.insert(name.to_owned(), Wire::register(&bus, name));
        }
        for step in vector["steps"].as_array().unwrap() {
            let about = format!("{}: {step}", vector["name"]);
            let wire = clients.get_mut(step["client"].as_str().unwrap()).unwrap();
            if let Some(bytes) = step.get("send") {
                wire.send(&unhex(bytes));
            } else if let Some(bytes) = step.get("receive") {
                assert_eq!(wire.frame(), unhex(bytes), "{about}");
            } else if step["quiet"] == true {
                assert!(wire.is_quiet(), "{about}");
            } else {
                assert_eq!(step["closed"], true, "{about}");
                assert_eq!(wire.frame(), b"", "{about}");
            }
        }
    }
}
