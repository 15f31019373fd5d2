//! The trie of client names against the naive matcher: names come and go, also between the steps of a search.
#![no_main]

use busrt_fuzz::choices::Choices;
use busrt_fuzz::matching::names;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| names(Choices::new(input)));
