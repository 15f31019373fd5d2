//! The tries of the crate beside sets that are searched one by one.

use crate::choices::Choices;
use crate::naive::{name_matches, topic_matches, until_tail};
use busrt::matching::name_walk::NameWalk;
use busrt::matching::names::NameTrie;
use busrt::matching::search::{Lookup, Step};
use busrt::matching::topics::TopicTrie;
use busrt::matching::walk::TopicWalk;
use busrt::matching::{has_wildcards, name_mask_matches, topic_mask_matches};
use std::collections::BTreeSet;

const TOPIC_LEVELS: [&str; 7] =
    ["a", "b", "", "+", "#", "+x", "a level of more than fifty-four bytes, which an entry holds"];
const NAME_PARTS: [&str; 7] = ["a", "b", "", "?", "*", "?x", "c%%1"];
/// Steps of one input. More would make an input slow, not better.
const STEPS: usize = 200;

/// A client id: mostly one of a few, so that sets grow and shrink, and some far apart.
fn client_id(choices: &mut Choices<'_>) -> u32 {
    match choices.byte() {
        id @ 0..200 => u32::from(id) % 40,
        id @ 200..250 => u32::from(id) * 1000,
        id => u32::MAX - u32::from(id),
    }
}

type Model = BTreeSet<(u32, String)>;

fn wanted(model: &Model, matches: impl Fn(&str) -> bool) -> Vec<u32> {
    let ids: BTreeSet<u32> = model.iter().filter(|(_, text)| matches(text)).map(|(id, _)| *id).collect();
    ids.into_iter().collect()
}

/// What existed from the first step of a search to the last, and what existed at any time.
struct Lifetimes {
    throughout: Model,
    ever: Model,
}

impl Lifetimes {
    fn begin(model: &Model) -> Self {
        Lifetimes { throughout: model.clone(), ever: model.clone() }
    }

    fn observe(&mut self, model: &Model) {
        self.throughout.retain(|pair| model.contains(pair));
        self.ever.extend(model.iter().cloned());
    }

    fn check(&self, found: &[u32], matches: impl Fn(&str) -> bool) {
        assert!(found.is_sorted_by(|a, b| a < b), "{found:?}");
        let contains = |ids: &[u32], id: u32| ids.binary_search(&id).is_ok();
        let must = wanted(&self.throughout, &matches);
        assert!(must.iter().all(|id| contains(found, *id)), "{found:?} misses some of {must:?}");
        let may = wanted(&self.ever, &matches);
        assert!(found.iter().all(|id| contains(&may, *id)), "{found:?} has more than {may:?}");
    }
}

/// One change of the subscriptions. Returns false if the choice was a search.
fn change_topics(choices: &mut Choices<'_>, trie: &mut TopicTrie, model: &mut Model) -> bool {
    let action = choices.below(8);
    if action > 5 {
        return false;
    }
    let id = client_id(choices);
    match action {
        0..=2 => {
            let mask = choices.levels(&TOPIC_LEVELS, "/");
            assert_eq!(trie.insert(&mask, id), model.insert((id, until_tail(&mask))), "{mask:?}");
            assert!(trie.contains(&mask, id));
        }
        3 => {
            let mask = choices.levels(&TOPIC_LEVELS, "/");
            assert_eq!(trie.remove(&mask, id), model.remove(&(id, until_tail(&mask))), "{mask:?}");
            assert!(!trie.contains(&mask, id));
        }
        4 => {
            let budget = 1 + choices.below(20);
            while !trie.remove_client_some(id, &mut budget.clone()) {}
            model.retain(|(other, _)| *other != id);
            assert!(!trie.has_client(id));
        }
        _ => {
            let (budget, first) = (1 + choices.below(20), choices.of(&["a", "b", "", "+"]));
            let allowed = |mask: &str| mask.starts_with(first);
            let mut cursor = None;
            loop {
                cursor = trie.retain_some(id, cursor, &mut budget.clone(), allowed);
                if cursor.is_none() {
                    break;
                }
            }
            model.retain(|(other, mask)| *other != id || allowed(mask));
        }
    }
    assert_eq!(trie.len(), model.len());
    true
}

