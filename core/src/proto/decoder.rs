//! Decodes complete frames from a byte stream, in either direction, without copying small ones.
//!
//! The caller reads into its own buffer and passes the bytes to [`Decoder::next`] until it returns `None`. The
//! remaining bytes (less than one small frame) go to [`Decoder::suspend`], and [`Decoder::resume`] puts them in front
//! of the next read. A large body is gathered in separate memory, into which the caller can read directly
//! ([`Decoder::large_body`]), so that it ends up as shared bytes.
//!
//! The allocated memory depends on the bytes that arrived, never on the length that a header declares: the room for
//! an incomplete body is at most four times the bytes that have arrived of it (or 4 KiB). After 256 KiB have arrived,
//! or 64 KiB if the last large body on the same stream was as long, the room is up to 16 MiB. This is address space,
//! whose memory is used as bytes arrive. Each time the room grows, the bytes so far are copied to memory that the
//! process may not have used yet, which takes long on some machines: less than 1 MiB is copied for a body of up to 16
//! MiB. For longer ones, 16 MiB are copied once.

use super::DecodeError;
use bytes::buf::Limit;
use bytes::{BufMut, Bytes, BytesMut};

/// Minimum length of an incomplete body that is gathered in separate memory, in bytes.
pub const LARGE: usize = 8 * 1024;
const MIN_GROWTH: usize = 4 * 1024;
/// The room for a body whose sender has proved that it sends large bodies, in bytes. Memory that is not written to
/// yet costs only address space.
const MOST_EXPECTED: usize = 16 * 1024 * 1024;
/// Number of bytes of a body that must have arrived before the room for it is that of the last large body.
const CREDIBLE: usize = 64 * 1024;
/// Number of bytes of a body that must have arrived before the room for it is [`MOST_EXPECTED`].
const PROVEN: usize = 256 * 1024;

/// The fixed part of a frame, which contains the length of the rest.
pub trait Header: Copy {
    /// The header's length in bytes.
    const LEN: usize;
    /// Reads a header from at least [`LEN`](Header::LEN) bytes.
    ///
    /// # Errors
    ///
    /// The bytes are not a valid header.
    fn parse(bytes: &[u8]) -> Result<Self, DecodeError>;
    /// Returns the length of the body that follows.
    fn body_len(&self) -> u32;
    /// Validates a header before its body is received.
    ///
    /// # Errors
    ///
    /// The operation does not exist.
    fn check(&self) -> Result<(), DecodeError>;
}

/// The body of a frame, in one of two kinds of memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body<'a> {
    /// In the caller's read buffer.
    Inline(&'a [u8]),
    /// In separate memory, to be shared.
    Shared(Bytes),
}

impl std::ops::Deref for Body<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Body::Inline(bytes) => bytes,
            Body::Shared(bytes) => bytes,
        }
    }
}

/// An incremental decoder of one stream.
#[derive(Debug)]
pub struct Decoder<H> {
    leftover: Vec<u8>,
    large: Option<Box<(H, BytesMut)>>,
    limit: u32,
    /// The length of the last large body, bounded. With it, the room for the next large body need not grow in steps.
    expected: usize,
}

impl<H: Header> Decoder<H> {
    /// Creates a decoder that refuses bodies longer than `limit` bytes (`u32::MAX`: no limit but that of the wire
    /// format).
    pub fn new(limit: u32) -> Self {
        Decoder { leftover: Vec::new(), large: None, limit, expected: 0 }
    }

    /// Returns true if a frame has begun but not ended.
    pub fn is_mid_frame(&self) -> bool {
        self.large.is_some() || !self.leftover.is_empty()
    }

    /// Appends the bytes that [`suspend`](Decoder::suspend) kept to `buf`, and clears them.
    pub fn resume(&mut self, buf: &mut Vec<u8>) {
        if !self.leftover.is_empty() {
            buf.append(&mut self.leftover);
            self.leftover = Vec::new();
        }
    }

    /// Keeps the bytes that [`next`](Decoder::next) left of its input until more arrive.
    pub fn suspend(&mut self, rest: &[u8]) {
        self.leftover.extend_from_slice(rest);
    }

