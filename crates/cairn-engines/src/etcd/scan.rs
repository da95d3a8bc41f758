//! Scans at a revision, in pages, past tombstones.
//!
//! etcd serves pages from the front. Asked for the last rows it collects and sorts all, so a scan from the end looks for
//! a short piece of the range that has some: it guesses where one begins and counts.

use super::txn::parsed;
use super::{Inner, ask, pb};
use crate::limits::{ETCD_PAGE, ETCD_REVERSE_PAGE};
use bytes::Bytes;
use cairn_meta::kv::{EngineError, KeyRange};

type Rows = Vec<(Bytes, Bytes)>;

impl Inner {
    /// The first `wanted` live rows of `range`.
    pub(super) async fn forward(&self, range: &KeyRange, snapshot: i64, wanted: usize) -> Result<Rows, EngineError> {
        let mut found = Rows::new();
        let mut rest = self.stored(range);
        loop {
            // Tombstones take room in a page: with some more rows most pages are enough.
            let page = (wanted - found.len() + 8).min(ETCD_PAGE);
            let answer = self.at_snapshot(ask::rows(rest.clone(), snapshot, page)).await?;
            let last = answer.kvs.last().map(|row| row.key.clone());
            self.take_live(answer.kvs, wanted, &mut found)?;
            match last {
                Some(last) if answer.more && found.len() < wanted => rest.start = KeyRange::successor(&last),
                _ => return Ok(found),
            }
        }
    }

    /// The last `wanted` live rows of `range`, largest first.
    pub(super) async fn reverse(&self, range: &KeyRange, snapshot: i64, wanted: usize) -> Result<Rows, EngineError> {
        let mut found = Rows::new();
        let mut rest = self.stored(range);
        while !rest.is_empty() && found.len() < wanted {
            let (rows, from) = self.last_piece(&rest, snapshot, wanted - found.len()).await?;
            self.take_live(rows.into_iter().rev().collect(), wanted, &mut found)?;
            rest.end = from;
        }
        Ok(found)
    }

    /// All rows of the range from a key on, with that key: some, if there are any. Smallest first.
    async fn last_piece(
        &self,
        range: &KeyRange,
        snapshot: i64,
        wanted: usize,
    ) -> Result<(Vec<pb::KeyValue>, Vec<u8>), EngineError> {
        let page = wanted.clamp(ETCD_REVERSE_PAGE, ETCD_PAGE);
        let whole = self.at_snapshot(ask::rows(range.clone(), snapshot, page)).await?;
        if !whole.more {
            return Ok((whole.kvs, range.start.clone()));
        }
        let line = Line::new(range);
        let count = u64::try_from(whole.count).unwrap_or(u64::MAX).max(1);
        // As if the rows lay evenly.
        let mut step = (line.len / count).saturating_mul(page as u64 / 2).max(1);
        // Steps between which it must lie: the longest that found nothing, the shortest that found too much.
        let (mut short, mut long) = (0, None);
        while let Some(from) = line.before_end(step) {
            let piece = KeyRange { start: from.clone(), end: range.end.clone() };
            let answer = self.at_snapshot(ask::rows(piece, snapshot, page)).await?;
            if !answer.more && !answer.kvs.is_empty() {
                return Ok((answer.kvs, from));
            }
            if answer.more {
                long = Some(step);
            } else {
                short = step;
            }
            step = match long {
                None => step.saturating_mul(8),
                Some(long) if long - short > 1 => short + (long - short) / 8.min(long - short),
                Some(_) => break,
            }
            .max(short + 1);
        }
        let sorted = self.at_snapshot(ask::rows_reversed(range.clone(), snapshot, page)).await?;
        let from = sorted.kvs.last().map_or_else(|| range.start.clone(), |row| row.key.to_vec());
        Ok((sorted.kvs.into_iter().rev().collect(), from))
    }

    fn stored(&self, range: &KeyRange) -> KeyRange {
        KeyRange { start: self.keys.data(&range.start), end: self.keys.data(&range.end) }
    }

    fn take_live(&self, rows: Vec<pb::KeyValue>, wanted: usize, found: &mut Rows) -> Result<(), EngineError> {
        for row in rows {
            if found.len() == wanted {
                break;
            }
            let Some(value) = parsed(&row)? else { continue };
            let own = self.keys.own(&row.key).map(|own| row.key.slice_ref(own));
            let own = own.ok_or_else(|| EngineError::Failed { cause: "etcd: a key is damaged".into() })?;
            found.push((own, value));
        }
        Ok(())
    }
}

/// A range as a line of numbers: the eight bytes behind what its ends have in common.
struct Line {
    common: Vec<u8>,
    start: u64,
    end: u64,
    len: u64,
}

impl Line {
    fn new(range: &KeyRange) -> Self {
        let same = range.start.iter().zip(&range.end).take_while(|(a, b)| a == b).count();
        let number = |key: &[u8]| {
            let mut bytes = [0; 8];
            let rest = &key[same..];
            let len = rest.len().min(8);
            bytes[..len].copy_from_slice(&rest[..len]);
            u64::from_be_bytes(bytes)
        };
        let (start, end) = (number(&range.start), number(&range.end));
        Self { common: range.start[..same].to_vec(), start, end, len: end.saturating_sub(start) }
    }

    /// The key that lies `step` before the end; `None` at the start of the range or before it.
    fn before_end(&self, step: u64) -> Option<Vec<u8>> {
        let at = self.end.checked_sub(step).filter(|at| *at > self.start)?;
        Some([self.common.as_slice(), &at.to_be_bytes()].concat())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_lies_between_its_ends() {
        let range = KeyRange { start: b"p\x13\0\0\0\0".to_vec(), end: b"p\x13\0\0\x10\0\xff\xff\xff\xff\xff".to_vec() };
        let line = Line::new(&range);
        for step in [1, 1 << 20, line.len / 2, line.len - 1] {
            let key = line.before_end(step).expect("inside");
            assert!(key >= range.start && key < range.end, "{step}");
        }
        assert_eq!((line.before_end(line.len), line.before_end(u64::MAX)), (None, None));
        let narrow = Line::new(&KeyRange { start: b"a".to_vec(), end: b"a\0".to_vec() });
        assert_eq!(narrow.before_end(1), None);
    }
}
