//! `benchmark --rate`: measures latency while messages are sent at a fixed rate, independent of the broker.
//!
//! A closed loop sends the next message when the last one is complete: while the broker stalls, nothing is sent, and
//! one long time represents all the messages that real senders would have had waiting. Here every message has a time
//! at which it is due, and its latency counts from that time, so that a stall is charged to every message that was
//! due during it (no "coordinated omission").
//!
//! A worker consists of a sending and a receiving client. Message k is due k / rate after the start and is sent by
//! the workers in turn. Pacers, which are separate threads, watch the clock and call the senders themselves: waking a
//! task for it would cost more than most latencies. Overdue messages are sent immediately. A worker whose connection
//! is blocked does not delay the others. No message of the schedule is left out, so that a run takes longer if the
//! rate is too high.
//!
//! The lateness of the pacers is measured too: if it is a large part of the latency, then the machine is too slow to
//! send, and not the bus.

use super::{Payload, STAMP_LEN};
use crate::args::{Args, Load, OpenQos, usage};
use crate::failure::{Failure, Result};
use crate::measure::{Meter, OpenReport, OpenStage, progress};
use crate::output::Output;
use busrt::client::PendingOperation;
use busrt::proto::request::Operation;
use busrt::{Client, ErrorKind, QoS};
use clap::error::ErrorKind as UsageError;
use indicatif::ProgressBar;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinSet;

/// Sleeping takes longer than requested, by the timer's slack of 50 µs and the time to wake up. The pacer stops
/// sleeping and watches the clock this long before a message is due.
const WATCH: Duration = Duration::from_micros(120);
/// Time after which a pacer tries a blocked connection again.
const RETRY: Duration = Duration::from_micros(50);
/// Interval at which the progress is shown.
const SHOW: Duration = Duration::from_millis(100);
/// Time from the decision to start until the first message is due: the pacers must be running by then.
const LEAD: Duration = Duration::from_millis(20);

#[derive(Clone)]
struct Worker {
    sender: Client,
    receiver: Client,
}

/// The state that all parts of a run share.
struct Run {
    qos: OpenQos,
    schedule: Schedule,
    payload: Payload,
    timeout: Duration,
    arrived: AtomicU64,
    /// True if every message has been sent.
    all_sent: AtomicBool,
    /// True if the run has failed, so that the pacers must end.
    over: AtomicBool,
}

/// The times at which messages are due.
#[derive(Debug, Clone, Copy)]
struct Schedule {
    start: Instant,
    /// The rate of all workers together, in messages per second.
    rate: u64,
    messages: u64,
    workers: u64,
}

impl Schedule {
    /// Returns when message `k` is due, counted from the start.
    fn offset(&self, k: u64) -> Duration {
        let ns = u128::from(k) * 1_000_000_000 / u128::from(self.rate);
        Duration::from_nanos(u64::try_from(ns).unwrap_or(u64::MAX))
    }

    /// Returns when message `k` is due; `None` if there is no such message.
    fn due(&self, k: u64) -> Option<Instant> {
        (k < self.messages).then(|| self.start + self.offset(k))
    }

    /// Returns the number of messages of the worker with that index.
    fn share(&self, worker: u64) -> u64 {
        self.messages / self.workers + u64::from(worker < self.messages % self.workers)
    }
}

/// Ends the pacers when the run is cancelled, because nothing else would.
struct EndPacers(Arc<Run>);

impl Drop for EndPacers {
    fn drop(&mut self) {
        self.0.over.store(true, Ordering::Relaxed);
    }
}

/// The measurements of one part of a run.
enum Part {
    Latency(Meter),
    /// The lateness of the messages, and the time of the last one.
    Lateness(Meter, Instant),
    Arrived(u64),
}

pub(super) async fn run(args: &Args, load: &Load, rate: u64, out: &mut Output) -> Result<()> {
    let qos = load.qos;
    if qos == OpenQos::Realtime && (load.payload_size as usize) < STAMP_LEN {
        let text = "--payload-size must be at least 8, since the payload contains the time at which the message was due";
        return Err(usage(UsageError::ValueValidation, text));
    }
    let payload = Payload::new(load.payload_size);
    let mut workers = vec![];
    for number in 1..=load.workers {
        let name = format!("{}-{number}", args.name());
        workers.push(Worker {
            sender: crate::connection::connect_as(args, &name).await?,
            receiver: crate::connection::connect_as(args, &format!("{name}-r")).await?,
        });
    }
    let schedule = Schedule {
        start: Instant::now() + LEAD,
        rate,
        messages: load.messages(rate),
        workers: u64::from(load.workers),
    };
    let stage = measure(&workers, qos, schedule, payload, args.timeout, out).await?;
    for worker in &workers {
        worker.sender.disconnect().await;
        worker.receiver.disconnect().await;
    }
    let (workers, payload_size) = (load.workers, load.payload_size);
    OpenReport { workers, payload_size, qos: qos.name(), stages: vec![stage] }.show(out)
}

