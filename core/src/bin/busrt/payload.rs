//! The format of payloads, for people and for programs.

use rmpv::Value;
use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};
use std::borrow::Cow;
use std::fmt::Write;

/// Maximum nesting: deeper values are shown as bytes. The JSON parser has the same limit.
const MOST_NESTED: usize = 128;
/// Number of bytes of binary data that are shown to people.
const HEX_BYTES: usize = 256;
const HEX_ROW: usize = 16;

/// A payload with its detected format. Maps keep their order, so that JSON is held as a MessagePack value too.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Payload<'a> {
    Text(&'a str),
    /// An object or an array. Other JSON values are shown as text.
    Json(Value),
    MessagePack(Value),
    Bytes(&'a [u8]),
}

impl<'a> Payload<'a> {
    pub(crate) fn of(bytes: &'a [u8]) -> Payload<'a> {
        match std::str::from_utf8(bytes) {
            Ok(text) if text.chars().all(is_text) => {
                if text.trim_start().starts_with(['{', '['])
                    && let Ok(value) = serde_json::from_str(text)
                {
                    return Payload::Json(value);
                }
                Payload::Text(text)
            }
            _ => unpack(bytes).map_or(Payload::Bytes(bytes), Payload::MessagePack),
        }
    }

    /// Returns the name of the format.
    pub(crate) fn format(&self) -> &'static str {
        match self {
            Payload::Text(_) => "text",
            Payload::Json(_) => "json",
            Payload::MessagePack(_) => "msgpack",
            Payload::Bytes(_) => "hex",
        }
    }

    /// Formats the payload for people: text unchanged, values as pretty JSON, long bytes shortened. It has no newline
    /// at the end.
    pub(crate) fn pretty(&self) -> String {
        match self {
            Payload::Text(text) => visible(text.strip_suffix('\n').unwrap_or(text)).into_owned(),
            Payload::Json(value) | Payload::MessagePack(value) => {
                visible(&serde_json::to_string_pretty(&AsJson(value)).unwrap_or_default()).into_owned()
            }
            Payload::Bytes(bytes) => hex_dump(bytes),
        }
    }

    /// Formats the payload on one line: text unchanged, values as compact JSON, bytes as hex.
    pub(crate) fn compact(&self) -> String {
        match self {
            Payload::Text(text) => (*text).to_owned(),
            Payload::Json(value) | Payload::MessagePack(value) => {
                serde_json::to_string(&AsJson(value)).unwrap_or_default()
            }
            Payload::Bytes(bytes) => hex(bytes),
        }
    }
}

/// Formats it as JSON: text is a string, nothing is null, bytes are `{"hex": …}`.
impl Serialize for Payload<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Payload::Text("") => to.serialize_unit(),
            Payload::Text(text) => to.serialize_str(text),
            Payload::Json(value) | Payload::MessagePack(value) => AsJson(value).serialize(to),
            Payload::Bytes(bytes) => serialize_hex(bytes, None, to),
        }
    }
}

/// Unpacks `bytes` if they are exactly one MessagePack value.
pub(crate) fn unpack(mut bytes: &[u8]) -> Option<Value> {
    let value = rmpv::decode::read_value_with_max_depth(&mut bytes, MOST_NESTED).ok()?;
    bytes.is_empty().then_some(value)
}

/// A MessagePack value, to be serialized as JSON.
pub(crate) struct AsJson<'a>(pub(crate) &'a Value);

impl Serialize for AsJson<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::Nil => to.serialize_unit(),
            Value::Boolean(b) => to.serialize_bool(*b),
            Value::Integer(n) => match (n.as_u64(), n.as_i64()) {
                (Some(n), _) => to.serialize_u64(n),
                (None, n) => to.serialize_i64(n.unwrap_or_default()),
            },
            Value::F32(x) => to.serialize_f32(*x),
            Value::F64(x) => to.serialize_f64(*x),
            Value::String(text) => match text.as_str() {
                Some(text) => to.serialize_str(text),
                None => serialize_hex(text.as_bytes(), None, to),
            },
            Value::Binary(bytes) => serialize_hex(bytes, None, to),
            Value::Ext(kind, bytes) => serialize_hex(bytes, Some(*kind), to),
            Value::Array(items) => {
                let mut seq = to.serialize_seq(Some(items.len()))?;
                for item in items {
                    seq.serialize_element(&AsJson(item))?;
                }
                seq.end()
            }
            Value::Map(pairs) => {
                let mut map = to.serialize_map(Some(pairs.len()))?;
                for (key, value) in pairs {
                    map.serialize_entry(&json_key(key), &AsJson(value))?;
                }
                map.end()
            }
        }
    }
}

