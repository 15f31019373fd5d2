//! Pings, silent clients, and senders that are held back.

use super::bed::{ACK, Bed, MESSAGE, SIZE, numbered, options};
use crate::broker::SlowPolicy;
use crate::proto::delivery::PING;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

/// A client that reads nothing and whose queue is full, so that everything for it waits.
async fn fill(bed: &mut Bed, receiver: &str) {
    let mut filler = bed.client("filler").await;
    filler.write(&numbered(MESSAGE, receiver, 0..1500, SIZE));
    bed.pass_writing(SECOND / 4, &mut filler).await;
    assert!(bed.info(receiver).unwrap().held_senders > 0, "the queue is not full");
}

#[tokio::test(start_paused = true)]
async fn clients_are_pinged_and_end_when_they_are_silent() {
    let timeout = 4 * SECOND;
    let mut bed = Bed::new(options(SlowPolicy::Block).timeout(timeout));
    let (mut silent, mut alive) = (bed.client("silent").await, bed.client("alive").await);
    for _ in 0..48 {
        alive.write(&PING);
        bed.pass(SECOND / 10).await;
    }
    assert!(bed.info("silent").is_some(), "disconnected before 1.25 times the timeout");
    silent.read(4096);
    assert_eq!(silent.pings, 2);
    for _ in 0..8 {
        alive.write(&PING);
        bed.pass(SECOND / 10).await;
    }
    silent.read(4096);
    assert!(silent.is_closed && bed.info("silent").is_none());
    assert!(bed.info("alive").is_some());
}

/// A held sender is pinged about once a second, whatever the timeout is.
#[tokio::test(start_paused = true)]
async fn held_senders_are_pinged() {
    let mut bed = Bed::new(options(SlowPolicy::Block));
    let _stuck = bed.client("stuck").await;
    fill(&mut bed, "stuck").await;
    let mut sender = bed.client("sender").await;
    sender.write(&numbered(MESSAGE, "stuck", 0..1, SIZE));
    bed.pass(10 * SECOND).await;
    sender.read(4096);
    assert!((8..=10).contains(&sender.pings), "{} pings in 10 s", sender.pings);
}

/// A held sender that says nothing is not taken for silent; nor is it immediately when it is read again.
#[tokio::test(start_paused = true)]
async fn the_silence_of_a_held_sender_does_not_count() {
    let timeout = SECOND;
    let mut bed = Bed::new(options(SlowPolicy::Block).timeout(timeout));
    let mut stuck = bed.client("stuck").await;
    let mut filler = bed.client("filler").await;
    filler.write(&numbered(MESSAGE, "stuck", 0..1500, SIZE));
    bed.pass_writing(timeout / 2, &mut filler).await;
    let mut sender = bed.client("sender").await;
    sender.write(&numbered(MESSAGE | ACK, "stuck", 7..8, SIZE));
    // The receiver is alive, but takes nothing.
    for _ in 0..40 {
        stuck.write(&PING);
        bed.pass(timeout / 4).await;
    }
    assert_eq!(bed.info("stuck").unwrap().held_senders, 2);
    assert!(bed.info("sender").is_some(), "disconnected as silent while it was held");
    for _ in 0..20 {
        stuck.read(1 << 20);
        filler.write(&[]);
        bed.step().await;
    }
    sender.read(4096);
    assert_eq!(sender.acks, [(7, 1)]);
    bed.pass(timeout / 2).await;
    assert!(bed.info("sender").is_some(), "disconnected as silent when it was read again");
    bed.pass(timeout).await;
    assert!(bed.info("sender").is_none(), "its silence counts from then on");
}

/// The name of a held sender that closes its connection is free soon, under every policy and though the receiver
/// stays stuck. What had not been read of it is counted as lost.
#[tokio::test(start_paused = true)]
async fn a_held_sender_that_closes_frees_its_name() {
    for policy in [SlowPolicy::Block, SlowPolicy::Disconnect, SlowPolicy::DropOld] {
        let mut bed = Bed::new(options(policy).hold(3600 * SECOND).stall(3600 * SECOND));
        let _stuck = bed.client("stuck").await;
        fill(&mut bed, "stuck").await;
        let mut sender = bed.client("sender").await;
        sender.write(&numbered(MESSAGE, "stuck", 0..20, SIZE));
        bed.pass(SECOND).await;
        drop(sender);
        let closed = bed.elapsed();
        while bed.connect("sender").await.result() != Some(1) {
            assert!(bed.elapsed() - closed < SECOND, "{policy:?}: the name is not freed");
            bed.step().await;
        }
        bed.pass(SECOND).await;
        assert!(bed.broker.stats().dropped > 0, "{policy:?}: what is lost is not counted");
    }
}
