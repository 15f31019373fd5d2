//! Large deliveries: bursts to many receivers, large frames, and receivers that do not read.

use super::Stage;
use super::client::{ACKNOWLEDGED, Client, MESSAGE, PUBLISH, UNACKNOWLEDGED, encode, register};
use super::crowd::Crowd;
use crate::net::Conn;
use crate::proto::Proto;
use std::sync::Arc;
use std::time::Duration;

const PAYLOAD: [u8; 100] = [0xee; 100];
/// Number of publications that are queued for a receiver that does not read before the attack begins: by default, 1
/// MiB fits in the kernel and 8,192 frames in the broker's queue.
const FILL: usize = 12_000;
/// Approximate size of the blocks in which small frames are written, in bytes.
const BLOCK: usize = 1 << 16;

/// Bursts of 500 publications to 1,000 subscribers, each of which is a connection that reads.
pub fn burst_1000(stage: &Arc<Stage>) {
    burst(stage, 500, stage.count(1000), 0);
}

/// Bursts of 3,000 publications to 300 subscribers, of which 30 do not read: their queues in the broker and the
/// kernel are nearly full before the attack begins.
pub fn burst_stuck(stage: &Arc<Stage>) {
    burst(stage, 3000, stage.count(270), stage.count(30));
}

/// Sends a burst in one write, waits until the reading clients have received it, pauses, and repeats.
fn burst(stage: &Arc<Stage>, publications: u64, readers: u64, deaf: u64) {
    let subscribers = |kind: &str, count: u64| -> Vec<Conn> {
        let subscriber = |i| {
            let mut conn = stage.connect(&format!("lg.{kind}{i}"));
            Proto::Busrt.subscribe(&mut conn, "lg/burst");
            Proto::Busrt.subscribe(&mut conn, &format!("lg/{kind}"));
            conn
        };
        (0..count).map(subscriber).collect()
    };
    let crowd = Crowd::reading(subscribers("reader", readers));
    let _deaf = Crowd::deaf(subscribers("deaf", deaf));
    let mut sender = Client::new(stage, "lg.attack");
    let fill = encode(PUBLISH, UNACKNOWLEDGED, &[b"lg/deaf\0", &PAYLOAD]).repeat(FILL);
    let end = encode(PUBLISH, ACKNOWLEDGED, &[b"lg/end\0"]);
    assert!(deaf == 0 || sender.acknowledged(&[fill, end].concat(), 1), "the preparation was refused");
    let burst = encode(PUBLISH, UNACKNOWLEDGED, &[b"lg/burst\0", &PAYLOAD]).repeat(publications as usize);
    let delivered = publications * readers * (6 + "lg.attack\0lg/burst\0".len() + PAYLOAD.len()) as u64;
    stage.go();
    loop {
        let before = crowd.received();
        sender.write(&burst);
        crowd.wait(before, delivered);
        stage.round();
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// A client that sends itself frames of 16 MiB.
pub fn large_frames(stage: &Arc<Stage>) {
    let mut client = Client::new(stage, "lg.attack");
    let payload = vec![0xee; stage.count(16 << 20) as usize];
    let bytes = encode(MESSAGE, UNACKNOWLEDGED, &[b"lg.attack\0", &payload]);
    stage.go();
    loop {
        let reader = client.conn.try_clone().map(|conn| read_all(conn, Duration::ZERO));
        while client.conn.try_write_all(&bytes) {
            stage.round();
            std::thread::sleep(Duration::from_millis(5));
        }
        drop(reader);
        client.reconnect();
    }
}

/// Reads until the connection ends, in a separate thread, with a pause between the reads.
fn read_all(mut conn: Conn, rest: Duration) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        let mut buffer = vec![0; 1 << 18];
        while !matches!(conn.read(&mut buffer), Some(0)) {
            std::thread::sleep(rest);
        }
    })
}

/// Four clients send acknowledged publications continuously and never read. A client that cannot write for 300 ms
/// disconnects and connects again.
pub fn unread_acks(stage: &Arc<Stage>) {
    let block = block_of(&encode(PUBLISH, ACKNOWLEDGED, &[b"lg/acknowledged\0", &PAYLOAD]));
    let clients = (0..4).map(|i| Client::new(stage, &format!("lg.attack{i}"))).collect();
    stage.go();
    let stage = stage.clone();
    each_in_a_thread(clients, move |client| {
        if client.conn.write_timeout(Duration::from_millis(300)).is_ok() {
            while write_block(&mut client.conn, &block) {
                stage.round();
            }
        }
        client.reconnect();
    });
}

/// Two clients flood a third one, which does not read, with small frames that are not acknowledged.
pub fn flood_unread(stage: &Arc<Stage>) {
    let block = block_of(&encode(MESSAGE, UNACKNOWLEDGED, &[b"lg.deaf\0", &[0xee; 16]]));
    let deaf = stage.connect("lg.deaf");
    let clients = (0..2).map(|i| Client::new(stage, &format!("lg.attack{i}"))).collect();
    stage.go();
    let (flooded, stage) = (stage.clone(), stage.clone());
    std::thread::spawn(move || be_deaf(&flooded, deaf));
    each_in_a_thread(clients, move |client| {
        while write_block(&mut client.conn, &block) {
            stage.round();
        }
        client.reconnect();
    });
}

/// Keeps one client that does not read. The broker may disconnect it; then another one replaces it after at most a
/// second.
fn be_deaf(stage: &Stage, conn: Conn) {
    let mut crowd = Some(Crowd::deaf(vec![conn]));
    loop {
        std::thread::sleep(Duration::from_secs(1));
        drop(crowd.take());
        while crowd.is_none() {
            std::thread::sleep(Duration::from_millis(100));
            crowd = register(&stage.address, "lg.deaf").map(|conn| Crowd::deaf(vec![conn]));
        }
    }
}

/// Calls `step` for each client repeatedly, each in a separate thread.
fn each_in_a_thread(clients: Vec<Client>, step: impl Fn(&mut Client) + Sync) {
    std::thread::scope(|scope| {
        for mut client in clients {
            let step = &step;
            scope.spawn(move || {
                loop {
                    step(&mut client);
                }
            });
        }
    });
}

/// Returns as many copies of a frame as make a block.
fn block_of(frame: &[u8]) -> Vec<u8> {
    frame.repeat(BLOCK / frame.len())
}

/// Writes a block. Returns false if the connection ended, or had no room within its write timeout.
fn write_block(conn: &mut Conn, block: &[u8]) -> bool {
    let mut at = 0;
    while at < block.len() {
        match conn.write(&block[at..]) {
            Ok(Some(n)) => at += n,
            Ok(None) | Err(_) => return false,
        }
    }
    true
}

/// A client floods itself with small frames and reads slowly.
pub fn flood_self(stage: &Arc<Stage>) {
    let block = block_of(&encode(MESSAGE, UNACKNOWLEDGED, &[b"lg.attack\0", &[0xee; 16]]));
    let mut client = Client::new(stage, "lg.attack");
    stage.go();
    loop {
        let reader = client.conn.try_clone().map(|conn| read_all(conn, Duration::from_millis(5)));
        while client.conn.try_write_all(&block) {
            stage.round();
        }
        drop(reader);
        client.reconnect();
    }
}