/// Converts a key, since JSON has only strings as keys.
fn json_key(key: &Value) -> Cow<'_, str> {
    match key.as_str() {
        Some(text) => text.into(),
        None => serde_json::to_string(&AsJson(key)).unwrap_or_default().into(),
    }
}

fn serialize_hex<S: Serializer>(bytes: &[u8], ext: Option<i8>, to: S) -> Result<S::Ok, S::Error> {
    let mut map = to.serialize_map(None)?;
    if let Some(kind) = ext {
        map.serialize_entry("ext", &kind)?;
    }
    map.serialize_entry("hex", &hex(bytes))?;
    map.end()
}

/// Returns true for characters of a text file, including the escape character of coloured logs.
fn is_text(c: char) -> bool {
    !c.is_control() || matches!(c, '\t' | '\n' | '\r' | '\u{1b}')
}

/// Removes characters that control a terminal, except tabs and ends of lines.
pub(crate) fn visible(text: &str) -> Cow<'_, str> {
    let does_something = |c: char| c.is_control() && !matches!(c, '\t' | '\n');
    if !text.contains(does_something) {
        return text.into();
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if does_something(c) {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    shown.into()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn hex_dump(bytes: &[u8]) -> String {
    let mut text = String::new();
    for (row, chunk) in bytes[..bytes.len().min(HEX_BYTES)].chunks(HEX_ROW).enumerate() {
        let digits: Vec<String> = chunk.iter().map(|byte| format!("{byte:02x}")).collect();
        let ascii: String =
            chunk.iter().map(|&byte| if (0x20..0x7f).contains(&byte) { byte as char } else { '.' }).collect();
        if row > 0 {
            text.push('\n');
        }
        let _ = write!(text, "{:08x}  {:<47}  {ascii}", row * HEX_ROW, digits.join(" "));
    }
    if bytes.len() > HEX_BYTES {
        let _ = write!(text, "\n… and {} bytes more", crate::text::grouped(bytes.len() - HEX_BYTES));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_of_payloads() {
        for (bytes, format, compact) in [
            (&b""[..], "text", ""),
            (b"hello", "text", "hello"),
            ("grüße\n".as_bytes(), "text", "grüße\n"),
            (b"12", "text", "12"),
            (b"{not json", "text", "{not json"),
            (b" {\"b\": 1, \"a\": [1.5, null]}", "json", r#"{"b":1,"a":[1.5,null]}"#),
            (b"\x82\xa1b\x01\xa1a\xc3", "msgpack", r#"{"b":1,"a":true}"#),
            (b"\x81\x01\xc4\x02\x00\xff", "msgpack", r#"{"1":{"hex":"00ff"}}"#),
            (b"\xd4\x05\xaa", "msgpack", r#"{"ext":5,"hex":"aa"}"#),
            (b"\xff", "msgpack", "-1"),
            (b"\x82\xa1b\x01", "hex", "82a16201"),
            (b"\x00\x00", "hex", "0000"),
        ] {
            let payload = Payload::of(bytes);
            assert_eq!((payload.format(), &*payload.compact()), (format, compact), "{bytes:?}");
        }
    }

    #[test]
    fn as_json() {
        let json = |bytes| serde_json::to_string(&Payload::of(bytes)).unwrap();
        assert_eq!(json(b"a\"b\x1b"), r#""a\"b\u001b""#);
        assert_eq!(json(b""), "null");
        assert_eq!(json(b"\x00\x01"), r#"{"hex":"0001"}"#);
        assert_eq!(json(b"{\"z\":18446744073709551615,\"a\":-1}"), r#"{"z":18446744073709551615,"a":-1}"#);
    }

    #[test]
    fn nothing_reaches_the_terminal_as_a_command() {
        assert_eq!(Payload::of(b"\x1b[31mred\ttab\n").pretty(), "\\u{1b}[31mred\ttab");
        assert_eq!(visible("a\r\nb\u{9b}c"), "a\\r\nb\\u{9b}c");
    }

    #[test]
    fn long_bytes_are_shortened_and_nesting_is_bounded() {
        let shown = Payload::of(&[0; 1500]).pretty();
        assert_eq!(shown.lines().count(), 17);
        assert!(shown.ends_with("… and 1,244 bytes more"), "{shown}");
        let first = Payload::of(b"\x00A\xff").pretty();
        assert_eq!(first, format!("00000000  {:<47}  .A.", "00 41 ff"));
        assert_eq!(Payload::of(&[0x91; 100_000]).format(), "hex");
        assert_eq!(Payload::of("[".repeat(100_000).as_bytes()).format(), "text");
    }
}