/// The topic trie, with subscriptions that come and go.
pub fn topics(mut choices: Choices<'_>) {
    let (mut trie, mut model) = (TopicTrie::new(), Model::new());
    for _ in 0..STEPS {
        if choices.is_used_up() {
            break;
        }
        if change_topics(&mut choices, &mut trie, &mut model) {
            continue;
        }
        let topic = choices.levels(&TOPIC_LEVELS, "/");
        let all = wanted(&model, |mask| topic_matches(mask, &topic));
        for (_, mask) in &model {
            assert_eq!(topic_mask_matches(mask, &topic), topic_matches(mask, &topic), "{mask:?} {topic:?}");
        }
        let mut found = vec![9, 3];
        trie.matches(&topic, &mut found);
        assert_eq!(&found[2..], &all[..], "{topic:?}");
        let id = client_id(&mut choices);
        assert_eq!(trie.matches_client(&topic, id), all.contains(&id), "{topic:?}");
        let (budget, mut within) = (choices.below(100), vec![]);
        match trie.matches_within(&topic, &mut within, &mut budget.clone()) {
            Lookup::Complete => assert_eq!(within, all),
            Lookup::OverBudget => assert!(within.is_empty()),
        }
        let (mut walk, mut lives) = (TopicWalk::new(&topic), Lifetimes::begin(&model));
        while trie.step(&mut walk, &mut (1 + budget)) != Step::Done {
            if choices.below(2) == 1 {
                change_topics(&mut choices, &mut trie, &mut model);
                lives.observe(&model);
            }
        }
        lives.check(&walk.into_ids(), |mask| topic_matches(mask, &topic));
    }
    let ids: BTreeSet<u32> = model.iter().map(|(id, _)| *id).collect();
    for id in ids {
        let masks: BTreeSet<String> = trie.masks_of(id).collect();
        let known = model.iter().filter(|(other, _)| *other == id).map(|(_, mask)| mask.clone());
        assert_eq!(trie.count_of(id), masks.len());
        assert_eq!(masks, known.collect());
        trie.remove_client(id);
    }
    assert!(trie.is_empty());
}

fn change_names(choices: &mut Choices<'_>, trie: &mut NameTrie, model: &mut Model) -> bool {
    let action = choices.below(6);
    if action > 3 {
        return false;
    }
    let id = client_id(choices);
    let name = choices.levels(&NAME_PARTS, ".");
    if action < 2 {
        assert_eq!(trie.insert(&name, id), model.insert((id, name.clone())), "{name:?}");
    } else {
        assert_eq!(trie.remove(&name, id), model.remove(&(id, name.clone())), "{name:?}");
    }
    assert_eq!(trie.len(), model.len());
    true
}

/// The trie of names, with clients that come and go.
pub fn names(mut choices: Choices<'_>) {
    let (mut trie, mut model) = (NameTrie::new(), Model::new());
    for _ in 0..STEPS {
        if choices.is_used_up() {
            break;
        }
        if change_names(&mut choices, &mut trie, &mut model) {
            continue;
        }
        let mask = choices.levels(&NAME_PARTS, ".");
        let all = wanted(&model, |name| name_matches(&mask, name));
        for (_, name) in &model {
            assert_eq!(name_mask_matches(&mask, name), name_matches(&mask, name), "{mask:?} {name:?}");
            // A mask without wildcards matches its own text only.
            assert!(has_wildcards(&mask) || name_matches(&mask, name) == (mask == *name));
        }
        let mut found = vec![9, 3];
        trie.matches(&mask, &mut found);
        assert_eq!(&found[2..], &all[..], "{mask:?}");
        let (budget, mut within) = (choices.below(100), vec![]);
        match trie.matches_within(&mask, &mut within, &mut budget.clone()) {
            Lookup::Complete => assert_eq!(within, all),
            Lookup::OverBudget => assert!(within.is_empty()),
        }
        let (mut walk, mut lives, mut budget) = (NameWalk::new(&mask), Lifetimes::begin(&model), 1 + budget);
        loop {
            match trie.step(&mut walk, &mut budget.clone()) {
                Step::Done => break,
                Step::More => {}
                // The walk begins anew: with a larger budget it ends although names keep changing.
                Step::Stale => budget *= 2,
            }
            if choices.below(2) == 1 {
                change_names(&mut choices, &mut trie, &mut model);
                lives.observe(&model);
            }
        }
        lives.check(&walk.into_ids(), |name| name_matches(&mask, name));
    }
    for (id, name) in &model {
        assert!(trie.remove(name, *id));
    }
    assert!(trie.is_empty());
}