    /// Returns the room for an incomplete large body. Bytes read into it need not pass through the input of
    /// [`next`](Decoder::next), which then completes the frame with an empty input.
    pub fn large_body(&mut self) -> Option<Limit<&mut BytesMut>> {
        let (header, body) = &mut **self.large.as_mut()?;
        let missing = header.body_len() as usize - body.len();
        if body.capacity() == body.len() {
            let arrived = body.len();
            let room = match arrived {
                PROVEN.. => MOST_EXPECTED.max(arrived.saturating_mul(16)),
                CREDIBLE.. => self.expected,
                _ => 0,
            };
            let growth = MIN_GROWTH.max(arrived * 3).max(room.saturating_sub(arrived));
            body.reserve(missing.min(growth));
        }
        let room = missing.min(body.capacity() - body.len());
        Some(body.limit(room))
    }

    /// Returns the next complete frame at the start of `input`, and moves `input` past it. Returns `None` if there is
    /// none; the rest of `input` must then be passed to [`suspend`](Decoder::suspend).
    ///
    /// # Errors
    ///
    /// An invalid header, or a body over the limit. Nothing after it can be decoded.
    pub fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<(H, Body<'a>)>, DecodeError> {
        if let Some(large) = &mut self.large {
            let (header, body) = &mut **large;
            let take = input.len().min(header.body_len() as usize - body.len());
            body.extend_from_slice(&input[..take]);
            *input = &input[take..];
            if body.len() < header.body_len() as usize {
                return Ok(None);
            }
            self.expected = body.len().min(MOST_EXPECTED);
            let frame = (*header, Body::Shared(std::mem::take(body).freeze()));
            self.large = None;
            return Ok(Some(frame));
        }
        if input.len() < H::LEN {
            return Ok(None);
        }
        let header = H::parse(input)?;
        header.check()?;
        let declared = header.body_len();
        if declared > self.limit {
            return Err(DecodeError::TooLarge { declared, limit: self.limit });
        }
        let (whole, rest) = (declared as usize, &input[H::LEN..]);
        if rest.len() >= whole {
            *input = &rest[whole..];
            return Ok(Some((header, Body::Inline(&rest[..whole]))));
        }
        if whole >= LARGE {
            let expected = if rest.len() >= CREDIBLE { whole.min(self.expected) } else { 0 };
            let mut body = BytesMut::with_capacity(rest.len().max(expected));
            body.extend_from_slice(rest);
            self.large = Some(Box::new((header, body)));
            *input = &[];
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{delivery, request};
    use super::*;

    fn frame(len: usize) -> Vec<u8> {
        let mut out = vec![];
        let body: Vec<u8> = (0..len).map(|i| i as u8).collect();
        out.extend_from_slice(&[1, 0, 0, 0, 0x12]);
        out.extend_from_slice(&(len as u32).to_le_bytes());
        out.extend_from_slice(&body);
        out
    }

    /// Feeds `stream` in the given pieces, like a session, and returns the bodies.
    fn feed<'a>(
        decoder: &mut Decoder<request::Header>,
        pieces: impl Iterator<Item = &'a [u8]>,
    ) -> Vec<Vec<u8>> {
        let mut bodies = vec![];
        for piece in pieces {
            let mut buf = vec![];
            decoder.resume(&mut buf);
            buf.extend_from_slice(piece);
            let mut input = &buf[..];
            while let Some((_, body)) = decoder.next(&mut input).unwrap() {
                bodies.push(body.to_vec());
            }
            decoder.suspend(input);
        }
        bodies
    }

    #[test]
    fn every_split_position() {
        let mut stream = vec![];
        for len in [0, 1, 30, LARGE + 5, 3] {
            stream.extend_from_slice(&frame(len));
        }
        let lens = |bodies: Vec<Vec<u8>>| bodies.iter().map(Vec::len).collect::<Vec<_>>();
        for at in 0..stream.len() {
            let mut decoder = Decoder::new(u32::MAX);
            let bodies = feed(&mut decoder, [&stream[..at], &stream[at..]].into_iter());
            assert_eq!(lens(bodies), [0, 1, 30, LARGE + 5, 3], "split at {at}");
            assert!(!decoder.is_mid_frame());
        }
        let mut decoder = Decoder::new(u32::MAX);
        assert_eq!(lens(feed(&mut decoder, stream.chunks(1))), [0, 1, 30, LARGE + 5, 3]);
    }

    #[test]
    fn the_next_large_body_is_expected_to_be_as_long_as_the_last() {
        let mut decoder = Decoder::<request::Header>::new(u32::MAX);
        let mut held_after = |declared: usize, arrived: usize| {
            let mut input = &frame(declared)[..9 + arrived];
            assert_eq!(decoder.next(&mut input), Ok(None));
            let held = decoder.large.as_ref().map_or(0, |large| large.1.capacity());
            assert!(decoder.next(&mut &vec![0; declared - arrived][..]).unwrap().is_some());
            held
        };
        // Without earlier large bodies, only the bytes that have arrived are held.
        assert_eq!(held_after(1 << 20, CREDIBLE), CREDIBLE);
        assert_eq!(held_after(1 << 20, CREDIBLE), 1 << 20);
        assert_eq!(held_after(1 << 20, 100), 100);
        assert_eq!(held_after(20 << 20, CREDIBLE), 1 << 20);
        assert_eq!(held_after(20 << 20, CREDIBLE), MOST_EXPECTED);
        assert_eq!(held_after(2 * CREDIBLE, CREDIBLE), 2 * CREDIBLE);
    }

    #[test]
    fn a_growing_body_is_copied_in_small_parts_only() {
        let mut decoder = Decoder::<request::Header>::new(u32::MAX);
        let stream = frame(MOST_EXPECTED);
        assert_eq!(decoder.next(&mut &stream[..1000]), Ok(None));
        let mut at = 1000;
        let mut most_copied = 0;
        while at < stream.len() {
            let before = decoder.large.as_ref().unwrap().1.capacity();
            let mut room = decoder.large_body().unwrap();
            let n = room.remaining_mut();
            room.put_slice(&stream[at..at + n]);
            if decoder.large.as_ref().unwrap().1.capacity() > before {
                most_copied = most_copied.max(at);
            }
            at += n;
        }
        assert!(most_copied <= 4 * PROVEN, "{most_copied}");
        assert!(decoder.next(&mut &[][..]).unwrap().is_some());
    }

    #[test]
    fn a_large_body_is_read_into_directly() {
        let stream = frame(100_000);
        let mut decoder = Decoder::<request::Header>::new(u32::MAX);
        let mut input = &stream[..20];
        assert_eq!(decoder.next(&mut input), Ok(None));
        let mut at = 20;
        while at < stream.len() {
            let mut room = decoder.large_body().unwrap();
            let n = room.remaining_mut().min(7000);
            assert!(n > 0);
            room.put_slice(&stream[at..at + n]);
            at += n;
        }
        let mut nothing = &[][..];
        let (_, body) = decoder.next(&mut nothing).unwrap().unwrap();
        assert_eq!(&body[..], &stream[9..]);
        assert!(matches!(body, Body::Shared(_)));
    }

    #[test]
    fn a_declared_length_allocates_nothing() {
        let mut decoder = Decoder::<request::Header>::new(u32::MAX);
        let mut input = &b"\x01\0\0\0\x12\xff\xff\xff\xffab"[..];
        assert_eq!(decoder.next(&mut input), Ok(None));
        assert!(decoder.is_mid_frame());
        assert!(decoder.large_body().unwrap().remaining_mut() <= MIN_GROWTH);
        let mut decoder = Decoder::<delivery::Header>::new(u32::MAX);
        let mut input = &b"\x12\xff\xff\xff\xff\0ab"[..];
        assert_eq!(decoder.next(&mut input), Ok(None));
        assert!(decoder.large_body().unwrap().remaining_mut() <= MIN_GROWTH);
    }

    #[test]
    fn over_the_limit() {
        let mut decoder = Decoder::<request::Header>::new(10);
        let all = frame(11);
        let mut input = &all[..9];
        assert_eq!(decoder.next(&mut input), Err(DecodeError::TooLarge { declared: 11, limit: 10 }));
        let all = frame(10);
        assert!(decoder.next(&mut &all[..]).unwrap().is_some());
    }

    #[test]
    fn an_unknown_operation_is_refused_before_its_body() {
        let mut decoder = Decoder::<request::Header>::new(u32::MAX);
        let mut input = &b"\0\0\0\0\x11\xff\0\0\0"[..];
        assert_eq!(decoder.next(&mut input), Err(DecodeError::UnknownOperation(0x11)));
    }
}
