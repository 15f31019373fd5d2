//! `benchmark`: measures the speed of the broker, stage by stage.
//!
//! A worker is a client that does one operation after another and shares nothing with other workers. The stages are
//! those of the 0.5 releases and do the same work, so that their figures can be compared: `send` and `rpc.call0` use
//! a name that no client has, `send+recv` and `rpc.call+handle` go from the client to itself, and acknowledged
//! operations are realtime too.
//!
//! Times: an operation with an acknowledgement or a reply is timed until that arrives, one without until the call
//! returns, and send+recv from sending to receiving. If nothing is acknowledged, only one operation of several is
//! timed: reading the clock for each would be a large part of its cost. A stage always ends when the broker has done
//! all operations.

mod open_loop;

use crate::args::{Args, Load};
use crate::failure::{Failure, Result};
use crate::measure::{Meter, Report, Stage, progress};
use crate::output::Output;
use crate::stage::{ACKNOWLEDGED, STAGES, StageKind};
use busrt::client::Frames;
use busrt::proto::op::BROKER_NAME;
use busrt::rpc::{Call, Caller, Handlers, Rpc, RpcError};
use busrt::{Client, ErrorKind, QoS};
use bytes::Bytes;
use indicatif::ProgressBar;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

const SELFTEST: &str = "benchmark.selftest";
/// Length of the time of sending at the start of a payload, in bytes.
const STAMP_LEN: usize = 8;
/// The value in payloads that are not timed.
const NO_STAMP: [u8; STAMP_LEN] = [0; STAMP_LEN];
struct Worker {
    caller: Caller,
    /// A name that no client has.
    unregistered: String,
    iters: u64,
    payload: Payload,
    timeout: Duration,
}

/// The payload of a message, and the time from which its latency counts.
#[derive(Clone)]
struct Payload {
    blank: Bytes,
    origin: Instant,
}

pub(crate) async fn run(args: &Args, load: &Load, out: &mut Output) -> Result<()> {
    if let Some(rate) = load.rate {
        return open_loop::run(args, load, rate, out).await;
    }
    let payload = Payload::new(load.payload_size);
    let mut workers = vec![];
    for number in 1..=load.workers {
        workers.push(Arc::new(Worker::connect(args, load, number, payload.apart()).await?));
    }
    let (mut stages, mut peers) = (vec![], vec![]);
    for kind in STAGES {
        if !load.stages.is_empty() && !load.stages.contains(&kind) {
            continue;
        }
        if kind.is_rpc() && peers.is_empty() {
            peers = workers.iter().map(|worker| Rpc::new(worker.client().clone(), SelfTest)).collect();
        }
        stages.push(run_stage(kind, &workers, load.iters(), out).await?);
    }
    drop(peers);
    for worker in &workers {
        worker.client().disconnect().await;
    }
    Report { workers: load.workers, payload_size: load.payload_size, iters: load.iters(), stages }.show(out)
}

/// Tasks of workers, each of which returns its measurements and the time of its end.
type Tasks = JoinSet<Result<(Meter, Instant)>>;

