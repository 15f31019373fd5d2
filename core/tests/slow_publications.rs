//! Subscribers that do not keep up: how long they hold a publisher, which publications they lose, and that other
//! subscribers lose nothing.
#![cfg(all(unix, feature = "broker", feature = "ipc"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod common;

use busrt::broker::SlowPolicy;
use common::raw::{ACK, BROADCAST, PUBLISH, PUBLISH_FOR, Raw, numbered};
use common::slow::{
    BUDGET, ENOUGH, FULL_SPEED, HOLD, Pump, SIZE, SLOW, STEADY, Taker, ask_numbered, assert_rising, numbers,
    options,
};
use common::{Bus, PATIENCE};
use std::time::{Duration, Instant};

fn subscriber(bus: &Bus, name: &str) -> Raw {
    let mut raw = Raw::register(&bus.path, name);
    raw.subscribe("t");
    raw
}

/// A subscriber that reads nothing holds its publisher once, for the hold time. After that, publications are dropped
/// for it and counted, and another subscriber gets all of them.
async fn a_stuck_subscriber(flags: u8, head: &[u8]) {
    let bus = Bus::start(options(SlowPolicy::Disconnect)).await;
    let mut observer = Raw::register(&bus.path, "observer");
    let mut stuck = subscriber(&bus, "sub.stuck");
    let well = Taker::start(subscriber(&bus, "sub.well"), FULL_SPEED);
    let mut publisher = Raw::register(&bus.path, "publisher");
    let asked = ask_numbered(&mut publisher, flags, head, 0..ENOUGH, SIZE);
    assert!(asked.codes.iter().all(|code| *code == 1), "a publication is answered 01");
    assert!(asked.longest > HOLD / 2, "never held: {:?}", asked.longest);
    assert!(asked.held < HOLD * 5, "held for {:?}", asked.held);
    assert!(well.wait_for(ENOUGH as usize, PATIENCE / 4), "the neighbour got {}", well.count());
    let state = observer.state_of("sub.stuck").expect("still connected");
    assert!(state.dropped > 0 && state.is("lagging"), "{state:?}");
    let received = numbers(&stuck.rest());
    assert_rising(&received);
    assert_eq!(received.len() as u64 + state.dropped, u64::from(ENOUGH));
    let (_raw, received) = well.finish();
    assert_eq!(numbers(&received), (0..ENOUGH).collect::<Vec<_>>());
}

/// See [`a_stuck_subscriber`].
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stuck_subscriber_holds_its_publisher_once() {
    a_stuck_subscriber(PUBLISH, b"t\0").await;
}

/// The same for broadcasts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stuck_receiver_holds_broadcasts_once() {
    a_stuck_subscriber(BROADCAST, b"sub.*\0").await;
}

/// A publication for one receiver is treated like other publications: held for the hold time, then dropped.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stuck_subscriber_holds_publications_for_it_once() {
    let bus = Bus::start(options(SlowPolicy::Disconnect)).await;
    let mut observer = Raw::register(&bus.path, "observer");
    let _stuck = subscriber(&bus, "stuck");
    let mut publisher = Raw::register(&bus.path, "publisher");
    let asked = ask_numbered(&mut publisher, PUBLISH_FOR, b"t\0stuck\0", 0..ENOUGH, SIZE);
    assert!(asked.codes.iter().all(|code| *code == 1), "a publication is answered 01");
    assert!(asked.longest > HOLD / 2 && asked.held < HOLD * 5, "held for {:?}", asked.held);
    let state = observer.state_of("stuck").expect("still connected");
    assert!(state.dropped > 0 && state.is("lagging"), "{state:?}");
}

/// A subscriber that reads something, but less than a quarter of its budget in the hold time, does not slow down
/// other subscribers. It is not disconnected, and the publications that it does not get are counted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_subscriber_does_not_slow_down_others() {
    const COUNT: u32 = 5000;
    let bus = Bus::start(options(SlowPolicy::Disconnect)).await;
    let mut observer = Raw::register(&bus.path, "observer");
    let slow = Taker::start(subscriber(&bus, "slow"), SLOW);
    let well = Taker::start(subscriber(&bus, "well"), FULL_SPEED);
    let publisher = Raw::register(&bus.path, "publisher");
    let started = Instant::now();
    let pump = Pump::start(&publisher.stream, numbered(PUBLISH, b"t\0", 0..COUNT, SIZE));
    // At the slow subscriber's pace it would take more than ten seconds.
    assert!(well.wait_for(COUNT as usize, Duration::from_secs(6)), "the neighbour got {}", well.count());
    println!("the neighbour got everything in {:?}", started.elapsed());
    pump.join();
    let state = observer.state_of("slow").expect("still connected");
    assert!(state.is("lagging"), "{state:?}");
    slow.set_rate(FULL_SPEED);
    let (_raw, received) = slow.finish();
    let received = numbers(&received);
    assert_rising(&received);
    let dropped = observer.state_of("slow").expect("still connected").dropped;
    assert!(dropped > 0);
    assert_eq!(received.len() as u64 + dropped, u64::from(COUNT));
    let (_raw, received) = well.finish();
    assert_eq!(numbers(&received), (0..COUNT).collect::<Vec<_>>());
}

