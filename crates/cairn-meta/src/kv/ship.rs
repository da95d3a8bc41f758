//! What an engine on one disk hands on, so that it is not the only copy: every group of commits, in order.

use super::group::Writes;
use std::sync::{Arc, OnceLock};

/// Hears what an engine has committed.
pub trait CommitSink: Send + Sync + 'static {
    /// A group of transactions was applied, the last of them with the number `last`; numbers grow, and groups come in
    /// their order. `writes` holds all their writes, see `decode_writes`. Called by the committer: it must not wait.
    fn committed(&self, last: u64, writes: Vec<u8>);
}

/// Where a sink is put, once in the life of an engine.
pub(super) type SinkPlace = Arc<OnceLock<Arc<dyn CommitSink>>>;

/// Length that stands for "the key is removed".
const REMOVED: u32 = u32::MAX;

/// Writes one after the other: length of the key, of the value (`u32::MAX` = removed), both little-endian, key, value.
pub(super) fn encode_writes(writes: &Writes) -> Vec<u8> {
    let len = |(key, value): (&Vec<u8>, &Option<Vec<u8>>)| 8 + key.len() + value.as_ref().map_or(0, Vec::len);
    let mut out = Vec::with_capacity(writes.iter().map(len).sum());
    for (key, value) in writes {
        out.extend_from_slice(&(key.len() as u32).to_le_bytes());
        let value_len = value.as_ref().map_or(REMOVED, |value| value.len() as u32);
        out.extend_from_slice(&value_len.to_le_bytes());
        out.extend_from_slice(key);
        out.extend_from_slice(value.as_deref().unwrap_or_default());
    }
    out
}

/// A key and what it has from then on; `None` = nothing.
pub(crate) type Write = (Vec<u8>, Option<Vec<u8>>);

/// The writes of a group; `None` for bytes that no engine hands on.
pub(crate) fn decode_writes(mut bytes: &[u8]) -> Option<Vec<Write>> {
    let mut writes = Vec::new();
    while !bytes.is_empty() {
        let (head, rest) = bytes.split_first_chunk::<8>()?;
        let key_len = u32::from_le_bytes([head[0], head[1], head[2], head[3]]);
        let value_len = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
        let (key, rest) = rest.split_at_checked(key_len as usize)?;
        let value_bytes = if value_len == REMOVED { 0 } else { value_len as usize };
        let (value, rest) = rest.split_at_checked(value_bytes)?;
        writes.push((key.to_vec(), (value_len != REMOVED).then(|| value.to_vec())));
        bytes = rest;
    }
    Some(writes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bytes_are_pinned() {
        let writes = Writes::from([(b"a".to_vec(), Some(b"xy".to_vec())), (b"b".to_vec(), None)]);
        let expected = [1, 0, 0, 0, 2, 0, 0, 0, b'a', b'x', b'y', 1, 0, 0, 0, 255, 255, 255, 255, b'b'];
        assert_eq!(encode_writes(&writes), expected);
        assert_eq!(decode_writes(&expected).map(|writes| writes.len()), Some(2));
        assert_eq!(decode_writes(&expected[..15]), None);
    }

    proptest! {
        #[test]
        fn writes_come_back(
            writes in prop::collection::btree_map(
                prop::collection::vec(any::<u8>(), 0..9), prop::option::of(prop::collection::vec(any::<u8>(), 0..9)), 0..9),
        ) {
            let decoded = decode_writes(&encode_writes(&writes)).expect("our own");
            prop_assert_eq!(decoded.into_iter().collect::<Writes>(), writes);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = decode_writes(&bytes);
        }
    }
}
