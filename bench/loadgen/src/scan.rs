//! The input of clients: complete messages are counted, their content is not read.

use crate::net::Conn;
use crate::proto::Proto;

/// Counts complete messages in a byte stream.
pub struct Scan {
    proto: Proto,
    buf: Vec<u8>,
    tmp: Vec<u8>,
    /// Number of bytes that are still missing of a message whose beginning is not kept.
    skip: usize,
    /// Number of busrt acknowledgements seen; the caller may reset it.
    pub acks: u64,
}

impl Scan {
    /// Creates a scanner for one connection.
    pub fn new(proto: Proto) -> Self {
        Scan { proto, buf: vec![], tmp: vec![0; 1 << 16], skip: 0, acks: 0 }
    }

    /// Reads once. Returns the number of messages that were completed by it, or `usize::MAX` at the end of the
    /// stream. `on_ack` receives the result code of every busrt acknowledgement.
    pub fn read(&mut self, c: &mut Conn, mut on_ack: impl FnMut(u8)) -> usize {
        let n = match c.read(&mut self.tmp) {
            None => return 0,
            Some(0) => return usize::MAX,
            Some(n) => n,
        };
        let mut data = &self.tmp[..n];
        let mut done = 0;
        if self.skip > 0 {
            let k = self.skip.min(data.len());
            self.skip -= k;
            data = &data[k..];
            if self.skip > 0 {
                return 0;
            }
            done += 1;
        }
        self.buf.extend_from_slice(data);
        let mut pos = 0;
        loop {
            let b = &self.buf[pos..];
            // The whole length, and whether it is a message; `None` while this is unknown.
            let head: Option<(usize, bool)> = match self.proto {
                Proto::Busrt => (b.len() >= 6).then(|| match b[0] {
                    0 => (6, false),
                    0xfe => {
                        self.acks += 1;
                        on_ack(b[5]);
                        (6, false)
                    }
                    _ => (6 + u32::from_le_bytes(b[1..5].try_into().unwrap()) as usize, true),
                }),
                Proto::Nats => b.iter().position(|c| *c == b'\n').map(|e| {
                    let line = std::str::from_utf8(&b[..e - 1]).unwrap();
                    if let Some(rest) = line.strip_prefix("MSG ") {
                        let len: usize = rest.rsplit(' ').next().unwrap().parse().unwrap();
                        (e + 1 + len + 2, true)
                    } else {
                        (e + 1, false)
                    }
                }),
                Proto::Redis => redis_len(b),
                Proto::Mqtt => {
                    let mut len = 0;
                    let mut got = None;
                    for i in 0..4 {
                        let Some(x) = b.get(1 + i) else { break };
                        len |= ((x & 0x7f) as usize) << (7 * i);
                        if x & 0x80 == 0 {
                            got = Some((2 + i + len, b[0] >> 4 == 3));
                            break;
                        }
                    }
                    got
                }
            };
            let Some((len, msg)) = head else { break };
            if b.len() >= len {
                pos += len;
                done += usize::from(msg);
            } else if msg && len - b.len() > 4096 {
                self.skip = len - b.len();
                pos = self.buf.len();
                break;
            } else {
                break;
            }
        }
        self.buf.drain(..pos);
        done
    }
}

/// Returns the length of an array reply of a subscriber (message / pmessage), or of an integer reply of a publisher.
fn redis_len(b: &[u8]) -> Option<(usize, bool)> {
    let line = |from: usize| b[from..].iter().position(|c| *c == b'\n').map(|e| from + e + 1);
    let num = |from: usize, to: usize| -> usize {
        std::str::from_utf8(&b[from + 1..to - 2]).unwrap().parse().unwrap()
    };
    if b.is_empty() {
        return None;
    }
    let mut at = line(0)?;
    if b[0] == b':' {
        return Some((at, false));
    }
    let parts = num(0, at);
    for _ in 0..parts {
        if at >= b.len() {
            return None;
        }
        let e = line(at)?;
        if b[at] == b':' {
            at = e;
        } else {
            at = e + num(at, e) + 2;
        }
        if at > b.len() {
            return None;
        }
    }
    Some((at, true))
}
