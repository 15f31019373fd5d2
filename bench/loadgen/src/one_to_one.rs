//! One sender and one receiver: throughput, latency, acknowledgements, and a flood; and clients that send to
//! themselves.

use crate::Args;
use crate::net::{Conn, Poller};
use crate::scan::Scan;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::*};
use std::time::{Duration, Instant};

/// K senders, each with its own receiver; at most `window` frames in flight per pair, so that no broker has to queue
/// more than that.
pub fn p2p(args: Arc<Args>) {
    let (n, pairs) = (args.num("n", 1_000_000), args.num("pairs", 4));
    let (size, window) = (args.num("size", 100) as usize, args.num("window", 4096));
    let per = n / pairs;
    let _idle: Vec<Conn> = (0..args.num("idle", 0)).map(|i| args.connect(&format!("lg.idle{i}"))).collect();
    let start = Arc::new(AtomicBool::new(false));
    let mut hs = vec![];
    for p in 0..pairs {
        let got = Arc::new(AtomicU64::new(0));
        let mut rx = args.connect(&format!("lg.rx{p}"));
        args.proto.listen(&mut rx, &format!("lg.rx{p}"));
        let mut tx = args.connect(&format!("lg.tx{p}"));
        let (a1, g1) = (args.clone(), got.clone());
        hs.push(std::thread::spawn(move || {
            let mut scan = Scan::new(a1.proto);
            let mut have = 0u64;
            while have < per {
                let k = scan.read(&mut rx, |_| {});
                if k == usize::MAX {
                    eprintln!("receiver {p} was disconnected after {have}");
                    std::process::exit(3);
                }
                have += k as u64;
                g1.store(have, Release);
            }
        }));
        let (a2, s2) = (args.clone(), start.clone());
        hs.push(std::thread::spawn(move || {
            let payload = vec![0xeeu8; size];
            let target = format!("lg.rx{p}");
            let mut buf = Vec::with_capacity(1 << 17);
            while !s2.load(Acquire) {
                std::hint::spin_loop();
            }
            let mut sent = 0u64;
            while sent < per {
                let room = window.saturating_sub(sent - got.load(Acquire).min(sent));
                if room == 0 {
                    std::thread::yield_now();
                    continue;
                }
                let batch = room.min(per - sent).min((1 << 16) / (size as u64 + 40) + 1);
                buf.clear();
                for _ in 0..batch {
                    a2.proto.send(&mut buf, &target, &payload, 0, 0);
                }
                tx.write_all(&buf);
                sent += batch;
            }
            // Keeps the sender open until its receiver is done.
            while got.load(Acquire) < per {
                std::thread::sleep(Duration::from_micros(50));
            }
        }));
    }
    std::thread::sleep(Duration::from_millis(100));
    let t = Instant::now();
    start.store(true, Release);
    for h in hs {
        h.join().unwrap();
    }
    let s = t.elapsed().as_secs_f64();
    println!("scenario=p2p pairs={pairs} size={size} n={n} secs={s:.3} msgs_per_s={:.0}", n as f64 / s);
}

/// A sends to B through the broker, B echoes back: one message in flight.
pub fn pingpong(args: Arc<Args>) {
    let (n, size) = (args.num("n", 50_000), args.num("size", 100) as usize);
    let qos = if args.num("rt", 1) == 1 { 2 } else { 0 };
    let mut b = args.connect("lg.b");
    args.proto.listen(&mut b, "lg.b");
    let mut a = args.connect("lg.a");
    args.proto.listen(&mut a, "lg.a");
    let ab = args.clone();
    std::thread::sleep(Duration::from_millis(100));
    std::thread::spawn(move || {
        let payload = vec![1u8; size];
        let mut scan = Scan::new(ab.proto);
        let mut buf = Vec::new();
        loop {
            let k = scan.read(&mut b, |_| {});
            if k == usize::MAX {
                return;
            }
            for _ in 0..k {
                buf.clear();
                ab.proto.send(&mut buf, "lg.a", &payload, qos, 0);
                b.write_all(&buf);
            }
        }
    });
    let payload = vec![0u8; size];
    let mut scan = Scan::new(args.proto);
    let mut lat: Vec<u64> = Vec::with_capacity(n as usize);
    let mut buf = Vec::new();
    for i in 0..n + 2000 {
        let t = Instant::now();
        buf.clear();
        args.proto.send(&mut buf, "lg.b", &payload, qos, 0);
        a.write_all(&buf);
        while scan.read(&mut a, |_| {}) == 0 {}
        if i >= 2000 {
            lat.push(t.elapsed().as_nanos() as u64);
        }
    }
    lat.sort_unstable();
    let q = |p: f64| lat[((lat.len() - 1) as f64 * p) as usize] as f64 / 1000.0;
    let mean = lat.iter().sum::<u64>() as f64 / lat.len() as f64 / 1000.0;
    println!(
        "scenario=pingpong size={size} n={n} mean_us={mean:.1} p99_us={:.1} p999_us={:.1} max_us={:.1} p50_us={:.1}",
        q(0.99),
        q(0.999),
        q(1.0),
        q(0.5)
    );
}