/// A subscriber that reads a quarter of its budget in each hold time holds its publisher back and loses nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_steady_subscriber_loses_nothing() {
    const COUNT: u32 = 6000;
    let bus = Bus::start(options(SlowPolicy::Disconnect)).await;
    let mut observer = Raw::register(&bus.path, "observer");
    let steady = Taker::start(subscriber(&bus, "steady"), STEADY);
    let publisher = Raw::register(&bus.path, "publisher");
    let pump = Pump::start(&publisher.stream, numbered(PUBLISH, b"t\0", 0..COUNT, SIZE));
    assert!(steady.wait_for(COUNT as usize, PATIENCE / 4), "it got {}", steady.count());
    pump.join();
    let (_raw, received) = steady.finish();
    assert_eq!(numbers(&received), (0..COUNT).collect::<Vec<_>>());
    assert_eq!(observer.state_of("steady").expect("still connected").dropped, 0);
}

/// A lagging subscriber that has read everything keeps up again after the hold time: it gets every publication, and
/// holds a publisher again when it becomes full again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_that_has_caught_up_is_no_longer_lagging() {
    let bus = Bus::start(options(SlowPolicy::Disconnect)).await;
    let mut observer = Raw::register(&bus.path, "observer");
    let mut subscriber = subscriber(&bus, "subscriber");
    let mut publisher = Raw::register(&bus.path, "publisher");
    ask_numbered(&mut publisher, PUBLISH, b"t\0", 0..ENOUGH, SIZE);
    let state = observer.state_of("subscriber").expect("still connected");
    assert!(state.is("lagging"), "{state:?}");
    assert_eq!(state.held_senders, Some(0));
    subscriber.rest();
    let state = observer.wait_for_state("subscriber", |state| state.is("ok"));
    let dropped = state.dropped;
    let few = ENOUGH + (BUDGET / SIZE / 2) as u32;
    ask_numbered(&mut publisher, PUBLISH, b"t\0", ENOUGH..few, SIZE);
    assert_eq!(numbers(&subscriber.rest()), (ENOUGH..few).collect::<Vec<_>>());
    assert_eq!(observer.state_of("subscriber").unwrap().dropped, dropped);
    let asked = ask_numbered(&mut publisher, PUBLISH, b"t\0", few..few + ENOUGH, SIZE);
    assert!(asked.longest > HOLD / 2, "not held again: {:?}", asked.longest);
    assert!(asked.held < HOLD * 5, "held for {:?}", asked.held);
}

/// A publication waits for all its full receivers together: it is held for one hold time, not for one for each.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_full_subscribers_cost_one_hold() {
    let bus = Bus::start(options(SlowPolicy::Disconnect)).await;
    let _stuck: Vec<_> = (0..8).map(|i| subscriber(&bus, &format!("stuck{i}"))).collect();
    let mut publisher = Raw::register(&bus.path, "publisher");
    let asked = ask_numbered(&mut publisher, PUBLISH, b"t\0", 0..ENOUGH, SIZE);
    assert!(asked.longest > HOLD / 2, "never held: {:?}", asked.longest);
    assert!(asked.held < HOLD * 4, "held for {:?}", asked.held);
}

/// With a hold time of zero a full subscriber never holds a publisher.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hold_of_zero_holds_nothing() {
    let bus = Bus::start(options(SlowPolicy::Disconnect).hold(Duration::ZERO).stall(PATIENCE)).await;
    let mut observer = Raw::register(&bus.path, "observer");
    let mut stuck = subscriber(&bus, "stuck");
    let publisher = Raw::register(&bus.path, "publisher");
    let pump = Pump::start(&publisher.stream, numbered(PUBLISH, b"t\0", 0..ENOUGH, SIZE));
    let started = Instant::now();
    while !pump.is_finished() {
        assert!(started.elapsed() < PATIENCE / 4, "the publisher is held");
        std::thread::sleep(Duration::from_millis(5));
    }
    let mut publisher = publisher;
    assert_eq!(publisher.ask_within(PUBLISH | ACK, b"t\0\0\0\0\0", PATIENCE / 4), Some(1));
    let dropped = observer.state_of("stuck").expect("still connected").dropped;
    assert!(dropped > 0);
    assert_eq!(stuck.rest().len() as u64 + dropped, u64::from(ENOUGH) + 1);
}
