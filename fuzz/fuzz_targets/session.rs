//! Several clients on a broker do operations, connect and leave; deliveries and acknowledgements are those of a model.
#![no_main]

use busrt_fuzz::choices::Choices;
use busrt_fuzz::session;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| session::run(Choices::new(input)));
