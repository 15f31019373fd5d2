//! The topic trie against the naive matcher: subscriptions come and go, also in portions and between the steps of a
//! search.
#![no_main]

use busrt_fuzz::choices::Choices;
use busrt_fuzz::matching::topics;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| topics(Choices::new(input)));
