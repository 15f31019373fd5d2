//! Tests of searches within a budget and in steps, with changes between the steps.

use super::name_walk::NameWalk;
use super::names::NameTrie;
use super::search::{Lookup, Step};
use super::topics::TopicTrie;
use super::walk::TopicWalk;
use super::{name_mask_matches, topic_mask_matches, work};
use proptest::prelude::*;
use std::collections::BTreeSet;

/// Runs a whole walk in steps. Returns the ids and the number of steps.
fn walk_topic(trie: &TopicTrie, topic: &str, budget: usize) -> (Vec<u32>, usize) {
    let (mut walk, mut steps) = (TopicWalk::new(topic), 1);
    while trie.step(&mut walk, &mut budget.clone()) != Step::Done {
        steps += 1;
    }
    (walk.into_ids(), steps)
}

fn walk_name(trie: &NameTrie, mask: &str, budget: usize) -> (Vec<u32>, usize) {
    let (mut walk, mut steps) = (NameWalk::new(mask), 1);
    while trie.step(&mut walk, &mut budget.clone()) != Step::Done {
        steps += 1;
    }
    (walk.into_ids(), steps)
}

#[test]
fn hostile_masks_cost_a_publication_no_more_than_its_budget() {
    const LEVELS: u32 = 17;
    let mut trie = TopicTrie::new();
    for bits in 0..1_u32 << LEVELS {
        let levels: Vec<&str> =
            (0..LEVELS).map(|level| if bits >> level & 1 == 0 { "a" } else { "+" }).collect();
        trie.insert(&levels.join("/"), bits % 1000);
    }
    trie.insert("a/#", 5000);
    let topic = vec!["a"; LEVELS as usize].join("/");
    work::take();
    let (mut out, mut budget) = (vec![3, 1], 1000);
    assert_eq!(trie.matches_within(&topic, &mut out, &mut budget), Lookup::OverBudget);
    assert_eq!(out, [3, 1]);
    let done = work::take();
    assert!(done <= 1000, "{done}");
    let mut walk = TopicWalk::new(&topic);
    let (mut steps, mut most) = (1, 0);
    while trie.step(&mut walk, &mut 1000) != Step::Done {
        steps += 1;
        most = most.max(work::take());
    }
    // Putting ids in order may exceed the budget by the ids of sixteen words.
    assert!(most <= 1000 + 1024, "{most}");
    assert!((380..=500).contains(&steps), "{steps}");
    let wanted: Vec<u32> = (0..1000).chain([5000]).collect();
    assert_eq!(walk.into_ids(), wanted);
    // Other topics are not affected.
    let mut budget = 100;
    assert_eq!(trie.matches_within("b/c", &mut out, &mut budget), Lookup::Complete);
    assert!(budget > 90);
}

#[test]
fn many_subscribers_come_in_portions() {
    let mut trie = TopicTrie::new();
    for id in 0..100_000 {
        trie.insert(["all", "+", "#"][id as usize % 3], id);
    }
    let mut out = Vec::new();
    assert_eq!(trie.matches_within("all", &mut out, &mut 99_999), Lookup::OverBudget);
    assert!(out.is_empty());
    let mut budget = 100_010;
    assert_eq!(trie.matches_within("all", &mut out, &mut budget), Lookup::Complete);
    assert_eq!(budget, 100_010 - 100_000 - 3);
    let (ids, steps) = walk_topic(&trie, "all", 5000);
    assert_eq!(ids, out);
    assert!((35..=60).contains(&steps), "{steps}");
    assert_eq!(walk_topic(&trie, "all", 1).0, out);
}

#[test]
fn many_deep_names_come_in_portions() {
    let mut trie = NameTrie::new();
    for id in 0..2000 {
        trie.insert(&format!("c{id}{}", ".x".repeat(200)), id);
    }
    let mask = format!("?{}", ".?".repeat(200));
    let mut out = Vec::new();
    for mask in [mask.as_str(), "*", "?.*", &format!("{mask}.*")] {
        work::take();
        assert_eq!(trie.matches_within(mask, &mut out, &mut 1000), Lookup::OverBudget);
        let done = work::take();
        assert!(out.is_empty() && done <= 1000, "{done}");
        trie.matches(mask, &mut out);
        let (ids, steps) = walk_name(&trie, mask, 1000);
        assert_eq!(ids, out);
        assert!((390..=430).contains(&steps), "{mask} {steps}");
        out.clear();
    }
    assert_eq!(trie.matches_within("c7.*", &mut out, &mut 300), Lookup::Complete);
    assert_eq!(out, [7]);
}

#[test]
fn a_walk_over_names_ends_although_visited_names_are_removed() {
    let mut trie = NameTrie::new();
    (0..1000).for_each(|id| assert!(trie.insert(&format!("c{id}"), id)));
    let (mut walk, mut budget, mut stale, mut next) = (NameWalk::new("?"), 10, 0, 999);
    loop {
        let step = trie.step(&mut walk, &mut budget.clone());
        match step {
            Step::Done => break,
            Step::More => {}
            Step::Stale => {
                stale += 1;
                budget *= 2;
            }
        }
        // The walk begins with the newest. All nodes that a step of ten visited are removed, including the last one.
        for _ in 0..10 {
            trie.remove(&format!("c{next}"), next);
            next -= 1;
        }
    }
    assert!(stale > 0);
    let ids: BTreeSet<u32> = walk.into_ids().into_iter().collect();
    assert!((0..=next).all(|id| ids.contains(&id)));
}

fn text(levels: &'static [&'static str], separator: &'static str) -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(levels), 1..6).prop_map(move |levels| levels.join(separator))
}

