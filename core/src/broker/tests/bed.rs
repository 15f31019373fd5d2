//! A broker whose time the test moves, and clients over socket pairs that read as much as the test says.

use crate::broker::client_list::ClientInfo;
use crate::broker::housekeeping::Housekeeper;
use crate::broker::{Broker, Options, SlowPolicy};
use crate::transport::{Buffers, Socket};
use std::io::{Read, Write};
use std::ops::Range;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

pub(super) const PUBLISH: u8 = 0x01;
pub(super) const SUBSCRIBE: u8 = 0x02;
pub(super) const MESSAGE: u8 = 0x12;
/// Asks for an acknowledgement.
pub(super) const ACK: u8 = 0x40;
/// The size of most payloads.
pub(super) const SIZE: usize = 1000;
/// The time between two looks at the clients of a test.
pub(super) const STEP: Duration = Duration::from_millis(10);

/// A budget of 1 MiB, and kernel buffers so small that the broker sees what a client takes.
pub(super) fn options(policy: SlowPolicy) -> Options {
    Options::new()
        .timeout(Duration::from_secs(3600))
        .queue_size(100_000)
        .queue_bytes(1 << 20)
        .socket_buffers(Buffers { send: Some(16 * 1024), receive: Some(16 * 1024) })
        .slow(policy)
}

/// A broker and its time. The clock of the runtime must be paused.
pub(super) struct Bed {
    pub(super) broker: Broker,
    housekeeper: Housekeeper,
    now: Instant,
    start: Instant,
}

impl Bed {
    pub(super) fn new(options: Options) -> Bed {
        let now = Instant::now();
        let housekeeper = Housekeeper::new(&options, now);
        Bed { broker: Broker::without_thread(options), housekeeper, now, start: now }
    }

    /// Starts to register a client.
    pub(super) async fn connect(&self, name: &str) -> Client {
        let (ours, theirs) = UnixStream::pair().unwrap();
        self.broker.attach(Socket::from_unix(theirs).unwrap()).unwrap();
        let mut client = Client::new(ours);
        client.write(&[&[0xeb, 1, 0][..], &(name.len() as u16).to_le_bytes(), name.as_bytes()].concat());
        settle().await;
        client
    }

    pub(super) async fn client(&self, name: &str) -> Client {
        let mut client = self.connect(name).await;
        assert_eq!(client.result(), Some(1), "{name} is not registered");
        client
    }

    pub(super) async fn subscriber(&self, name: &str, topic: &str) -> Client {
        let mut client = self.client(name).await;
        client.write(&operation(0, SUBSCRIBE, topic.as_bytes()));
        settle().await;
        client
    }

    /// Lets one step pass.
    pub(super) async fn step(&mut self) {
        self.jump(STEP).await;
    }

    /// Lets some time pass in steps.
    pub(super) async fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.step().await;
        }
    }

    /// Lets some time pass at once, as if the process had been suspended.
    pub(super) async fn jump(&mut self, time: Duration) {
        self.now += time;
        tokio::time::advance(time).await;
        settle().await;
        self.housekeeper.poll(&self.broker.inner.core, self.now);
        settle().await;
    }

    /// Lets some time pass, in which a client writes as much as the broker reads.
    pub(super) async fn pass_writing(&mut self, time: Duration, client: &mut Client) {
        let end = self.now + time;
        while self.now < end {
            client.write(&[]);
            self.step().await;
        }
    }

    /// Writes everything that a client has to write, while the time passes.
    pub(super) async fn write_all(&mut self, client: &mut Client) {
        for _ in 0..10_000 {
            client.write(&[]);
            if client.outgoing.is_empty() {
                settle().await;
                return;
            }
            self.step().await;
        }
        panic!("the broker does not read");
    }

    /// The time since the beginning.
    pub(super) fn elapsed(&self) -> Duration {
        self.now - self.start
    }

    /// A client as the broker sees it; `None`: it is not registered.
    pub(super) fn info(&self, name: &str) -> Option<ClientInfo> {
        self.broker.clients().clients.into_iter().find(|client| client.name == name)
    }
}

