//! MessagePack for payloads, parameters and results: packing, and unpacking with errors that people understand.
//!
//! The bus carries any bytes. By convention, RPC parameters and results are MessagePack, and parameters are a map.
//!
//! ```
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Serialize, Deserialize, PartialEq, Debug)]
//! struct Sum {
//!     a: i64,
//!     b: i64,
//! }
//!
//! let packed = busrt::msgpack::pack(&Sum { a: 40, b: 2 })?;
//! assert_eq!(busrt::msgpack::unpack::<Sum>(&packed)?, Sum { a: 40, b: 2 });
//!
//! let error = busrt::msgpack::unpack::<Sum>(&busrt::msgpack::pack("40 and 2")?).unwrap_err();
//! assert_eq!(error.context(), "expected struct Sum, got string \"40 and 2\"");
//! # Ok::<(), busrt::Error>(())
//! ```

use crate::error::{Error, ErrorKind, Result};
use bytes::Bytes;
use rmp_serde::decode;
use serde::Serialize;
use serde::de::{Deserialize, DeserializeOwned, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::fmt::{self, Write};
use std::io::Cursor;

/// Maximum number of keys of a map that an error names.
const SHOWN_KEYS: usize = 8;
/// Maximum nesting depth of arrays and maps. Each level takes stack space, and a peer chooses the depth.
const MAX_DEPTH: usize = 64;
/// Maximum number of characters of a text that an error shows.
const SHOWN_CHARS: usize = 40;

/// Packs a value. Structs become maps, with the names of their fields as keys.
///
/// # Errors
/// [`Data`](ErrorKind::Data) if the value cannot be serialized, for example a sequence of unknown length.
pub fn pack<T: Serialize + ?Sized>(value: &T) -> Result<Bytes> {
    rmp_serde::to_vec_named(value)
        .map(Bytes::from)
        .map_err(|e| Error::new(ErrorKind::Data, format!("the value cannot be packed as MessagePack: {e}")))
}

/// Unpacks a value. Structs may be maps or arrays.
///
/// # Errors
///
/// [`Data`](ErrorKind::Data). The context says what was expected and what was found.
pub fn unpack<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    explained(bytes).map_err(|text| Error::new(ErrorKind::Data, text))
}

/// Unpacks a value, or returns an explanation of why that is not possible.
pub(crate) fn explained<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    if bytes.is_empty() {
        // Even `nil` is packed as one byte.
        return Err(format!("expected {}, got no bytes", short_name::<T>()));
    }
    let mut source = source(bytes);
    let value = T::deserialize(&mut source).map_err(|e| explain::<T>(&e, bytes))?;
    match bytes.len().saturating_sub(usize::try_from(source.position()).unwrap_or(usize::MAX)) {
        0 => Ok(value),
        rest => Err(format!("expected {}, got {}", short_name::<T>(), not_messagepack(bytes, rest))),
    }
}

fn source(bytes: &[u8]) -> decode::Deserializer<decode::ReadReader<Cursor<&[u8]>>> {
    let mut source = decode::Deserializer::new(Cursor::new(bytes));
    source.set_max_depth(MAX_DEPTH);
    source
}

/// Determines what was expected, what was found, and where. The value is read a second time, because rmp-serde's own
/// errors do not say this.
fn explain<T: DeserializeOwned>(error: &decode::Error, bytes: &[u8]) -> String {
    let whole = Shape::of(bytes);
    if let Shape::NotMessagePack(rest) = whole {
        return format!("expected {}, got {}", short_name::<T>(), not_messagepack(bytes, rest));
    }
    if matches!(error, decode::Error::DepthLimitExceeded) {
        return "the value is nested too deeply".to_owned();
    }
    let value = rmpv::decode::read_value_with_max_depth(&mut &bytes[..], MAX_DEPTH);
    let Ok(Err(error)) = value.map(serde_path_to_error::deserialize::<_, T>) else {
        return format!("expected {}, got {whole}", short_name::<T>());
    };
    let path = error.path().to_string();
    let text = error.into_inner().to_string();
    let text = text.strip_prefix("error while decoding value: ").unwrap_or(&text);
    // serde's message has the form "invalid type: GOT, expected EXPECTED".
    let text = text
        .split_once(", expected ")
        .and_then(|(got, expected)| {
            let got = got.strip_prefix("invalid type: ").or_else(|| got.strip_prefix("invalid value: "))?;
            Some(format!("expected {expected}, got {got}"))
        })
        .unwrap_or_else(|| text.to_owned());
    match (path.as_str(), whole) {
        (".", Shape::Map(..)) => format!("{text} (in {})", Shape::of(bytes)),
        (".", _) => text,
        (path, _) => format!("{path}: {text}"),
    }
}

