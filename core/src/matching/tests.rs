//! Tests of the topic trie against the tables of the protocol and against the naive matcher.

use super::topics::TopicTrie;
use super::{cost_of_mask, topic_mask_matches, work};
use proptest::prelude::*;
use std::collections::BTreeSet;

fn matching(trie: &TopicTrie, topic: &str) -> Vec<u32> {
    let mut out = Vec::new();
    trie.matches(topic, &mut out);
    out
}

#[test]
fn masks_of_the_protocol() {
    for (mask, inside, outside) in [
        ("a/#", &["a/b", "a/b/c", "a/", "a/#", "a//"][..], &["a", "b/a", "", "A/b", "ab"][..]),
        ("#", &["", "a", "/", "a/b/c", "+", "#"], &[]),
        ("+/b", &["x/b", "/b", "+/b"], &["b", "x/y/b", "x/b/", "x/B"]),
        ("+/topic/#", &["x/topic/event", "x/topic/sub/event", "/topic/"], &["x/topic", "topic/x"]),
        ("/a", &["/a"], &["a", "a/", "//a"]),
        ("a/+", &["a/b", "a/", "a/+", "a/#"], &["a", "a/b/c"]),
        ("w/+x", &["w/+x"], &["w/x", "w/ax", "w/+", "w/"]),
        ("w/x#", &["w/x#"], &["w/x", "w/xy"]),
        ("a/#/b/+", &["a/b", "a/c/d"], &["a"]),
        ("", &[""], &["a", "/"]),
        ("+", &["", "a", "#"], &["/", "a/b"]),
        ("a//b", &["a//b"], &["a/b", "a/x/b"]),
        ("+/+", &["/", "a/b"], &["a", "", "//"]),
    ] {
        let mut trie = TopicTrie::new();
        assert!(trie.insert(mask, 7) && !trie.insert(mask, 7) && trie.contains(mask, 7));
        for (topics, wanted) in [(inside, &[7][..]), (outside, &[])] {
            for topic in topics {
                assert_eq!(matching(&trie, topic), wanted, "{mask} {topic}");
                assert_eq!(trie.matches_client(topic, 7), !wanted.is_empty(), "{mask} {topic}");
                assert_eq!(topic_mask_matches(mask, topic), !wanted.is_empty(), "{mask} {topic}");
            }
        }
        assert!(trie.remove(mask, 7) && !trie.remove(mask, 7) && !trie.contains(mask, 7));
        assert!(trie.is_unallocated(), "{mask}");
    }
}

#[test]
fn appends_each_client_once_in_order() {
    let mut trie = TopicTrie::new();
    for id in [9, 2, u32::MAX] {
        for mask in ["a/b", "a/+", "+/b", "#", "a/#"] {
            trie.insert(mask, id);
        }
    }
    let mut out = vec![100, 3];
    trie.matches("a/b", &mut out);
    assert_eq!(out, [100, 3, 2, 9, u32::MAX]);
    assert_eq!((trie.len(), trie.count_of(9), trie.count_of(1)), (15, 5, 0));
    trie.remove_client(9);
    trie.remove_client(9);
    assert_eq!((trie.len(), matching(&trie, "a/b")), (10, vec![2, u32::MAX]));
    assert_eq!(trie.masks_of(9).count(), 0);
    let masks: BTreeSet<String> = trie.masks_of(2).collect();
    assert_eq!(masks, ["#", "+/b", "a/#", "a/+", "a/b"].map(String::from).into());
}

#[test]
fn hostile_depth_neither_overflows_nor_explodes() {
    let slashes = "/".repeat(65_000);
    let any = "+/".repeat(32_000);
    let mut trie = TopicTrie::new();
    for mask in [&slashes, &any, &format!("{any}#"), &format!("{slashes}+"), "#", "+/+/#"] {
        assert!(trie.insert(mask, 1));
    }
    // Two children at each of twelve levels: every node is visited once.
    for bits in 0..4096_u32 {
        let levels: Vec<&str> = (0..12).map(|bit| if bits >> bit & 1 == 0 { "+" } else { "" }).collect();
        trie.insert(&levels.join("/"), bits);
    }
    assert_eq!(matching(&trie, &slashes), [1]);
    assert_eq!(matching(&trie, &"/".repeat(32_000)), [1]);
    assert_eq!(matching(&trie, &"/".repeat(11)).len(), 4096);
    assert!(trie.masks_of(1).any(|mask| mask == slashes));
    for id in 0..4096 {
        trie.remove_client(id);
    }
    assert!(trie.is_unallocated());
}

#[test]
fn toggling_leaves_nothing_behind() {
    let mut trie = TopicTrie::new();
    trie.insert("kept", 1);
    for round in 0..10_000 {
        let mask = if round % 3 == 0 { "a/b" } else { "a/+/#" };
        assert!(trie.insert(mask, 1));
        assert!(trie.remove(mask, 1));
    }
    assert_eq!(trie.masks_of(1).collect::<Vec<_>>(), ["kept"]);
    trie.remove("kept", 1);
    assert!(trie.is_unallocated());
}

