//! The whole key layout, a type each. The page for people is docs/formats/keys.md.
//!
//! A key is a tag byte and its fields: numbers big-endian, so that keys sort as their fields do; at most the last field
//! is of open length and stands bare. A key whose type is not used yet is fixed here all the same, so that no later
//! part moves another.

use crate::kv::KeyRange;
use crate::rows;
use bytes::Bytes;

/// A key of a row of one type.
pub trait Key: Sized {
    /// First byte of every such key.
    const TAG: u8;
    /// Snapshots see rows of this type: they carry a birth, and are kept when they change.
    const VERSIONED: bool = is_versioned(Self::TAG);
    /// What stands there.
    type Row: rows::Row;

    /// The bytes of the key.
    fn encode(&self) -> Vec<u8>;

    /// Reverses [`Key::encode`]; `None` for bytes that it never makes.
    fn decode(bytes: &[u8]) -> Option<Self>;

    /// Every key of this type.
    fn all() -> KeyRange {
        KeyRange::prefix(&[Self::TAG])
    }
}

/// True for the tags of keys whose rows snapshots see.
pub const fn is_versioned(tag: u8) -> bool {
    matches!(tag, 0x10..=0x15)
}

/// A field of a key: written so that the order of the bytes is the order of the values.
trait Field: Sized {
    fn put(&self, out: &mut Vec<u8>);
    /// Takes the field off the front of `input`.
    fn take(input: &mut &[u8]) -> Option<Self>;
}

macro_rules! number {
    ($($type:ty),*) => {$(
        impl Field for $type {
            fn put(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_be_bytes());
            }
            fn take(input: &mut &[u8]) -> Option<Self> {
                let (head, tail) = input.split_at_checked(size_of::<$type>())?;
                *input = tail;
                head.try_into().ok().map(<$type>::from_be_bytes)
            }
        }
    )*};
}
number!(u8, u32, u64);

/// The rest of the key: only ever the last field.
impl Field for Bytes {
    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self);
    }
    fn take(input: &mut &[u8]) -> Option<Self> {
        Some(Bytes::copy_from_slice(std::mem::take(input)))
    }
}

/// Bytes of open length before another field: 0x00 becomes 0x00 0xff, the end is 0x00 0x00.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Escaped(pub Bytes);

impl Field for Escaped {
    fn put(&self, out: &mut Vec<u8>) {
        for byte in &self.0 {
            out.push(*byte);
            if *byte == 0 {
                out.push(0xff);
            }
        }
        out.extend_from_slice(&[0, 0]);
    }
    fn take(input: &mut &[u8]) -> Option<Self> {
        let mut plain = Vec::new();
        loop {
            let (byte, rest) = input.split_first()?;
            *input = rest;
            if *byte == 0 {
                let (mark, rest) = input.split_first()?;
                *input = rest;
                match *mark {
                    0 => return Some(Escaped(plain.into())),
                    0xff => {}
                    _ => return None,
                }
            }
            plain.push(*byte);
        }
    }
}

