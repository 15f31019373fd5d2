//! Deliveries out of any stream: the pieces in which it arrives make no difference, and what is read is written again.
#![no_main]

use busrt::proto::delivery::{HEADER_LEN, Header, ack, parse_body};
use busrt_fuzz::stream::decode_in_pieces;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|stream: &[u8]| {
    let decoded = decode_in_pieces::<Header>(stream);
    let mut at = 0;
    for (header, body) in &decoded.frames {
        let bytes = &stream[at..at + HEADER_LEN + body.len()];
        at += bytes.len();
        match *header {
            Header::Nop => {}
            Header::Ack { op_id, code } => assert_eq!(ack(op_id, code), bytes),
            Header::Frame { kind, realtime, .. } => {
                let Ok(frame) = parse_body(kind, realtime, body) else { continue };
                let mut written = vec![];
                frame.encode(&mut written);
                assert_eq!(written.len(), frame.wire_len());
                // Any byte but 0 is read as a realtime flag; 1 is written.
                assert_eq!((&written[..5], &written[6..]), (&bytes[..5], &bytes[6..]));
                assert_eq!(written[5] != 0, bytes[5] != 0);
            }
        }
    }
});
