//! A client of the session: a connection, or one within the broker's process.

use super::wire::{Received, Wire, delivery};
use busrt::QoS;
use busrt::broker::Broker;
use busrt::client::{Client, Frames};
use busrt::proto::decoder::Decoder;
use busrt::proto::request::{Header, Operation};
use bytes::Bytes;

#[derive(Debug)]
pub enum Peer {
    Wire(Wire),
    Local(Local),
}

/// A client within the broker's process.
#[derive(Debug)]
pub struct Local {
    client: Client,
    frames: Frames,
    acks: Vec<(u32, u8)>,
}

impl Local {
    pub async fn register(broker: &Broker, name: &str) -> Self {
        let client = broker.client(name).await.expect("the name is free");
        let frames = client.frames().expect("the frames are not taken");
        Local { client, frames, acks: vec![] }
    }

    /// Submits the operations of a stream that can be read, then awaits those that are acknowledged.
    async fn submit(&mut self, mut stream: &[u8]) {
        let (mut decoder, mut pending) = (Decoder::<Header>::new(u32::MAX), vec![]);
        while let Some((header, body)) = decoder.next(&mut stream).expect("a valid stream") {
            let operation = Operation::parse(header.flags, &body).expect("a valid operation");
            let operation = operation.map_payload(Bytes::copy_from_slice);
            let submitted = self.client.submit(operation, header.qos()).await;
            match submitted {
                Ok(operation) if header.qos().needs_ack() => pending.push((header.op_id, operation)),
                Ok(_) => {}
                Err(e) => panic!("{e}"),
            }
        }
        for (op_id, operation) in pending {
            self.acks.push((op_id, operation.await.map_or_else(|e| e.kind().code(), |()| 1)));
        }
    }

    /// Everything that the broker has put into the inbox.
    fn take(&mut self) -> Received {
        let mut frames = vec![];
        while self.frames.take_batch(&mut frames, 1000, usize::MAX).is_some_and(|count| count > 0) {}
        let frames = frames.iter().filter(|frame| frame.sender() != ".broker");
        let deliveries = frames.map(|frame| {
            let names = [Some(frame.sender()), frame.topic()];
            let mut parts: Vec<&[u8]> = names.iter().flatten().map(|name| name.as_bytes()).collect();
            parts.push(frame.payload());
            delivery(frame.kind() as u8, frame.is_realtime(), &parts)
        });
        Received { deliveries: deliveries.collect(), acks: std::mem::take(&mut self.acks) }
    }
}

impl Peer {
    pub fn is_local(&self) -> bool {
        matches!(self, Peer::Local(_))
    }

    /// Sends a stream of valid operations; over a connection in pieces of these sizes.
    pub async fn send(&mut self, stream: &[u8], pieces: &[usize]) {
        match self {
            Peer::Wire(wire) => wire.write(stream, pieces),
            Peer::Local(local) => local.submit(stream).await,
        }
    }

    /// Sends a barrier.
    pub fn send_barrier(&mut self, number: u32) {
        if let Peer::Wire(wire) = self {
            wire.send_barrier(number);
        }
    }

    /// Everything up to the barrier that was sent.
    pub async fn read_barrier(&mut self, number: u32) -> Received {
        match self {
            Peer::Wire(wire) => wire.read_barrier(number).await,
            Peer::Local(local) => {
                let harmless = local.client.unsubscribe("never", QoS::Processed).await;
                assert!(harmless.is_ok(), "{harmless:?}");
                local.take()
            }
        }
    }

    /// Ends the direction to the broker.
    pub async fn end(&mut self) {
        match self {
            Peer::Wire(wire) => wire.end(),
            Peer::Local(local) => local.client.disconnect().await,
        }
    }

    /// Reads to the end of the connection.
    pub async fn read_to_end(mut self) -> Received {
        let mut received = Received::default();
        match &mut self {
            Peer::Wire(wire) => assert!(!wire.read_until(None, &mut received).await),
            Peer::Local(local) => received = local.take(),
        }
        received
    }
}
