//! Requests and names: filters for the list of clients, registrations, and broadcasts to many names.

use super::Stage;
use super::client::{BROADCAST, Client, MESSAGE, UNACKNOWLEDGED, encode, register};
use super::crowd::Crowd;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// 20 × `client.list` with a filter that is short and compiles to a large automaton: about 1 KB in one write.
pub fn filters(stage: &Arc<Stage>) {
    // Each round has another suffix, so that a cache of compiled filters, or of refusals, does not hide their cost.
    ask(stage, 20, |round, _| match round {
        0 => r"\w{200}".to_owned(),
        _ => format!(r"\w{{200}}{}", letters(round)),
    });
}

/// Filters of several forms, 45 in one write of about 2.7 KB.
pub fn heavy_filters(stage: &Arc<Stage>) {
    const FORMS: [&str; 6] = [
        r"(\w{50}){50}",
        r"\p{L}{300}",
        r"(?i)\w{120}",
        r"[\w\s]{250}",
        r"(a{1,100}){1,100}",
        r"(\pL{20}){20}",
    ];
    ask(stage, 45, |round, number| format!("{}{}", FORMS[number % FORMS.len()], letters(round + number)));
}

fn letters(number: usize) -> String {
    format!("{number}").bytes().map(|digit| char::from(digit - b'0' + b'a')).collect()
}

/// Sends `count` requests in one write, waits for all answers, pauses, and repeats.
fn ask(stage: &Arc<Stage>, count: usize, filter: impl Fn(usize, usize) -> String) {
    let mut client = Client::new(stage, "lg.attack");
    stage.go();
    for round in 0.. {
        let mut bytes = Vec::new();
        for number in 0..count {
            bytes.extend(client_list(&filter(round, number)));
        }
        client.answered(&bytes, count);
        stage.round();
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Returns an RPC request for `client.list` with `{"filter": …}` in MessagePack.
fn client_list(filter: &str) -> Vec<u8> {
    let mut call = vec![1, 1, 0, 0, 0];
    call.extend_from_slice(b"client.list\0\x81\xa6filter\xd9");
    call.push(filter.len() as u8);
    call.extend_from_slice(filter.as_bytes());
    encode(MESSAGE, UNACKNOWLEDGED, &[b".broker\0", &call])
}

/// Two clients connect, register and disconnect as fast as possible; 500 other clients are told of each.
pub fn storm(stage: &Arc<Stage>) {
    let mut listeners = Vec::new();
    for i in 0..stage.count(500) {
        let mut conn = stage.connect(&format!("lg.listener{i}"));
        crate::proto::Proto::Busrt.subscribe(&mut conn, ".broker/info");
        listeners.push(conn);
    }
    let _listeners = Crowd::reading(listeners);
    stage.go();
    let other = stage.clone();
    std::thread::spawn(move || come_and_go(&other, "lg.storm1"));
    come_and_go(stage, "lg.storm2");
}

fn come_and_go(stage: &Stage, name: &str) {
    for number in 0_u64.. {
        // The broker may still hold the name of the previous connection.
        match register(&stage.address, &format!("{name}.{}", number % 16)) {
            Some(_) => stage.round(),
            None => drop(stage.cut.fetch_add(1, Relaxed)),
        }
    }
}

/// Broadcasts to `?.?.?.*`, which match 3,000 clients whose names have 60 parts. Before each burst, a client with
/// such a name connects or disconnects, so that the receivers cannot be cached.
pub fn broadcast_names(stage: &Arc<Stage>) {
    const BURST: u64 = 10;
    const PAYLOAD: [u8; 100] = [0xee; 100];
    let name = |number: u64| format!("n{number}.{}", vec!["longpart"; 60].join("."));
    let count = stage.count(3000);
    let crowd = Crowd::reading((0..count).map(|i| stage.connect(&name(i))).collect());
    let mut sender = Client::new(stage, "lg.attack");
    let one = encode(BROADCAST, UNACKNOWLEDGED, &[b"?.?.?.*\0", &PAYLOAD]);
    let burst = one.repeat(BURST as usize);
    let delivered = BURST * count * (6 + "lg.attack\0".len() + PAYLOAD.len()) as u64;
    stage.go();
    let mut guest = None;
    for round in 0.. {
        guest = match guest {
            None => register(&stage.address, &name(count + round)),
            Some(_) => None,
        };
        let before = crowd.received();
        sender.write(&burst);
        crowd.wait(before, delivered);
        stage.round();
        std::thread::sleep(Duration::from_millis(50));
    }
}