async fn measure(
    workers: &[Worker],
    qos: OpenQos,
    schedule: Schedule,
    payload: Payload,
    timeout: Duration,
    out: &Output,
) -> Result<OpenStage> {
    let name = match qos {
        OpenQos::Realtime => "open.qos.realtime",
        OpenQos::Processed => "open.qos.processed",
    };
    log::debug!("benchmark: {name}");
    let run = Arc::new(Run {
        qos,
        schedule,
        payload,
        timeout,
        arrived: AtomicU64::new(0),
        all_sent: AtomicBool::new(false),
        over: AtomicBool::new(false),
    });
    let end_pacers = EndPacers(run.clone());
    // At most half of the cores are used: the others are for the broker and the receivers.
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let pacers = (cores / 2).clamp(1, workers.len());
    let mut sending = JoinSet::new();
    let mut receiving = JoinSet::new();
    let mut lines: Vec<Vec<Line>> = (0..pacers).map(|_| vec![]).collect();
    for (index, worker) in workers.iter().enumerate() {
        let share = schedule.share(index as u64);
        receiving.spawn(receive(run.clone(), worker.clone(), share));
        let confirmations = (qos == OpenQos::Processed).then(|| {
            let (to, confirmations) = unbounded_channel();
            receiving.spawn(confirm(run.clone(), confirmations));
            to
        });
        let (client, target) = (worker.sender.clone(), worker.receiver.name().to_owned());
        let (next, due) = (index as u64, schedule.due(index as u64));
        lines[index % pacers].push(Line { client, target, next, due, blocked: None, confirmations });
    }
    for lines in lines {
        let run = run.clone();
        sending.spawn_blocking(move || Pacer::new(run)?.run(lines));
    }
    let bar = progress(name, schedule.messages, out);
    let (mut latency, mut lateness) = (meter()?, meter()?);
    let (mut last_sent, mut arrived) = (schedule.start, 0);
    let mut show = tokio::time::interval(SHOW);
    while !sending.is_empty() || !receiving.is_empty() {
        let part = tokio::select! {
            // The first failure has the cause: the other tasks may only be waiting for the failed one.
            Some(part) = sending.join_next() => part,
            Some(part) = receiving.join_next() => part,
            _ = show.tick() => {
                bar.set_position(run.arrived.load(Ordering::Relaxed));
                continue;
            }
        };
        match part.map_err(|e| Failure::Other(format!("a worker failed: {e}")))?? {
            Part::Latency(meter) => latency.merge(&meter)?,
            Part::Arrived(count) => arrived += count,
            Part::Lateness(meter, last) => {
                lateness.merge(&meter)?;
                last_sent = last_sent.max(last);
                run.all_sent.store(sending.is_empty(), Ordering::Relaxed);
            }
        }
    }
    drop(end_pacers);
    bar.finish_and_clear();
    let received = if qos == OpenQos::Realtime { latency.ops() } else { arrived };
    // The interval after the last message is included, so that the requested rate gives exactly this rate.
    let took = last_sent.saturating_duration_since(schedule.start) + schedule.offset(1);
    Ok(OpenStage {
        name,
        rate_asked: schedule.rate,
        rate: lateness.ops() as f64 / took.as_secs_f64(),
        seconds: took.as_secs_f64(),
        sent: lateness.ops(),
        received,
        lost: lateness.ops().saturating_sub(received),
        latency_ns: latency.latency(),
        lateness_ns: lateness.latency(),
    })
}

fn meter() -> Result<Meter> {
    Meter::new(ProgressBar::hidden())
}

/// Takes arriving messages, until all have arrived or no more arrive.
async fn receive(run: Arc<Run>, worker: Worker, share: u64) -> Result<Part> {
    let mut frames = worker.receiver.frames()?;
    let mut latency = meter()?;
    while latency.ops() < share {
        let frame = match frames.try_recv() {
            Some(frame) => frame,
            None => {
                let all_sent = run.all_sent.load(Ordering::Relaxed);
                match tokio::time::timeout(run.timeout, frames.recv()).await {
                    Ok(Some(frame)) => frame,
                    Ok(None) => return Err(worker.receiver.closed().await.into()),
                    Err(_) if all_sent => break,
                    Err(_) => continue,
                }
            }
        };
        if frame.sender() != worker.sender.name() {
            continue;
        }
        match frame.payload().first_chunk::<STAMP_LEN>() {
            Some(due) if run.qos == OpenQos::Realtime => {
                let now = run.payload.since_origin(Instant::now());
                latency.record_ns(now.saturating_sub(u64::from_le_bytes(*due)));
            }
            _ => latency.count(),
        }
        run.arrived.fetch_add(1, Ordering::Relaxed);
    }
    Ok(match run.qos {
        OpenQos::Realtime => Part::Latency(latency),
        OpenQos::Processed => Part::Arrived(latency.ops()),
    })
}

