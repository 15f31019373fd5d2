//! RPC parameters on a command line: `key=value` words, packed as a MessagePack map.
//!
//! ```
//! let packed = busrt::params::pack(["n=5", "on=true", "name=a=b"]).unwrap();
//! assert_eq!(packed, b"\x83\xa1n\x05\xa2on\xc3\xa4name\xa3a=b");
//! ```

use crate::error::{Error, ErrorKind, Result};
use serde::ser::{Serialize, SerializeMap, Serializer};

enum Value<'a> {
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Text(&'a str),
}

impl Value<'_> {
    fn parse(text: &str) -> Value<'_> {
        // `nan` and `inf`, which `f64` would parse, remain text.
        let numeric = text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '-' | '+' | '.'));
        match text {
            "true" => Value::Bool(true),
            "false" => Value::Bool(false),
            _ if !numeric => Value::Text(text),
            _ => text
                .parse()
                .map(Value::Unsigned)
                .or_else(|_| text.parse().map(Value::Signed))
                .or_else(|_| match text.parse::<f64>() {
                    Ok(number) if number.is_finite() => Ok(Value::Float(number)),
                    _ => Err(()),
                })
                .unwrap_or(Value::Text(text)),
        }
    }
}

impl Serialize for Value<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match *self {
            Value::Bool(v) => to.serialize_bool(v),
            Value::Unsigned(v) => to.serialize_u64(v),
            Value::Signed(v) => to.serialize_i64(v),
            Value::Float(v) => to.serialize_f64(v),
            Value::Text(v) => to.serialize_str(v),
        }
    }
}

struct Map<'a>(Vec<(&'a str, Value<'a>)>);

impl Serialize for Map<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(Some(self.0.len()))?;
        for (key, value) in &self.0 {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

/// Packs `key=value` words, split at the first `=`, in their order. The values `true` and `false`, integers and
/// floats get the corresponding type, everything else is text. No words make an empty map.
///
/// # Errors
///
/// A word has no `=`, or an empty key.
pub fn pack<'a>(words: impl IntoIterator<Item = &'a str>) -> Result<Vec<u8>> {
    let mut pairs = vec![];
    for word in words {
        match word.split_once('=') {
            Some((key, value)) if !key.is_empty() => pairs.push((key, Value::parse(value))),
            _ => {
                return Err(Error::new(
                    ErrorKind::Data,
                    format!("invalid parameter {word:?}: expected key=value"),
                ));
            }
        }
    }
    rmp_serde::to_vec(&Map(pairs)).map_err(|e| Error::from(ErrorKind::Other).with_source(e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values() {
        let packed =
            pack(["a=-3", "b=2.5", "c=false", "d=", "e=inf", "f=1e3", "g=0x10", "h=18446744073709551615"])
                .unwrap();
        let value: rmpv::Value = rmp_serde::from_slice(&packed).unwrap();
        let shown = serde_json::to_string(&value).unwrap();
        assert_eq!(
            shown,
            r#"{"a":-3,"b":2.5,"c":false,"d":"","e":"inf","f":1000.0,"g":"0x10","h":18446744073709551615}"#
        );
    }

    #[test]
    fn no_parameters_are_an_empty_map_and_words_without_a_value_an_error() {
        assert_eq!(pack([]).unwrap(), [0x80]);
        assert_eq!(pack(["novalue"]).unwrap_err().kind(), ErrorKind::Data);
        assert_eq!(pack(["=x"]).unwrap_err().kind(), ErrorKind::Data);
    }
}