#[test]
fn memory_returns_after_a_great_many() {
    let mut trie = TopicTrie::new();
    for i in 0..40_000_u32 {
        trie.insert(&format!("plant{}/sensor{i}", i % 10), i % 100);
        trie.insert(&format!("plant{}/+/sensor{i}/#", i % 10), i % 100);
    }
    for id in 0..97 {
        trie.remove_client(id);
    }
    assert_eq!((trie.len(), matching(&trie, "plant9/sensor99")), (2400, vec![99]));
    for i in 0..40_000 {
        let wanted = if i % 100 < 97 { vec![] } else { vec![i % 100] };
        assert_eq!(matching(&trie, &format!("plant{}/sensor{i}", i % 10)), wanted);
        assert_eq!(matching(&trie, &format!("plant{}/x/sensor{i}/y/z", i % 10)), wanted);
    }
    for id in 97..100 {
        assert_eq!(trie.count_of(id), 800);
        for mask in trie.masks_of(id).collect::<Vec<_>>() {
            assert!(trie.remove(&mask, id));
        }
    }
    assert!(trie.is_unallocated());
}

/// Returns a mask without the text behind its `#`, which the trie does not keep.
fn canonical(mask: &str) -> String {
    let mut levels = Vec::new();
    for level in mask.split('/') {
        levels.push(level);
        if level == "#" {
            break;
        }
    }
    levels.join("/")
}

fn text(levels: &'static [&'static str]) -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(levels), 1..5).prop_map(|levels| levels.join("/"))
}

/// A million subscriptions of five clients, a third of them with wildcards.
fn a_million() -> (TopicTrie, usize) {
    let (mut trie, mut most) = (TopicTrie::new(), 0);
    work::take();
    for i in 0..1_000_000_u32 {
        let id = if i < 800_000 { 0 } else { i % 5 };
        let mask = if i % 3 == 0 { format!("+/sensor{i}/#") } else { format!("plant{}/sensor{i}", i % 10) };
        assert!(trie.insert(&mask, id));
        most = most.max(work::take());
    }
    (trie, most)
}

#[test]
fn each_call_does_little_work_with_a_million_subscriptions() {
    // One chunk of at most 65,536 items is copied, and there are several slabs; no table of a million.
    let bound = 150_000;
    let (mut trie, most) = a_million();
    assert!(most < bound, "an insertion: {most}");
    let mut most = 0;
    // Masks that are added and removed do not move the others.
    for i in 0..2000 {
        assert!(trie.insert(&format!("new/+/{i}"), 1) && trie.remove(&format!("new/+/{i}"), 1));
        most = most.max(work::take());
    }
    assert!(most < bound / 10, "a mask that comes and goes: {most}");
    let (mut most, mut cursor, mut seen, mut calls) = (0, None, 0, 0);
    loop {
        cursor = trie.retain_some(0, cursor, &mut 1000, |mask| {
            seen += 1;
            seen % 2 == 0 || mask.is_empty()
        });
        most = most.max(work::take());
        calls += 1;
        if cursor.is_none() {
            break;
        }
    }
    assert!(seen == 840_000 && calls > 2500 && most < bound, "retaining: {most} {seen} {calls}");
    assert_eq!(trie.count_of(0), 420_000);
    let (mut most, mut calls) = (0, 1);
    while !trie.remove_client_some(0, &mut 1000) {
        calls += 1;
        most = most.max(work::take());
    }
    assert!(calls >= 420 && most < bound, "removing a client: {most} {calls}");
    assert_eq!((trie.len(), trie.count_of(0), trie.count_of(1)), (160_000, 0, 40_000));
    for id in 1..5 {
        while !trie.remove_client_some(id, &mut 1000) {}
    }
    assert!(trie.is_unallocated());
}

#[test]
fn memory_is_released_in_steps() {
    let (mut trie, _) = a_million();
    let before = trie.capacity();
    while !trie.remove_client_some(0, &mut 1000) {}
    // A sixth of the subscriptions is left, in its own chunks, and each slab may have one spare chunk.
    assert_eq!(trie.len(), 160_000);
    let after = trie.capacity();
    assert!(after * 2 < before, "{after} of {before}");
    // New subscriptions fill the free places of the remaining chunks.
    for i in 0..100_000 {
        trie.insert(&format!("again/{i}"), 7);
    }
    assert!(trie.capacity() <= after + 262_144, "{} {after}", trie.capacity());
}

