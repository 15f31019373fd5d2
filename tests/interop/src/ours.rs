//! Our clients.

use crate::peer::{Answer, Op, Seen};
use crate::{Bed, PATIENCE};
use busrt::client::{Client, Config, Frames};
use busrt::proto::request::{Operation, Topics};
use busrt::{Error, Frame, FrameKind, QoS, blocking};
use bytes::Bytes;

pub fn code(e: Error) -> u8 {
    e.kind().code()
}

pub fn qos(qos: u8) -> QoS {
    [QoS::No, QoS::Processed, QoS::Realtime, QoS::RealtimeProcessed][usize::from(qos)]
}

pub fn config(address: &str, name: &str) -> Config {
    Config::new(address, name).timeout(PATIENCE)
}

/// Passes the operation to `run`; topics are borrowed from a text that is created here.
fn with<T>(op: Op<'_>, run: impl FnOnce(Operation<'_, Bytes>) -> T) -> T {
    let bytes = Bytes::copy_from_slice;
    let (Op::Subscribe(topics) | Op::Unsubscribe(topics) | Op::Exclude(topics) | Op::Unexclude(topics)) = op
    else {
        return run(match op {
            Op::Send(target, payload) => Operation::Message { target, payload: bytes(payload) },
            Op::Broadcast(mask, payload) => Operation::Broadcast { mask, payload: bytes(payload) },
            Op::Publish(topic, payload) => Operation::Publish { topic, payload: bytes(payload) },
            Op::PublishFor(topic, receiver, payload) => {
                Operation::PublishFor { topic, receiver, payload: bytes(payload) }
            }
            _ => unreachable!(),
        });
    };
    let joined = topics.join("\0");
    let topics = Topics::Joined(&joined);
    run(match op {
        Op::Subscribe(_) => Operation::Subscribe(topics),
        Op::Unsubscribe(_) => Operation::Unsubscribe(topics),
        Op::Exclude(_) => Operation::Exclude(topics),
        _ => Operation::Unexclude(topics),
    })
}

pub fn seen(frame: &Frame) -> Seen {
    Seen {
        kind: match frame.kind() {
            FrameKind::Publication => 1,
            FrameKind::Message => 0x12,
            _ => 0x13,
        },
        sender: frame.sender().to_owned(),
        primary_sender: frame.primary_sender().to_owned(),
        topic: frame.topic().map(str::to_owned),
        payload: frame.payload().to_vec(),
        realtime: frame.is_realtime(),
    }
}

/// Calls the method of the API for an operation, with one topic and with several in the form that programs use.
macro_rules! call {
    ($client:expr, $op:expr, $qos:expr $(, $wait:tt)?) => {{
        let (c, q) = (&$client, qos($qos));
        match $op {
            Op::Send(target, payload) => c.send(target, payload.to_vec(), q)$(.$wait)?,
            Op::Broadcast(mask, payload) => c.broadcast(mask, payload.to_vec(), q)$(.$wait)?,
            Op::Publish(topic, payload) => c.publish(topic, payload.to_vec(), q)$(.$wait)?,
            Op::PublishFor(topic, receiver, payload) => c.publish_for(topic, receiver, payload.to_vec(), q)$(.$wait)?,
            Op::Subscribe([topic]) => c.subscribe(topic, q)$(.$wait)?,
            Op::Subscribe(topics) => c.subscribe(topics, q)$(.$wait)?,
            Op::Unsubscribe([topic]) => c.unsubscribe(topic, q)$(.$wait)?,
            Op::Unsubscribe(topics) => c.unsubscribe(topics, q)$(.$wait)?,
            Op::Exclude([topic]) => c.exclude(topic, q)$(.$wait)?,
            Op::Exclude(topics) => c.exclude(topics, q)$(.$wait)?,
            Op::Unexclude([topic]) => c.unexclude(topic, q)$(.$wait)?,
            Op::Unexclude(topics) => c.unexclude(topics, q)$(.$wait)?,
        }
    }};
}

pub struct Async<'a> {
    bed: &'a Bed,
    client: Client,
    frames: Frames,
}

impl<'a> Async<'a> {
    pub fn connect(bed: &'a Bed, name: &str) -> Result<Async<'a>, u8> {
        let client = bed.wait(Client::connect(&config(&bed.address, name))).map_err(code)?;
        let frames = client.frames().map_err(code)?;
        Ok(Async { bed, client, frames })
    }

    pub fn secondary(&self) -> Result<(String, Async<'a>), u8> {
        let client = self.bed.wait(self.client.secondary()).map_err(code)?;
        let frames = client.frames().map_err(code)?;
        Ok((client.name().to_owned(), Async { bed: self.bed, client, frames }))
    }

    pub fn run(&mut self, op: Op<'_>, with_qos: u8) -> Result<(), u8> {
        self.bed.wait(async { call!(self.client, op, with_qos, await) }).map_err(code)
    }

    pub fn start(&mut self, op: Op<'_>, with_qos: u8) -> Result<Answer, u8> {
        let submitted = with(op, |op| self.bed.wait(self.client.submit(op, qos(with_qos))));
        submitted.map(Answer::Ours).map_err(code)
    }

    pub fn take(&mut self) -> Seen {
        seen(&self.bed.wait(self.frames.recv()).expect("a frame"))
    }

    pub fn is_connected(&self) -> bool {
        self.client.is_connected()
    }

    pub fn ping(&mut self) -> Result<(), u8> {
        self.bed.wait(self.client.ping()).map_err(code)
    }
}

impl Drop for Async<'_> {
    fn drop(&mut self) {
        self.bed.wait(self.client.disconnect());
    }
}

pub struct Blocking {
    client: blocking::Client,
    frames: blocking::Frames,
}

impl Blocking {
    pub fn connect(bed: &Bed, name: &str) -> Result<Blocking, u8> {
        let client = blocking::Client::connect(&config(&bed.address, name)).map_err(code)?;
        let frames = client.frames().map_err(code)?;
        Ok(Blocking { client, frames })
    }

    pub fn secondary(&self) -> Result<(String, Blocking), u8> {
        let client = self.client.secondary().map_err(code)?;
        let frames = client.frames().map_err(code)?;
        Ok((client.name().to_owned(), Blocking { client, frames }))
    }

    pub fn run(&mut self, op: Op<'_>, with_qos: u8) -> Result<(), u8> {
        call!(self.client, op, with_qos).map_err(code)
    }

    pub fn start(&mut self, op: Op<'_>, with_qos: u8) -> Result<Answer, u8> {
        with(op, |op| self.client.submit(op, qos(with_qos))).map(Answer::OursBlocking).map_err(code)
    }

    pub fn take(&mut self) -> Seen {
        seen(&self.frames.recv_timeout(PATIENCE).expect("it hangs").expect("a frame"))
    }

    pub fn is_connected(&self) -> bool {
        self.client.is_connected()
    }

    pub fn ping(&mut self) -> Result<(), u8> {
        self.client.ping().map_err(code)
    }
}
