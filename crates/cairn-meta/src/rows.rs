//! What stands at the keys: a type each, encoded compactly behind a version byte. The page for people is
//! docs/formats/keys.md.
//!
//! Numbers are LEB128 varints, signed ones zigzag first; lists and byte strings carry their count in front. A row type
//! that has to change gets a second version; readers take both, writers the lowest that holds what the row says.

mod feed;
mod field;

use bytes::Bytes;
use cairn_proto::pb;
pub use feed::{Change, Delta, LogCursor};
use field::Field;

/// A row that does not decode: damaged, or of a version this program does not know.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a {row} row does not decode")]
pub struct RowError {
    /// Type of the row.
    pub row: &'static str,
}

/// Value of a row.
pub trait Row: Sized + Clone {
    /// Version byte and fields.
    fn encode(&self) -> Vec<u8>;

    /// Reverses [`Row::encode`].
    fn decode(bytes: &[u8]) -> Result<Self, RowError>;

    /// Of a row that snapshots see: the newest snapshot when it was last changed. 0 = before the first one.
    fn birth(&self) -> u64 {
        0
    }

    /// Gives a row that snapshots see its birth.
    fn stamp(&mut self, _birth: u64) {}
}

/// What an inode is; as on the wire.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A socket of the local machine.
    Socket,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
}

impl Kind {
    /// For the wire.
    pub const fn to_pb(self) -> pb::Kind {
        match self {
            Kind::File => pb::Kind::File,
            Kind::Directory => pb::Kind::Directory,
            Kind::Symlink => pb::Kind::Symlink,
            Kind::Fifo => pb::Kind::Fifo,
            Kind::Socket => pb::Kind::Socket,
            Kind::CharDevice => pb::Kind::CharDevice,
            Kind::BlockDevice => pb::Kind::BlockDevice,
        }
    }

    /// For people.
    pub const fn word(self) -> &'static str {
        match self {
            Kind::File => "file",
            Kind::Directory => "directory",
            Kind::Symlink => "symbolic link",
            Kind::Fifo => "fifo",
            Kind::Socket => "socket",
            Kind::CharDevice => "character device",
            Kind::BlockDevice => "block device",
        }
    }

    /// From the wire.
    pub const fn from_pb(kind: pb::Kind) -> Option<Self> {
        match kind {
            pb::Kind::Unknown => None,
            pb::Kind::File => Some(Kind::File),
            pb::Kind::Directory => Some(Kind::Directory),
            pb::Kind::Symlink => Some(Kind::Symlink),
            pb::Kind::Fifo => Some(Kind::Fifo),
            pb::Kind::Socket => Some(Kind::Socket),
            pb::Kind::CharDevice => Some(Kind::CharDevice),
            pb::Kind::BlockDevice => Some(Kind::BlockDevice),
        }
    }
}

impl Field for Kind {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(self.to_pb() as u8);
    }
    fn take(input: &mut &[u8]) -> Option<Self> {
        pb::Kind::try_from(i32::from(u8::take(input)?)).ok().and_then(Kind::from_pb)
    }
}

/// A store's part in a group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Member {
    /// The store.
    pub store: u32,
    /// A `pb::MemberState`.
    pub state: pb::MemberState,
}

impl Field for Member {
    fn put(&self, out: &mut Vec<u8>) {
        self.store.put(out);
        out.push(self.state as u8);
    }
    fn take(input: &mut &[u8]) -> Option<Self> {
        let store = u32::take(input)?;
        let state = pb::MemberState::try_from(i32::from(u8::take(input)?)).ok()?;
        Some(Self { store, state })
    }
}

impl Field for pb::TaskKind {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(*self as u8);
    }
    fn take(input: &mut &[u8]) -> Option<Self> {
        Self::try_from(i32::from(u8::take(input)?)).ok()
    }
}

impl Field for pb::TaskState {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(*self as u8);
    }
    fn take(input: &mut &[u8]) -> Option<Self> {
        Self::try_from(i32::from(u8::take(input)?)).ok()
    }
}

/// What an extent row holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Content {
    /// The bytes themselves.
    Inline(Bytes),
    /// A run of blocks.
    Blocks(Run),
}

