//! Receivers that do not keep up: those that move are never taken for stuck, the others after the stall time and not
//! before. The same rules without sockets are tested in `slow_receiver/tests.rs`.

use super::bed::{ACK, Bed, MESSAGE, PUBLISH, SIZE, STEP, numbered, options};
use crate::broker::client_list::ClientState;
use crate::broker::{Options, SlowPolicy};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);
const HOLD: Duration = Duration::from_millis(400);
/// More payloads than fit a receiver's budget and its socket.
const ENOUGH: u32 = 1500;

/// Lets the time pass until the client is disconnected. Returns how long that took.
async fn until_disconnected(bed: &mut Bed, name: &str) -> Duration {
    let started = bed.elapsed();
    while bed.info(name).is_some() {
        assert!(bed.elapsed() - started < 60 * SECOND, "{name} is never disconnected");
        bed.step().await;
    }
    bed.elapsed() - started
}

/// A stuck subscriber is disconnected after the stall time, not before, though no sender waits for it or sends to it
/// at that moment.
#[tokio::test(start_paused = true)]
async fn a_stuck_subscriber_is_disconnected_after_the_stall_time() {
    for hold in [HOLD, Duration::ZERO] {
        let stall = 4 * SECOND;
        let mut bed = Bed::new(options(SlowPolicy::Disconnect).hold(hold).stall(stall));
        let mut stuck = bed.subscriber("stuck", "t").await;
        let mut publisher = bed.client("publisher").await;
        publisher.write(&numbered(PUBLISH, "t", 0..ENOUGH, SIZE));
        let started = bed.elapsed();
        bed.write_all(&mut publisher).await;
        let info = bed.info("stuck").expect("disconnected before the stall time");
        assert_eq!((info.state, info.held_senders), (ClientState::Lagging, 0));
        until_disconnected(&mut bed, "stuck").await;
        let took = bed.elapsed() - started;
        assert!(took > stall * 9 / 10 && took < stall * 3 / 2, "hold {hold:?}: after {took:?}");
        while stuck.read(1 << 20) > 0 {}
        assert!(stuck.is_closed);
    }
}

/// A receiver that takes something in each stall time is never disconnected, however full it is.
#[tokio::test(start_paused = true)]
async fn a_receiver_that_moves_is_never_stuck() {
    let mut bed = Bed::new(options(SlowPolicy::Disconnect).hold(HOLD).stall(SECOND));
    let mut slow = bed.subscriber("slow", "t").await;
    let mut publisher = bed.client("publisher").await;
    publisher.write(&numbered(PUBLISH, "t", 0..10 * ENOUGH, SIZE));
    let mut has_lagged = false;
    while bed.elapsed() < 20 * SECOND {
        slow.read(1000);
        publisher.write(&[]);
        bed.step().await;
        let info = bed.info("slow").expect("disconnected");
        has_lagged |= info.state == ClientState::Lagging;
    }
    assert!(has_lagged);
    assert!(slow.numbers.is_sorted_by(|a, b| a < b), "out of order");
}

/// A receiver that was full for a moment and has taken most of it hinders no sender: it may pause for longer than the
/// stall time.
#[tokio::test(start_paused = true)]
async fn a_receiver_far_below_its_budget_is_not_stuck() {
    let stall = 2 * SECOND;
    let mut bed = Bed::new(options(SlowPolicy::Disconnect).hold(HOLD).stall(stall));
    let mut receiver = bed.subscriber("receiver", "t").await;
    let mut publisher = bed.client("publisher").await;
    publisher.write(&numbered(PUBLISH, "t", 0..ENOUGH, SIZE));
    bed.write_all(&mut publisher).await;
    assert_eq!(bed.info("receiver").unwrap().state, ClientState::Lagging);
    while bed.info("receiver").unwrap().queue > 300 {
        receiver.read(16 * 1024);
        bed.step().await;
    }
    bed.pass(5 * stall).await;
    let info = bed.info("receiver").expect("a receiver that hinders no sender is disconnected");
    assert_eq!(info.state, ClientState::Ok);
}

/// Progress counts also when everything was written: a receiver that empties its queue between two messages that
/// find it full is not stuck.
#[tokio::test(start_paused = true)]
async fn a_receiver_that_empties_its_queue_is_not_stuck() {
    let options = options(SlowPolicy::Disconnect).queue_bytes(32 * 1024).hold(SECOND).stall(SECOND);
    let mut bed = Bed::new(options);
    let mut receiver = bed.client("receiver").await;
    let mut sender = bed.client("sender").await;
    for round in 0..20 {
        sender.write(&numbered(MESSAGE, "receiver", round * 100..(round + 1) * 100, SIZE));
        bed.pass(SECOND / 10).await;
        assert_eq!(bed.info("receiver").expect("disconnected").held_senders, 1, "round {round}");
        while receiver.numbers.len() < (round as usize + 1) * 100 {
            receiver.read(1 << 20);
            bed.step().await;
            assert!(bed.info("receiver").is_some(), "disconnected in round {round}");
        }
        bed.pass(SECOND / 2).await;
    }
    assert_eq!(bed.info("receiver").expect("disconnected").dropped, 0);
    assert_eq!(receiver.numbers, (0..20 * 100).collect::<Vec<_>>());
}

