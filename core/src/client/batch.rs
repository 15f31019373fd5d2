//! The frames, replies and acknowledgements of one read.

use super::acks::{Acks, Answered};
#[cfg(feature = "rpc")]
use super::calls::Reply;
use super::client_state::ClientState;
use super::effects::DeferredEffects;
use crate::frame::Frame;
use crate::proto::DecodeError;
use crate::proto::decoder::{Body, Decoder};
use crate::proto::delivery::Header;
use crate::proto::op::FrameKind;
use bytes::Bytes;
use std::cell::Cell;
use std::ops::Range;

/// Small frames that arrive together share allocations of about this length, in bytes. An allocation for each frame
/// would cost more than the rest of the work; with a single allocation for all of them, a program that keeps one
/// frame would keep the memory of all.
const SHARED: usize = 4096;

/// The read buffer and its decoded content. A thread owns it while nothing is read, so that idle connections hold
/// none.
#[derive(Default)]
pub(crate) struct Batch {
    pub(crate) buf: Vec<u8>,
    /// Frames that do not answer a call.
    pub(crate) frames: Vec<Frame>,
    /// Replies, with the calls that they answer.
    #[cfg(feature = "rpc")]
    replies: Vec<Reply>,
    /// Op ids and result codes.
    acks: Vec<(u32, u8)>,
    /// The effects of the frames.
    effects: DeferredEffects,
    /// The effects of the acknowledgements and replies.
    answered: Answered,
    group: Vec<Span>,
}

/// A frame whose body is in the read buffer.
struct Span {
    kind: FrameKind,
    realtime: bool,
    body: Range<usize>,
}

thread_local! {
    static SPARE: Cell<Option<Box<Batch>>> = const { Cell::new(None) };
}

/// Maximum size of a buffer that is kept for the next read, in bytes.
const MOST_KEPT: usize = 1024 * 1024;

impl Batch {
    /// Returns this thread's batch, which is empty.
    pub(crate) fn take() -> Box<Batch> {
        // This fails only while the thread ends.
        SPARE.try_with(Cell::take).ok().flatten().unwrap_or_default()
    }

    /// Keeps the batch for the next connection from which this thread reads.
    pub(crate) fn give(mut self: Box<Batch>) {
        self.buf.clear();
        if self.buf.capacity() <= MOST_KEPT {
            let _ = SPARE.try_with(|spare| spare.set(Some(self)));
        }
    }

    /// Decodes the content of `buf`. `decoder` keeps the last frame if it is incomplete. Answered calls of `client`
    /// are removed from its table and are completed later by [`hand_out`](Batch::hand_out).
    ///
    /// # Errors
    ///
    /// Bytes that are not a valid frame. The frames before them are decoded.
    pub(crate) fn decode(
        &mut self,
        decoder: &mut Decoder<Header>,
        client: &ClientState,
    ) -> Result<(), DecodeError> {
        let buf = std::mem::take(&mut self.buf);
        let decoded = self.decode_from(&buf, decoder, client);
        self.buf = buf;
        self.group.clear();
        decoded
    }

    fn decode_from(
        &mut self,
        buf: &[u8],
        decoder: &mut Decoder<Header>,
        client: &ClientState,
    ) -> Result<(), DecodeError> {
        let mut input = buf;
        loop {
            let (header, body) = match decoder.next(&mut input) {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(e) => {
                    self.end_group(buf, client)?;
                    return Err(e);
                }
            };
            match (header, body) {
                (Header::Nop, _) => {}
                (Header::Ack { op_id, code }, _) => self.acks.push((op_id, code)),
                (Header::Frame { kind, realtime, .. }, Body::Shared(bytes)) => {
                    self.end_group(buf, client)?;
                    self.deliver(Frame::parse(kind, realtime, bytes)?, client);
                }
                (Header::Frame { kind, realtime, .. }, Body::Inline(bytes)) => {
                    let end = buf.len() - input.len();
                    let body = end - bytes.len()..end;
                    if self.group.first().is_some_and(|first| end - first.body.start > SHARED) {
                        self.end_group(buf, client)?;
                    }
                    self.group.push(Span { kind, realtime, body });
                }
            }
        }
        self.end_group(buf, client)?;
        decoder.suspend(input);
        Ok(())
    }

    /// Creates frames from the gathered bodies, which share one copy of their part of the buffer.
    fn end_group(&mut self, buf: &[u8], client: &ClientState) -> Result<(), DecodeError> {
        let (Some(first), Some(last)) = (self.group.first(), self.group.last()) else { return Ok(()) };
        let (start, end) = (first.body.start, last.body.end);
        let (kind, realtime, alone) = (first.kind, first.realtime, self.group.len() == 1);
        let shared = Bytes::copy_from_slice(&buf[start..end]);
        if alone {
            // A slice of shared bytes needs one more allocation than the whole.
            self.group.clear();
            self.deliver(Frame::parse(kind, realtime, shared)?, client);
            return Ok(());
        }
        let mut group = std::mem::take(&mut self.group);
        let mut result = Ok(());
        for Span { kind, realtime, body } in group.drain(..) {
            match Frame::parse(kind, realtime, shared.slice(body.start - start..body.end - start)) {
                Ok(frame) => self.deliver(frame, client),
                Err(e) => {
                    result = Err(e);
                    break;
                }
            }
        }
        self.group = group;
        result
    }

