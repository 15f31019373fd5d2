//! `benchmark`: how fast the broker is, stage by stage.
//!
//! A worker is a client that does one operation after another and one that receives; they share nothing
//! with other workers. Times: of an operation with an acknowledgement or a reply until that is there, of
//! one without until the call returns, and of send+recv from the sender to the receiver.

use crate::args::{Args, Load};
use crate::failure::{Failure, Result};
use crate::measure::{Meter, Report, Stage, progress};
use crate::output::Output;
use busrt::client::Frames;
use busrt::proto::op::BROKER_NAME;
use busrt::rpc::{Call, Caller, Handlers, Options, Rpc, RpcError};
use busrt::{Client, QoS};
use bytes::Bytes;
use indicatif::ProgressBar;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

const SELFTEST: &str = "benchmark.selftest";
/// Where payloads have the time they were sent.
const STAMP_LEN: usize = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Send(QoS),
    SendRecv(QoS),
    CallBroker,
    CallPeer,
    Call0,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Send(QoS::No) => "send.qos.no",
            Kind::Send(_) => "send.qos.processed",
            Kind::SendRecv(QoS::No) => "send+recv.qos.no",
            Kind::SendRecv(_) => "send+recv.qos.processed",
            Kind::CallBroker => "rpc.call",
            Kind::CallPeer => "rpc.call+handle",
            Kind::Call0 => "rpc.call0",
        }
    }
}

const MESSAGES: [Kind; 4] = [
    Kind::Send(QoS::No),
    Kind::Send(QoS::Processed),
    Kind::SendRecv(QoS::No),
    Kind::SendRecv(QoS::Processed),
];
const CALLS: [Kind; 3] = [Kind::CallBroker, Kind::CallPeer, Kind::Call0];

struct Worker {
    sender: Caller,
    receiver: Client,
    /// A name that nobody has.
    nobody: String,
    iters: u64,
    payload: Payload,
    timeout: Duration,
}

/// What is sent, and from when its times count.
#[derive(Clone)]
struct Payload {
    blank: Bytes,
    origin: Instant,
}

pub(crate) async fn run(args: &Args, load: &Load, out: &mut Output) -> Result<()> {
    let payload = Payload { blank: vec![0; load.payload_size as usize].into(), origin: Instant::now() };
    let mut workers = vec![];
    for number in 1..=load.workers {
        workers.push(Arc::new(Worker::connect(args, load, number, payload.clone()).await?));
    }
    let mut stages = vec![];
    for kind in MESSAGES {
        stages.push(run_stage(kind, &workers, load.iters, out).await?);
    }
    let peers: Vec<Rpc> = workers.iter().map(|worker| worker.serve()).collect();
    for kind in CALLS {
        stages.push(run_stage(kind, &workers, load.iters, out).await?);
    }
    drop(peers);
    for worker in &workers {
        worker.sender.client().disconnect().await;
        worker.receiver.disconnect().await;
    }
    Report { workers: load.workers, payload_size: load.payload_size, iters: load.iters, stages }.show(out)
}

/// Tasks of workers, each with what it measured and when it was done.
type Tasks = JoinSet<Result<(Meter, Instant)>>;

async fn run_stage(kind: Kind, workers: &[Arc<Worker>], total: u64, out: &Output) -> Result<Stage> {
    log::debug!("benchmark: {}", kind.name());
    let bar = progress(kind.name(), total, out);
    // What counts, and what only has to be done.
    let (mut measured, mut other) = (Tasks::new(), Tasks::new());
    let started = Instant::now();
    for worker in workers {
        let meter = Meter::new(bar.clone())?;
        let silent = Meter::new(ProgressBar::hidden())?;
        match kind {
            Kind::SendRecv(_) => {
                let frames = worker.receiver.frames()?;
                spawn(&mut measured, worker.clone().receive(frames, true, meter));
                spawn(&mut other, worker.clone().work(kind, silent));
            }
            Kind::Send(QoS::Processed) => {
                let frames = worker.receiver.frames()?;
                spawn(&mut measured, worker.clone().work(kind, meter));
                spawn(&mut other, worker.clone().receive(frames, false, silent));
            }
            _ => spawn(&mut measured, worker.clone().work(kind, meter)),
        }
    }
    let mut all = Meter::new(ProgressBar::hidden())?;
    let mut last = started;
    while !measured.is_empty() || !other.is_empty() {
        // Whichever fails first tells why: the rest may only wait for it.
        let (done, counts) = tokio::select! {
            Some(done) = measured.join_next() => (done, true),
            Some(done) = other.join_next() => (done, false),
        };
        let (meter, ended) = done.map_err(|e| Failure::Other(format!("a worker failed: {e}")))??;
        if counts {
            all.merge(&meter)?;
            last = last.max(ended);
        }
    }
    bar.finish_and_clear();
    Ok(all.report(kind.name(), last - started))
}

