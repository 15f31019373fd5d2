//! A client on a blocking socket that speaks the wire protocol byte by byte, so that a test decides what is read and
//! when.

use super::{PATIENCE, Peer};
use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

pub const PUBLISH: u8 = 0x01;
pub const SUBSCRIBE: u8 = 0x02;
pub const UNSUBSCRIBE: u8 = 0x03;
pub const EXCLUDE: u8 = 0x04;
pub const PUBLISH_FOR: u8 = 0x06;
pub const MESSAGE: u8 = 0x12;
pub const BROADCAST: u8 = 0x13;
/// Bits of the flags byte: an acknowledgement is requested; the frame is realtime.
pub const ACK: u8 = 0x40;
pub const REALTIME: u8 = 0x80;

/// A connected socket of either kind.
#[derive(Debug)]
pub enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Stream {
    pub fn connect(address: &str) -> Stream {
        if address.starts_with('/') {
            return Stream::Unix(UnixStream::connect(address).unwrap());
        }
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        Stream::Tcp(stream)
    }

    pub fn try_clone(&self) -> Stream {
        match self {
            Stream::Unix(stream) => Stream::Unix(stream.try_clone().unwrap()),
            Stream::Tcp(stream) => Stream::Tcp(stream.try_clone().unwrap()),
        }
    }

    pub fn set_read_timeout(&self, timeout: Duration) {
        // A timeout of zero would mean no timeout.
        let timeout = Some(timeout.max(Duration::from_micros(1)));
        match self {
            Stream::Unix(stream) => stream.set_read_timeout(timeout).unwrap(),
            Stream::Tcp(stream) => stream.set_read_timeout(timeout).unwrap(),
        }
    }

    pub fn set_write_timeout(&self, timeout: Duration) {
        match self {
            Stream::Unix(stream) => stream.set_write_timeout(Some(timeout)).unwrap(),
            Stream::Tcp(stream) => stream.set_write_timeout(Some(timeout)).unwrap(),
        }
    }

    pub fn shutdown_write(&self) {
        match self {
            Stream::Unix(stream) => stream.shutdown(std::net::Shutdown::Write).unwrap(),
            Stream::Tcp(stream) => stream.shutdown(std::net::Shutdown::Write).unwrap(),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Unix(stream) => stream.read(buf),
            Stream::Tcp(stream) => stream.read(buf),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Unix(stream) => stream.write(buf),
            Stream::Tcp(stream) => stream.write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A frame from the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    Nop,
    Ack {
        id: u32,
        code: u8,
    },
    Delivery(Delivery),
    /// The broker closed the connection.
    End,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    pub kind: u8,
    pub body: Vec<u8>,
}

impl Delivery {
    pub fn sender(&self) -> &[u8] {
        self.body.split(|byte| *byte == 0).next().unwrap()
    }

    pub fn payload(&self) -> &[u8] {
        let names = if self.kind == PUBLISH { 2 } else { 1 };
        self.body.splitn(names + 1, |byte| *byte == 0).last().unwrap()
    }

    /// The number at the start of the payload (see [`numbered`]).
    pub fn number(&self) -> u32 {
        u32::from_le_bytes(*self.payload().first_chunk().unwrap())
    }
}

pub struct Raw {
    pub stream: Stream,
    /// Bytes that were read from the socket but not decoded yet.
    buffer: VecDeque<u8>,
    /// Deliveries that arrived while the client waited for an acknowledgement.
    pub waiting: VecDeque<Delivery>,
    next_id: u32,
    pub nops: usize,
    ended: bool,
}

impl Raw {
    pub fn connect(address: &str) -> Raw {
        let stream = Stream::connect(address);
        stream.set_write_timeout(PATIENCE);
        Raw { stream, buffer: VecDeque::new(), waiting: VecDeque::new(), next_id: 0, nops: 0, ended: false }
    }

    pub fn register(address: &str, name: &str) -> Raw {
        let mut raw = Raw::connect(address);
        assert_eq!(raw.try_register(name), Some(1), "{name} is not registered");
        raw
    }

    /// Registers. Returns the broker's answer, or none if it closed the connection.
    pub fn try_register(&mut self, name: &str) -> Option<u8> {
        assert_eq!(self.exactly(3)?, [0xeb, 1, 0]);
        self.stream.write_all(&[0xeb, 1, 0]).ok()?;
        let greeted = self.exactly(1)?[0];
        if greeted != 1 {
            return Some(greeted);
        }
        let hello = [&(name.len() as u16).to_le_bytes(), name.as_bytes()].concat();
        self.stream.write_all(&hello).ok()?;
        Some(self.exactly(1)?[0])
    }

    fn exactly(&mut self, len: usize) -> Option<Vec<u8>> {
        self.stream.set_read_timeout(PATIENCE);
        let mut bytes = vec![0; len];
        self.stream.read_exact(&mut bytes).ok()?;
        Some(bytes)
    }

    /// Sends an operation and returns its id.
    pub fn send(&mut self, flags: u8, body: &[u8]) -> u32 {
        self.next_id += 1;
        let bytes = Peer::operation(self.next_id, flags, body);
        self.stream.write_all(&bytes).unwrap();
        self.next_id
    }

    /// Sends an operation with an acknowledgement. Returns the result code.
    pub fn ask(&mut self, flags: u8, body: &[u8]) -> u8 {
        self.ask_within(flags, body, PATIENCE).expect("an acknowledgement in time")
    }

    pub fn ask_within(&mut self, flags: u8, body: &[u8], within: Duration) -> Option<u8> {
        let id = self.send(flags | ACK, body);
        self.ack(id, within)
    }

    pub fn subscribe(&mut self, topic: &str) {
        assert_eq!(self.ask(SUBSCRIBE, topic.as_bytes()), 1);
    }

    /// Waits for the acknowledgement of an operation, and keeps the deliveries before it.
    pub fn ack(&mut self, wanted: u32, within: Duration) -> Option<u8> {
        let deadline = Instant::now() + within;
        loop {
            match self.receive(deadline.saturating_duration_since(Instant::now()))? {
                Item::Ack { id, code } if id == wanted => return Some(code),
                Item::Delivery(delivery) => self.waiting.push_back(delivery),
                Item::Ack { .. } | Item::Nop => {}
                Item::End => return None,
            }
        }
    }

    /// Returns the next delivery, or none if it does not arrive in time or the connection has ended.
    pub fn delivery(&mut self, within: Duration) -> Option<Delivery> {
        if let Some(delivery) = self.waiting.pop_front() {
            return Some(delivery);
        }
        let deadline = Instant::now() + within;
        loop {
            match self.receive(deadline.saturating_duration_since(Instant::now()))? {
                Item::Delivery(delivery) => return Some(delivery),
                Item::Ack { .. } | Item::Nop => {}
                Item::End => return None,
            }
        }
    }

    /// Returns everything that is delivered before the answer to an operation that is sent now.
    pub fn rest(&mut self) -> Vec<Delivery> {
        assert_eq!(self.ask(UNSUBSCRIBE, b"never/subscribed"), 1);
        self.waiting.drain(..).collect()
    }

    /// Returns the next frame of any kind, or none if it does not arrive in time.
    pub fn receive(&mut self, within: Duration) -> Option<Item> {
        let deadline = Instant::now() + within;
        loop {
            if let Some(item) = self.decode() {
                return Some(item);
            }
            if self.ended {
                return Some(Item::End);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if self.take(64 * 1024, left) == 0 && !self.ended {
                return None;
            }
        }
    }

    /// Reads at most `most` bytes from the socket without decoding them. Returns their number.
    pub fn take(&mut self, most: usize, within: Duration) -> usize {
        self.stream.set_read_timeout(within);
        let mut bytes = vec![0; most];
        match self.stream.read(&mut bytes) {
            Ok(0) => self.ended = true,
            Ok(n) => {
                self.buffer.extend(&bytes[..n]);
                return n;
            }
            Err(e)
                if matches!(
                    e.kind(),
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                ) => {}
            Err(_) => self.ended = true,
        }
        0
    }

    /// Returns the next complete frame of the bytes that have been read.
    pub fn decode(&mut self) -> Option<Item> {
        if self.buffer.len() < 6 {
            return None;
        }
        let header: [u8; 6] = std::array::from_fn(|i| self.buffer[i]);
        let number = u32::from_le_bytes(header[1..5].try_into().unwrap());
        let len = if matches!(header[0], 0 | 0xfe) { 0 } else { number as usize };
        if self.buffer.len() < 6 + len {
            return None;
        }
        self.buffer.drain(..6);
        Some(match header[0] {
            0 => {
                self.nops += 1;
                Item::Nop
            }
            0xfe => Item::Ack { id: number, code: header[5] },
            kind @ (PUBLISH | MESSAGE | BROADCAST) => {
                Item::Delivery(Delivery { kind, body: self.buffer.drain(..len).collect() })
            }
            kind => panic!("a frame of kind {kind:x}"),
        })
    }

    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Returns true if the broker closes the connection within this time. Everything received before that is
    /// discarded.
    pub fn is_closed_within(&mut self, within: Duration) -> bool {
        let deadline = Instant::now() + within;
        while !self.ended && Instant::now() < deadline {
            self.take(64 * 1024, deadline.saturating_duration_since(Instant::now()));
            self.buffer.clear();
        }
        self.ended
    }

    /// Calls a method of the broker's own client and returns the payload of its answer.
    pub fn call(&mut self, method: &str, params: &[u8]) -> Vec<u8> {
        self.next_id += 1;
        let id = self.next_id;
        let request = call(id, method, params);
        self.send(MESSAGE, &request);
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.receive(left).expect("a reply in time") {
                Item::Delivery(delivery)
                    if delivery.sender() == b".broker" && delivery.payload()[1..5] == id.to_le_bytes() =>
                {
                    return delivery.payload().to_vec();
                }
                Item::Delivery(delivery) => self.waiting.push_back(delivery),
                Item::Ack { .. } | Item::Nop => {}
                Item::End => panic!("the connection ended before the reply"),
            }
        }
    }

    /// Returns the entry of `client.list` for this client.
    pub fn state_of(&mut self, name: &str) -> Option<State> {
        let reply = self.call("client.list", &[]);
        assert_eq!(reply[0], 0x11, "client.list failed");
        let list = rmpv::decode::read_value(&mut &reply[5..]).unwrap();
        let clients = field(&list, "clients").unwrap().as_array().unwrap().clone();
        let client =
            clients.iter().find(|client| field(client, "name").and_then(|v| v.as_str()) == Some(name))?;
        Some(State {
            state: field(client, "state").and_then(|value| value.as_str().map(str::to_owned)),
            held_senders: field(client, "held_senders").and_then(rmpv::Value::as_u64),
            dropped: field(client, "dropped").and_then(rmpv::Value::as_u64).unwrap(),
            queue: field(client, "queue").and_then(rmpv::Value::as_u64).unwrap(),
        })
    }

    /// Waits until the entry of the client in `client.list` meets a condition. On a timeout, panics with the last
    /// entry.
    pub fn wait_for_state(&mut self, name: &str, holds: impl Fn(&State) -> bool) -> State {
        let started = Instant::now();
        loop {
            let state = self.state_of(name).unwrap_or_else(|| panic!("{name} is not connected"));
            if holds(&state) {
                return state;
            }
            assert!(started.elapsed() < PATIENCE / 4, "{name} stays {state:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// The body of a message that calls a method of the broker.
pub fn call(id: u32, method: &str, params: &[u8]) -> Vec<u8> {
    [b".broker\0\x01".as_slice(), &id.to_le_bytes(), method.as_bytes(), &[0], params].concat()
}

fn field<'a>(map: &'a rmpv::Value, name: &str) -> Option<&'a rmpv::Value> {
    map.as_map()?.iter().find(|(key, _)| key.as_str() == Some(name)).map(|(_, value)| value)
}

/// One client in the answer of `client.list`.
#[derive(Debug)]
pub struct State {
    pub state: Option<String>,
    pub held_senders: Option<u64>,
    pub dropped: u64,
    pub queue: u64,
}

impl State {
    pub fn is(&self, state: &str) -> bool {
        self.state.as_deref() == Some(state)
    }
}

/// Operations with numbered payloads of `size` bytes, one after the other.
pub fn numbered(flags: u8, head: &[u8], numbers: std::ops::Range<u32>, size: usize) -> Vec<u8> {
    numbers.flat_map(|number| Peer::operation(number, flags, &payload(head, number, size))).collect()
}

/// Returns the body of one of them.
pub fn payload(head: &[u8], number: u32, size: usize) -> Vec<u8> {
    let mut body = [head, &number.to_le_bytes()].concat();
    body.resize(head.len() + size.max(4), 7);
    body
}
