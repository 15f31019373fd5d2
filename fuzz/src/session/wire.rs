//! The wire as a client sees it, written without the crate.

use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
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

/// One end of a connection to the broker.
#[derive(Debug)]
pub struct Wire {
    stream: UnixStream,
    unread: Vec<u8>,
}

impl Wire {
    pub fn new(stream: UnixStream) -> Self {
        Wire { stream, unread: vec![] }
    }

    /// Writes in pieces of the sizes given, and the rest as one. A connection that the broker has closed takes no more.
    pub async fn write(&mut self, mut bytes: &[u8], pieces: &[usize]) {
        for size in pieces {
            let (piece, rest) = bytes.split_at((*size).min(bytes.len()));
            bytes = rest;
            if self.stream.write_all(piece).await.is_err() {
                return;
            }
            // The broker may read the piece before the next one is written.
            tokio::task::yield_now().await;
        }
        let _ = self.stream.write_all(bytes).await;
    }

    /// Ends the direction to the broker.
    pub async fn end(&mut self) {
        let _ = self.stream.shutdown().await;
    }

    /// Exactly `len` bytes; `None` at the end of the stream.
    pub async fn read(&mut self, len: usize) -> Option<Vec<u8>> {
        while self.unread.len() < len {
            let read = timeout(PATIENCE, self.stream.read_buf(&mut self.unread)).await;
            match read.expect("the broker sends nothing") {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
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

    /// Everything up to now.
    pub async fn barrier(&mut self, number: u32) -> Received {
        self.write(&operation(BARRIER_ID + number, UNSUBSCRIBE, 1, b"never"), &[]).await;
        let mut received = Received::default();
        assert!(self.read_until(Some(BARRIER_ID + number), &mut received).await, "the broker has closed it");
        received
    }
}
