//! The wire as a client sees it, written without the crate.

use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

pub const NOP: u8 = 0x00;
pub const PUBLISH: u8 = 0x01;
pub const SUBSCRIBE: u8 = 0x02;
pub const UNSUBSCRIBE: u8 = 0x03;
pub const EXCLUDE: u8 = 0x04;
pub const UNEXCLUDE: u8 = 0x05;
pub const PUBLISH_FOR: u8 = 0x06;
pub const MESSAGE: u8 = 0x12;
pub const BROADCAST: u8 = 0x13;
pub const ACK: u8 = 0xfe;

pub const OK: u8 = 0x01;
pub const NOT_REGISTERED: u8 = 0x71;
pub const DATA: u8 = 0x72;
pub const BUSY: u8 = 0x76;
pub const NOT_DELIVERED: u8 = 0x77;
pub const DENIED: u8 = 0x79;

pub const GREETING: [u8; 3] = [0xeb, 1, 0];
/// The operation id of a barrier: an operation without effect, whose acknowledgement comes after everything before it.
pub const BARRIER_ID: u32 = 0xffff_fff0;
/// Nothing takes that long, unless it hangs.
const PATIENCE: Duration = Duration::from_secs(20);

/// The bytes of an operation.
pub fn operation(op_id: u32, code: u8, qos: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = op_id.to_le_bytes().to_vec();
    bytes.push(code | qos << 6);
    bytes.extend_from_slice(&(body.len() as u32).to_le_bytes());
    bytes.extend_from_slice(body);
    bytes
}

/// The bytes of a delivery.
pub fn delivery(kind: u8, realtime: bool, parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.join(&0);
    let mut bytes = vec![kind];
    bytes.extend_from_slice(&(body.len() as u32).to_le_bytes());
    bytes.push(u8::from(realtime));
    bytes.extend_from_slice(&body);
    bytes
}

/// The frames that a client has received, without pings and frames of the broker's own client.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Received {
    pub acks: Vec<(u32, u8)>,
    pub deliveries: Vec<Vec<u8>>,
}

/// One end of a connection to the broker. Tasks write and read it, so that a broker that holds the client back, or waits
/// until it reads, does not stop the session.
#[derive(Debug)]
pub struct Wire {
    /// `None`: the direction to the broker is ended when everything is written.
    outgoing: Option<mpsc::UnboundedSender<Vec<u8>>>,
    incoming: mpsc::UnboundedReceiver<Vec<u8>>,
    is_reading: watch::Sender<bool>,
    unread: Vec<u8>,
}

impl Wire {
    pub fn new(stream: UnixStream) -> Self {
        let (reader, writer) = stream.into_split();
        let (outgoing, pieces) = mpsc::unbounded_channel();
        let (received, incoming) = mpsc::unbounded_channel();
        let (is_reading, may_read) = watch::channel(true);
        tokio::spawn(write_all(writer, pieces));
        tokio::spawn(read_all(reader, may_read, received));
        Wire { outgoing: Some(outgoing), incoming, is_reading, unread: vec![] }
    }

    /// Writes in pieces of the sizes given, and the rest as one. A connection that the broker has closed takes no more.
    pub fn write(&mut self, mut bytes: &[u8], pieces: &[usize]) {
        let Some(outgoing) = &self.outgoing else { return };
        for size in pieces {
            let (piece, rest) = bytes.split_at((*size).min(bytes.len()));
            bytes = rest;
            let _ = outgoing.send(piece.to_vec());
        }
        let _ = outgoing.send(bytes.to_vec());
    }

    /// Ends the direction to the broker.
    pub fn end(&mut self) {
        self.outgoing = None;
    }

    /// Stops reading, or begins again. A read that has begun is ended.
    pub fn set_reading(&self, is_reading: bool) {
        self.is_reading.send_replace(is_reading);
    }

    /// Exactly `len` bytes; `None` at the end of the stream.
    pub async fn read(&mut self, len: usize) -> Option<Vec<u8>> {
        while self.unread.len() < len {
            let piece = timeout(PATIENCE, self.incoming.recv()).await.expect("the broker sends nothing")?;
            self.unread.extend_from_slice(&piece);
        }
        Some(self.unread.drain(..len).collect())
    }

    /// Reads up to the acknowledgement of the barrier with this number, or to the end of the stream.
    pub async fn read_until(&mut self, barrier: Option<u32>, received: &mut Received) -> bool {
        loop {
            let Some(mut frame) = self.read(6).await else { return false };
            let number = u32::from_le_bytes([frame[1], frame[2], frame[3], frame[4]]);
            match frame[0] {
                NOP => assert_eq!(frame, [0; 6]),
                ACK if barrier == Some(number) => {
                    assert_eq!(frame[5], 1);
                    return true;
                }
                ACK => received.acks.push((number, frame[5])),
                PUBLISH | MESSAGE | BROADCAST => {
                    let Some(body) = self.read(number as usize).await else { return false };
                    frame.extend_from_slice(&body);
                    // Replies to raw bytes that were a call, and announcements.
                    if !body.starts_with(b".broker\0") {
                        received.deliveries.push(frame);
                    }
                }
                kind => panic!("a frame of kind {kind:02x}"),
            }
        }
    }

    /// Sends a barrier.
    pub fn send_barrier(&mut self, number: u32) {
        self.write(&operation(BARRIER_ID + number, UNSUBSCRIBE, 1, b"never"), &[]);
    }

    /// Everything up to the barrier that was sent.
    pub async fn read_barrier(&mut self, number: u32) -> Received {
        let mut received = Received::default();
        assert!(self.read_until(Some(BARRIER_ID + number), &mut received).await, "the broker has closed it");
        received
    }
}

async fn write_all(mut stream: OwnedWriteHalf, mut pieces: mpsc::UnboundedReceiver<Vec<u8>>) {
    while let Some(piece) = pieces.recv().await {
        if stream.write_all(&piece).await.is_err() {
            return;
        }
        // The broker may read the piece before the next one is written.
        tokio::task::yield_now().await;
    }
    let _ = stream.shutdown().await;
}

async fn read_all(
    mut stream: OwnedReadHalf,
    mut may_read: watch::Receiver<bool>,
    received: mpsc::UnboundedSender<Vec<u8>>,
) {
    // This fails when the wire is dropped.
    while may_read.wait_for(|may_read| *may_read).await.is_ok() {
        let mut piece = Vec::with_capacity(16 * 1024);
        match stream.read_buf(&mut piece).await {
            Ok(1..) if received.send(piece).is_ok() => {}
            _ => return,
        }
    }
}
