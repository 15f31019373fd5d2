//! A client that sends itself a small realtime message on a fixed schedule and measures the round trip.
//!
//! The schedule is open: a message is due every `--every-ms`, whether or not earlier ones were answered, and its
//! latency counts from when it was due. A broker that does nothing for 100 ms thus delays 50 messages, not one. It
//! prints one JSON object; `own_max_us` is the part of the delay that this process itself caused by waking up late to
//! send a message.

use crate::net::Conn;
use crate::options::Options;
use crate::proto::{Proto, frame};
use crate::schedule;
use std::time::{Duration, Instant};

const NAME: &str = "lg.probe";
/// Number of messages that are sent one by one before the schedule starts, so that the first figures are not those of
/// a cold start.
const WARM_UP: usize = 50;

/// Measures for `--seconds`, then waits up to `--patience` seconds for the missing answers.
pub fn run(options: &Options) {
    let scheduling = schedule::first();
    let seconds: f64 = options.value("seconds", 2.0);
    let every = Duration::from_secs_f64(options.value("every-ms", 2.0) / 1000.0);
    let qos = if options.value("acknowledged", 0) == 1 { 3 } else { 2 };
    let patience = Duration::from_secs_f64(options.value("patience", 5.0));
    let count = (seconds / every.as_secs_f64()) as usize;
    assert!(count > 0, "no message is due within --seconds");

    let mut conn = Conn::open(options.text("address"));
    Proto::Busrt.handshake(&mut conn, NAME);
    conn.nonblocking();
    let mut probe = Probe::new(conn, qos, WARM_UP.max(count));
    for _ in 0..WARM_UP {
        let before = probe.answered;
        probe.queue(before, Instant::now());
        while probe.answered == before && !probe.closed {
            probe.turn(Duration::from_secs(5));
        }
    }

    let mut probe = Probe::new(probe.conn, qos, count);
    let start = Instant::now() + every;
    let end = start + every * count as u32 + patience;
    while probe.answered < count && !probe.closed {
        let now = Instant::now();
        while probe.due.len() < count {
            let due = start + every * probe.due.len() as u32;
            if due > now {
                break;
            }
            probe.own_max = probe.own_max.max(now - due);
            probe.queue(probe.due.len(), due);
        }
        let wake = if probe.due.len() < count { start + every * probe.due.len() as u32 } else { end };
        if now >= end {
            break;
        }
        probe.turn(wake.saturating_duration_since(now));
    }
    probe.report(scheduling);
}

struct Probe {
    conn: Conn,
    qos: u8,
    /// The time at which each message was due. The index is the number in the message's payload.
    due: Vec<Instant>,
    latencies: Vec<Duration>,
    /// Number of messages that have come back and, if requested, were acknowledged.
    answered: usize,
    messages: usize,
    acknowledgements: usize,
    /// Bytes that the socket has not accepted yet.
    out: Vec<u8>,
    input: Vec<u8>,
    chunk: Vec<u8>,
    own_max: Duration,
    closed: bool,
}

impl Probe {
    fn new(conn: Conn, qos: u8, count: usize) -> Probe {
        Probe {
            conn,
            qos,
            due: Vec::with_capacity(count),
            latencies: Vec::with_capacity(count),
            answered: 0,
            messages: 0,
            acknowledgements: 0,
            out: Vec::with_capacity(1 << 16),
            input: Vec::with_capacity(1 << 16),
            chunk: vec![0; 1 << 16],
            own_max: Duration::ZERO,
            closed: false,
        }
    }

    /// Queues message `number` and writes as much as the socket accepts.
    fn queue(&mut self, number: usize, due: Instant) {
        self.due.push(due);
        let number = number as u32;
        frame(&mut self.out, 0x12, self.qos, number, &[NAME.as_bytes(), &[0], &number.to_le_bytes()]);
        self.write();
    }

    fn write(&mut self) {
        while !self.out.is_empty() && !self.closed {
            match self.conn.write(&self.out) {
                Ok(Some(n)) => drop(self.out.drain(..n)),
                Ok(None) => return,
                Err(_) => self.closed = true,
            }
        }
    }

    /// Waits for the socket, at most for `limit`, and handles the ready events.
    fn turn(&mut self, limit: Duration) {
        let events = libc::POLLIN | if self.out.is_empty() { 0 } else { libc::POLLOUT };
        let mut poll = libc::pollfd { fd: self.conn.fd, events, revents: 0 };
        let limit = libc::timespec { tv_sec: limit.as_secs() as _, tv_nsec: limit.subsec_nanos() as _ };
        // SAFETY: both structures outlive the call; it writes to one pollfd, whose number it is given.
        let ready = unsafe { libc::ppoll(&mut poll, 1, &limit, std::ptr::null()) };
        if ready <= 0 {
            return;
        }
        if poll.revents & libc::POLLOUT != 0 {
            self.write();
        }
        if poll.revents & !libc::POLLOUT != 0 {
            self.read();
        }
    }

    fn read(&mut self) {
        match self.conn.read(&mut self.chunk) {
            None => return,
            Some(0) => {
                self.closed = true;
                return;
            }
            Some(n) => self.input.extend_from_slice(&self.chunk[..n]),
        }
        let now = Instant::now();
        let mut at = 0;
        while let Some(header) = self.input[at..].first_chunk::<6>() {
            let word = u32::from_le_bytes([header[1], header[2], header[3], header[4]]) as usize;
            let length = match header[0] {
                0 => 6,
                0xfe => {
                    assert_eq!(header[5], 1, "result code of the acknowledgement");
                    self.acknowledgements += 1;
                    6
                }
                _ => 6 + word,
            };
            if self.input.len() < at + length {
                break;
            }
            // The probe has no subscriptions of its own: a publication is the broker's warning of its shutdown.
            self.messages += usize::from(header[0] == 0x12);
            at += length;
        }
        self.input.drain(..at);
        // Messages of one client to one receiver keep their order, and so do acknowledgements.
        let answered = if self.qos == 3 { self.messages.min(self.acknowledgements) } else { self.messages };
        for number in self.answered..answered {
            self.latencies.push(now - self.due[number]);
        }
        self.answered = answered;
    }

    fn report(mut self, scheduling: &str) {
        // The latency of an unanswered message is at least the time since it was due.
        let now = Instant::now();
        let unanswered = &self.due[self.answered..];
        self.latencies.extend(unanswered.iter().map(|due| now - *due));
        self.latencies.sort_unstable();
        let last = self.latencies.len().saturating_sub(1);
        let at = |part: f64| {
            let found = self.latencies.get((last as f64 * part) as usize);
            found.map_or(f64::NAN, |latency| latency.as_secs_f64() * 1e6)
        };
        println!(
            "{{\"sent\": {}, \"answered\": {}, \"closed\": {}, \"p50_us\": {:.1}, \"p999_us\": {:.1}, \
             \"max_us\": {:.1}, \"own_max_us\": {:.1}, \"scheduling\": \"{scheduling}\"}}",
            self.due.len(),
            self.answered,
            self.closed,
            at(0.5),
            at(0.999),
            at(1.0),
            self.own_max.as_secs_f64() * 1e6,
        );
    }
}
