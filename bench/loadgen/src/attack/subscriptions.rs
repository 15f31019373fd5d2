//! Millions of subscriptions: added, removed, left behind.

use super::Stage;
use super::client::{Client, EXCLUDE, SUBSCRIBE, UNEXCLUDE, UNSUBSCRIBE, encode_topics};
use super::crowd::Crowd;
use std::sync::Arc;
use std::time::Duration;

/// Number of topics in one frame of a preparation.
const PREPARED_FRAME: u64 = 10_000;

/// Subscribes to a million topics in one frame, unsubscribes from all of them in one frame, and repeats.
pub fn subscribe_1m(stage: &Arc<Stage>) {
    alternate(stage, SUBSCRIBE, UNSUBSCRIBE, stage.count(1_000_000), |i| format!("lg/{i:x}"));
}

/// 100,000 masks of 16 levels, half of them wildcards, in one frame.
pub fn subscribe_masks(stage: &Arc<Stage>) {
    alternate(stage, SUBSCRIBE, UNSUBSCRIBE, stage.count(100_000), |i| {
        format!("+/{:x}/+/{:x}/+/c/+/d/+/e/+/f/+/g/+/#", i % 317, i / 317)
    });
}

/// A million exclusions in one frame.
pub fn exclude_1m(stage: &Arc<Stage>) {
    alternate(stage, EXCLUDE, UNEXCLUDE, stage.count(1_000_000), |i| format!("lg/{i:x}/+"));
}

fn alternate(stage: &Arc<Stage>, make: u8, give_up: u8, count: u64, topic: impl Fn(u64) -> String) {
    let mut client = Client::new(stage, "lg.attack");
    let make = encode_topics(make, (0..count).map(&topic));
    let give_up = encode_topics(give_up, (0..count).map(&topic));
    stage.go();
    loop {
        if client.acknowledged(&make, 1) {
            stage.round();
            if client.acknowledged(&give_up, 1) {
                stage.round();
            }
        }
    }
}

/// Four clients with a million subscriptions each leave, one after another.
pub fn leave_1m(stage: &Arc<Stage>) {
    let mut leaving = Vec::new();
    for number in 0..4 {
        let mut client = Client::new(stage, &format!("lg.leaving{number}"));
        // All of the clients hold some of the topics, a single client each of the others.
        let topic =
            |i: u64| if i.is_multiple_of(2) { format!("lg/{i:x}") } else { format!("lg/{number}/{i:x}") };
        subscribe(&mut client, stage.count(1_000_000), topic);
        leaving.push(Crowd::deaf(vec![client.conn]));
    }
    stage.go();
    for crowd in leaving {
        drop(crowd);
        stage.round();
        std::thread::sleep(Duration::from_millis(250));
    }
}

/// One client holds 300,000 masks; another subscribes to 1,100 masks and unsubscribes from them, repeatedly.
pub fn resubscribe(stage: &Arc<Stage>) {
    let mut holder = Client::new(stage, "lg.holder");
    subscribe(&mut holder, stage.count(300_000), |i| format!("lg/{:x}/+/{:x}", i % 1000, i / 1000));
    let _holder = Crowd::deaf(vec![holder.conn]);
    alternate(stage, SUBSCRIBE, UNSUBSCRIBE, 1100, |i| format!("lg/+/{i:x}/#"));
}

/// Subscribes during the preparation, in frames that the broker handles without difficulty.
pub fn subscribe(client: &mut Client, count: u64, topic: impl Fn(u64) -> String) {
    for first in (0..count).step_by(PREPARED_FRAME as usize) {
        let topics = (first..count.min(first + PREPARED_FRAME)).map(&topic);
        assert!(client.acknowledged(&encode_topics(SUBSCRIBE, topics), 1), "the preparation was refused");
    }
}