/// `conns` clients in one thread, each with one message to itself in flight: for each message a read and a write on
/// either side, and the poller.
pub fn echo(args: Arc<Args>) {
    let (n, size, conns) = (args.num("n", 300_000), args.num("size", 100) as usize, args.num("conns", 8));
    let qos = if args.num("rt", 1) == 1 { 2 } else { 0 };
    let payload = vec![0u8; size];
    let mut poller = Poller::new();
    let mut clients = vec![];
    for i in 0..conns {
        let name = format!("lg.echo{i}");
        let mut c = args.connect(&name);
        args.proto.listen(&mut c, &name);
        let mut message = vec![];
        args.proto.send(&mut message, &name, &payload, qos, 0);
        poller.add(c.fd, i as usize);
        clients.push((c, Scan::new(args.proto), message));
    }
    std::thread::sleep(Duration::from_millis(100));
    assert!(n >= conns, "a message for each client");
    let t = Instant::now();
    let (mut sent, mut got) = (0, 0);
    for (c, _, message) in &mut clients {
        c.write_all(message);
        sent += 1;
    }
    while got < n {
        for i in poller.wait(-1) {
            let (c, scan, message) = &mut clients[i];
            let k = scan.read(c, |_| {});
            assert_ne!(k, usize::MAX, "client {i} was disconnected");
            got += k as u64;
            if k > 0 && sent < n {
                c.write_all(message);
                sent += 1;
            }
        }
    }
    let s = t.elapsed().as_secs_f64();
    println!("scenario=echo conns={conns} size={size} n={n} secs={s:.3} echoes_per_s={:.0}", n as f64 / s);
}

/// Acknowledged sends (busrt QoS 1/3 only), `depth` in flight, to a receiver that drains.
pub fn ack(args: Arc<Args>) {
    let (n, size, depth) = (args.num("n", 200_000), args.num("size", 100) as usize, args.num("depth", 1));
    let qos = if args.num("rt", 1) == 1 { 3 } else { 1 };
    let mut b = args.connect("lg.b");
    let ab = args.clone();
    std::thread::spawn(move || {
        let mut scan = Scan::new(ab.proto);
        while scan.read(&mut b, |_| {}) != usize::MAX {}
    });
    let mut a = args.connect("lg.a");
    let payload = vec![0u8; size];
    let mut scan = Scan::new(args.proto);
    let (mut sent, mut acked) = (0u64, 0u64);
    let mut buf = Vec::new();
    let t = Instant::now();
    while acked < n {
        buf.clear();
        while sent < n && sent - acked < depth {
            sent += 1;
            args.proto.send(&mut buf, "lg.b", &payload, qos, sent as u32);
        }
        if !buf.is_empty() {
            a.write_all(&buf);
        }
        scan.acks = 0;
        let mut bad = 0;
        scan.read(&mut a, |code| {
            if code != 1 {
                bad += 1
            }
        });
        assert_eq!(bad, 0, "a nack");
        acked += scan.acks;
    }
    let s = t.elapsed().as_secs_f64();
    println!("scenario=ack depth={depth} size={size} n={n} secs={s:.3} acks_per_s={:.0}", n as f64 / s);
}

/// A sender that never waits, without a window, and a receiver that reads slowly (`delay` us per read). The result is
/// which clients stay connected and what arrives, not the speed.
pub fn flood(args: Arc<Args>) {
    let (n, size, delay) = (args.num("n", 500_000), args.num("size", 100) as usize, args.num("delay", 0));
    let mut rx = args.connect("lg.rx");
    args.proto.listen(&mut rx, "lg.rx");
    let mut tx = args.connect("lg.tx");
    std::thread::sleep(Duration::from_millis(100));
    let got = Arc::new(AtomicU64::new(0));
    let gone = Arc::new(AtomicBool::new(false));
    let (a1, g1, d1) = (args.clone(), got.clone(), gone.clone());
    let h = std::thread::spawn(move || {
        let mut scan = Scan::new(a1.proto);
        let mut have = 0u64;
        while have < n {
            let k = scan.read(&mut rx, |_| {});
            if k == usize::MAX {
                d1.store(true, Release);
                break;
            }
            have += k as u64;
            g1.store(have, Release);
            if delay > 0 {
                std::thread::sleep(Duration::from_micros(delay));
            }
        }
    });
    let payload = vec![0xeeu8; size];
    let mut buf = Vec::new();
    let t = Instant::now();
    let mut sent = 0;
    while sent < n && !gone.load(Acquire) {
        buf.clear();
        for _ in 0..256.min(n - sent) {
            args.proto.send(&mut buf, "lg.rx", &payload, 0, 0);
        }
        if !tx.try_write_all(&buf) {
            println!("scenario=flood the sender was disconnected at {sent}");
            break;
        }
        sent += 256.min(n - sent);
    }
    let mut last = (got.load(Acquire), Instant::now());
    while !h.is_finished() && last.1.elapsed() < Duration::from_secs(3) {
        std::thread::sleep(Duration::from_millis(20));
        let g = got.load(Acquire);
        if g != last.0 {
            last = (g, Instant::now());
        }
    }
    let s = t.elapsed().as_secs_f64();
    println!(
        "scenario=flood sent={sent} received={} lost={} receiver_disconnected={} secs={s:.2}",
        got.load(Acquire),
        sent - got.load(Acquire),
        gone.load(Acquire)
    );
}
