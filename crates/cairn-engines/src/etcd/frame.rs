//! How keys and values of the engine lie in etcd: pinned, see docs/formats/keys.md.
//!
//! Every key begins with the prefix of the URL and a zero byte, so that no prefix is the beginning of another's keys.

use cairn_meta::kv::KeyRange;
use cairn_meta::kv::Writes;

/// Rows of the namespace.
const DATA: u8 = 0x60;
/// The revision up to which tombstones may be gone.
const FLOOR: u8 = 0x61;
/// The big transaction that is being committed.
const PENDING: u8 = 0x62;
/// What a big transaction writes.
const CHUNK: u8 = 0x63;
/// Which rows are tombstones.
const REMOVED: u8 = 0x64;

const TOMBSTONE: u8 = 0;
const LIVE: u8 = 1;
const VERSION: u8 = 1;
const PREPARED: u8 = 1;
const COMMITTED: u8 = 2;

/// Names a big transaction; random.
pub(super) type TxnId = [u8; 16];

/// Keys below one prefix.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    prefix: Vec<u8>,
}

impl Keys {
    pub(super) fn new(prefix: &str) -> Self {
        Self { prefix: [prefix.as_bytes(), &[0]].concat() }
    }

    fn tagged(&self, tag: u8, rest: &[u8]) -> Vec<u8> {
        [self.prefix.as_slice(), &[tag], rest].concat()
    }

    pub(super) fn data(&self, key: &[u8]) -> Vec<u8> {
        self.tagged(DATA, key)
    }

    /// The namespace's key of a row in etcd; `None` for other rows.
    pub(super) fn own<'a>(&self, stored: &'a [u8]) -> Option<&'a [u8]> {
        stored.strip_prefix(self.prefix.as_slice())?.strip_prefix(&[DATA])
    }

    pub(super) fn floor(&self) -> Vec<u8> {
        self.tagged(FLOOR, &[])
    }

    pub(super) fn pending(&self) -> Vec<u8> {
        self.tagged(PENDING, &[])
    }

    /// The floor and the pending transaction, which lie side by side.
    pub(super) fn gate(&self) -> KeyRange {
        KeyRange { start: self.floor(), end: self.tagged(CHUNK, &[]) }
    }

    pub(super) fn chunk(&self, txn: &TxnId, index: u32) -> Vec<u8> {
        self.tagged(CHUNK, &[txn.as_slice(), &index.to_be_bytes()].concat())
    }

    /// All chunks of a transaction.
    pub(super) fn chunks(&self, txn: &TxnId) -> KeyRange {
        KeyRange { start: self.chunk(txn, 0), end: KeyRange::successor(&self.chunk(txn, u32::MAX)) }
    }

    /// All chunks there are.
    pub(super) fn all_chunks(&self) -> KeyRange {
        KeyRange { start: self.tagged(CHUNK, &[]), end: self.tagged(REMOVED, &[]) }
    }

    /// Whose chunk this is.
    pub(super) fn chunk_owner(&self, stored: &[u8]) -> Option<TxnId> {
        let rest = stored.strip_prefix(self.prefix.as_slice())?.strip_prefix(&[CHUNK])?;
        rest.get(..16)?.try_into().ok()
    }

    pub(super) fn removed(&self, key: &[u8]) -> Vec<u8> {
        self.tagged(REMOVED, key)
    }

    /// All notes of tombstones.
    pub(super) fn all_removed(&self) -> KeyRange {
        KeyRange { start: self.tagged(REMOVED, &[]), end: self.tagged(REMOVED + 1, &[]) }
    }

    /// The namespace's key that a note of a tombstone is about.
    pub(super) fn removed_key<'a>(&self, stored: &'a [u8]) -> Option<&'a [u8]> {
        stored.strip_prefix(self.prefix.as_slice())?.strip_prefix(&[REMOVED])
    }
}

/// A live value as it is stored.
pub(super) fn live(value: &[u8]) -> Vec<u8> {
    [&[LIVE], value].concat()
}

/// What is stored where a row was removed.
pub(super) fn tombstone() -> Vec<u8> {
    vec![TOMBSTONE]
}

/// The value of a row as it is stored: `Some(None)` for a tombstone, `None` when it is neither.
pub(super) fn parse_value(stored: &bytes::Bytes) -> Option<Option<bytes::Bytes>> {
    match stored.first() {
        Some(&LIVE) => Some(Some(stored.slice(1..))),
        Some(&TOMBSTONE) if stored.len() == 1 => Some(None),
        _ => None,
    }
}

/// A floor as it is stored: sorts as the revision does.
pub(super) fn floor_value(revision: i64) -> Vec<u8> {
    revision.to_be_bytes().to_vec()
}

/// The revision of a stored floor.
pub(super) fn parse_floor(stored: &[u8]) -> Option<i64> {
    stored.try_into().ok().map(i64::from_be_bytes)
}

/// Whether the writes of a big transaction count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    /// Nobody else commits; the reads are being checked. Becomes committed, or is removed.
    Prepared,
    /// It happened: whoever finds it applies the chunks. Is removed when they are applied.
    Committed,
}

/// The big transaction that is being committed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Pending {
    pub(super) state: State,
    pub(super) txn: TxnId,
    pub(super) chunks: u32,
}

impl Pending {
    pub(super) fn encode(&self) -> Vec<u8> {
        let state = match self.state {
            State::Prepared => PREPARED,
            State::Committed => COMMITTED,
        };
        [&[VERSION, state], self.txn.as_slice(), &self.chunks.to_be_bytes()].concat()
    }