async fn run_stage(kind: StageKind, workers: &[Arc<Worker>], total: u64, out: &Output) -> Result<Stage> {
    log::debug!("benchmark: {}", kind.name());
    let bar = progress(kind.name(), total, out);
    // The operations that are measured, and those that only have to be done.
    let (mut measured, mut other) = (Tasks::new(), Tasks::new());
    let started = Instant::now();
    for worker in workers {
        let meter = Meter::new(bar.clone())?;
        let silent = Meter::new(ProgressBar::hidden())?;
        match kind {
            StageKind::SendRecv(_) => {
                let frames = worker.client().frames()?;
                spawn(&mut measured, worker.clone().receive(frames, meter));
                spawn(&mut other, worker.clone().work(kind, silent));
            }
            _ => spawn(&mut measured, worker.clone().work(kind, meter)),
        }
    }
    let mut all = Meter::new(ProgressBar::hidden())?;
    let mut last = started;
    while !measured.is_empty() || !other.is_empty() {
        // The first failure has the cause: the other tasks may only be waiting for the failed one.
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
            caller: Caller::new(crate::connection::connect_as(args, &name).await?),
            unregistered: format!("{name}-null"),
            iters: load.iters() / workers + u64::from(index < load.iters() % workers),
            payload,
            timeout: args.timeout,
        })
    }

    fn client(&self) -> &Client {
        self.caller.client()
    }

    /// Runs the operations of a stage.
    async fn work(self: Arc<Self>, kind: StageKind, mut meter: Meter) -> Result<Meter> {
        let (client, own) = (self.client(), self.client().name());
        let payload = || self.payload.blank.clone();
        let timed = kind.timed();
        for number in 0..self.iters {
            let begun = number.is_multiple_of(timed).then(Instant::now);
            match kind {
                StageKind::Send(QoS::No) => client.send(&self.unregistered, payload(), QoS::No).await?,
                StageKind::Send(qos) => unheard(client.send(&self.unregistered, payload(), qos).await)?,
                StageKind::SendRecv(qos) => {
                    let stamped = begun.map_or_else(payload, |begun| self.payload.stamped(begun));
                    client.send(own, stamped, qos).await?;
                }
                StageKind::CallBroker => self.call(BROKER_NAME, "benchmark.test").await?,
                StageKind::CallPeer => self.call(own, SELFTEST).await?,
                StageKind::Call0 => {
                    unheard(self.caller.call0(&self.unregistered, SELFTEST, payload(), ACKNOWLEDGED).await)?
                }
            }
            match begun {
                Some(begun) => meter.record(begun.elapsed()),
                None => meter.count(),
            }
        }
        if kind == StageKind::Send(QoS::No) {
            // The acknowledgement of this operation shows that the broker has handled everything that was sent
            // before.
            client.unsubscribe(SELFTEST, ACKNOWLEDGED).await?;
        }
        Ok(meter)
    }

    async fn call(&self, target: &str, method: &str) -> Result<()> {
        let sent = &self.payload.blank;
        let reply = self.caller.call(target, method, sent.clone(), ACKNOWLEDGED).await?;
        if reply.payload().len() != sent.len() {
            return Err(Failure::Other(format!("{method} of {target} did not return its parameters")));
        }
        Ok(())
    }

    /// Takes as many frames as are sent.
    async fn receive(self: Arc<Self>, mut frames: Frames, mut meter: Meter) -> Result<Meter> {
        for received in 0..self.iters {
            let frame = match frames.try_recv() {
                Some(frame) => frame,
                None => match tokio::time::timeout(self.timeout, frames.recv()).await {
                    Ok(Some(frame)) => frame,
                    Ok(None) => return Err(self.client().closed().await.into()),
                    Err(_) => {
                        let text = format!("{received} of {} messages arrived, and then none", self.iters);
                        return Err(Failure::Other(text));
                    }
                },
            };
            match frame.payload().first_chunk::<STAMP_LEN>() {
                Some(stamp) if *stamp != NO_STAMP => {
                    let now = self.payload.since_origin(Instant::now());
                    meter.record_ns(now.saturating_sub(u64::from_le_bytes(*stamp)));
                }
                _ => meter.count(),
            }
        }
        Ok(meter)
    }
}

impl Payload {
    fn new(len: u32) -> Payload {
        Payload { blank: vec![0; len as usize].into(), origin: Instant::now() }
    }

    /// Returns a copy in separate memory, since workers share nothing.
    fn apart(&self) -> Payload {
        Payload { blank: Bytes::copy_from_slice(&self.blank), origin: self.origin }
    }

    fn since_origin(&self, time: Instant) -> u64 {
        time.duration_since(self.origin).as_nanos() as u64
    }

    /// Returns the payload with the time in it, if there is room.
    fn stamped(&self, now: Instant) -> Bytes {
        if self.blank.len() < STAMP_LEN {
            return self.blank.clone();
        }
        let mut bytes = self.blank.to_vec();
        bytes[..STAMP_LEN].copy_from_slice(&self.since_origin(now).to_le_bytes());
        bytes.into()
    }
}

/// Checks that the answer to a message without a receiver is the expected error.
fn unheard(outcome: busrt::Result<()>) -> busrt::Result<()> {
    match outcome {
        Err(e) if e.kind() == ErrorKind::NotRegistered => Ok(()),
        outcome => outcome,
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
