//! What a transaction has written so far, laid over what it reads. For every engine that keeps writes until the commit.

use super::{EngineError, KeyRange, Limits, Order};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::ops::Bound;

/// Writes of one transaction: a value, or `None` to remove the key.
pub type Writes = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// The writes of a transaction that has not ended.
#[derive(Default, Debug)]
pub struct Overlay {
    writes: Writes,
}

impl Overlay {
    /// What the transaction itself wrote at `key`: `None` when nothing, `Some(None)` when it removed it.
    pub fn get(&self, key: &[u8]) -> Option<Option<Bytes>> {
        self.writes.get(key).map(|own| own.as_deref().map(Bytes::copy_from_slice))
    }

    /// Writes `value` at `key`.
    pub fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.writes.insert(key, Some(value));
    }

    /// Removes `key`.
    pub fn delete(&mut self, key: Vec<u8>) {
        self.writes.insert(key, None);
    }

    /// How many rows a scan of `range` has to fetch so that [`Overlay::merge`] finds `limit`: own writes may remove some.
    pub fn wanted(&self, range: &KeyRange, limit: usize) -> usize {
        limit + self.within(range).filter(|(_, value)| value.is_none()).count()
    }

    /// The fetched rows with own writes laid over them. `base` holds [`Overlay::wanted`] rows from the end that `order`
    /// begins at, or all there are, so that the first `limit` of the merged rows are right.
    pub fn merge(
        &self,
        base: Vec<(Bytes, Bytes)>,
        range: &KeyRange,
        limit: usize,
        order: Order,
    ) -> Vec<(Bytes, Bytes)> {
        if self.within(range).next().is_none() {
            return base;
        }
        let mut merged: BTreeMap<Bytes, Bytes> = base.into_iter().collect();
        for (key, value) in self.within(range) {
            match value {
                Some(value) => merged.insert(Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)),
                None => merged.remove(key.as_slice()),
            };
        }
        match order {
            Order::Forward => merged.into_iter().take(limit).collect(),
            Order::Reverse => merged.into_iter().rev().take(limit).collect(),
        }
    }

    /// True when nothing was written.
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    /// All writes and the bytes of their keys and values.
    ///
    /// # Errors
    /// [`EngineError::TooLarge`] beyond `limits`.
    pub fn into_writes(self, limits: Limits) -> Result<(Writes, usize), EngineError> {
        let bytes = self.writes.iter().map(|(key, value)| key.len() + value.as_ref().map_or(0, Vec::len)).sum();
        if self.writes.len() > limits.writes || bytes > limits.bytes {
            return Err(EngineError::TooLarge { writes: self.writes.len(), bytes });
        }
        Ok((self.writes, bytes))
    }

    /// Own writes inside `range`, which is not empty.
    fn within(&self, range: &KeyRange) -> impl DoubleEndedIterator<Item = (&Vec<u8>, &Option<Vec<u8>>)> {
        self.writes.range::<Vec<u8>, _>((Bound::Included(&range.start), Bound::Excluded(&range.end)))
    }
}

/// The part of `range` that a scan has walked when it returned `rows` of at most `limit`.
pub fn walked(range: &KeyRange, rows: &[(Bytes, Bytes)], limit: usize, order: Order) -> KeyRange {
    match (rows.last(), order) {
        (Some((last, _)), Order::Forward) if rows.len() >= limit => {
            KeyRange { start: range.start.clone(), end: KeyRange::successor(last) }
        }
        (Some((last, _)), Order::Reverse) if rows.len() >= limit => {
            KeyRange { start: last.to_vec(), end: range.end.clone() }
        }
        _ => range.clone(),
    }
}