    pub(super) fn parse(stored: &[u8]) -> Option<Self> {
        let (head, rest) = stored.split_first_chunk::<2>()?;
        let (txn, chunks) = rest.split_first_chunk::<16>()?;
        let state = match head {
            [VERSION, PREPARED] => State::Prepared,
            [VERSION, COMMITTED] => State::Committed,
            _ => return None,
        };
        Some(Self { state, txn: *txn, chunks: u32::from_be_bytes(chunks.try_into().ok()?) })
    }
}

/// Some writes of a big transaction, as a value.
pub(super) fn encode_chunk(writes: &[(Vec<u8>, Option<Vec<u8>>)]) -> Vec<u8> {
    let mut bytes = vec![VERSION];
    let mut field = |tag: u8, field: &[u8]| {
        bytes.push(tag);
        bytes.extend_from_slice(&u32::try_from(field.len()).expect("a row is bounded").to_be_bytes());
        bytes.extend_from_slice(field);
    };
    for (key, value) in writes {
        match value {
            Some(value) => {
                field(LIVE, key);
                field(LIVE, value);
            }
            None => field(TOMBSTONE, key),
        }
    }
    bytes
}

/// The writes of a chunk; `None` when it is damaged.
pub(super) fn parse_chunk(stored: &[u8]) -> Option<Writes> {
    fn field<'a>(rest: &mut &'a [u8]) -> Option<(u8, &'a [u8])> {
        let (tag, after) = rest.split_first()?;
        let (len, after) = after.split_first_chunk::<4>()?;
        let (field, after) = after.split_at_checked(u32::from_be_bytes(*len) as usize)?;
        *rest = after;
        Some((*tag, field))
    }
    let (version, mut rest) = stored.split_first()?;
    let mut writes = Writes::new();
    while *version == VERSION && !rest.is_empty() {
        match field(&mut rest)? {
            (TOMBSTONE, key) => writes.insert(key.to_vec(), None),
            (LIVE, key) => {
                let (LIVE, value) = field(&mut rest)? else { return None };
                writes.insert(key.to_vec(), Some(value.to_vec()))
            }
            _ => return None,
        };
    }
    (*version == VERSION).then_some(writes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[test]
    fn keys_are_pinned() {
        let keys = Keys::new("a/b");
        assert_eq!(keys.data(b"\x10k"), b"a/b\0\x60\x10k");
        assert_eq!(keys.own(b"a/b\0\x60\x10k"), Some(&b"\x10k"[..]));
        assert_eq!(keys.own(b"a/b\0\x61"), None);
        assert_eq!((keys.floor(), keys.pending()), (b"a/b\0\x61".to_vec(), b"a/b\0\x62".to_vec()));
        assert_eq!(
            keys.chunk(&[7; 16], 258),
            b"a/b\0\x63\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\0\0\x01\x02"
        );
        assert_eq!(keys.chunk_owner(&keys.chunk(&[7; 16], 9)), Some([7; 16]));
        assert_eq!(keys.removed(b"k"), b"a/b\0\x64k");
        assert_eq!(keys.removed_key(b"a/b\0\x64k"), Some(&b"k"[..]));
        let gate = keys.gate();
        assert!((gate.start..gate.end).contains(&keys.pending()));
    }

    #[test]
    fn values_are_pinned() {
        assert_eq!((live(b"v"), tombstone(), live(b"")), (vec![1, b'v'], vec![0], vec![1]));
        let parse = |stored: &'static [u8]| parse_value(&Bytes::from_static(stored));
        assert_eq!(parse(b"\x01v"), Some(Some(Bytes::from_static(b"v"))));
        assert_eq!(parse(b"\0"), Some(None));
        assert_eq!([parse(b""), parse(b"\x02"), parse(b"\0x")], [None, None, None]);
        assert_eq!(floor_value(259), [0, 0, 0, 0, 0, 0, 1, 3]);
        assert_eq!((parse_floor(&floor_value(259)), parse_floor(b"")), (Some(259), None));
    }

    #[test]
    fn the_pending_row_is_pinned() {
        let pending = Pending { state: State::Prepared, txn: [9; 16], chunks: 258 };
        let bytes = b"\x01\x01\x09\x09\x09\x09\x09\x09\x09\x09\x09\x09\x09\x09\x09\x09\x09\x09\0\0\x01\x02";
        assert_eq!(pending.encode(), bytes);
        assert_eq!(Pending::parse(bytes), Some(pending));
        let committed = Pending { state: State::Committed, ..pending };
        assert_eq!(Pending::parse(&committed.encode()), Some(committed));
        assert_eq!([Pending::parse(b""), Pending::parse(&bytes[..21]), Pending::parse(b"\x02\x01")], [None; 3]);
    }

    #[test]
    fn chunks_are_pinned() {
        let rows = [(b"a".to_vec(), Some(b"xy".to_vec())), (b"b".to_vec(), None)];
        let bytes = b"\x01\x01\0\0\0\x01a\x01\0\0\0\x02xy\0\0\0\0\x01b";
        assert_eq!(encode_chunk(&rows), bytes);
        assert_eq!(parse_chunk(bytes), Some(Writes::from(rows)));
        for len in 0..bytes.len() {
            let cut = parse_chunk(&bytes[..len]);
            assert!(cut.is_none_or(|writes| writes.len() < 2), "{len}");
        }
        assert_eq!(parse_chunk(b"\x02"), None);
    }
}
