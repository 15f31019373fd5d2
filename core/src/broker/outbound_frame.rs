//! A frame for any number of receivers, encoded once for all of them.

use crate::frame::Frame;
use crate::proto::delivery::Delivery;
use crate::proto::op::FrameKind;
use crate::transport::{LARGE_PAYLOAD, WriteQueue};
use bytes::Bytes;
use std::sync::OnceLock;

/// A frame for one receiver or for several.
pub(super) struct OutboundFrame<'a> {
    delivery: Delivery<'a>,
    /// The payload as shared bytes, if it is large enough to be shared rather than copied.
    payload: Option<Bytes>,
    encoded: Encoded<'a>,
    /// The frame for clients in this process. The first of several that needs it creates it.
    frame: Option<&'a OnceLock<Frame>>,
}

/// The part of a frame that is already encoded.
enum Encoded<'a> {
    /// Nothing is encoded yet: the frame is encoded directly into the queue of its only receiver.
    Nothing,
    /// The whole frame, or everything before the payload if the payload is shared.
    Borrowed(&'a [u8]),
    /// Everything before the payload, which is so long that it is shared too.
    Shared(Bytes),
}

/// Buffers for frames with several receivers, reused from frame to frame.
#[derive(Default)]
pub(super) struct Scratch {
    encoded: Vec<u8>,
    frame: OnceLock<Frame>,
}

impl Scratch {
    /// Releases memory that an idle client should not hold.
    pub(super) fn release(&mut self) {
        self.frame.take();
        if self.encoded.capacity() > 1024 {
            self.encoded = Vec::new();
        }
    }
}

impl<'a> OutboundFrame<'a> {
    /// Creates a frame for one receiver. `owner` is the shared memory that holds the payload, if any.
    pub(super) fn new(delivery: Delivery<'a>, owner: Option<&Bytes>) -> OutboundFrame<'a> {
        let payload = owner
            .filter(|_| delivery.payload.len() >= LARGE_PAYLOAD)
            .map(|owner| owner.slice_ref(delivery.payload));
        OutboundFrame { delivery, payload, encoded: Encoded::Nothing, frame: None }
    }

    /// Creates a frame for several receivers, which is first encoded into `scratch`.
    pub(super) fn for_many(
        delivery: Delivery<'a>,
        owner: Option<&Bytes>,
        scratch: &'a mut Scratch,
    ) -> OutboundFrame<'a> {
        let mut frame = OutboundFrame::new(delivery, owner);
        if frame.payload.is_none() && delivery.payload.len() >= LARGE_PAYLOAD {
            frame.payload = Some(Bytes::copy_from_slice(delivery.payload));
        }
        scratch.encoded.clear();
        scratch.frame.take();
        delivery.encode_head(&mut scratch.encoded);
        frame.encoded = if scratch.encoded.len() >= LARGE_PAYLOAD {
            // The head is shared. A short payload is copied behind it.
            frame.payload.get_or_insert_with(|| Bytes::copy_from_slice(delivery.payload));
            Encoded::Shared(std::mem::take(&mut scratch.encoded).into())
        } else {
            if frame.payload.is_none() {
                scratch.encoded.extend_from_slice(delivery.payload);
            }
            Encoded::Borrowed(&scratch.encoded)
        };
        frame.frame = Some(&scratch.frame);
        frame
    }

    /// Creates a small frame for several receivers that is already encoded.
    pub(super) fn encoded(
        delivery: Delivery<'a>,
        encoded: &'a [u8],
        scratch: &'a mut Scratch,
    ) -> OutboundFrame<'a> {
        scratch.frame.take();
        let encoded = Encoded::Borrowed(encoded);
        OutboundFrame { delivery, payload: None, encoded, frame: Some(&scratch.frame) }
    }

    /// Appends the frame to the queue of a receiver. A message is marked so that it is never dropped from the queue.
    pub(super) fn append_to(&self, queue: &mut WriteQueue) {
        let keep = self.is_message();
        let append = |queue: &mut WriteQueue, encode: &dyn Fn(&mut Vec<u8>)| match keep {
            true => queue.push_kept(encode),
            false => queue.push(encode),
        };
        match (&self.encoded, &self.payload) {
            (Encoded::Borrowed(whole), None) => append(queue, &|out| out.extend_from_slice(whole)),
            (Encoded::Borrowed(head), Some(payload)) => {
                queue.push_with(|out| out.extend_from_slice(head), payload.clone(), keep);
            }
            (Encoded::Shared(head), payload) => {
                queue.push_shared(head.clone(), payload.clone().unwrap_or_default(), keep);
            }
            (Encoded::Nothing, Some(payload)) => {
                queue.push_with(|out| self.delivery.encode_head(out), payload.clone(), keep);
            }
            (Encoded::Nothing, None) => append(queue, &|out| self.delivery.encode(out)),
        }
    }

    /// Returns the frame for a client in this process.
    pub(super) fn frame(&self) -> Frame {
        let make = || match &self.payload {
            Some(payload) => Frame::detached(&self.delivery, payload.clone()),
            None => Frame::copied(&self.delivery),
        };
        self.frame.map_or_else(make, |frame| frame.get_or_init(make).clone())
    }

    /// Returns the kind and the first byte of the payload, which determine the lane of a client in this process.
    pub(super) fn lane_key(&self) -> (FrameKind, Option<u8>) {
        (self.delivery.kind, self.delivery.payload.first().copied())
    }

    pub(super) fn is_message(&self) -> bool {
        self.delivery.kind == FrameKind::Message
    }

    pub(super) fn wire_len(&self) -> usize {
        self.delivery.wire_len()
    }

    pub(super) fn body_len(&self) -> u64 {
        self.delivery.body_len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_of_encoding_gives_the_same_bytes() {
        for (topic_len, payload_len) in [(3, 5), (3, 70_000), (60_000, 5), (60_000, 70_000), (60_000, 0)] {
            let (topic, payload) = ("t".repeat(topic_len), vec![7; payload_len]);
            let delivery = Delivery {
                kind: FrameKind::Publication,
                realtime: false,
                sender: "me",
                topic: Some(&topic),
                payload: &payload,
            };
            let mut wanted = vec![];
            delivery.encode(&mut wanted);
            let mut scratch = Scratch::default();
            let mut one = WriteQueue::default();
            OutboundFrame::new(delivery, None).append_to(&mut one);
            let frame = OutboundFrame::for_many(delivery, None, &mut scratch);
            let (mut a, mut b) = (WriteQueue::default(), WriteQueue::default());
            frame.append_to(&mut a);
            frame.append_to(&mut b);
            for queue in [one, a, b] {
                assert_eq!((queue.frames(), queue.bytes()), (1, wanted.len()));
                assert!(queue.content() == wanted, "{topic_len} {payload_len}");
            }
        }
    }
}