#[test]
fn a_portion_is_charged_for_the_levels_of_its_masks() {
    let mut trie = TopicTrie::new();
    let deep = |i: u32| format!("{i}/{}#", "+/".repeat(500));
    (0..100).for_each(|i| assert!(trie.insert(&deep(i), 1)));
    assert_eq!(cost_of_mask(&deep(0)), 502 + 1 + deep(0).len() / 64);
    let mut calls = 1;
    while !trie.remove_client_some(1, &mut 1000) {
        calls += 1;
    }
    assert!((45..=60).contains(&calls), "{calls}");
    assert!(trie.is_unallocated());
    (0..100).for_each(|i| assert!(trie.insert(&deep(i), 1)));
    let (mut calls, mut cursor) = (1, None);
    while let Some(next) = trie.retain_some(1, cursor, &mut 1000, |_| false) {
        cursor = Some(next);
        calls += 1;
    }
    assert!((45..=60).contains(&calls), "{calls}");
    assert!(trie.is_unallocated());
}

proptest! {
    #[test]
    fn agrees_with_the_naive_matcher(
        steps in prop::collection::vec((text(&["a", "b", "", "+", "+", "#"]), 0_u32..5, 0..8), 0..120),
        topics in prop::collection::vec(text(&["a", "b", "", "+", "#"]), 30),
    ) {
        let mut trie = TopicTrie::new();
        let mut model: BTreeSet<(u32, String)> = BTreeSet::new();
        for (mask, id, action) in steps {
            match action {
                0 => {
                    trie.remove_client(id);
                    model.retain(|(other, _)| *other != id);
                }
                1..4 => prop_assert_eq!(trie.remove(&mask, id), model.remove(&(id, canonical(&mask)))),
                _ => prop_assert_eq!(trie.insert(&mask, id), model.insert((id, canonical(&mask)))),
            }
            prop_assert_eq!(trie.len(), model.len());
        }
        for topic in topics {
            let wanted = model.iter().filter(|(_, mask)| topic_mask_matches(mask, &topic));
            let wanted: BTreeSet<u32> = wanted.map(|(id, _)| *id).collect();
            for id in 0..5 {
                prop_assert_eq!(trie.matches_client(&topic, id), wanted.contains(&id));
            }
            prop_assert_eq!(matching(&trie, &topic), wanted.into_iter().collect::<Vec<_>>());
        }
        for id in 0..5 {
            let mut masks: Vec<String> = trie.masks_of(id).collect();
            masks.sort();
            let wanted = model.iter().filter(|(other, _)| *other == id).map(|(_, mask)| mask.clone());
            prop_assert_eq!(masks.len(), trie.count_of(id));
            prop_assert_eq!(masks, wanted.collect::<Vec<_>>());
        }
        for (id, mask) in model {
            prop_assert!(trie.contains(&mask, id) && trie.remove(&mask, id));
        }
        prop_assert!(trie.is_unallocated());
    }

    #[test]
    fn portions_agree_with_whole_operations(
        masks in prop::collection::vec((text(&["a", "b", "", "+", "#"]), 0_u32..3), 0..60),
        between in prop::collection::vec((text(&["a", "b", "", "+", "#"]), 0_u32..3, any::<bool>()), 0..30),
        budget in 1_usize..12,
    ) {
        let mut trie = TopicTrie::new();
        let mut model: BTreeSet<(u32, String)> = BTreeSet::new();
        for (mask, id) in masks {
            prop_assert_eq!(trie.insert(&mask, id), model.insert((id, canonical(&mask))));
        }
        // New rules allow client 0 only masks that begin with `a`; new masks are checked when they are added.
        let allowed = |mask: &str| mask.starts_with('a');
        let (mut between, mut cursor) = (between.into_iter(), None);
        loop {
            cursor = trie.retain_some(0, cursor, &mut budget.clone(), allowed);
            if let Some((mask, id, add)) = between.next() {
                if !add {
                    let known = model.remove(&(id, canonical(&mask)));
                    // A mask that is not allowed may have been removed already.
                    prop_assert!(trie.remove(&mask, id) == known || id == 0 && !allowed(&mask));
                } else if id != 0 || allowed(&mask) {
                    prop_assert_eq!(trie.insert(&mask, id), model.insert((id, canonical(&mask))));
                }
            }
            if cursor.is_none() {
                break;
            }
        }
        model.retain(|(id, mask)| *id != 0 || allowed(mask));
        for id in 0..3 {
            let known: BTreeSet<(u32, String)> = trie.masks_of(id).map(|mask| (id, mask)).collect();
            prop_assert_eq!(known, model.iter().filter(|(other, _)| *other == id).cloned().collect::<BTreeSet<_>>());
        }
        while !trie.remove_client_some(1, &mut budget.clone()) {
            // A client that is being removed gets no new masks, but others do.
            if let Some((mask, _, _)) = between.next() {
                prop_assert_eq!(trie.insert(&mask, 2), model.insert((2, canonical(&mask))));
            }
        }
        prop_assert_eq!((trie.count_of(1), trie.masks_of(1).count()), (0, 0));
        model.retain(|(id, _)| *id != 1);
        prop_assert_eq!(trie.len(), model.len());
        for id in [0, 2] {
            while !trie.remove_client_some(id, &mut budget.clone()) {}
        }
        prop_assert!(trie.is_unallocated());
    }
}
