//! The clients of the crate busrt 0.5.6.

use crate::peer::{Answer, Op, Seen};
use crate::{Bed, PATIENCE};
use busrt_ref::borrow::Cow;
use busrt_ref::client::AsyncClient;
use busrt_ref::sync::client::SyncClient;
use busrt_ref::{Error, EventChannel, FrameData, QoS, SyncEventChannel, ipc, sync};
use std::time::Instant;

pub fn code(e: Error) -> u8 {
    e.kind() as u8
}

pub fn qos(qos: u8) -> QoS {
    QoS::try_from(qos).unwrap()
}

pub fn config(address: &str, name: &str) -> ipc::Config {
    ipc::Config::new(address, name).timeout(PATIENCE)
}

pub fn seen(frame: &FrameData) -> Seen {
    Seen {
        kind: frame.kind() as u8,
        sender: frame.sender().to_owned(),
        primary_sender: frame.primary_sender().to_owned(),
        topic: frame.topic().map(str::to_owned),
        payload: frame.payload().to_vec(),
        realtime: frame.is_realtime(),
    }
}

pub struct Async<'a> {
    bed: &'a Bed,
    client: ipc::Client,
    frames: EventChannel,
}

impl<'a> Async<'a> {
    pub fn connect(bed: &'a Bed, name: &str) -> Result<Async<'a>, u8> {
        let client = bed.wait(ipc::Client::connect(&config(&bed.address, name))).map_err(code)?;
        Ok(Async::new(bed, client))
    }

    fn new(bed: &'a Bed, mut client: ipc::Client) -> Async<'a> {
        let frames = client.take_event_channel().unwrap();
        Async { bed, client, frames }
    }

    pub fn secondary(&self) -> Result<(String, Async<'a>), u8> {
        let client = self.bed.wait(self.client.register_secondary()).map_err(code)?;
        Ok((client.get_name().to_owned(), Async::new(self.bed, client)))
    }

    pub fn start(&mut self, op: Op<'_>, with_qos: u8) -> Result<Answer, u8> {
        let (c, qos) = (&mut self.client, qos(with_qos));
        let run = async {
            match op {
                Op::Send(target, payload) => c.send(target, payload.into(), qos).await,
                Op::Broadcast(mask, payload) => c.send_broadcast(mask, payload.into(), qos).await,
                Op::Publish(topic, payload) => c.publish(topic, payload.into(), qos).await,
                Op::PublishFor(topic, receiver, payload) => {
                    c.publish_for(topic, receiver, payload.into(), qos).await
                }
                Op::Subscribe([topic]) => c.subscribe(topic, qos).await,
                Op::Subscribe(topics) => c.subscribe_bulk(topics, qos).await,
                Op::Unsubscribe([topic]) => c.unsubscribe(topic, qos).await,
                Op::Unsubscribe(topics) => c.unsubscribe_bulk(topics, qos).await,
                Op::Exclude([topic]) => c.exclude(topic, qos).await,
                Op::Exclude(topics) => c.exclude_bulk(topics, qos).await,
                Op::Unexclude([topic]) => c.unexclude(topic, qos).await,
                Op::Unexclude(topics) => c.unexclude_bulk(topics, qos).await,
            }
        };
        self.bed.wait(run).map(Answer::Theirs).map_err(code)
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

pub struct Sync {
    client: sync::ipc::Client,
    frames: SyncEventChannel,
}

impl Sync {
    pub fn connect(bed: &Bed, name: &str) -> Result<Sync, u8> {
        let config = sync::ipc::Config::new(&bed.address, name).timeout(PATIENCE);
        let (client, reader) = sync::ipc::Client::connect(&config).map_err(code)?;
        Ok(Sync::new(client, reader))
    }

    fn new(mut client: sync::ipc::Client, reader: sync::ipc::Reader) -> Sync {
        let frames = client.take_event_channel().unwrap();
        std::thread::spawn(move || reader.run());
        Sync { client, frames }
    }

    pub fn secondary(&self) -> Result<(String, Sync), u8> {
        let (client, reader) = self.client.register_secondary().map_err(code)?;
        Ok((client.get_name().to_owned(), Sync::new(client, reader)))
    }

    pub fn start(&mut self, op: Op<'_>, with_qos: u8) -> Result<Answer, u8> {
        let (c, qos) = (&mut self.client, qos(with_qos));
        let result = match op {
            Op::Send(target, payload) => c.send(target, Cow::from(payload), qos),
            Op::Broadcast(mask, payload) => c.send_broadcast(mask, payload.into(), qos),
            Op::Publish(topic, payload) => c.publish(topic, payload.into(), qos),
            Op::PublishFor(topic, receiver, payload) => c.publish_for(topic, receiver, payload.into(), qos),
            Op::Subscribe([topic]) => c.subscribe(topic, qos),
            Op::Subscribe(topics) => c.subscribe_bulk(topics, qos),
            Op::Unsubscribe([topic]) => c.unsubscribe(topic, qos),
            Op::Unsubscribe(topics) => c.unsubscribe_bulk(topics, qos),
            Op::Exclude([topic]) => c.exclude(topic, qos),
            Op::Exclude(topics) => c.exclude_bulk(topics, qos),
            Op::Unexclude([topic]) => c.unexclude(topic, qos),
            Op::Unexclude(topics) => c.unexclude_bulk(topics, qos),
        };
        result.map(Answer::TheirsSync).map_err(code)
    }

    pub fn take(&mut self) -> Seen {
        let started = Instant::now();
        loop {
            match self.frames.try_recv() {
                Ok(frame) => return seen(&frame),
                Err(_) => assert!(started.elapsed() < PATIENCE, "it hangs"),
            }
            std::thread::yield_now();
        }
    }

    pub fn is_connected(&self) -> bool {
        self.client.is_connected()
    }

    pub fn ping(&mut self) -> Result<(), u8> {
        self.client.ping().map_err(code)
    }
}