/// Returns the name of a type without the modules, in serde's form if it is a struct.
fn short_name<T>() -> String {
    let name = std::any::type_name::<T>();
    let mut short = String::new();
    for part in name.split_inclusive(|c: char| !c.is_alphanumeric() && c != '_' && c != ':') {
        short.push_str(part.rsplit("::").next().unwrap_or(part));
    }
    short
}

/// Describes bytes that are not one value. `rest` bytes follow the first value, if that is complete.
fn not_messagepack(bytes: &[u8], rest: usize) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.contains(|c: char| c.is_control() && !c.is_whitespace()) => {
            format!("text that is not packed as MessagePack: {}", quoted(text))
        }
        _ if rest > 0 => format!("{rest} bytes after the first MessagePack value"),
        _ => format!("{} bytes that are not a complete MessagePack value", bytes.len()),
    }
}

fn quoted(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARS) {
        None => format!("{text:?}"),
        Some((end, _)) => format!("{:?} and more", &text[..end]),
    }
}

/// A summary of a value, for people.
#[derive(Debug)]
enum Shape {
    Map(usize, Vec<String>),
    Array(usize),
    Other(String),
    /// The number of bytes after the first value; 0 if the first value is incomplete.
    NotMessagePack(usize),
}

impl Shape {
    fn of(bytes: &[u8]) -> Shape {
        let mut source = source(bytes);
        match Shape::deserialize(&mut source) {
            Err(decode::Error::DepthLimitExceeded) => {
                Shape::Other("a value that is nested too deeply".to_owned())
            }
            Err(_) => Shape::NotMessagePack(0),
            Ok(shape) => {
                let used = usize::try_from(source.position()).unwrap_or(usize::MAX);
                match bytes.len().saturating_sub(used) {
                    0 => shape,
                    rest => Shape::NotMessagePack(rest),
                }
            }
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Shape::Map(0, _) => f.write_str("an empty map"),
            Shape::Map(len, keys) => {
                write!(f, "a map with the keys {}", keys.join(", "))?;
                if *len > keys.len() { f.write_str(" and more") } else { Ok(()) }
            }
            Shape::Array(1) => f.write_str("an array of 1 item"),
            Shape::Array(len) => write!(f, "an array of {len} items"),
            Shape::Other(text) => f.write_str(text),
            Shape::NotMessagePack(_) => f.write_str("bytes that are not MessagePack"),
        }
    }
}

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Shape, D::Error> {
        from.deserialize_any(ShapeVisitor)
    }
}

struct ShapeVisitor;