/// A run of consecutive block ids that covers a piece of a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Run {
    /// The inode the blocks were written for.
    pub inode: u64,
    /// Their writer.
    pub writer: u64,
    /// Number of the first block.
    pub seq: u32,
    /// Bytes of the first block that lie before the row's offset.
    pub skip: u32,
    /// Bytes of a block.
    pub block_len: u32,
    /// Block i of the run is in `pgs[i mod n]`.
    pub pgs: Vec<u32>,
    /// How the blocks' bytes are coded; 0 = plainly.
    pub codec: u32,
    /// Reserved.
    pub flags: u32,
}

impl Field for Content {
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Content::Inline(bytes) => {
                out.push(1);
                bytes.put(out);
            }
            Content::Blocks(run) => {
                out.push(2);
                run.inode.put(out);
                run.writer.put(out);
                run.seq.put(out);
                run.skip.put(out);
                run.block_len.put(out);
                run.pgs.put(out);
                run.codec.put(out);
                run.flags.put(out);
            }
        }
    }
    fn take(input: &mut &[u8]) -> Option<Self> {
        match u8::take(input)? {
            1 => Bytes::take(input).map(Content::Inline),
            2 => Some(Content::Blocks(Run {
                inode: u64::take(input)?,
                writer: u64::take(input)?,
                seq: u32::take(input)?,
                skip: u32::take(input)?,
                block_len: u32::take(input).filter(|len| *len > 0)?,
                pgs: Vec::take(input).filter(|pgs: &Vec<u32>| !pgs.is_empty())?,
                codec: u32::take(input)?,
                flags: u32::take(input)?,
            })),
            _ => None,
        }
    }
}

/// States of a [`Quota`].
pub mod quota_state {
    /// Its limits hold.
    pub const ACTIVE: u8 = 1;
    /// What is below is being counted; then it is active.
    pub const COUNTING: u8 = 2;
    /// It was removed, and what is below is being counted against another; then it is gone.
    pub const ENDING: u8 = 3;
}

