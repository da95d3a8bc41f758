//! All segments of a store by generation, and what they take together.
//!
//! The sum is asked for with every batch of the writer, and a large store has tens of thousands of segments; so a row is
//! changed only through [`SegmentTable::change`], which keeps it.

use crate::catalog::SegmentInfo;
use std::collections::BTreeMap;
use std::ops::Deref;

/// Rows in the order of their generations; read as the map that it is.
#[derive(Clone, Debug, Default)]
pub struct SegmentTable {
    rows: BTreeMap<u32, SegmentInfo>,
    occupied: u64,
}

impl Deref for SegmentTable {
    type Target = BTreeMap<u32, SegmentInfo>;

    fn deref(&self) -> &Self::Target {
        &self.rows
    }
}

impl SegmentTable {
    /// Bytes of the disk that all of them take.
    pub fn occupied(&self) -> u64 {
        self.occupied
    }

    /// Adds a row, or replaces it.
    pub fn insert(&mut self, generation: u32, info: SegmentInfo) {
        self.remove(generation);
        self.occupied = self.occupied.saturating_add(info.occupied());
        self.rows.insert(generation, info);
    }

    /// Takes a row out.
    pub fn remove(&mut self, generation: u32) -> Option<SegmentInfo> {
        let info = self.rows.remove(&generation)?;
        self.occupied -= info.occupied();
        Some(info)
    }

    /// Takes out the rows that `keep` says no to.
    pub fn retain(&mut self, keep: impl Fn(u32) -> bool) {
        self.rows.retain(|generation, _| keep(*generation));
        self.occupied = self.rows.values().map(SegmentInfo::occupied).fold(0, u64::saturating_add);
    }

    /// Changes a row, if there is one.
    pub fn change<T>(&mut self, generation: u32, change: impl FnOnce(&mut SegmentInfo) -> T) -> Option<T> {
        let row = self.rows.get_mut(&generation)?;
        let before = row.occupied();
        let result = change(row);
        self.occupied = (self.occupied - before).saturating_add(row.occupied());
        Some(result)
    }

    /// Changes a row, an empty one where there is none.
    pub fn change_or_add<T>(&mut self, generation: u32, change: impl FnOnce(&mut SegmentInfo) -> T) -> T {
        let row = self.rows.entry(generation).or_default();
        let before = row.occupied();
        let result = change(row);
        self.occupied = (self.occupied - before).saturating_add(row.occupied());
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_follows_every_change() {
        let info = |len, punched| SegmentInfo { len, punched, ..SegmentInfo::default() };
        let mut table = SegmentTable::default();
        table.insert(1, info(100, 30));
        table.insert(2, info(50, 0));
        table.insert(2, info(60, 0));
        assert_eq!(table.occupied(), 130);
        assert_eq!(table.change(1, |row| row.punched += 10), Some(()));
        assert_eq!(table.change(9, |row| row.len = 1), None);
        table.change_or_add(3, |row| row.len = 5);
        assert_eq!(table.occupied(), 60 + 60 + 5);
        table.retain(|generation| generation != 2);
        assert_eq!(table.remove(3).map(|row| row.len), Some(5));
        assert_eq!((table.occupied(), table.len()), (60, 1));
    }
}
