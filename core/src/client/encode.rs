//! Encodes requests. A request is encoded and validated as a whole before any part of it is queued or registered.

use super::request::Request;
use crate::error::Result;
use crate::proto::op::QoS;
use crate::proto::request::HEADER_LEN;
use crate::transport::{LARGE_PAYLOAD, WriteQueue};
use bytes::Bytes;
use std::cell::Cell;

/// A scratch buffer longer than this is freed instead of kept for the next request.
const MAX_KEPT_BYTES: usize = 64 * 1024;

thread_local! {
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// An encoded request that has not been queued. Its op id is written when it is queued.
#[derive(Debug)]
pub(super) struct EncodedRequest {
    /// The header, the names, the prefix, and the payload if it is short.
    head: Vec<u8>,
    /// A payload that is not copied.
    payload: Option<Bytes>,
}

impl EncodedRequest {
    /// Encodes a request with the given QoS.
    ///
    /// # Errors
    ///
    /// [`Data`](crate::ErrorKind::Data): a name or topic contains a NUL, or the body is longer than 4 GiB.
    pub(super) fn new(request: &Request<'_>, qos: QoS) -> Result<EncodedRequest> {
        // This fails only while the thread ends.
        let head = SCRATCH.try_with(Cell::take).unwrap_or_default();
        let mut encoded = EncodedRequest { head, payload: None };
        let Some(payload) = request.operation.payload_ref() else {
            request.operation.encode_head_for(0, 0, qos, &mut encoded.head)?;
            return Ok(encoded);
        };
        request.operation.encode_head_for(request.payload_len(), 0, qos, &mut encoded.head)?;
        encoded.head.extend_from_slice(request.envelope);
        encoded.head.extend_from_slice(request.prefix);
        if payload.bytes().len() >= LARGE_PAYLOAD {
            encoded.payload = Some(payload.to_shared());
        } else {
            encoded.head.extend_from_slice(payload.bytes());
        }
        Ok(encoded)
    }

    /// The length of the body: names and payload.
    pub(super) fn body_len(&self) -> usize {
        self.head.len() - HEADER_LEN + self.payload.as_ref().map_or(0, Bytes::len)
    }

    /// Appends the request to a queue.
    pub(super) fn push(&mut self, op_id: u32, queue: &mut WriteQueue) {
        if let Some(field) = self.head.first_chunk_mut() {
            *field = op_id.to_le_bytes();
        }
        match self.payload.take() {
            Some(payload) => queue.push_with(|out| out.extend_from_slice(&self.head), payload, false),
            None => queue.push(|out| out.extend_from_slice(&self.head)),
        }
    }
}

impl Drop for EncodedRequest {
    fn drop(&mut self) {
        if self.head.capacity() <= MAX_KEPT_BYTES {
            let mut head = std::mem::take(&mut self.head);
            head.clear();
            let _ = SCRATCH.try_with(|scratch| scratch.set(head));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::request::Payload;
    use super::*;
    use crate::error::ErrorKind;

    fn bytes(request: &Request<'_>) -> Vec<u8> {
        let mut encoded = EncodedRequest::new(request, request.qos).unwrap();
        let mut queue = WriteQueue::default();
        let body_len = encoded.body_len();
        encoded.push(7, &mut queue);
        assert_eq!((queue.frames(), queue.bytes()), (1, HEADER_LEN + body_len));
        queue.content()
    }

    #[test]
    fn a_prefix_is_part_of_a_borrowed_or_shared_payload() {
        for len in [0, 6, LARGE_PAYLOAD] {
            let rest = vec![b'x'; len];
            let joined = [&b"envelope head"[..], &rest].concat();
            let whole = bytes(&Request::message("b", &joined, QoS::Processed));
            assert_eq!(whole[..4], 7u32.to_le_bytes());
            let shared = Bytes::from(rest.clone());
            for payload in [Payload::from(&rest), Payload::from(&shared)] {
                let mut parts = Request::message("b", payload, QoS::Processed).prefix(b" head");
                parts.envelope = b"envelope";
                assert_eq!(bytes(&parts), whole);
            }
        }
    }

    #[test]
    fn a_refused_request_leaves_nothing_in_the_scratch_buffer() {
        let wrong = Request::message("a\0b", "payload", QoS::No).prefix(b"prefix");
        assert_eq!(EncodedRequest::new(&wrong, QoS::No).unwrap_err().kind(), ErrorKind::Data);
        let whole = bytes(&Request::message("b", "payload", QoS::Processed));
        assert_eq!(whole, b"\x07\0\0\0\x52\x09\0\0\0b\0payload");
    }
}
