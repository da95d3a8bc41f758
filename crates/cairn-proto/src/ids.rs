//! Identities: a newtype each, so that no two can be mixed up.
//!
//! None of these numbers is ever reused. [`BlockId`] is made by the client without asking anybody: `writer` comes from
//! metadata, `seq` is counted by the client.

use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty), $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub $inner);

        impl $name {
            /// The bare number, for the wire and for keys.
            pub const fn get(self) -> $inner {
                self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
        impl From<$inner> for $name {
            fn from(value: $inner) -> Self {
                Self(value)
            }
        }
    };
}

id!(
    /// A file, directory or symbolic link. Never reused.
    InodeId(u64), "i"
);
id!(
    /// A right to make block ids, granted by metadata to one client; closed in a transaction.
    WriterId(u64), "w"
);
id!(
    /// Number of a block within its writer, counted by the client.
    BlockSeq(u32), "#"
);
id!(
    /// A placement group: the stores that hold a set of blocks.
    PgId(u32), "pg"
);
id!(
    /// Grows with every change of a group's membership.
    PgEpoch(u64), "e"
);
id!(
    /// A storage node (a process), made of one or more stores.
    NodeId(u32), "n"
);
id!(
    /// A store: one disk of a storage node.
    StoreId(u32), "s"
);
id!(
    /// A client's session with metadata: exactly-once slots, locks, sustained inodes.
    SessionId(u64), "session-"
);
id!(
    /// Map generation of an inode: bumped when its whole content is dropped at once.
    Generation(u32), "g"
);
id!(
    /// New at every open of a store: what an older incarnation accepted without sync may be gone.
    Incarnation(u64), "inc-"
);
id!(
    /// Which coded piece of a block this is; 0 for plain replicas.
    Shard(u8), "shard-"
);

impl InodeId {
    /// The root directory.
    pub const ROOT: InodeId = InodeId(1);
    /// Bits of the number of an inode that a snapshot can show.
    const PAST_BITS: u32 = 41;
    /// The highest number of an inode that a snapshot can show.
    pub const PAST_INODE_MAX: u64 = (1 << Self::PAST_BITS) - 1;
    /// The highest number of a snapshot.
    pub const SNAPSHOT_MAX: u64 = (1 << (63 - Self::PAST_BITS)) - 1;
    const PAST: u64 = 1 << 63;

    /// True for an inode as a snapshot shows it, and for a directory's list of snapshots: nothing can change there.
    pub const fn is_past(self) -> bool {
        self.0 & Self::PAST != 0
    }

    /// The number by which requests and answers know this inode as snapshot `snapshot` shows it; with 0 the list of the
    /// snapshots of this directory. Bit 63 is set, the snapshot stands in bits 41 to 62. `None` when one of the two
    /// numbers is too high for that.
    pub const fn in_snapshot(self, snapshot: u64) -> Option<InodeId> {
        if snapshot > Self::SNAPSHOT_MAX || self.0 > Self::PAST_INODE_MAX {
            return None;
        }
        Some(InodeId(Self::PAST | snapshot << Self::PAST_BITS | self.0))
    }

    /// Takes apart what [`InodeId::in_snapshot`] made: the snapshot, or 0, and the inode. `None` for any other.
    pub const fn past(self) -> Option<(u64, InodeId)> {
        if !self.is_past() {
            return None;
        }
        let snapshot = (self.0 & !Self::PAST) >> Self::PAST_BITS;
        Some((snapshot, InodeId(self.0 & Self::PAST_INODE_MAX)))
    }
}

/// Identity of one block of file content: the inode it was written for, the writer that made it, its number there.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct BlockId {
    /// The inode the block was written for.
    pub inode: InodeId,
    /// The writer that made the id.
    pub writer: WriterId,
    /// Number within the writer.
    pub seq: BlockSeq,
}

impl BlockId {
    /// Length of the encoded form.
    pub const LEN: usize = 20;

    /// Builds an id from its three parts.
    pub const fn new(inode: u64, writer: u64, seq: u32) -> Self {
        Self { inode: InodeId(inode), writer: WriterId(writer), seq: BlockSeq(seq) }
    }

    /// The id `n` places further in the same run; `None` when the sequence would overflow.
    pub fn offset(self, n: u32) -> Option<Self> {
        Some(Self { seq: BlockSeq(self.seq.0.checked_add(n)?), ..self })
    }

