//! Operations out of any stream: the pieces in which it arrives make no difference, and what is read is written again.
#![no_main]

use busrt::proto::request::{HEADER_LEN, Header, Operation};
use busrt_fuzz::stream::decode_in_pieces;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|stream: &[u8]| {
    let decoded = decode_in_pieces::<Header>(stream);
    let mut at = 0;
    for (header, body) in &decoded.frames {
        let bytes = &stream[at..at + HEADER_LEN + body.len()];
        at += bytes.len();
        let Ok(operation) = Operation::parse(header.flags, body) else { continue };
        if operation == Operation::Nop {
            continue;
        }
        let mut written = vec![];
        let result = operation.encode_head(header.op_id, header.qos(), &mut written);
        assert!(result.is_ok(), "{operation:?}");
        written.extend_from_slice(operation.payload().unwrap_or_default());
        assert_eq!(written, bytes);
    }
});
