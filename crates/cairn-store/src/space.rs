//! How much room a store has, and how much written space it may keep for reuse. Pure.

use crate::disk::DiskSpace;
use crate::limits::{RESERVE_MIN, ROOMY_FREE_SHARE};
use crate::options::StoreOptions;

/// What a store holds of its disk, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Holding {
    /// Records, dead ones whose space was not given back included.
    pub used: u64,
    /// Space it keeps for reuse: files of removed segments, and what is left of such a file in the active segment.
    pub reusable: u64,
}

/// Room for records, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// What the store may use in all.
    pub capacity: u64,
    /// What puts may still take, the reserve left alone. What is kept for reuse counts as free: it is used up, or given
    /// back before it would be missed.
    pub free: u64,
    /// Written space that may be kept for reuse: recycled files and dead payloads together. 0 on a tight disk.
    pub keep: u64,
}

impl Space {
    /// Judges the room on a disk.
    pub fn of(disk: DiskSpace, holding: Holding, options: &StoreOptions) -> Self {
        let capacity = options.capacity_bytes.unwrap_or(disk.total).min(disk.total);
        let reserve = options.reserve_bytes.unwrap_or((capacity / 100).max(RESERVE_MIN));
        let Holding { used, reusable } = holding;
        let left = capacity.saturating_sub(used).min(disk.available.saturating_add(reusable));
        let untouched = left.saturating_sub(reusable);
        let roomy = untouched >= (capacity / ROOMY_FREE_SHARE).saturating_add(reserve);
        Self {
            capacity,
            free: left.saturating_sub(reserve),
            keep: if roomy { options.recycle_bytes(capacity) } else { 0 },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(capacity: Option<u64>) -> StoreOptions {
        StoreOptions { capacity_bytes: capacity, reserve_bytes: Some(100), ..StoreOptions::default() }
    }

    fn space(total: u64, available: u64, used: u64, reusable: u64, capacity: Option<u64>) -> Space {
        Space::of(DiskSpace { total, available }, Holding { used, reusable }, &options(capacity))
    }

    #[test]
    fn free_is_what_is_left_above_the_reserve() {
        assert_eq!(space(10_000, 6_000, 3_000, 0, None).free, 5_900, "the disk decides");
        assert_eq!(space(10_000, 9_000, 3_000, 0, Some(5_000)).free, 1_900, "the option decides");
        assert_eq!(space(10_000, 50, 3_000, 0, None).free, 0);
        assert_eq!(space(10_000, 0, 12_000, 0, None), Space { capacity: 10_000, free: 0, keep: 0 });
        assert_eq!(space(10_000, 1_000, 3_000, 500, None).free, 1_400, "what is kept for reuse can be used");
        assert_eq!(space(10_000, 9_000, 3_000, 500, Some(5_000)).free, 1_900, "and is part of the store's share");
    }

    #[test]
    fn a_tight_disk_keeps_nothing() {
        assert_eq!(space(16_000, 8_000, 8_000, 0, None).keep, 1_000, "a sixteenth");
        assert_eq!(space(16_000, 2_100, 13_900, 0, None).keep, 1_000);
        assert_eq!(space(16_000, 2_099, 13_901, 0, None).keep, 0);
        assert_eq!(space(16_000, 2_099, 13_000, 901, None).keep, 0, "what is kept does not make a disk roomy");
    }
}