/// The items that existed from the first step to the last, and those that existed at any time.
struct Lifetimes {
    now: BTreeSet<(String, u32)>,
    throughout: BTreeSet<(String, u32)>,
    ever: BTreeSet<(String, u32)>,
}

impl Lifetimes {
    fn from(now: &BTreeSet<(String, u32)>) -> Self {
        Lifetimes { now: now.clone(), throughout: now.clone(), ever: now.clone() }
    }

    fn add(&mut self, text: &str, id: u32) -> bool {
        self.ever.insert((text.to_owned(), id));
        self.now.insert((text.to_owned(), id))
    }

    fn remove(&mut self, text: &str, id: u32) -> bool {
        self.throughout.remove(&(text.to_owned(), id));
        self.now.remove(&(text.to_owned(), id))
    }

    fn check(&self, found: &[u32], matches: impl Fn(&str) -> bool) -> Result<(), TestCaseError> {
        prop_assert!(found.is_sorted_by(|a, b| a < b));
        let ids = |all: &BTreeSet<(String, u32)>| -> BTreeSet<u32> {
            all.iter().filter(|(text, _)| matches(text)).map(|(_, id)| *id).collect()
        };
        let found: BTreeSet<u32> = found.iter().copied().collect();
        let (must, may) = (ids(&self.throughout), ids(&self.ever));
        prop_assert!(found.is_superset(&must), "missing: {:?}", must.difference(&found));
        prop_assert!(found.is_subset(&may), "never there: {:?}", found.difference(&may));
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn topic_walks_survive_every_change(
        before in prop::collection::vec((text(&["a", "b", "+"], "/"), any::<bool>()), 0..60),
        changes in prop::collection::vec((text(&["a", "b", "+"], "/"), any::<bool>(), 0_usize..80), 0..60),
        topic in text(&["a", "a", "b"], "/"),
        budget in 1_usize..20,
        pace in 0_usize..5,
    ) {
        let (mut trie, mut present) = (TopicTrie::new(), BTreeSet::new());
        let tail = |mask: String, tail: bool| if tail { mask + "/#" } else { mask };
        for (id, (mask, with_tail)) in (0..).zip(before) {
            let mask = tail(mask, with_tail);
            trie.insert(&mask, id);
            present.insert((mask, id));
        }
        // Without changes the walk finds what the plain search finds.
        let mut all = Vec::new();
        trie.matches(&topic, &mut all);
        prop_assert_eq!(walk_topic(&trie, &topic, budget).0, all);

        let mut lives = Lifetimes::from(&present);
        let (mut changes, mut walk, mut next_id) = (changes.into_iter(), TopicWalk::new(&topic), 1000);
        loop {
            let step = trie.step(&mut walk, &mut budget.clone());
            prop_assert_ne!(step, Step::Stale);
            if step == Step::Done {
                break;
            }
            for (mask, with_tail, which) in changes.by_ref().take(pace) {
                if let Some((mask, id)) = lives.now.iter().nth(which).cloned() {
                    prop_assert!(trie.remove(&mask, id) && lives.remove(&mask, id));
                } else {
                    let mask = tail(mask, with_tail);
                    prop_assert!(trie.insert(&mask, next_id) && lives.add(&mask, next_id));
                    next_id += 1;
                }
            }
        }
        lives.check(&walk.into_ids(), |mask| topic_mask_matches(mask, &topic))?;
    }

    #[test]
    fn name_walks_survive_every_change(
        before in prop::collection::vec(text(&["a", "b", "c", ""], "."), 0..60),
        changes in prop::collection::vec((text(&["a", "b", "c", ""], "."), 0_usize..80), 0..60),
        mask in text(&["a", "?", "?", "*"], "."),
        budget in 1_usize..20,
        pace in 0_usize..5,
    ) {
        let (mut trie, mut present) = (NameTrie::new(), BTreeSet::new());
        for (id, name) in (0..).zip(before) {
            trie.insert(&name, id);
            present.insert((name, id));
        }
        let mut all = Vec::new();
        trie.matches(&mask, &mut all);
        prop_assert_eq!(walk_name(&trie, &mask, budget).0, all);

        let mut lives = Lifetimes::from(&present);
        let (mut changes, mut walk, mut next_id, mut budget) =
            (changes.into_iter(), NameWalk::new(&mask), 1000, budget);
        loop {
            match trie.step(&mut walk, &mut budget.clone()) {
                Step::Done => break,
                Step::More => {}
                Step::Stale => budget *= 2,
            }
            for (name, which) in changes.by_ref().take(pace) {
                if let Some((name, id)) = lives.now.iter().nth(which).cloned() {
                    prop_assert!(trie.remove(&name, id) && lives.remove(&name, id));
                } else {
                    prop_assert!(trie.insert(&name, next_id) && lives.add(&name, next_id));
                    next_id += 1;
                }
            }
        }
        lives.check(&walk.into_ids(), |name| name_mask_matches(&mask, name))?;
    }

    #[test]
    fn a_budget_is_kept_or_the_result_is_complete(
        masks in prop::collection::vec((text(&["a", "b", "+", "#"], "/"), 0_u32..20), 0..60),
        topic in text(&["a", "b"], "/"),
        budget in 0_usize..60,
    ) {
        let mut trie = TopicTrie::new();
        for (mask, id) in &masks {
            trie.insert(mask, *id);
        }
        let (mut all, mut out) = (Vec::new(), vec![9]);
        trie.matches(&topic, &mut all);
        let mut left = budget;
        match trie.matches_within(&topic, &mut out, &mut left) {
            Lookup::Complete => prop_assert_eq!(&out[1..], &all[..]),
            Lookup::OverBudget => prop_assert_eq!(out, [9]),
        }
        prop_assert!(left <= budget);
    }
}
