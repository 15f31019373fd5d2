//! Requests whose payload is in two parts.

use crate::error::{Error, ErrorKind, Result};
use crate::proto::op::QoS;
use crate::proto::request::{HEADER_LEN, Operation};
use bytes::Bytes;

/// Appends everything of a request but the payload proper. `prefix` is the payload's beginning, so that
/// an envelope can be put around shared bytes without copying them.
pub(crate) fn encode_head(
    operation: &Operation<'_, Bytes>,
    prefix: &[u8],
    op_id: u32,
    qos: QoS,
    out: &mut Vec<u8>,
) -> Result<()> {
    let start = out.len();
    operation.encode_head(op_id, qos, out)?;
    if prefix.is_empty() {
        return Ok(());
    }
    out.extend_from_slice(prefix);
    // The length is the end of the header.
    let field = &mut out[start + HEADER_LEN - 4..start + HEADER_LEN];
    let len = field.first_chunk::<4>().map(|bytes| u32::from_le_bytes(*bytes)).unwrap_or_default();
    match len.checked_add(prefix.len() as u32) {
        Some(len) => {
            field.copy_from_slice(&len.to_le_bytes());
            Ok(())
        }
        None => {
            out.truncate(start);
            Err(Error::new(ErrorKind::Data, "a body is over 4 GiB"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_part_of_the_payload() {
        let mut whole = b"before".to_vec();
        let payload = Bytes::from_static(b"headparams");
        encode_head(&Operation::Message { target: "b", payload }, b"", 7, QoS::Processed, &mut whole)
            .unwrap();
        whole.extend_from_slice(b"headparams");
        let mut parts = b"before".to_vec();
        let payload = Bytes::from_static(b"params");
        encode_head(&Operation::Message { target: "b", payload }, b"head", 7, QoS::Processed, &mut parts)
            .unwrap();
        parts.extend_from_slice(b"params");
        assert_eq!(parts, whole);
    }
}
