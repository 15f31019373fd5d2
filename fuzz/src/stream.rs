//! Feeds a decoder with one stream in pieces of different sizes, as a connection does.

use busrt::proto::DecodeError;
use busrt::proto::decoder::{Decoder, Header};
use bytes::BufMut;
use std::fmt::Debug;

/// The payload limit of the decoders.
const LIMIT: u32 = 1 << 20;

/// The frames of a stream, and how it ended.
#[derive(Debug, PartialEq, Eq)]
pub struct Decoded<H> {
    pub frames: Vec<(H, Vec<u8>)>,
    pub error: Option<DecodeError>,
    /// The bytes at the end begin a frame that is not complete.
    pub is_mid_frame: bool,
}

fn decode<H: Header>(stream: &[u8], piece: usize, fills_bodies: bool) -> Decoded<H> {
    let mut decoder = Decoder::<H>::new(LIMIT);
    let mut decoded = Decoded { frames: vec![], error: None, is_mid_frame: false };
    let mut buf = vec![];
    for mut bytes in stream.chunks(piece.max(1)) {
        buf.clear();
        decoder.resume(&mut buf);
        if fills_bodies && buf.is_empty() {
            // The bytes of a large body go to its own memory.
            bytes = fill_body(&mut decoder, bytes);
        }
        buf.extend_from_slice(bytes);
        let mut input = &buf[..];
        loop {
            match decoder.next(&mut input) {
                Ok(Some((header, body))) => decoded.frames.push((header, body.to_vec())),
                Ok(None) => break,
                Err(e) => {
                    decoded.error = Some(e);
                    return decoded;
                }
            }
        }
        decoder.suspend(input);
    }
    decoded.is_mid_frame = decoder.is_mid_frame();
    decoded
}

/// Copies as many bytes as fit into a large body under way, and returns the others.
fn fill_body<'a, H: Header>(decoder: &mut Decoder<H>, mut bytes: &'a [u8]) -> &'a [u8] {
    while let Some(mut room) = decoder.large_body() {
        let len = room.remaining_mut().min(bytes.len());
        if len == 0 {
            break;
        }
        room.put_slice(&bytes[..len]);
        bytes = &bytes[len..];
    }
    bytes
}

/// Decodes a stream in pieces of several sizes, which must not make a difference.
pub fn decode_in_pieces<H: Header + Debug + PartialEq>(stream: &[u8]) -> Decoded<H> {
    let whole = decode::<H>(stream, stream.len(), false);
    // One of the sizes depends on the input.
    let chosen = 2 + stream.iter().fold(0_usize, |sum, byte| sum + usize::from(*byte)) % 10_000;
    for piece in [1, 7, chosen] {
        if piece == 1 && stream.len() > 2048 {
            continue;
        }
        assert_eq!(decode::<H>(stream, piece, false), whole, "in pieces of {piece}");
        assert_eq!(decode::<H>(stream, piece, true), whole, "in pieces of {piece}, into the body");
    }
    whole
}