macro_rules! keys {
    ($($(#[$doc:meta])* $name:ident = $tag:literal { $($(#[$field_doc:meta])* $field:ident: $type:ty),* } -> $row:ty;)*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
            pub struct $name {
                $($(#[$field_doc])* pub $field: $type,)*
            }

            impl Key for $name {
                const TAG: u8 = $tag;
                type Row = $row;

                fn encode(&self) -> Vec<u8> {
                    let mut out = Vec::with_capacity(1 + size_of::<Self>());
                    out.push($tag);
                    $(self.$field.put(&mut out);)*
                    out
                }

                fn decode(bytes: &[u8]) -> Option<Self> {
                    let (tag, mut input) = bytes.split_first()?;
                    if *tag != $tag {
                        return None;
                    }
                    let key = Self { $($field: <$type as Field>::take(&mut input)?,)* };
                    input.is_empty().then_some(key)
                }
            }
        )*

        /// What of a row does not decode, by its name: its key or its value. `None` when both do.
        pub fn fault(key: &[u8], value: &[u8]) -> Option<&'static str> {
            match key.first() {
                $(Some(&$tag) => match $name::decode(key) {
                    None => Some(concat!("key of a ", stringify!($name))),
                    Some(_) if <$row as rows::Row>::decode(value).is_err() => Some(concat!(stringify!($name), " row")),
                    Some(_) => None,
                },)*
                _ => Some("key"),
            }
        }

        /// Tags in use, with the name of their type: no two are equal.
        pub const TAGS: &[(u8, &str)] = &[$(($tag, stringify!($name)),)*];
    };
}

keys! {
    /// What holds for the whole cluster: see [`setting`].
    Setting = 0x01 { /// Which one.
        name: Bytes } -> rows::Setting;
    /// The next free number of a kind: see [`counter`].
    Counter = 0x02 { /// Which one.
        counter: u8 } -> rows::Counter;
    /// A file, directory or symbolic link.
    Inode = 0x10 { /// Its number.
        inode: u64 } -> rows::Inode;
    /// Times of a directory, apart from its inode row so that creates in it do not meet there.
    DirTimes = 0x11 { /// The directory.
        inode: u64 } -> rows::DirTimes;
    /// A name in a directory.
    Dentry = 0x12 { /// The directory.
        parent: u64, /// The name.
        name: Bytes } -> rows::Dentry;
    /// A run of blocks or a piece of inline content.
    Extent = 0x13 { /// The file.
        inode: u64, /// Its map generation.
        generation: u32, /// Where the run begins in the file.
        offset: u64 } -> rows::Extent;
    /// An extended attribute.
    Xattr = 0x14 { /// Its inode.
        inode: u64, /// Its name.
        name: Bytes } -> rows::Xattr;
    /// The target of a symbolic link.
    Symlink = 0x15 { /// The link.
        inode: u64 } -> rows::Symlink;
    /// A row as it stood up to a snapshot: whoever looks at snapshot s takes the first with `snapshot` >= s, and of it only
    /// what was written before s.
    History = 0x16 { /// The key of the row.
        key: Escaped, /// The newest snapshot when the row was changed: the last that sees this value.
        snapshot: u64 } -> rows::History;
    /// References of clones to a range of blocks.
    SharedRange = 0x17 { /// The inode the blocks were written for.
        inode: u64, /// Their writer.
        writer: u64, /// The first of them.
        seq: u32 } -> rows::SharedRange;
    /// A map generation that is dropped in steps.
    MapDrop = 0x18 { /// The file.
        inode: u64, /// The generation that nobody can reach any more.
        generation: u32 } -> rows::MapDrop;
    /// An inode in the trash.
    Trash = 0x19 { /// When it came there, nanoseconds since 1970.
        since_ns: u64, /// The inode.
        inode: u64 } -> rows::Trash;
    /// Limits below a directory.
    Quota = 0x1a { /// The directory.
        root: u64 } -> rows::Quota;
    /// What lies below a quota root, as far as one change log says; log 0 stands for those that are gone.
    QuotaUsage = 0x1b { /// The directory.
        root: u64, /// The log.
        log: u32 } -> rows::QuotaUsage;
    /// A snapshot of a directory tree, or a hold.
    Snapshot = 0x1c { /// Its number.
        number: u64 } -> rows::Snapshot;
    /// A snapshot's name in its directory.
    SnapshotName = 0x1d { /// The directory.
        root: u64, /// The name.
        name: Bytes } -> rows::SnapshotName;
    /// The sessions that hold an inode: [`Sustained`] the other way round.
    SustainedBy = 0x1e { /// The inode.
        inode: u64, /// The session.
        session: u64 } -> rows::Unit;
    /// Blocks that nothing refers to any more but a snapshot: garbage once no snapshot sees them.
    HeldGarbage = 0x1f { /// Their group.
        pg: u32, /// The inode they were written for.
        inode: u64, /// Their writer.
        writer: u64, /// The first of them.
        seq: u32 } -> rows::Garbage;
    /// A placement group.
    Pg = 0x20 { /// Its number.
        pg: u32 } -> rows::Pg;
    /// Bytes committed to a group through servers that are gone; what others counted is in [`ServerPgUsage`].
    PgUsage = 0x21 { /// The group.
        pg: u32 } -> rows::PgUsage;
    /// A storage node's identity.
    Node = 0x22 { /// Its number.
        node: u32 } -> rows::Node;
    /// A store's identity.
    Store = 0x23 { /// Its number.
        store: u32 } -> rows::Store;
    /// A store's last report; written late and in no conflict range.
    StoreBeat = 0x24 { /// The store.
        store: u32 } -> rows::StoreBeat;
    /// Committed blocks that a member of their group lacks.
    Degraded = 0x25 { /// Who lacks them.
        store: u32, /// Their group.
        pg: u32, /// The inode they were written for.
        inode: u64, /// Their writer.
        writer: u64, /// The first of them.
        seq: u32 } -> rows::RunLen;
    /// Blocks that nothing refers to any more.
    Garbage = 0x26 { /// Their group.
        pg: u32, /// The inode they were written for.
        inode: u64, /// Their writer.
        writer: u64, /// The first of them.
        seq: u32 } -> rows::Garbage;
    /// Totals of the namespace, as one server counted them; written late and in no conflict range.
    Usage = 0x27 { /// The server; 0 = those that are gone.
        server: u32 } -> rows::Usage;
    /// Who holds a background duty.
    Duty = 0x28 { /// Its name.
        name: Bytes } -> rows::Duty;
    /// A change of memberships, running or ended.
    Task = 0x29 { /// Its number.
        task: u64 } -> rows::Task;
    /// A membership on its way.
    Move = 0x2a { /// The group.
        pg: u32, /// The member that leaves.
        from: u32 } -> rows::Move;
    /// A metadata server.
    MetaServer = 0x2b { /// Its number.
        server: u32 } -> rows::MetaServer;
    /// A metadata server's last sign of life; written late and in no conflict range.
    ServerBeat = 0x2c { /// The server.
        server: u32 } -> rows::ServerBeat;
    /// Bytes committed to a group through one server; written late and in no conflict range.
    ServerPgUsage = 0x2d { /// The server.
        server: u32, /// The group.
        pg: u32 } -> rows::PgUsage;
    /// The last renewal by who holds a duty, apart from [`Duty`] so that transactions of the duty do not meet it.
    DutyBeat = 0x2e { /// Its name.
        name: Bytes } -> rows::DutyBeat;
    /// A client's session.
    Session = 0x30 { /// Its number.
        session: u64 } -> rows::Session;
    /// A session's last sign of life; written late and in no conflict range.
    SessionBeat = 0x31 { /// The session.
        session: u64 } -> rows::SessionBeat;
    /// The last result of an exactly-once slot.
    Slot = 0x32 { /// The session.
        session: u64, /// The slot.
        slot: u32 } -> rows::Slot;
    /// An open writer; one that is closed stands in a range of [`ClosedWriters`] instead.
    Writer = 0x33 { /// Its number.
        writer: u64 } -> rows::Writer;
    /// The writers of a session.
    SessionWriter = 0x34 { /// The session.
        session: u64, /// The writer.
        writer: u64 } -> rows::Unit;
    /// An inode that a session keeps alive, whether or not it has a name.
    Sustained = 0x35 { /// The session.
        session: u64, /// The inode.
        inode: u64 } -> rows::Holds;
    /// A range lock.
    Lock = 0x36 { /// The file.
        inode: u64, /// Which kind of lock.
        kind: u8, /// First byte.
        start: u64, /// The session that holds it.
        session: u64, /// Which owner in that session.
        owner: u64 } -> rows::Lock;
    /// Consecutive closed writers: nothing of them commits any more.
    ClosedWriters = 0x37 { /// The first of them.
        first: u64 } -> rows::RunLen;
    /// A file that an owner holds locks of.
    LockOf = 0x3c { /// The session.
        session: u64, /// The owner in it.
        owner: u64, /// The file.
        inode: u64, /// Which kind of lock.
        kind: u8 } -> rows::Unit;
    /// Somebody who waits for a lock.
    LockWait = 0x3d { /// The file.
        inode: u64, /// Which kind of lock.
        kind: u8, /// The session.
        session: u64, /// The owner in it.
        owner: u64 } -> rows::LockWait;
    /// What an owner waits for.
    LockWaitOf = 0x3e { /// The session.
        session: u64, /// The owner in it.
        owner: u64 } -> rows::LockWaitOf;
    /// An entry of a change log: what one transaction changed.
    Feed = 0x40 { /// The log.
        log: u32, /// Its position in it, counted from 1.
        position: u64 } -> rows::Feed;
    /// A change log; every transaction with an entry in it reads this row.
    FeedLog = 0x41 { /// Its number; one server process writes to it.
        log: u32 } -> rows::FeedLog;
    /// How far a change log is; in no conflict range of transactions with entries.
    FeedMark = 0x42 { /// The log.
        log: u32 } -> rows::FeedMark;
    /// When an entry of the trash runs out.
    TrashExpiry = 0x43 { /// When, nanoseconds since 1970.
        until_ns: u64, /// When it came there.
        since_ns: u64, /// The inode.
        inode: u64 } -> rows::Unit;
    /// A directory that a walk through a tree has still to look into.
    TreeWalk = 0x44 { /// Why: see [`walk_purpose`].
        purpose: u8, /// Where the walk began.
        root: u64, /// The directory.
        dir: u64 } -> rows::TreeWalk;
    /// A row that did not decode, set aside by a repair.
    SetAside = 0x50 { /// Its key.
        key: Bytes } -> rows::Raw;
}

/// First byte behind every key of the namespace: what begins with it or a later one belongs to an engine itself.
pub const NAMESPACE_END: u8 = 0x60;

/// Names of [`Setting`] rows.
pub mod setting {
    /// Version of the rows' formats.
    pub const FORMAT_VERSION: &[u8] = b"format_version";
    /// Version of the messages and behaviour that all servers agreed on.
    pub const CLUSTER_VERSION: &[u8] = b"cluster_version";
    /// 16 bytes, drawn once.
    pub const CLUSTER_ID: &[u8] = b"cluster_id";
    /// The highest writer that a store holds and metadata never gave out, u64; there only until an operator accepts that
    /// metadata was rolled back.
    pub const ROLLBACK: &[u8] = b"rollback";
    /// The number of the newest snapshot and that of the newest one that still exists, u64 each; absent before the first.
    pub const SNAPSHOTS: &[u8] = b"snapshots";
    /// Collection is stopped, or accepted after that: see [`MassStop`](crate::MassStop); absent while it is as usual.
    pub const MASS_STOP: &[u8] = b"mass_stop";
    /// How far the look is for what no snapshot needs any more; there only while it is under way.
    pub const SNAPSHOT_TRIM: &[u8] = b"snapshot_trim";
    /// A byte for each replica count that a directory has or had; absent while that is the root's alone.
    pub const REPLICA_COUNTS: &[u8] = b"replica_counts";
    /// Where the dump comes from that is being loaded; no server opens what is half loaded.
    pub const LOADING: &[u8] = b"loading";
    /// Where the namespace went, or is going; no server opens what was left behind.
    pub const MIGRATED_TO: &[u8] = b"migrated_to";
}

/// Why a tree is walked.
pub mod walk_purpose {
    /// Nobody can reach it any more: all of it is dropped.
    pub const DROP: u8 = 1;
    /// It counts against another quota from now on.
    pub const QUOTA: u8 = 2;
}

/// Numbers of [`Counter`] rows.
pub mod counter {
    /// Inode numbers.
    pub const INODE: u8 = 1;
    /// Writers.
    pub const WRITER: u8 = 2;
    /// Sessions.
    pub const SESSION: u8 = 3;
    /// Placement groups.
    pub const PG: u8 = 4;
    /// Stores.
    pub const STORE: u8 = 5;
    /// Nodes.
    pub const NODE: u8 = 6;
    /// Duty epochs.
    pub const DUTY_EPOCH: u8 = 8;
    /// Changes of memberships.
    pub const TASK: u8 = 9;
    /// Metadata servers.
    pub const SERVER: u8 = 10;
    /// Changes of the cluster map: `next` is its version now.
    pub const MAP_VERSION: u8 = 11;
    /// Change logs.
    pub const FEED_LOG: u8 = 17;
    /// Change logs that are gone, with all their entries.
    pub const FEED_RETIRED: u8 = 18;
}

/// Every name in a directory.
pub fn dentries_of(parent: u64) -> KeyRange {
    KeyRange::prefix(&Dentry { parent, name: Bytes::new() }.encode())
}

/// The names in a directory that sort behind `name`.
pub fn dentries_after(parent: u64, name: &[u8]) -> KeyRange {
    let mut range = dentries_of(parent);
    if !name.is_empty() {
        let last = Dentry { parent, name: Bytes::copy_from_slice(name) }.encode();
        range.start = KeyRange::successor(&last);
    }
    range
}

/// Extents of one map generation that begin in `[start, end)`.
pub fn extents_between(inode: u64, generation: u32, start: u64, end: u64) -> KeyRange {
    let at = |offset| Extent { inode, generation, offset }.encode();
    KeyRange { start: at(start), end: at(end) }
}

/// Every key of type `K` whose leading fields are the big-endian bytes `fields`.
pub fn with_fields<K: Key>(fields: &[&[u8]]) -> KeyRange {
    let mut prefix = vec![K::TAG];
    for field in fields {
        prefix.extend_from_slice(field);
    }
    KeyRange::prefix(&prefix)
}

#[cfg(test)]
mod tests;
