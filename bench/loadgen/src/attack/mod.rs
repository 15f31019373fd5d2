//! Clients that ask the broker for as much work as possible, while the probe measures the effect on other clients.
//!
//! An attack prepares its clients and its bytes, prints `ready`, waits for a line on the standard input, and then
//! attacks for `--seconds`. It prints its results as one JSON object and exits, even if work is still in progress;
//! its connections are closed then. From `ready` on it runs with the lowest priority, and it pauses between bursts if
//! its kind allows.

mod client;
mod crowd;
mod delivery;
mod families;
mod masks;
mod queries;
mod subscriptions;

use crate::net::Conn;
use crate::options::Options;
use crate::proto::Proto;
use crate::schedule;
use std::io::BufRead;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// A kind of attack: it prepares, calls [`Stage::go`], and then attacks, possibly for ever.
type Kind = fn(&Arc<Stage>);

const KINDS: &[(&str, Kind)] = &[
    ("filters", queries::filters),
    ("heavy_filters", queries::heavy_filters),
    ("subscribe_1m", subscriptions::subscribe_1m),
    ("subscribe_masks", subscriptions::subscribe_masks),
    ("exclude_1m", subscriptions::exclude_1m),
    ("leave_1m", subscriptions::leave_1m),
    ("leave_family", families::leave_family),
    ("resubscribe", subscriptions::resubscribe),
    ("masks_512_levels", masks::levels_512),
    ("mask_deep", masks::deep),
    ("masks_all", masks::all),
    ("burst_1000", delivery::burst_1000),
    ("burst_stuck", delivery::burst_stuck),
    ("storm", queries::storm),
    ("broadcast_names", queries::broadcast_names),
    ("large_frames", delivery::large_frames),
    ("unread_acks", delivery::unread_acks),
    ("flood_unread", delivery::flood_unread),
    ("flood_self", delivery::flood_self),
];

/// The environment of an attack: the broker, the size, the start, and the results.
pub struct Stage {
    address: String,
    /// Divides the number of clients, topics and masks, for a quick trial.
    scale: u64,
    started: OnceLock<Instant>,
    /// The number of bursts, frames or registrations: the kind defines what a round is.
    rounds: AtomicU64,
    /// Number of times that the broker closed or refused a connection of the attack.
    cut: AtomicU64,
}

impl Stage {
    /// Connects and registers as `name` during the preparation. Panics if the broker refuses it.
    fn connect(&self, name: &str) -> Conn {
        let mut conn = Conn::open(&self.address);
        Proto::Busrt.handshake(&mut conn, name);
        conn
    }

    /// Returns `full` in a full run, a part of it in a quick trial.
    fn count(&self, full: u64) -> u64 {
        (full / self.scale).max(1)
    }

    /// Reports that everything is prepared, and returns when the attack must begin.
    fn go(&self) {
        schedule::last();
        println!("ready");
        let mut line = String::new();
        let read = std::io::stdin().lock().read_line(&mut line);
        if read.is_err() || line.is_empty() {
            std::process::exit(1);
        }
        let _ = self.started.set(Instant::now());
    }

    fn round(&self) {
        self.rounds.fetch_add(1, Relaxed);
    }
}

/// Runs the attack `kind`.
pub fn run(kind: &str, options: &Options) {
    let Some((_, attack)) = KINDS.iter().find(|(name, _)| *name == kind) else {
        let known: Vec<&str> = KINDS.iter().map(|(name, _)| *name).collect();
        panic!("unknown attack {kind}; there are {}", known.join(", "));
    };
    let duration = Duration::from_secs_f64(options.value("seconds", 1.5));
    let stage = Arc::new(Stage {
        address: options.text("address").to_owned(),
        scale: options.value("scale", 1),
        started: OnceLock::new(),
        rounds: AtomicU64::new(0),
        cut: AtomicU64::new(0),
    });
    let attacker = {
        let stage = stage.clone();
        std::thread::spawn(move || attack(&stage))
    };
    while stage.started.get().is_none_or(|started| started.elapsed() < duration) {
        if attacker.is_finished() {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    if attacker.is_finished() && attacker.join().is_err() {
        std::process::exit(1);
    }
    // An attack that is complete keeps its connections until its time is over.
    if let Some(started) = stage.started.get() {
        std::thread::sleep(duration.saturating_sub(started.elapsed()));
    }
    let (rounds, cut) = (stage.rounds.load(Relaxed), stage.cut.load(Relaxed));
    println!("{{\"rounds\": {rounds}, \"cut\": {cut}}}");
    std::process::exit(0);
}