/// Takes the acknowledgements of one worker, which arrive in the order of its messages.
async fn confirm(run: Arc<Run>, mut sent: UnboundedReceiver<(Instant, PendingOperation)>) -> Result<Part> {
    let mut latency = meter()?;
    while let Some((due, confirmation)) = sent.recv().await {
        match confirmation.await {
            Ok(()) => latency.record(due.elapsed()),
            // The broker did not accept it: it does not arrive, and is counted as lost.
            Err(e) if e.kind() == ErrorKind::NotDelivered => {}
            Err(e) => return Err(e.into()),
        }
        if run.over.load(Ordering::Relaxed) {
            break;
        }
    }
    Ok(Part::Latency(latency))
}

/// A worker from the point of view of its pacer.
struct Line {
    client: Client,
    target: String,
    /// The number of its next message.
    next: u64,
    /// The time at which that message is due; `None` when all are sent.
    due: Option<Instant>,
    /// The time since which its connection has been blocked.
    blocked: Option<Instant>,
    confirmations: Option<UnboundedSender<(Instant, PendingOperation)>>,
}

/// Sends the messages of some workers when they are due, on its own thread.
struct Pacer {
    run: Arc<Run>,
    lateness: Meter,
    last_sent: Instant,
}

impl Pacer {
    fn new(run: Arc<Run>) -> Result<Pacer> {
        let last_sent = run.schedule.start;
        Ok(Pacer { run, lateness: meter()?, last_sent })
    }

    fn run(mut self, mut lines: Vec<Line>) -> Result<Part> {
        while !self.run.over.load(Ordering::Relaxed) {
            let mut next: Option<Instant> = None;
            // Each line sends one message in turn, so that after a stall no line waits for all messages of another.
            for line in &mut lines {
                let now = Instant::now();
                if line.due.is_some_and(|due| due <= now) {
                    self.send(line, now)?;
                }
                let wanted =
                    line.due.map(|due| if line.blocked.is_some() { due.max(now + RETRY) } else { due });
                next = [next, wanted].into_iter().flatten().min();
            }
            match next {
                Some(next) => wait_until(next),
                None => break,
            }
        }
        Ok(Part::Lateness(self.lateness, self.last_sent))
    }

    /// Sends the next message of a line, unless the connection is blocked.
    fn send(&mut self, line: &mut Line, now: Instant) -> Result<()> {
        let Some(due) = line.due else { return Ok(()) };
        let payload = self.run.payload.stamped(due);
        let operation = Operation::Message { target: &line.target, payload };
        let qos = match self.run.qos {
            OpenQos::Realtime => QoS::Realtime,
            OpenQos::Processed => QoS::Processed,
        };
        // The future waits only for room. If it is dropped before there is room, the message has not been sent.
        let submitted =
            pin!(line.client.submit(operation, qos)).poll(&mut Context::from_waker(Waker::noop()));
        match submitted {
            Poll::Ready(confirmation) => {
                let confirmation = confirmation?;
                if let Some(confirmations) = &line.confirmations {
                    // This fails only if the receiving thread has failed, which reports its error.
                    let _ = confirmations.send((due, confirmation));
                }
                self.lateness.record(now - due);
                self.last_sent = now;
                (line.next, line.blocked) = (line.next + self.run.schedule.workers, None);
                line.due = self.run.schedule.due(line.next);
                Ok(())
            }
            Poll::Pending => {
                let since = *line.blocked.get_or_insert(now);
                if now - since < self.run.timeout {
                    return Ok(());
                }
                let text = format!("the broker accepts no more data from {}", line.client.name());
                Err(Failure::Bus(busrt::Error::new(ErrorKind::Timeout, text)))
            }
        }
    }
}

/// Sleeps, and watches the clock for the rest of the time.
fn wait_until(due: Instant) {
    loop {
        let left = due.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        if left > WATCH {
            // The sleep is short, because the run may have ended.
            thread::sleep((left - WATCH).min(SHOW));
            if left > SHOW {
                return;
            }
        } else {
            // The broker may need this core.
            thread::yield_now();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(rate: u64, messages: u64, workers: u64) -> Schedule {
        Schedule { start: Instant::now(), rate, messages, workers }
    }

    #[test]
    fn messages_are_due_evenly() {
        let schedule = schedule(3, 10, 4);
        let offsets: Vec<u128> = (0..4).map(|k| schedule.offset(k).as_millis()).collect();
        assert_eq!(offsets, [0, 333, 666, 1000]);
        assert_eq!((0..4).map(|worker| schedule.share(worker)).collect::<Vec<_>>(), [3, 3, 2, 2]);
        assert_eq!(schedule.due(9), Some(schedule.start + Duration::from_secs(3)));
        assert_eq!(schedule.due(10), None);
    }

    #[test]
    fn a_long_schedule_does_not_drift() {
        let schedule = schedule(7, u64::MAX, 1);
        assert_eq!(schedule.offset(7 * 1_000_000_000), Duration::from_secs(1_000_000_000));
    }

    #[test]
    fn waits_until_it_is_due_and_not_before() {
        for wait in [0, 50, 150, 2000].map(Duration::from_micros) {
            let due = Instant::now() + wait;
            wait_until(due);
            assert!(Instant::now() >= due);
        }
    }
}
