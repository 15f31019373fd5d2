//! A neutral load generator: the same work, the same client code, against any broker.
//!
//! ```text
//! loadgen PROTO ADDR SCENARIO [key=value ...]
//!   PROTO     busrt | nats | redis | mqtt
//!   ADDR      a UNIX socket's path (starts with '/') or host:port
//!   SCENARIO  p2p | fanout | pingpong | echo | ack | idle | subs | flood
//!   keys      n= messages, pairs=, size= bytes, window=, subs=, conns=, pid= broker's process,
//!             topics= per client, rt=1 realtime QoS, depth= acks in flight, idle= silent clients
//!             beside p2p, delay= us between a flooded receiver's reads
//! loadgen probe --address ADDR --seconds S [--every-ms 2] [--acknowledged 1]    (probe.rs)
//! loadgen attack KIND --address ADDR --seconds S [--scale 1]                     (attack/mod.rs)
//! loadgen wakeup                                                                 (wakeup.rs)
//! ```
//! The scenarios print one line of key=value figures, the last one the headline. Exit code 3: a receiver was cut.
//! Anything else unexpected is a panic: a figure is printed only when all the work was done.
mod attack;
mod memory;
mod net;
mod one_to_many;
mod one_to_one;
mod options;
mod probe;
mod proto;
mod scan;
mod schedule;
mod wakeup;

use net::Conn;
use proto::Proto;
use std::collections::HashMap;
use std::sync::Arc;

/// The command line.
pub struct Args {
    proto: Proto,
    addr: String,
    kv: HashMap<String, String>,
}

impl Args {
    /// Returns the number given for key `k`, or `d`.
    fn num(&self, k: &str, d: u64) -> u64 {
        self.kv.get(k).map_or(d, |v| v.replace('_', "").parse().expect(k))
    }

    /// Connects a new client, registered as `name`.
    fn connect(&self, name: &str) -> Conn {
        let mut c = Conn::open(&self.addr);
        self.proto.handshake(&mut c, name);
        c
    }
}

fn main() {
    let a: Vec<String> = std::env::args().skip(1).collect();
    if a.len() == 1 && a[0] == "wakeup" {
        return wakeup::run();
    }
    if a.len() < 3 {
        eprintln!("usage: loadgen PROTO ADDR SCENARIO [key=value ...]");
        eprintln!("       loadgen probe --address ADDR --seconds S [--every-ms 2] [--acknowledged 1]");
        eprintln!("       loadgen attack KIND --address ADDR --seconds S [--scale 1]");
        eprintln!("       loadgen wakeup");
        std::process::exit(2);
    }
    let lim = libc::rlimit { rlim_cur: 200_000, rlim_max: 200_000 };
    // SAFETY: the limit outlives the call, which only reads it. If it is refused, the inherited limit stays.
    unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &lim) };
    match a[0].as_str() {
        "probe" => return probe::run(&options::Options::parse(&a[1..])),
        "attack" => return attack::run(&a[1], &options::Options::parse(&a[2..])),
        _ => {}
    }
    let args = Arc::new(Args {
        proto: Proto::parse(&a[0]),
        addr: a[1].clone(),
        kv: a[3..]
            .iter()
            .map(|s| s.split_once('=').map(|(k, v)| (k.into(), v.into())).expect("key=value"))
            .collect(),
    });
    match a[2].as_str() {
        "p2p" => one_to_one::p2p(args),
        "fanout" => one_to_many::fanout(args),
        "pingpong" => one_to_one::pingpong(args),
        "echo" => one_to_one::echo(args),
        "ack" => one_to_one::ack(args),
        "idle" => memory::idle(args),
        "subs" => one_to_many::subs(args),
        "flood" => one_to_one::flood(args),
        s => panic!("unknown scenario {s}"),
    }
}