fn spawn(tasks: &mut Tasks, task: impl Future<Output = Result<Meter>> + Send + 'static) {
    tasks.spawn(async { Ok((task.await?, Instant::now())) });
}

impl Worker {
    async fn connect(args: &Args, load: &Load, number: u32, payload: Payload) -> Result<Worker> {
        let name = format!("{}-{number}", args.name());
        let (workers, index) = (u64::from(load.workers), u64::from(number - 1));
        Ok(Worker {
            sender: Caller::new(crate::connect_as(args, &name).await?),
            receiver: crate::connect_as(args, &format!("{name}-r")).await?,
            nobody: format!("{name}-null"),
            iters: load.iters / workers + u64::from(index < load.iters % workers),
            payload,
            timeout: args.timeout,
        })
    }

    fn serve(&self) -> Rpc {
        // In order, so that a last call knows that all before it have been handled.
        Rpc::with_options(self.receiver.clone(), SelfTest, Options::default().in_order(true))
    }

    /// The operations of a stage.
    async fn work(self: Arc<Self>, kind: Kind, mut meter: Meter) -> Result<Meter> {
        let (client, target) = (self.sender.client(), self.receiver.name());
        let payload = || self.payload.blank.clone();
        for _ in 0..self.iters {
            let begun = Instant::now();
            match kind {
                Kind::Send(QoS::No) => client.send(&self.nobody, payload(), QoS::No).await?,
                Kind::Send(qos) => client.send(target, payload(), qos).await?,
                Kind::SendRecv(qos) => client.send(target, self.payload.stamped(begun), qos).await?,
                Kind::CallBroker => self.call(BROKER_NAME, "benchmark.test").await?,
                Kind::CallPeer => self.call(target, SELFTEST).await?,
                Kind::Call0 => self.sender.call0(target, SELFTEST, payload(), QoS::Processed).await?,
            }
            meter.record(begun.elapsed()).await;
        }
        match kind {
            // Not over before the broker has it all: this comes after what was sent.
            Kind::Send(QoS::No) => client.unsubscribe(SELFTEST, QoS::Processed).await?,
            Kind::Call0 => self.call(target, SELFTEST).await?,
            _ => {}
        }
        Ok(meter)
    }

    async fn call(&self, target: &str, method: &str) -> Result<()> {
        let sent = &self.payload.blank;
        let reply = self.sender.call(target, method, sent.clone(), QoS::Processed).await?;
        if reply.payload().len() != sent.len() {
            return Err(Failure::Other(format!("{method} of {target} does not answer what it was sent")));
        }
        Ok(())
    }

    /// Takes as many frames as are sent.
    async fn receive(self: Arc<Self>, mut frames: Frames, stamped: bool, mut meter: Meter) -> Result<Meter> {
        for received in 0..self.iters {
            let frame = match frames.try_recv() {
                Some(frame) => frame,
                None => match tokio::time::timeout(self.timeout, frames.recv()).await {
                    Ok(Some(frame)) => frame,
                    Ok(None) => return Err(self.receiver.closed().await.into()),
                    Err(_) => {
                        let text = format!("{received} of {} messages arrived, and then none", self.iters);
                        return Err(Failure::Other(text));
                    }
                },
            };
            match frame.payload().first_chunk::<STAMP_LEN>() {
                Some(stamp) if stamped => {
                    let now = self.payload.since_origin(Instant::now());
                    meter.record_ns(now.saturating_sub(u64::from_le_bytes(*stamp))).await;
                }
                _ => meter.count().await,
            }
        }
        Ok(meter)
    }
}

impl Payload {
    fn since_origin(&self, time: Instant) -> u64 {
        time.duration_since(self.origin).as_nanos() as u64
    }

    /// With the time in it, if there is room.
    fn stamped(&self, now: Instant) -> Bytes {
        if self.blank.len() < STAMP_LEN {
            return self.blank.clone();
        }
        let mut bytes = self.blank.to_vec();
        bytes[..STAMP_LEN].copy_from_slice(&self.since_origin(now).to_le_bytes());
        bytes.into()
    }
}

/// The peer of the RPC stages.
struct SelfTest;

impl Handlers for SelfTest {
    async fn on_call(&self, call: Call) -> std::result::Result<Bytes, RpcError> {
        match call.method() {
            SELFTEST => Ok(call.params_bytes()),
            _ => Err(RpcError::method_not_found()),
        }
    }
}
