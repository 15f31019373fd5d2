//! The memory that clients need in the broker.

use crate::Args;
use crate::net::Conn;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Returns the resident memory of process `pid`, in KiB.
pub fn rss_kb(pid: u64) -> u64 {
    std::fs::read_to_string(format!("/proc/{pid}/status"))
        .unwrap()
        .lines()
        .find(|l| l.starts_with("VmRSS"))
        .and_then(|l| l.split_whitespace().nth(1)?.parse().ok())
        .unwrap()
}

/// Measures the memory of an idle registered client.
pub fn idle(args: Arc<Args>) {
    let (conns, pid) = (args.num("conns", 1000), args.num("pid", 0));
    let before = rss_kb(pid);
    let t = Instant::now();
    let held: Vec<Conn> = (0..conns)
        .map(|i| {
            let mut c = args.connect(&format!("lg.idle.c{i}"));
            args.proto.subscribe(&mut c, &format!("lg/idle/{i}"));
            c
        })
        .collect();
    let s = t.elapsed().as_secs_f64();
    std::thread::sleep(Duration::from_millis(500));
    let after = rss_kb(pid);
    println!(
        "scenario=idle conns={conns} connects_per_s={:.0} rss_before_kb={before} rss_after_kb={after} kb_per_conn={:.2}",
        conns as f64 / s,
        (after as f64 - before as f64) / conns as f64
    );
    drop(held);
}
