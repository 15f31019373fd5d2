//! RPC frames out of any payload: what is read is written again, byte for byte.
#![no_main]

use busrt::proto::rpc::{Envelope, NOTIFICATION, error_header, put_request_header, reply_header};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|payload: &[u8]| {
    let Ok(envelope) = Envelope::parse(payload) else { return };
    let mut written = vec![];
    match envelope {
        Envelope::Notification { payload } => {
            written.push(NOTIFICATION);
            written.extend_from_slice(payload);
        }
        Envelope::Request { id, method, params } => {
            // Only methods that are text can be called with this crate.
            let Ok(method) = std::str::from_utf8(method) else { return };
            put_request_header(id, method, &mut written);
            written.extend_from_slice(params);
        }
        Envelope::Reply { id, result } => {
            written.extend_from_slice(&reply_header(id));
            written.extend_from_slice(result);
        }
        Envelope::ErrorReply { id, code, data } => {
            written.extend_from_slice(&error_header(id, code));
            written.extend_from_slice(data);
        }
    }
    assert_eq!(written, payload);
});
