//! Long masks, and many masks that match one topic.

use super::Stage;
use super::client::{
    ACKNOWLEDGED, Client, PUBLISH, SUBSCRIBE, UNACKNOWLEDGED, UNSUBSCRIBE, encode, encode_topics,
};
use super::crowd::Crowd;
use super::subscriptions::subscribe;
use std::sync::Arc;
use std::time::Duration;

/// Subscribes to 2,000 masks of 512 levels (the maximum for a mask) in one frame, unsubscribes from them, and
/// repeats.
pub fn levels_512(stage: &Arc<Stage>) {
    let mut client = Client::new(stage, "lg.attack");
    let mask = |i: u64| {
        let levels =
            if i.is_multiple_of(2) { ["a"; 511] } else { std::array::from_fn(|l| ["+", "b"][l % 2]) };
        format!("{i}/{}", levels.join("/"))
    };
    let count = stage.count(2000);
    let make = encode_topics(SUBSCRIBE, (0..count).map(mask));
    let give_up = encode_topics(UNSUBSCRIBE, (0..count).map(mask));
    stage.go();
    loop {
        if client.acknowledged(&make, 1) && client.acknowledged(&give_up, 1) {
            stage.round();
        }
    }
}

/// Masks of 16,000 levels, and publications on topics as deep. A broker may refuse both.
pub fn deep(stage: &Arc<Stage>) {
    const LEVELS: usize = 16_000;
    const MASKS: usize = 16;
    let mut client = Client::new(stage, "lg.attack");
    let mask = |i: usize| format!("{i}/{}", vec![["+", "a"][i % 2]; LEVELS].join("/"));
    let topic = |i: usize| format!("{i}/{}\0", vec!["a"; LEVELS].join("/"));
    let make = encode_topics(SUBSCRIBE, (0..MASKS).map(mask));
    let give_up = encode_topics(UNSUBSCRIBE, (0..MASKS).map(mask));
    let publications: Vec<u8> =
        (0..MASKS).flat_map(|i| encode(PUBLISH, ACKNOWLEDGED, &[topic(i).as_bytes()])).collect();
    stage.go();
    loop {
        let done = client.acknowledged(&make, 1)
            && client.acknowledged(&publications, MASKS as u64)
            && client.acknowledged(&give_up, 1);
        if done {
            stage.round();
        } else {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// All 2^18 masks `{a|+}/{a|+}/…` of 18 levels, and publications on `a/a/…`, each on a different topic so that no
/// cache of receivers helps: the last level differs, which half of the masks match.
pub fn all(stage: &Arc<Stage>) {
    const BURST: usize = 20;
    let levels = if stage.count(100) < 100 { 14 } else { 18 };
    let mut holder = Client::new(stage, "lg.holder");
    subscribe(&mut holder, 1 << levels, |bits| {
        (0..levels).map(|level| ["a", "+"][(bits >> level & 1) as usize]).collect::<Vec<_>>().join("/")
    });
    let _holder = Crowd::reading(vec![holder.conn]);
    let mut sender = Client::new(stage, "lg.attack");
    let prefix = vec!["a"; levels - 1].join("/");
    stage.go();
    for round in 0_usize.. {
        let burst: Vec<u8> = (0..BURST)
            .flat_map(|i| {
                // The first of each burst has `a` on every level.
                let last = if i == 0 { "a".to_owned() } else { format!("{}", round * BURST + i) };
                encode(PUBLISH, UNACKNOWLEDGED, &[format!("{prefix}/{last}\0").as_bytes(), b"payload"])
            })
            .chain(encode(PUBLISH, ACKNOWLEDGED, &[b"lg/end\0"]))
            .collect();
        sender.acknowledged(&burst, 1);
        stage.round();
        std::thread::sleep(Duration::from_millis(50));
    }
}
