//! The part of MessagePack that is needed for lists of items whose content is not examined.

use bytes::Bytes;

/// Returns the length of the value at the start of `bytes`; `None` if it is incomplete or invalid.
pub(super) fn value_len(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    // Nested values are counted instead of handled by recursion, because a peer chooses how deep they are.
    let mut left: u64 = 1;
    while left > 0 {
        left -= 1;
        let marker = *bytes.get(at)?;
        at += 1;
        let (skip, nested) = match marker {
            0x00..=0x7f | 0xe0..=0xff | 0xc0 | 0xc2 | 0xc3 => (0, 0),
            0x80..=0x8f => (0, 2 * u64::from(marker & 0x0f)),
            0x90..=0x9f => (0, u64::from(marker & 0x0f)),
            0xa0..=0xbf => (u64::from(marker & 0x1f), 0),
            0xc4 | 0xd9 => (number(bytes, &mut at, 1)?, 0),
            0xc5 | 0xda => (number(bytes, &mut at, 2)?, 0),
            0xc6 | 0xdb => (number(bytes, &mut at, 4)?, 0),
            0xc7 => (number(bytes, &mut at, 1)? + 1, 0),
            0xc8 => (number(bytes, &mut at, 2)? + 1, 0),
            0xc9 => (number(bytes, &mut at, 4)? + 1, 0),
            0xcc | 0xd0 => (1, 0),
            0xcd | 0xd1 => (2, 0),
            0xca | 0xce | 0xd2 => (4, 0),
            0xcb | 0xcf | 0xd3 => (8, 0),
            0xd4 => (2, 0),
            0xd5 => (3, 0),
            0xd6 => (5, 0),
            0xd7 => (9, 0),
            0xd8 => (17, 0),
            0xdc => (0, number(bytes, &mut at, 2)?),
            0xdd => (0, number(bytes, &mut at, 4)?),
            0xde => (0, 2 * number(bytes, &mut at, 2)?),
            0xdf => (0, 2 * number(bytes, &mut at, 4)?),
            0xc1 => return None,
        };
        at = at.checked_add(usize::try_from(skip).ok()?).filter(|at| *at <= bytes.len())?;
        left += nested;
    }
    Some(at)
}

/// Reads a big-endian number of `len` bytes.
fn number(bytes: &[u8], at: &mut usize, len: usize) -> Option<u64> {
    let number = bytes.get(*at..*at + len)?;
    *at += len;
    Some(number.iter().fold(0, |n, byte| n << 8 | u64::from(*byte)))
}

/// Packs a list of `items`, each of which is already a packed value.
pub(super) fn list(items: &[Bytes]) -> Bytes {
    let len = items.len();
    let mut out = Vec::with_capacity(5 + items.iter().map(Bytes::len).sum::<usize>());
    match len {
        0..=15 => out.push(0x90 | len as u8),
        16..=0xffff => {
            out.push(0xdc);
            out.extend_from_slice(&(len as u16).to_be_bytes());
        }
        _ => {
            out.push(0xdd);
            out.extend_from_slice(&(len as u32).to_be_bytes());
        }
    }
    items.iter().for_each(|item| out.extend_from_slice(item));
    out.into()
}

/// Returns the items of a list, which share its bytes; `None` if it is not a list.
pub(super) fn items(list: &Bytes) -> Option<Vec<Bytes>> {
    let mut at = 1;
    let count = match *list.first()? {
        marker @ 0x90..=0x9f => u64::from(marker & 0x0f),
        0xdc => number(list, &mut at, 2)?,
        0xdd => number(list, &mut at, 4)?,
        _ => return None,
    };
    let mut items = Vec::new();
    for _ in 0..count {
        let len = value_len(&list[at..])?;
        items.push(list.slice(at..at + len));
        at += len;
    }
    (at == list.len()).then_some(items)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rmpv::Value;

    fn packed(value: &Value) -> Bytes {
        let mut out = vec![];
        rmpv::encode::write_value(&mut out, value).unwrap();
        out.into()
    }

    /// One value of every format.
    fn samples() -> Vec<Value> {
        let mut all = vec![Value::Nil, true.into(), 1.into(), (-1).into(), Value::F32(1.5), Value::F64(2.5)];
        all.extend([200u32, 70_000].map(Value::from));
        all.extend([u64::MAX, 300].map(Value::from));
        all.extend([-100i64, -1000, -100_000, i64::MIN].map(Value::from));
        for len in [0, 10, 40, 300, 70_000] {
            all.push("x".repeat(len).into());
            all.push(Value::Binary(vec![7; len]));
            all.push(Value::Array(vec![1.into(); len]));
            all.push(Value::Map((0..len).map(|i| (i.into(), "v".into())).collect()));
        }
        all.extend([0, 1, 2, 4, 8, 16, 17, 300, 70_000].map(|len| Value::Ext(5, vec![0; len])));
        all
    }

    #[test]
    fn the_length_of_every_format() {
        for value in samples() {
            let bytes = packed(&value);
            let with_rest = [&bytes[..], b"\x01\x02"].concat();
            assert_eq!(value_len(&with_rest), Some(bytes.len()), "{:02x}", bytes[0]);
            assert_eq!(value_len(&bytes[..bytes.len() - 1]), None);
        }
        assert_eq!(value_len(b"\xc1"), None);
        assert_eq!(value_len(b""), None);
    }

    #[test]
    fn deep_and_endless_values() {
        assert_eq!(value_len(&vec![0x91; 1_000_000]), None);
        assert_eq!(value_len(b"\xdf\xff\xff\xff\xff\x01\x01"), None);
        assert_eq!(value_len(b"\xdb\xff\xff\xff\xffabc"), None);
    }

    #[test]
    fn lists_are_readable_by_other_implementations() {
        for len in [0, 3, 15, 16, 70_000] {
            let parts: Vec<_> = (0..len).map(|i| packed(&Value::from(i))).collect();
            let whole = list(&parts);
            assert_eq!(whole, packed(&Value::Array((0..len).map(Value::from).collect())));
            assert_eq!(items(&whole).unwrap(), parts);
        }
        for wrong in [&b""[..], b"\x80", b"\x92\x01", b"\x91\x01\x01"] {
            assert!(items(&Bytes::from_static(wrong)).is_none(), "{wrong:?}");
        }
    }
}