impl<'de> Visitor<'de> for ShapeVisitor {
    type Value = Shape;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Shape, E> {
        Ok(Shape::Other(format!("boolean `{value}`")))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Shape, E> {
        Ok(Shape::Other(format!("integer `{value}`")))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Shape, E> {
        Ok(Shape::Other(format!("integer `{value}`")))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Shape, E> {
        Ok(Shape::Other(format!("floating point `{value}`")))
    }

    fn visit_str<E>(self, value: &str) -> Result<Shape, E> {
        Ok(Shape::Other(format!("string {}", quoted(value))))
    }

    fn visit_bytes<E>(self, value: &[u8]) -> Result<Shape, E> {
        Ok(Shape::Other(format!("{} bytes of binary data", value.len())))
    }

    fn visit_unit<E>(self) -> Result<Shape, E> {
        Ok(Shape::Other("nil".to_owned()))
    }

    fn visit_none<E>(self) -> Result<Shape, E> {
        Ok(Shape::Other("nil".to_owned()))
    }

    fn visit_some<D: Deserializer<'de>>(self, from: D) -> Result<Shape, D::Error> {
        Shape::deserialize(from)
    }

    /// An extension of MessagePack.
    fn visit_newtype_struct<D: Deserializer<'de>>(self, from: D) -> Result<Shape, D::Error> {
        IgnoredAny::deserialize(from)?;
        Ok(Shape::Other("an extension value".to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Shape, A::Error> {
        let mut len = 0;
        while items.next_element::<IgnoredAny>()?.is_some() {
            len += 1;
        }
        Ok(Shape::Array(len))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Shape, A::Error> {
        let (mut len, mut keys) = (0, Vec::new());
        while let Some((key, _)) = entries.next_entry::<Shape, IgnoredAny>()? {
            len += 1;
            if keys.len() < SHOWN_KEYS {
                let mut shown = String::new();
                let _ = write!(shown, "{key}");
                keys.push(shown.strip_prefix("string ").map_or(shown.clone(), str::to_owned));
            }
        }
        Ok(Shape::Map(len, keys))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
    struct Sum {
        a: i64,
        b: u8,
    }

    /// Returns the text of the error when `bytes` are unpacked as `T`.
    fn error<T: DeserializeOwned + fmt::Debug>(bytes: &[u8]) -> String {
        let error = unpack::<T>(bytes).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Data);
        error.context().to_owned()
    }

    fn packed<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
        pack(value).unwrap().to_vec()
    }

    #[test]
    fn structs_are_maps_and_may_come_as_arrays() {
        assert_eq!(packed(&Sum { a: -1, b: 2 }), b"\x82\xa1a\xff\xa1b\x02");
        assert_eq!(unpack::<Sum>(b"\x92\xff\x02").unwrap(), Sum { a: -1, b: 2 });
        assert_eq!(unpack::<Option<u8>>(&packed(&None::<u8>)).unwrap(), None);
    }

    #[test]
    fn errors_say_what_was_expected_and_found() {
        let map = BTreeMap::from([("a", "x"), ("b", "y")]);
        assert_eq!(error::<Sum>(&packed(&map)), "a: expected i64, got string \"x\"");
        assert_eq!(
            error::<Sum>(&packed(&BTreeMap::from([("a", 1)]))),
            "missing field `b` (in a map with the keys \"a\")"
        );
        assert_eq!(error::<Sum>(&packed(&5)), "expected struct Sum, got integer `5`");
        assert_eq!(error::<u8>(&packed(&300)), "expected u8, got integer `300`");
        assert_eq!(error::<String>(&packed(&[1, 2])), "expected a string, got sequence");
        assert_eq!(error::<Sum>(b""), "expected Sum, got no bytes");
    }

    #[test]
    fn bytes_that_are_not_messagepack_are_named_so() {
        assert_eq!(error::<u64>(b"40"), "expected u64, got text that is not packed as MessagePack: \"40\"");
        assert_eq!(
            error::<Sum>(b"hello, is anybody at home in this house today?"),
            "expected Sum, got text that is not packed as MessagePack: \
             \"hello, is anybody at home in this house \" and more"
        );
        assert_eq!(error::<u64>(b"\x05\x00"), "expected u64, got 1 bytes after the first MessagePack value");
        assert_eq!(
            error::<Vec<Sum>>(b"\x93\x01"),
            "expected Vec<Sum>, got 2 bytes that are not a complete MessagePack value"
        );
        assert_eq!(
            error::<u8>(b"\xc1"),
            "expected u8, got 1 bytes that are not a complete MessagePack value"
        );
    }

    #[test]
    fn a_claimed_length_allocates_nothing_and_deep_nesting_ends() {
        assert!(error::<Vec<u64>>(b"\xdd\xff\xff\xff\xff\x01").contains("not a complete"));
        assert!(unpack::<IgnoredAny>(&vec![0x91; 1_000_000]).is_err());
        let deep = [&[0x91; 100][..], &[1]].concat();
        assert_eq!(error::<IgnoredAny>(&deep), "the value is nested too deeply");
    }
}