/// A slow receiver of acknowledgements only is not stuck either: it moves.
#[tokio::test(start_paused = true)]
async fn a_slow_reader_of_acknowledgements_is_not_stuck() {
    const COUNT: u32 = 100_000;
    let options = options(SlowPolicy::Disconnect).queue_bytes(64 * 1024).hold(SECOND / 5).stall(SECOND);
    let mut bed = Bed::new(options);
    let mut client = bed.client("client").await;
    client.write(&numbered(PUBLISH | ACK, "nobody", 0..COUNT, 4));
    while bed.elapsed() < 7 * SECOND {
        client.read(500);
        client.write(&[]);
        bed.step().await;
        assert!(!client.is_closed, "disconnected after {:?}", bed.elapsed());
    }
    assert!(!client.has_written(), "the broker reads without a bound");
    while (client.acks.len() as u32) < COUNT {
        assert!(client.read(1 << 20) > 0 || !client.has_written(), "acknowledgements are lost");
        client.write(&[]);
        bed.step().await;
    }
    assert!(client.acks.into_iter().eq((0..COUNT).map(|id| (id, 1))));
}

/// The kernel frees what waits in a UNIX socket in pieces of about 36 KiB: a receiver that pauses for 1.7 s between such
/// pieces is slow, not stuck. This test uses the default times and buffers.
#[tokio::test(start_paused = true)]
async fn a_receiver_that_reads_a_piece_now_and_then_is_not_stuck() {
    const COUNT: u32 = 6000;
    let mut bed = Bed::new(Options::new().timeout(3600 * SECOND).queue_bytes(1 << 20));
    let mut receiver = bed.subscriber("receiver", "t").await;
    let mut publisher = bed.client("publisher").await;
    publisher.write(&numbered(PUBLISH, "t", 0..COUNT, SIZE));
    for _ in 0..12 {
        for _ in 0..170 {
            publisher.write(&[]);
            bed.step().await;
        }
        assert!(bed.info("receiver").is_some(), "disconnected after {:?}", bed.elapsed());
        receiver.read(36 * 1024);
    }
    assert_eq!(bed.info("receiver").unwrap().state, ClientState::Lagging);
    bed.write_all(&mut publisher).await;
    while receiver.read(1 << 20) > 0 {
        bed.step().await;
    }
    let dropped = bed.info("receiver").unwrap().dropped;
    assert!(dropped > 0);
    assert_eq!(receiver.numbers.len() as u64 + dropped, u64::from(COUNT));
}

/// A receiver that takes 320 KB/s is slow all the time and never stuck: its sender is read from steadily, and loses
/// nothing. This test uses the default times and buffers.
#[tokio::test(start_paused = true)]
async fn messages_to_a_slow_receiver_move_steadily() {
    const COUNT: u32 = 2500;
    let mut bed = Bed::new(Options::new().timeout(3600 * SECOND));
    let mut receiver = bed.client("receiver").await;
    let mut sender = bed.client("sender").await;
    // More than the budget of 16 MiB and the socket hold.
    sender.write(&numbered(MESSAGE, "receiver", 0..COUNT, 10 * SIZE));
    let (mut last, mut moved, mut longest) = (0, bed.elapsed(), Duration::ZERO);
    while bed.elapsed() < 12 * SECOND {
        receiver.read(3200);
        sender.write(&[]);
        bed.step().await;
        let read = bed.info("sender").unwrap().r_frames;
        if read > last {
            (last, moved) = (read, bed.elapsed());
        }
        longest = longest.max(bed.elapsed() - moved);
    }
    assert!(!sender.has_written(), "the sender is never held back");
    assert!(longest < SECOND, "nothing was read from the sender for {longest:?}");
    while receiver.numbers.len() < COUNT as usize {
        assert!(receiver.read(1 << 20) > 0 || !sender.has_written(), "it got {}", receiver.numbers.len());
        sender.write(&[]);
        bed.step().await;
    }
    assert_eq!(receiver.numbers, (0..COUNT).collect::<Vec<_>>());
    assert_eq!(bed.info("receiver").unwrap().dropped, 0);
}

/// Time in which the broker's process is suspended is no receiver's fault.
#[tokio::test(start_paused = true)]
async fn a_suspended_broker_blames_no_receiver() {
    let mut bed = Bed::new(options(SlowPolicy::Disconnect).hold(4 * SECOND).stall(8 * SECOND));
    let mut receiver = bed.client("receiver").await;
    let mut sender = bed.client("sender").await;
    sender.write(&numbered(MESSAGE, "receiver", 0..ENOUGH, SIZE));
    bed.pass_writing(SECOND / 2, &mut sender).await;
    for _ in 0..5 {
        bed.jump(3600 * SECOND).await;
        bed.pass(STEP * 5).await;
    }
    let info = bed.info("receiver").expect("disconnected");
    assert_eq!((info.state, info.held_senders, info.dropped), (ClientState::Ok, 1, 0));
    // It still takes nothing, while the broker runs.
    until_disconnected(&mut bed, "receiver").await;
    while receiver.read(1 << 20) > 0 {}
    assert!(receiver.is_closed);
}
