//! Publications: to many subscribers, and among many subscriptions.

use crate::Args;
use crate::memory::rss_kb;
use crate::net::{Conn, Poller};
use crate::scan::Scan;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::*};
use std::time::{Duration, Instant};

/// One publisher, N subscribers of one topic; one epoll thread reads for all of them.
pub fn fanout(args: Arc<Args>) {
    let (n, subs) = (args.num("n", 20_000), args.num("subs", 100) as usize);
    let (size, window) = (args.num("size", 100) as usize, args.num("window", 1024));
    let total = Arc::new(AtomicU64::new(0));
    let mut conns: Vec<Conn> = (0..subs)
        .map(|i| {
            let mut c = args.connect(&format!("lg.sub{i}"));
            args.proto.subscribe(&mut c, "lg/fan/topic");
            c.nonblocking();
            c
        })
        .collect();
    let mut tx = args.connect("lg.pub");
    std::thread::sleep(Duration::from_millis(200));
    let want = n * subs as u64;
    let (a1, t1) = (args.clone(), total.clone());
    let t = Instant::now();
    let h = std::thread::spawn(move || {
        let mut poller = Poller::new();
        let mut scans: Vec<Scan> = conns.iter().map(|_| Scan::new(a1.proto)).collect();
        for (i, c) in conns.iter().enumerate() {
            poller.add(c.fd, i);
        }
        let mut have = 0u64;
        while have < want {
            for i in poller.wait(1000) {
                let k = scans[i].read(&mut conns[i], |_| {});
                if k == usize::MAX {
                    eprintln!("subscriber {i} was disconnected after {have} of {want}");
                    std::process::exit(3);
                }
                have += k as u64;
            }
            t1.store(have, Release);
        }
    });
    let payload = vec![0xeeu8; size];
    let mut buf = Vec::new();
    let mut sent = 0u64;
    while sent < n {
        let done = total.load(Acquire) / subs as u64;
        let room = window.saturating_sub(sent - done.min(sent));
        if room == 0 {
            std::thread::yield_now();
            continue;
        }
        let batch = room.min(n - sent).min(64);
        buf.clear();
        for _ in 0..batch {
            args.proto.publish(&mut buf, "lg/fan/topic", &payload, 0, 0);
        }
        tx.write_all(&buf);
        sent += batch;
    }
    h.join().unwrap();
    let s = t.elapsed().as_secs_f64();
    println!(
        "scenario=fanout subs={subs} size={size} n={n} secs={s:.3} deliveries_per_s={:.0}",
        want as f64 / s
    );
}

/// C clients hold T subscriptions each. One publisher iterates over the topics; each publication matches exactly one
/// subscriber of the exact topic and one wildcard subscriber.
pub fn subs(args: Arc<Args>) {
    let (n, conns, topics) = (args.num("n", 100_000), args.num("conns", 100), args.num("topics", 1000));
    let (size, window, pid) = (args.num("size", 100) as usize, args.num("window", 2048), args.num("pid", 0));
    let before = if pid > 0 { rss_kb(pid) } else { 0 };
    let t0 = Instant::now();
    let mut cs: Vec<Conn> = vec![];
    for i in 0..conns {
        let mut c = args.connect(&format!("lg.s{i}"));
        for j in 0..topics {
            args.proto.subscribe(&mut c, &format!("plant{}/line{}/sensor{}/value", i % 10, i, j));
        }
        cs.push(c);
    }
    let mut wild = args.connect("lg.wild");
    args.proto.subscribe(&mut wild, "+/+/+/value");
    cs.push(wild);
    let setup = t0.elapsed().as_secs_f64();
    let mut tx = args.connect("lg.pub");
    std::thread::sleep(Duration::from_millis(300));
    let after = if pid > 0 { rss_kb(pid) } else { 0 };
    let want = n * 2;
    let total = Arc::new(AtomicU64::new(0));
    let (a1, t1) = (args.clone(), total.clone());
    let t = Instant::now();
    let h = std::thread::spawn(move || {
        let mut poller = Poller::new();
        let mut scans: Vec<Scan> = cs.iter().map(|_| Scan::new(a1.proto)).collect();
        for (i, c) in cs.iter_mut().enumerate() {
            c.nonblocking();
            poller.add(c.fd, i);
        }
        let mut have = 0;
        while have < want {
            for i in poller.wait(1000) {
                let k = scans[i].read(&mut cs[i], |_| {});
                if k == usize::MAX {
                    eprintln!("subscriber {i} was disconnected after {have} of {want}");
                    std::process::exit(3);
                }
                have += k as u64;
            }
            t1.store(have, Release);
        }
    });
    let payload = vec![0xeeu8; size];
    let mut buf = Vec::new();
    let (mut sent, mut x) = (0u64, 12345u64);
    while sent < n {
        let room = window.saturating_sub(sent - (total.load(Acquire) / 2).min(sent));
        if room == 0 {
            std::thread::yield_now();
            continue;
        }
        let batch = room.min(n - sent).min(256);
        buf.clear();
        for _ in 0..batch {
            x = x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let (i, j) = ((x >> 33) % conns, (x >> 13) % topics);
            args.proto.publish(
                &mut buf,
                &format!("plant{}/line{}/sensor{}/value", i % 10, i, j),
                &payload,
                0,
                0,
            );
        }
        tx.write_all(&buf);
        sent += batch;
    }
    h.join().unwrap();
    let s = t.elapsed().as_secs_f64();
    println!(
        "scenario=subs subscriptions={} subscribe_secs={setup:.2} bytes_per_sub={:.0} n={n} secs={s:.3} pubs_per_s={:.0}",
        conns * topics,
        (after as f64 - before as f64) * 1024.0 / (conns * topics) as f64,
        n as f64 / s
    );
}