    fn deliver(
        &mut self,
        frame: Frame,
        #[cfg_attr(not(feature = "rpc"), expect(unused_variables))] client: &ClientState,
    ) {
        #[cfg(feature = "rpc")]
        match client.calls.take(frame) {
            Ok(reply) => self.replies.push(reply),
            Err(frame) => self.frames.push(frame),
        }
        #[cfg(not(feature = "rpc"))]
        self.frames.push(frame);
    }

    /// Returns the number of acknowledgements and replies.
    pub(crate) fn answers(&self) -> u64 {
        let answers = self.acks.len();
        #[cfg(feature = "rpc")]
        let answers = answers + self.replies.len();
        answers as u64
    }

    /// Queues the frames, then delivers the acknowledgements and the replies: a program that receives an answer finds
    /// the frames that came before it. It runs no foreign code, so that the caller may hold the lock of the input,
    /// which keeps two reads in order. The remaining effects happen in [`settle`](Batch::settle).
    pub(crate) fn hand_out(&mut self, client: &ClientState, acks: &Acks) {
        client.receive(&mut self.frames, &mut self.effects);
        acks.complete(&mut self.acks, &mut self.answered);
        #[cfg(feature = "rpc")]
        if !self.replies.is_empty() {
            client.inbox.count_replies(self.replies.iter().map(|(_, frame)| frame));
            self.replies.drain(..).for_each(|(caller, frame)| self.answered.reply(caller, frame));
        }
    }

    /// Wakes the tasks that wait for the delivered items. All acknowledgements and replies cause one wake-up per
    /// task. It runs wakers and loggers: the caller must hold no lock.
    pub(crate) fn settle(&mut self) {
        self.effects.settle_now();
        self.answered.settle();
    }
}

#[cfg(test)]
mod tests {
    use super::super::config::Config;
    use super::*;
    use crate::proto::delivery::{self, Delivery};

    fn encode(out: &mut Vec<u8>, sender: &str, topic: Option<&str>, payload: &[u8]) {
        let kind = if topic.is_some() { FrameKind::Publication } else { FrameKind::Message };
        Delivery { kind, realtime: false, sender, topic, payload }.encode_head(out);
        out.extend_from_slice(payload);
    }

    fn feed(stream: &[u8], piece: usize) -> (Vec<Frame>, Vec<(u32, u8)>) {
        let client = ClientState::new(&Config::new("", "me"));
        let mut decoder = Decoder::new(u32::MAX);
        let mut batch = Batch::take();
        for piece in stream.chunks(piece) {
            batch.buf.clear();
            decoder.resume(&mut batch.buf);
            batch.buf.extend_from_slice(piece);
            batch.decode(&mut decoder, &client).unwrap();
        }
        assert!(!decoder.is_mid_frame());
        let got = (std::mem::take(&mut batch.frames), std::mem::take(&mut batch.acks));
        batch.give();
        got
    }

    #[test]
    fn frames_are_the_same_for_any_split_of_the_stream() {
        let mut stream = vec![];
        let lens = [0, 1, 100, 3000, 5000, 20_000, 7, 4096];
        for (i, len) in lens.into_iter().enumerate() {
            let topic = (i % 2 == 0).then_some("a/b");
            encode(&mut stream, "sender", topic, &vec![i as u8; len]);
            stream.extend_from_slice(&delivery::ack(i as u32, 1));
            stream.extend_from_slice(&delivery::PING);
        }
        for piece in [1, 7, 100, 4096, 10_000, stream.len()] {
            let (frames, acks) = feed(&stream, piece);
            assert_eq!(acks, (0..lens.len() as u32).map(|i| (i, 1)).collect::<Vec<_>>());
            assert_eq!(frames.len(), lens.len());
            for (i, frame) in frames.iter().enumerate() {
                assert_eq!((frame.sender(), frame.topic()), ("sender", (i % 2 == 0).then_some("a/b")));
                assert_eq!(frame.payload(), vec![i as u8; lens[i]], "frame {i} of pieces of {piece}");
            }
        }
    }

    #[test]
    fn frames_before_garbage_are_kept() {
        let client = ClientState::new(&Config::new("", "me"));
        let mut batch = Batch::take();
        encode(&mut batch.buf, "s", None, b"whole");
        batch.buf.extend_from_slice(b"\x99\0\0\0\0\0");
        let mut decoder = Decoder::new(u32::MAX);
        assert_eq!(batch.decode(&mut decoder, &client), Err(DecodeError::UnknownOperation(0x99)));
        assert_eq!(batch.frames.len(), 1);
    }
}
