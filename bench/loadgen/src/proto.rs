//! The bytes that clients write, in the protocol of each broker.

use crate::net::Conn;

/// The protocol of a broker.
#[derive(Clone, Copy, PartialEq)]
pub enum Proto {
    Busrt,
    Nats,
    Redis,
    Mqtt,
}

impl Proto {
    /// Parses the name used on the command line.
    pub fn parse(s: &str) -> Self {
        match s {
            "busrt" => Proto::Busrt,
            "nats" => Proto::Nats,
            "redis" => Proto::Redis,
            "mqtt" => Proto::Mqtt,
            _ => panic!("unknown protocol {s}"),
        }
    }

    /// Registers a new connection as `name`.
    pub fn handshake(self, c: &mut Conn, name: &str) {
        match self {
            Proto::Busrt => {
                let mut b = [0u8; 3];
                c.read_exact(&mut b);
                assert_eq!(b, [0xeb, 1, 0], "greeting");
                c.write_all(&b);
                let mut r = [0u8; 1];
                c.read_exact(&mut r);
                assert_eq!(r[0], 1, "greeting reply");
                let mut m = (name.len() as u16).to_le_bytes().to_vec();
                m.extend_from_slice(name.as_bytes());
                c.write_all(&m);
                c.read_exact(&mut r);
                assert_eq!(r[0], 1, "registration of {name}");
            }
            Proto::Nats => {
                let mut b = [0u8; 1];
                while b[0] != b'\n' {
                    c.read_exact(&mut b);
                }
                c.write_all(b"CONNECT {\"verbose\":false,\"pedantic\":false}\r\nPING\r\n");
                let mut p = [0u8; 6];
                c.read_exact(&mut p);
                assert_eq!(&p, b"PONG\r\n");
            }
            Proto::Redis => {}
            Proto::Mqtt => {
                let mut v = vec![0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 0];
                v.extend_from_slice(&(name.len() as u16).to_be_bytes());
                v.extend_from_slice(name.as_bytes());
                let mut m = vec![0x10];
                varint(&mut m, v.len());
                m.extend_from_slice(&v);
                c.write_all(&m);
                let mut r = [0u8; 4];
                c.read_exact(&mut r);
                assert_eq!(r[3], 0, "CONNACK");
            }
        }
    }

    /// Converts a topic or mask of BUS/RT to the syntax of this broker.
    fn topic(self, t: &str) -> String {
        match self {
            Proto::Nats => t.replace('/', ".").replace('+', "*"),
            Proto::Redis => t.replace('+', "*"),
            _ => t.to_owned(),
        }
    }

    /// Prepares a receiver of one-to-one messages: native for busrt, a separate subject for other brokers.
    pub fn listen(self, c: &mut Conn, name: &str) {
        if self != Proto::Busrt {
            self.subscribe(c, name);
        }
    }

    /// Subscribes, and waits for the confirmation if the protocol has one (NATS has none).
    pub fn subscribe(self, c: &mut Conn, topic: &str) {
        let t = self.topic(topic);
        match self {
            Proto::Busrt => {
                let mut m = vec![];
                frame(&mut m, 2, 1, 1, &[t.as_bytes()]);
                c.write_all(&m);
                let mut r = [0u8; 6];
                loop {
                    c.read_exact(&mut r);
                    if r[0] == 0xfe {
                        break;
                    }
                    assert_eq!(r[0], 0, "a ping or an ack");
                }
                assert_eq!(r[5], 1, "subscribe ack");
            }
            Proto::Nats => c.write_all(format!("SUB {t} 1\r\n").as_bytes()),
            Proto::Redis => {
                let cmd = if t.contains('*') { "PSUBSCRIBE" } else { "SUBSCRIBE" };
                c.write_all(format!("*2\r\n${}\r\n{cmd}\r\n${}\r\n{t}\r\n", cmd.len(), t.len()).as_bytes());
                // The confirmation: *3 and its three parts.
                let mut lines = 0;
                let mut b = [0u8; 1];
                while lines < 6 {
                    c.read_exact(&mut b);
                    if b[0] == b'\n' {
                        lines += 1;
                    }
                }
            }
            Proto::Mqtt => {
                let mut m = vec![0x82];
                varint(&mut m, 2 + 2 + t.len() + 1);
                m.extend_from_slice(&[0, 1]);
                m.extend_from_slice(&(t.len() as u16).to_be_bytes());
                m.extend_from_slice(t.as_bytes());
                m.push(0);
                c.write_all(&m);
                let mut r = [0u8; 5];
                c.read_exact(&mut r);
                assert_eq!(r[0], 0x90, "SUBACK");
            }
        }
    }

    /// Appends a one-to-one message to `out`.
    pub fn send(self, out: &mut Vec<u8>, target: &str, payload: &[u8], qos: u8, id: u32) {
        match self {
            Proto::Busrt => frame(out, 0x12, qos, id, &[target.as_bytes(), &[0], payload]),
            _ => self.publish(out, target, payload, qos, id),
        }
    }

    /// Appends a publication to `out`.
    pub fn publish(self, out: &mut Vec<u8>, topic: &str, payload: &[u8], qos: u8, id: u32) {
        match self {
            Proto::Busrt => frame(out, 1, qos, id, &[topic.as_bytes(), &[0], payload]),
            Proto::Nats => {
                let t = self.topic(topic);
                out.extend_from_slice(format!("PUB {t} {}\r\n", payload.len()).as_bytes());
                out.extend_from_slice(payload);
                out.extend_from_slice(b"\r\n");
            }
            Proto::Redis => {
                out.extend_from_slice(
                    format!("*3\r\n$7\r\nPUBLISH\r\n${}\r\n{topic}\r\n${}\r\n", topic.len(), payload.len())
                        .as_bytes(),
                );
                out.extend_from_slice(payload);
                out.extend_from_slice(b"\r\n");
            }
            Proto::Mqtt => {
                out.push(0x30);
                varint(out, 2 + topic.len() + payload.len());
                out.extend_from_slice(&(topic.len() as u16).to_be_bytes());
                out.extend_from_slice(topic.as_bytes());
                out.extend_from_slice(payload);
            }
        }
    }
}

/// Appends a busrt request.
pub fn frame(out: &mut Vec<u8>, op: u8, qos: u8, id: u32, parts: &[&[u8]]) {
    let len: usize = parts.iter().map(|p| p.len()).sum();
    out.extend_from_slice(&id.to_le_bytes());
    out.push(op | qos << 6);
    out.extend_from_slice(&(len as u32).to_le_bytes());
    for p in parts {
        out.extend_from_slice(p);
    }
}

/// Appends a length in the encoding of MQTT.
fn varint(out: &mut Vec<u8>, mut n: usize) {
    loop {
        let b = (n % 128) as u8;
        n /= 128;
        out.push(if n > 0 { b | 0x80 } else { b });
        if n == 0 {
            return;
        }
    }
}