    /// Little-endian bytes: inode (8), writer (8), seq (4).
    pub fn to_le_bytes(self) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        out[..8].copy_from_slice(&self.inode.0.to_le_bytes());
        out[8..16].copy_from_slice(&self.writer.0.to_le_bytes());
        out[16..].copy_from_slice(&self.seq.0.to_le_bytes());
        out
    }

    /// Reverses [`BlockId::to_le_bytes`].
    pub fn from_le_bytes(bytes: [u8; Self::LEN]) -> Self {
        let (inode, rest) = bytes.split_at(8);
        let (writer, seq) = rest.split_at(8);
        Self::new(
            u64::from_le_bytes(inode.try_into().expect("split at 8")),
            u64::from_le_bytes(writer.try_into().expect("split at 8")),
            u32::from_le_bytes(seq.try_into().expect("4 bytes remain")),
        )
    }
}

impl fmt::Display for BlockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.inode.0, self.writer.0, self.seq.0)
    }
}
impl fmt::Debug for BlockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "block {self}")
    }
}

/// Identity of one mutation: a retry carries the same id and is answered with the stored result.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct OpId {
    /// The session that asks.
    pub session: SessionId,
    /// The session's epoch; a closed or expired session's later operations are fenced.
    pub epoch: u64,
    /// Slot 0..[`crate::limits::SLOTS_PER_SESSION`]; one operation at a time in each.
    pub slot: u32,
    /// Counts the operations of the slot, from 1.
    pub seq: u64,
}

impl fmt::Display for OpId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}/{}:{}", self.session, self.epoch, self.slot, self.seq)
    }
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub [u8; 16]);

        impl $name {
            /// All zeros: "not known yet".
            pub const NIL: $name = $name([0; 16]);

            /// Reads a 16-byte slice, as it stands on the wire; any other length is `None`.
            pub fn from_slice(bytes: &[u8]) -> Option<Self> {
                bytes.try_into().ok().map(Self)
            }

            /// True for [`Self::NIL`].
            pub fn is_nil(&self) -> bool {
                *self == Self::NIL
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                for (index, byte) in self.0.iter().enumerate() {
                    if matches!(index, 4 | 6 | 8 | 10) {
                        f.write_str("-")?;
                    }
                    write!(f, "{byte:02x}")?;
                }
                Ok(())
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

uuid_id!(
    /// The cluster, drawn once when metadata is first made. Servers of another cluster refuse to talk.
    ClusterId
);
uuid_id!(
    /// One life of a process: drawn at start, so that a restarted peer is told from a slow one.
    BootId
);
uuid_id!(
    /// A store's lasting identity, written when its directory is first made.
    StoreUuid
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_id_bytes_are_pinned() {
        let id = BlockId::new(0x0102_0304_0506_0708, 0x1112_1314_1516_1718, 0x2122_2324);
        let bytes = id.to_le_bytes();
        assert_eq!(
            bytes,
            [8, 7, 6, 5, 4, 3, 2, 1, 0x18, 0x17, 0x16, 0x15, 0x14, 0x13, 0x12, 0x11, 0x24, 0x23, 0x22, 0x21]
        );
        assert_eq!(BlockId::from_le_bytes(bytes), id);
    }

    #[test]
    fn a_run_ends_where_the_sequence_ends() {
        assert_eq!(BlockId::new(1, 2, u32::MAX - 1).offset(1), Some(BlockId::new(1, 2, u32::MAX)));
        assert_eq!(BlockId::new(1, 2, u32::MAX).offset(1), None);
    }

    #[test]
    fn an_inode_in_a_snapshot_is_another_number() {
        let past = InodeId(7).in_snapshot(3).expect("both fit");
        assert_eq!(past.0, (1 << 63) + (3 << 41) + 7);
        assert_eq!((past.is_past(), past.past()), (true, Some((3, InodeId(7)))));
        assert_eq!((InodeId(7).is_past(), InodeId(7).past()), (false, None));
        let most = InodeId(InodeId::PAST_INODE_MAX).in_snapshot(InodeId::SNAPSHOT_MAX).expect("the highest of both");
        assert_eq!((most.0, most.past()), (u64::MAX, Some((InodeId::SNAPSHOT_MAX, InodeId(InodeId::PAST_INODE_MAX)))));
        assert_eq!(InodeId(InodeId::PAST_INODE_MAX + 1).in_snapshot(1), None);
        assert_eq!(InodeId(1).in_snapshot(InodeId::SNAPSHOT_MAX + 1), None);
        assert_eq!(past.in_snapshot(1), None);
    }
}