macro_rules! rows {
    ($(
        $(#[$doc:meta])*
        $name:ident $([$stamped:ident])? = $version:literal { $($(#[$field_doc:meta])* $field:ident: $type:ty),* }
        $(+ $later:literal { $($(#[$later_doc:meta])* $added:ident: $added_type:ty),* })*
    )*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, PartialEq, Eq, Debug)]
            pub struct $name {
                $($(#[$field_doc])* pub $field: $type,)*
                $($($(#[$later_doc])* pub $added: $added_type,)*)*
            }

            impl Row for $name {
                fn encode(&self) -> Vec<u8> {
                    // The lowest version that holds it: former programs read what they could have written.
                    let version: u8 = $version;
                    $(let version: u8 = match false $(|| self.$added != <$added_type>::default())* {
                        true => version.max($later),
                        false => version,
                    };)*
                    #[allow(unused_mut, reason = "a row may have no fields")]
                    let mut out = vec![version];
                    $(self.$field.put(&mut out);)*
                    $(if version >= $later {
                        $(self.$added.put(&mut out);)*
                    })*
                    out
                }

                fn decode(bytes: &[u8]) -> Result<Self, RowError> {
                    let decode = || {
                        #[allow(unused_mut, reason = "a row may have no fields")]
                        let (version, mut input) = bytes.split_first()?;
                        if *version != $version $(&& *version != $later)* {
                            return None;
                        }
                        let row = Self {
                            $($field: <$type as Field>::take(&mut input)?,)*
                            // A row of an earlier version has none of what was added to it.
                            $($($added: if *version >= $later {
                                <$added_type as Field>::take(&mut input)?
                            } else {
                                Default::default()
                            },)*)*
                        };
                        input.is_empty().then_some(row)
                    };
                    decode().ok_or(RowError { row: stringify!($name) })
                }

                $(
                    fn birth(&self) -> u64 {
                        self.$stamped
                    }

                    fn stamp(&mut self, birth: u64) {
                        self.$stamped = birth;
                    }
                )?
            }
        )*
    };
}

rows! {
    /// A setting, in the form its name prescribes.
    Setting = 1 { /// Numbers little-endian, ids as they are.
        value: Bytes }
    /// Numbers below `next` may have been given out.
    Counter = 1 { /// First number that nobody has.
        next: u64 }
    /// A row of a part that is not built yet.
    Raw = 1 { /// Whatever that part writes.
        bytes: Bytes }
    /// A row whose key says everything.
    Unit = 1 {}
    /// An inode.
    Inode[birth] = 1 {
        /// What it is.
        kind: Kind,
        /// Permission bits.
        mode: u32,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
        /// Names that lead here.
        nlink: u32,
        /// Bytes of a file or of a link's target.
        size: u64,
        /// Last access, nanoseconds since 1970.
        atime_ns: i64,
        /// Last change of content; of a directory see [`DirTimes`].
        mtime_ns: i64,
        /// Last change of the inode; of a directory see [`DirTimes`].
        ctime_ns: i64,
        /// Counts changes of content.
        version: u64,
        /// Map generation.
        generation: u32,
        /// Policy: replicas.
        replicas: u32,
        /// Policy: bytes of a block.
        block_len: u32,
        /// Policy: acknowledge before durable.
        relaxed: bool,
        /// The directory whose quota counts this inode; 0 = none.
        quota_root: u64,
        /// The directory that holds its name; of a file or link, one that holds or held one of its names, 0 = not known.
        parent: u64,
        /// Snapshot of the last change.
        birth: u64
    } + 2 {
        /// When it was made; 0 = not known.
        btime_ns: i64,
        /// Of a device: its number.
        rdev: u64,
        /// A sum of [`inode_flag`]s.
        flags: u32,
        /// Extended attributes it has, ACLs among them.
        xattrs: u32,
        /// Their names and values together, and what each counts besides.
        xattr_bytes: u32
    } + 3 {
        /// How long what is removed from the directory is kept, in seconds; 0 = not at all.
        trash_s: u64
    }
    /// Times of a directory.
    DirTimes[birth] = 1 { /// Last change of its names.
        mtime_ns: i64, /// Last change of names or attributes.
        ctime_ns: i64 } + 2 { /// Snapshot of the last change.
        birth: u64 }
    /// Where a name leads.
    Dentry[birth] = 1 { /// The inode.
        inode: u64, /// What it is.
        kind: Kind, /// Snapshot of the last change.
        birth: u64 }
    /// A piece of a file's map.
    Extent[birth] = 1 { /// Bytes of the file.
        len: u64, /// What holds them.
        content: Content, /// Snapshot of the last change.
        birth: u64 } + 2 { /// Snapshot when its blocks were first committed; what is cut from the row keeps it.
        born: u64 }
    /// How often a session holds an inode.
    Holds = 1 {} + 2 { /// At least 1; a row of the first version stands for one.
        count: u32 }
    /// A symbolic link.
    Symlink[birth] = 1 { /// Where it leads.
        target: Bytes } + 2 { /// Snapshot of the last change.
        birth: u64 }
    /// An extended attribute.
    Xattr[birth] = 1 { /// Its value.
        value: Bytes, /// Snapshot of the last change.
        birth: u64 }
    /// A row as snapshots see it.
    History = 1 { /// Birth of the row: snapshots above it see the row.
        birth: u64, /// The encoded row.
        row: Bytes }
    /// A map generation to be dropped.
    MapDrop = 1 { /// Snapshot when it was dropped.
        birth: u64 }
    /// A placement group.
    Pg = 1 {
        /// Grows with every change of membership.
        epoch: u64,
        /// The policy's N.
        replicas: u32,
        /// Its stores.
        members: Vec<Member>,
        /// Takes no new blocks.
        sealed: bool
    } + 2 {
        /// Of each member, in their order: the epoch in which it joined or began anew to. A member without is from
        /// before all others.
        since: Vec<u64>
    }
    /// What a group holds.
    PgUsage = 1 { /// Bytes committed to it so far.
        bytes: u64 }
    /// A storage node.
    Node = 1 {
        /// Its lasting identity.
        uuid: [u8; 16],
        /// Its process when it registered last.
        boot_id: [u8; 16],
        /// Where it listens.
        addr: String,
        /// Failure domain: zone.
        zone: String,
        /// Failure domain: rack.
        rack: String,
        /// Failure domain: host.
        host: String,
        /// Another node took its address.
        replaced: bool
    } + 2 {
        /// Counts its registrations: what is known of its stores from before the last one is void.
        registered: u64
    }
    /// A store.
    Store = 1 {
        /// Its lasting identity.
        uuid: [u8; 16],
        /// Where it is.
        node: u32,
        /// The store that takes over its memberships; 0 = none.
        replaced_by: u32
    } + 2 {
        /// Takes no new memberships; an operator drains it.
        draining: bool,
        /// It lost blocks that it had acknowledged: its memberships have to be completed anew.
        lost_past: bool
    }
    /// A store's last report.
    StoreBeat = 1 {
        /// Its size.
        capacity_bytes: u64,
        /// Used of it.
        used_bytes: u64,
        /// Blocks it holds.
        blocks: u64,
        /// Blocks it found bad.
        quarantined: u32,
        /// Why it takes no writes; empty when well.
        trouble: String
    } + 2 {
        /// Number of its last durable record; a lower one later says that it lost its past. 0 = not known.
        durable_records: u64
    }
    /// A change of memberships that an operator asked for, or that metadata began to make up for a lost store.
    Task = 1 {
        /// A `pb::TaskKind`.
        kind: pb::TaskKind,
        /// A `pb::TaskState`.
        state: pb::TaskState,
        /// Why it waits or ended; empty while it runs.
        reason: String,
        /// The node it is about; 0 = none is named.
        node: u32,
        /// The store it is about; 0 = none is named.
        store: u32,
        /// The node that takes over; 0 = none is named.
        to_node: u32,
        /// The store that takes over; 0 = none is named.
        to_store: u32,
        /// Memberships that are to go, as far as was known last.
        moves_total: u64,
        /// Memberships that went.
        moves_done: u64,
        /// Bytes to be copied, as far as was known last.
        bytes_total: u64,
        /// Bytes of the memberships that went.
        bytes_done: u64,
        /// When it began, nanoseconds since 1970.
        started_ns: i64,
        /// When it ended; 0 = it has not.
        ended_ns: i64
    }
    /// A membership on its way from one store to another.
    Move = 1 {
        /// The task it belongs to.
        task: u64,
        /// Where to.
        to: u32,
        /// Bytes that the group was estimated to hold when this was planned.
        bytes: u64,
        /// The members have changed; until then it is only planned.
        begun: bool
    }
    /// A snapshot, or a hold.
    Snapshot = 1 {
        /// The directory that it shows.
        root: u64,
        /// Its name there; empty: a hold.
        name: Bytes,
        /// By which path the directory was named when it was taken.
        path: Bytes,
        /// When it was taken, nanoseconds since 1970.
        taken_ns: i64,
        /// Who asked for it.
        owner: String,
        /// It goes when it was not renewed for so long; 0 = never.
        ttl_ms: u64,
        /// How often it was renewed.
        renewed: u64
    } + 2 {
        /// The name of a backup that it is the hold of; empty = of none.
        backup: String,
        /// Blocks that were first committed below this snapshot are held; 0 = below its own number.
        reach: u64
    }
    /// Which snapshot a name is of.
    SnapshotName = 1 { /// Its number.
        number: u64 }
    /// Blocks that more than one map may refer to.
    SharedRange = 1 { /// How many, at least 1.
        count: u32, /// How often each of them is placed in maps, at least 1.
        placements: u32 }
    /// Blocks that nothing refers to any more.
    Garbage = 1 { /// How many, at least 1.
        count: u32 } + 2 { /// Snapshot when they were first committed.
        born: u64, /// Newest snapshot when the last reference was dropped: those above `born` up to this one see the blocks.
        dropped: u64 }
    /// How many consecutive blocks, or writers, a row is about.
    RunLen = 1 { /// At least 1.
        count: u32 }
    /// Totals of the namespace.
    Usage = 1 { /// Inodes.
        inodes: i64, /// Bytes of all files.
        file_bytes: i64 }
    /// A session.
    Session = 1 {
        /// Grows when the session ends.
        epoch: u64,
        /// False once it was closed or expired: what it leaves is being cleared.
        open: bool,
        /// Shown to operators.
        name: String,
        /// The client's process.
        boot_id: Bytes
    }
    /// A session's sign of life.
    SessionBeat = 1 { /// Counts what its server heard of it.
        beats: u64 } + 2 { /// The metadata server that heard of it last.
        server: u32 }
    /// A metadata server.
    MetaServer = 1 {
        /// Where clients and nodes find it.
        addr: String,
        /// Its process.
        boot: [u8; 16],
        /// It stopped or was silent for too long: nothing it counts is taken any more, and its rows are being folded.
        gone: bool
    } + 2 {
        /// Name and version of its program; empty = it does not say.
        software: String,
        /// Newest version of the cluster that its program can take part in; 0 = it does not say.
        newest: u32,
        /// When it began, nanoseconds since 1970; 0 = not known.
        since_ns: i64
    }
    /// A metadata server's sign of life.
    ServerBeat = 1 { /// Counts them.
        beats: u64 }
    /// Who holds a duty; every transaction of the duty reads this row.
    Duty = 1 { /// The server; 0 = it was given back.
        server: u32, /// Grows whenever somebody takes the duty over.
        epoch: u64 }
    /// A renewal of a duty's lease.
    DutyBeat = 1 { /// As in [`Duty`].
        server: u32, /// As in [`Duty`].
        epoch: u64, /// Counts renewals.
        beats: u64 }
    /// What one transaction changed. One without changes and deltas stands at a position whose transaction was not
    /// committed.
    Feed = 1 {
        /// When, nanoseconds since 1970.
        time_ns: i64,
        /// The session that asked for it; 0 = none did.
        session: u64,
        /// What changed, names that went before those that came.
        changes: Vec<Change>,
        /// What it means for quotas.
        deltas: Vec<Delta>
    }
    /// A change log.
    FeedLog = 1 { /// Nobody writes to it any more.
        sealed: bool }
    /// How far a change log is.
    FeedMark = 1 {
        /// Grows while its server lives.
        beat: u64,
        /// Every entry up to here is there or never will be, and its deltas are in the usage rows.
        folded: u64,
        /// Entries up to here were removed.
        trimmed: u64
    }
    /// Where a reader of all change logs is; travels as bytes that only metadata understands.
    FeedCursor = 1 {
        /// Logs that were gone by then.
        retired: u64,
        /// The others, by number.
        logs: Vec<LogCursor>
    }
    /// Something in the trash.
    Trash = 1 {
        /// What it is.
        kind: Kind,
        /// The directory it was in.
        parent: u64,
        /// Its name there.
        name: Bytes,
        /// The same from the root, as it was asked for; empty = nobody said.
        path: Bytes,
        /// When it is dropped, nanoseconds since 1970.
        until_ns: u64,
        /// The session that removed it.
        session: u64,
        /// What that called itself.
        who: String
    }
    /// How far a walk is in a directory.
    TreeWalk = 1 { /// The last name it has seen to.
        after: Bytes }
    /// Limits below a directory.
    Quota = 1 {
        /// Bytes of all files; 0 = no limit.
        bytes: u64,
        /// Inodes; 0 = no limit.
        inodes: u64,
        /// See [`quota_state`].
        state: u8
    }
    /// A part of what lies below a quota root.
    QuotaUsage = 1 { /// Bytes of files.
        bytes: i64, /// Inodes.
        inodes: i64 }
    /// Result of the last operation of a slot.
    Slot = 1 { /// Which operation.
        seq: u64, /// An encoded `pb::Response`.
        reply: Bytes }
    /// A lock that is held.
    Lock = 1 {
        /// First byte behind it; 0 = without end.
        end: u64,
        /// Nobody else may hold one that overlaps it.
        exclusive: bool,
        /// What the owner calls its process.
        pid: u32
    }
    /// A lock that is waited for.
    LockWait = 1 {
        /// First byte.
        start: u64,
        /// First byte behind it; 0 = without end.
        end: u64,
        /// Nobody else may hold one that overlaps it.
        exclusive: bool,
        /// What the owner calls its process.
        pid: u32,
        /// Since when, nanoseconds since 1970: who waits for longer comes first.
        since_ns: i64,
        /// Who has not asked again until then waits no more.
        until_ns: i64
    }
    /// Where an owner waits.
    LockWaitOf = 1 { /// The file.
        inode: u64, /// Which kind of lock.
        kind: u8 }
    /// An open writer.
    Writer = 1 { /// Whose it is.
        session: u64 }
}

/// What [`Inode::flags`] is made of.
pub mod inode_flag;

#[cfg(test)]
mod tests;
