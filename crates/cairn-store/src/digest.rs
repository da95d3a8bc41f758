//! Inventories in short: what two stores compare to find in which parts of a group they differ, and which groups a store
//! holds blocks of.

use crate::format::BlockKey;
use crate::index::{Entry, State};
use crate::store::Store;
use cairn_proto::{BlockId, InodeId, PgId, WriterId};
use std::collections::{BTreeMap, BTreeSet};

/// Whose blocks are compared: those of writers that no longer write, as metadata said.
#[derive(Clone, Debug, Default)]
pub struct ComparedWriters {
    /// Only writers below this one.
    pub below: WriterId,
    /// Of these, writers that may still write.
    pub open: BTreeSet<WriterId>,
}

impl ComparedWriters {
    /// True when the writer's blocks are compared.
    pub fn has(&self, writer: WriterId) -> bool {
        writer < self.below && !self.open.contains(&writer)
    }
}

/// One part of an inventory: equal for equal sets of blocks, and different for different ones but for one case in 2^64.
/// Independent of order, so that it costs a pass over an index and no sorting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct PartDigest {
    /// Sum of the blocks' hashes, modulo 2^64.
    pub sum: u64,
    /// How many they are.
    pub count: u64,
}

impl PartDigest {
    /// Takes a block in.
    pub fn add(&mut self, block: BlockId) {
        self.sum = self.sum.wrapping_add(block_hash(block));
        self.count += 1;
    }
}

/// A group of which a store holds blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct GroupUse {
    /// Blocks, quarantined ones included.
    pub blocks: u64,
    /// Their payload, in bytes.
    pub bytes: u64,
}

/// The finalizer of SplitMix64 (Steele, Lea, Flood 2014): every bit of the input changes every bit of the output.
const fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// Hash of a block's id, on the wire as part of [`PartDigest`].
pub const fn block_hash(block: BlockId) -> u64 {
    let inode = mix(block.inode.0.wrapping_add(0x9e37_79b9_7f4a_7c15));
    let writer = mix(inode ^ block.writer.0);
    mix(writer ^ block.seq.0 as u64)
}

/// The part of an inventory that the blocks of an inode are in, of so many.
pub const fn part_of(inode: InodeId, parts: u32) -> u32 {
    (mix(inode.0) % parts as u64) as u32
}

impl Store {
    /// Digests of all `parts` of a group's inventory: of blocks that can be served, of compared writers. Costs one pass
    /// over the index.
    pub fn digest(&self, pg: PgId, writers: &ComparedWriters, parts: u32) -> Vec<PartDigest> {
        let mut digests = vec![PartDigest::default(); parts as usize];
        self.walk(None, |entry| {
            if compared(entry, pg, writers) {
                let block = entry.key().block;
                digests[part_of(block.inode, parts) as usize].add(block);
            }
            true
        });
        digests
    }

    /// Blocks of one part of that inventory, up to `limit`, in key order, from the first above `after`.
    pub fn list_part(
        &self,
        pg: PgId,
        writers: &ComparedWriters,
        part: (u32, u32),
        after: Option<BlockKey>,
        limit: usize,
    ) -> Vec<BlockId> {
        let (part, parts) = part;
        let mut found = Vec::new();
        self.walk(after, |entry| {
            if compared(entry, pg, writers) && part_of(entry.key().block.inode, parts) == part {
                found.push(entry.key().block);
            }
            found.len() < limit
        });
        found.truncate(limit);
        found
    }

    /// The groups of which the store holds blocks. Costs one pass over the index.
    pub fn groups(&self) -> BTreeMap<PgId, GroupUse> {
        let mut groups: BTreeMap<PgId, GroupUse> = BTreeMap::new();
        self.walk(None, |entry| {
            let group = groups.entry(PgId(entry.pg)).or_default();
            group.blocks += 1;
            group.bytes += u64::from(entry.len);
            true
        });
        groups
    }

    /// All blocks of a group, quarantined ones too, up to `limit`, in key order, from the first key above `after`.
    pub fn list_all(&self, pg: PgId, after: Option<BlockKey>, limit: usize) -> Vec<BlockKey> {
        let mut found = Vec::new();
        self.walk(after, |entry| {
            if entry.pg == pg.0 {
                found.push(entry.key());
            }
            found.len() < limit
        });
        found.truncate(limit);
        found
    }
}

fn compared(entry: &Entry, pg: PgId, writers: &ComparedWriters) -> bool {
    entry.pg == pg.0 && entry.state == State::Live && writers.has(entry.writer())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn hashes_are_pinned() {
        // docs/formats/wire.md describes them: two versions must compute the same.
        assert_eq!(block_hash(BlockId::new(1, 2, 3)), 0x9e71_840a_caa5_f697);
        assert_eq!(block_hash(BlockId::new(0, 0, 0)), 0x33fe_8bd4_f9c5_7863);
        assert_eq!(part_of(InodeId(1), 1024), 485);
        assert_eq!(part_of(InodeId(u64::MAX), 1000), 67);
    }

    proptest! {
        #[test]
        fn order_does_not_matter_and_every_difference_does(
            blocks in prop::collection::btree_set((0u64..8, 0u64..4, 0u32..64), 1..100),
            without in any::<prop::sample::Index>(),
        ) {
            let digest = |blocks: &mut dyn Iterator<Item = &(u64, u64, u32)>| {
                let mut digest = PartDigest::default();
                blocks.for_each(|(inode, writer, seq)| digest.add(BlockId::new(*inode, *writer, *seq)));
                digest
            };
            let whole = digest(&mut blocks.iter());
            prop_assert_eq!(whole, digest(&mut blocks.iter().rev()));
            let without = without.index(blocks.len());
            let less = digest(&mut blocks.iter().enumerate().filter(|(at, _)| *at != without).map(|(_, block)| block));
            prop_assert_ne!(whole.sum, less.sum);
        }
    }
}