/// Lets all tasks run until they wait.
async fn settle() {
    for _ in 0..8 {
        tokio::task::yield_now().await;
    }
}

/// One end of a connection to the broker.
pub(super) struct Client {
    stream: UnixStream,
    outgoing: Vec<u8>,
    incoming: Vec<u8>,
    /// The ids of acknowledged operations, and the results.
    pub(super) acks: Vec<(u32, u8)>,
    /// The numbers of the deliveries of other clients.
    pub(super) numbers: Vec<u32>,
    pub(super) pings: usize,
    pub(super) is_closed: bool,
}

impl Client {
    fn new(stream: UnixStream) -> Client {
        stream.set_nonblocking(true).unwrap();
        let (outgoing, incoming, acks, numbers) = (vec![], vec![], vec![], vec![]);
        Client { stream, outgoing, incoming, acks, numbers, pings: 0, is_closed: false }
    }

    /// The result of the registration, if it has come; `None` also if the broker has refused it by closing.
    pub(super) fn result(&mut self) -> Option<u8> {
        let mut answer = [0; 5];
        self.stream.read_exact(&mut answer).ok()?;
        assert_eq!(answer[..4], [0xeb, 1, 0, 1]);
        Some(answer[4])
    }

    /// Writes what the socket takes; the rest is written by the next call.
    pub(super) fn write(&mut self, bytes: &[u8]) {
        self.outgoing.extend_from_slice(bytes);
        while let Ok(n @ 1..) = self.stream.write(&self.outgoing) {
            self.outgoing.drain(..n);
        }
    }

    pub(super) fn has_written(&self) -> bool {
        self.outgoing.is_empty()
    }

    /// Reads at most so many bytes. Returns how many came.
    pub(super) fn read(&mut self, most: usize) -> usize {
        let mut bytes = vec![0; most];
        let mut count = 0;
        while count < most {
            match self.stream.read(&mut bytes[count..]) {
                Ok(0) => {
                    self.is_closed = true;
                    break;
                }
                Ok(n) => count += n,
                Err(_) => break,
            }
        }
        self.incoming.extend_from_slice(&bytes[..count]);
        self.decode();
        count
    }

    fn decode(&mut self) {
        let mut at = 0;
        while let Some(header) = self.incoming[at..].first_chunk::<6>().copied() {
            let number = u32::from_le_bytes([header[1], header[2], header[3], header[4]]);
            match header[0] {
                0 => self.pings += 1,
                0xfe => self.acks.push((number, header[5])),
                kind => {
                    let Some(body) = self.incoming.get(at + 6..at + 6 + number as usize) else { break };
                    let names = if kind == PUBLISH { 2 } else { 1 };
                    let payload = body.splitn(names + 1, |byte| *byte == 0).last().unwrap();
                    if !body.starts_with(b".broker\0") {
                        self.numbers.push(u32::from_le_bytes(*payload.first_chunk().unwrap()));
                    }
                    at += number as usize;
                }
            }
            at += 6;
        }
        self.incoming.drain(..at);
    }
}

fn operation(op_id: u32, flags: u8, body: &[u8]) -> Vec<u8> {
    let len = (body.len() as u32).to_le_bytes();
    [&op_id.to_le_bytes(), &[flags][..], &len, body].concat()
}

/// Operations with these numbers as their ids, and in their payloads of `size` bytes. `address` is the name, mask or
/// topic.
pub(super) fn numbered(flags: u8, address: &str, numbers: Range<u32>, size: usize) -> Vec<u8> {
    let one = |number: u32| {
        let mut body = [address.as_bytes(), &[0], &number.to_le_bytes()].concat();
        body.resize(address.len() + 1 + size, 7);
        operation(number, flags, &body)
    };
    numbers.flat_map(one).collect()
}
