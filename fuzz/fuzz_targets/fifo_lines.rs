//! The lines of a FIFO: the pieces in which they are read make no difference, and every line is an operation that can be
//! sent, or an error.
#![no_main]

use busrt::QoS;
use busrt::fuzzing::{fifo_operation, split_lines};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let lines = split_lines(input, input.len());
    for piece in [1, 3, 64] {
        assert_eq!(split_lines(input, piece), lines, "in pieces of {piece}");
    }
    let mut wanted: Vec<&[u8]> = input.split(|byte| *byte == b'\n').collect();
    wanted.pop();
    assert_eq!(lines, wanted);
    for line in lines {
        if let Ok(Some(operation)) = fifo_operation(&line) {
            let result = operation.encode_head(1, QoS::Processed, &mut vec![]);
            assert!(result.is_ok(), "{operation:?}");
        }
    }
});
