use super::*;
use proptest::prelude::*;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn line<R: Row + PartialEq + std::fmt::Debug>(row: &R) -> String {
    let encoded = row.encode();
    assert_eq!(R::decode(&encoded).as_ref(), Ok(row));
    // A version this program does not know, and anything cut short or too long, is refused.
    let mut newer = encoded.clone();
    newer[0] = 0x7f;
    assert!(R::decode(&newer).is_err());
    assert!(R::decode(&encoded[..encoded.len() - 1]).is_err());
    let mut longer = encoded.clone();
    longer.push(0);
    assert!(R::decode(&longer).is_err());
    hex(&encoded)
}

fn inode() -> Inode {
    Inode {
        kind: Kind::File,
        mode: 0o644,
        uid: 1000,
        gid: 100,
        nlink: 1,
        size: 300,
        atime_ns: 1_700_000_000_000_000_000,
        mtime_ns: -1,
        ctime_ns: 0,
        version: 5,
        generation: 2,
        replicas: 3,
        block_len: 4 << 20,
        relaxed: true,
        quota_root: 0,
        parent: 0,
        birth: 0,
        btime_ns: 1,
        rdev: 300,
        flags: inode_flag::ACCESS_ACL,
        xattrs: 2,
        xattr_bytes: 200,
        trash_s: 300,
    }
}

fn run() -> Run {
    Run { inode: 70_000, writer: 4097, seq: 12, skip: 100, block_len: 4 << 20, pgs: vec![3, 300], codec: 0, flags: 0 }
}

/// Every kind of change.
fn feed() -> Feed {
    let (inode, kind, parent, from_parent) = (9, Kind::Directory, 5, 5);
    let (name, other) = (Bytes::from_static(b"a"), Bytes::from_static(b"b"));
    let changes = vec![
        Change::Created { inode, kind, parent, name: name.clone() },
        Change::Removed { inode, kind, parent, name: name.clone() },
        Change::Renamed { inode, kind, from_parent, from_name: name, parent: 6, name: other },
        Change::Changed { inode, kind, parent, what: 3, version: 300 },
    ];
    Feed { time_ns: 2, session: 3, changes, deltas: vec![Delta { root: 9, bytes: -2, inodes: 1 }] }
}

#[test]
fn bytes_are_pinned() {
    let extent = Extent { len: 1 << 30, content: Content::Blocks(run()), birth: 0, born: 300 };
    let small = Extent { len: 2, content: Content::Inline(Bytes::from_static(b"hi")), birth: 1, born: 0 };
    let pg = Pg {
        epoch: 2,
        replicas: 3,
        members: vec![
            Member { store: 1, state: pb::MemberState::Full },
            Member { store: 200, state: pb::MemberState::Joining },
        ],
        sealed: false,
        since: vec![1, 300],
    };
    let node = Node {
        uuid: [1; 16],
        boot_id: [2; 16],
        addr: "h:1".into(),
        zone: "z".into(),
        rack: String::new(),
        host: "h".into(),
        replaced: false,
        registered: 300,
    };
    let beat = StoreBeat {
        capacity_bytes: 1 << 40,
        used_bytes: 1,
        blocks: 2,
        quarantined: 0,
        trouble: "full".into(),
        durable_records: 300,
    };
    let store = Store { uuid: [3; 16], node: 1, replaced_by: 0, draining: true, lost_past: false };
    let task = Task {
        kind: pb::TaskKind::Drain,
        state: pb::TaskState::Waiting,
        reason: "why".into(),
        node: 1,
        store: 2,
        to_node: 3,
        to_store: 4,
        moves_total: 5,
        moves_done: 6,
        bytes_total: 7,
        bytes_done: 8,
        started_ns: 1,
        ended_ns: -1,
    };
    let session = Session { epoch: 1, open: true, name: "me".into(), boot_id: Bytes::from_static(&[9; 2]) };
    let trash = Trash {
        kind: Kind::Directory,
        parent: 5,
        name: Bytes::from_static(b"a"),
        path: Bytes::from_static(b"/a"),
        until_ns: 300,
        session: 3,
        who: "me".into(),
    };
    let cursor = FeedCursor { retired: 1, logs: vec![LogCursor { log: 3, next: 300, done: false }] };
    let snapshot = Snapshot {
        root: 7,
        name: Bytes::from_static(b"a"),
        path: Bytes::from_static(b"/d"),
        taken_ns: 1,
        owner: "me".into(),
        ttl_ms: 128,
        renewed: 3,
        backup: String::new(),
        reach: 0,
    };
    let backup = Snapshot { backup: "b".into(), reach: 300, ..snapshot.clone() };
    let server =
        MetaServer { addr: "h:1".into(), boot: [4; 16], gone: true, software: "c/1".into(), newest: 2, since_ns: 300 };
    let pinned = [
        (line(&Setting { value: Bytes::from_static(&[1, 0, 0, 0]) }), "010401000000"),
        (line(&Counter { next: 4097 }), "018120"),
        (line(&Raw { bytes: Bytes::from_static(b"x") }), "010178"),
        (
            line(&inode()),
            "0301a403e80764 01ac02 8080d0e2c6bfce972f 01 00 05 02 03 80808002 01 00 00 00 02 ac02 01 02 c801 ac02",
        ),
        (line(&Holds { count: 3 }), "0203"),
        (line(&DirTimes { mtime_ns: 1, ctime_ns: -2, birth: 4 }), "02 02 03 04"),
        (line(&Dentry { inode: 70_000, kind: Kind::Directory, birth: 0 }), "01f0a2040200"),
        (line(&extent), "02 8080808004 02 f0a204 8120 0c 64 80808002 02 03 ac02 00 00 00 ac02"),
        (line(&small), "01 02 01 02 6869 01"),
        (line(&Symlink { target: Bytes::from_static(b"../x"), birth: 4 }), "02 04 2e2e2f78 04"),
        (line(&Xattr { value: Bytes::from_static(b"v"), birth: 300 }), "01 01 76 ac02"),
        (line(&History { birth: 300, row: Bytes::from_static(&[1, 2]) }), "01 ac02 02 0102"),
        (line(&snapshot), "01 07 0161 022f64 02 026d65 8001 03"),
        (line(&backup), "02 07 0161 022f64 02 026d65 8001 03 0162 ac02"),
        (line(&SnapshotName { number: 300 }), "01 ac02"),
        (line(&SharedRange { count: 64, placements: 2 }), "01 40 02"),
        (line(&Garbage { count: 64, born: 2, dropped: 300 }), "02 40 02 ac02"),
        (line(&MapDrop { birth: 3 }), "0103"),
        (line(&pg), "02 02 03 02 0101 c80102 00 02 01 ac02"),
        (line(&PgUsage { bytes: 128 }), "018001"),
        (
            line(&node),
            "02 01010101010101010101010101010101 02020202020202020202020202020202 03683a31 017a 00 0168 00 ac02",
        ),
        (line(&store), "02 03030303030303030303030303030303 01 00 01 00"),
        (line(&beat), "02 808080808020 01 02 00 0466756c6c ac02"),
        (line(&task), "01 01 02 03776879 01 02 03 04 05 06 07 08 02 01"),
        (line(&Move { task: 300, to: 2, bytes: 128, begun: true }), "01 ac02 02 8001 01"),
        (line(&RunLen { count: 64 }), "0140"),
        (line(&Usage { inodes: -1, file_bytes: 64 }), "01018001"),
        (line(&session), "01 01 01 026d65 020909"),
        (line(&SessionBeat { beats: 1, server: 3 }), "02 01 03"),
        (
            line(&MetaServer { software: String::new(), newest: 0, since_ns: 0, ..server.clone() }),
            "01 03683a31 04040404040404040404040404040404 01",
        ),
        (line(&server), "02 03683a31 04040404040404040404040404040404 01 03632f31 02 d804"),
        (line(&ServerBeat { beats: 300 }), "01ac02"),
        (line(&Duty { server: 3, epoch: 300 }), "01 03 ac02"),
        (line(&DutyBeat { server: 3, epoch: 300, beats: 1 }), "01 03 ac02 01"),
        (line(&Slot { seq: 2, reply: Bytes::from_static(&[8]) }), "01020108"),
        (line(&Writer { session: 1 }), "0101"),
        (line(&Lock { end: 0, exclusive: true, pid: 300 }), "01 00 01 ac02"),
        (
            line(&LockWait { start: 1, end: 2, exclusive: false, pid: 3, since_ns: 1, until_ns: 2 }),
            "01 01 02 00 03 02 04",
        ),
        (line(&LockWaitOf { inode: 300, kind: 2 }), "01 ac02 02"),
        (
            line(&feed()),
            "01 04 03 04 01 0902 05 0161 02 0902 05 0161 03 0902 05 0161 06 0162 04 0902 05 03 ac02 01 09 03 02",
        ),
        (line(&trash), "01 02 05 01 61 02 2f61 ac02 03 02 6d65"),
        (line(&TreeWalk { after: Bytes::from_static(b"a") }), "01 01 61"),
        (line(&Quota { bytes: 300, inodes: 0, state: quota_state::COUNTING }), "01 ac02 00 02"),
        (line(&QuotaUsage { bytes: -1, inodes: 1 }), "01 01 02"),
        (line(&FeedLog { sealed: true }), "0101"),
        (line(&FeedMark { beat: 1, folded: 300, trimmed: 2 }), "01 01 ac02 02"),
        (line(&cursor), "01 01 01 03 ac02 00"),
    ];
    for (encoded, expected) in pinned {
        assert_eq!(encoded, expected.replace(' ', ""));
    }
    assert_eq!(Unit {}.encode(), [1]);
    assert_eq!(Unit::decode(&[1]), Ok(Unit {}));
    assert!(Unit::decode(&[]).is_err());
}

#[test]
fn rows_of_the_first_version_are_read() {
    let unhex = |text: &str| -> Vec<u8> {
        let text = text.replace(' ', "");
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("hex")).collect()
    };
    let old = unhex("01 03030303030303030303030303030303 01 00");
    let store = Store { uuid: [3; 16], node: 1, replaced_by: 0, draining: false, lost_past: false };
    assert_eq!(Store::decode(&old), Ok(store));
    let pg = Pg::decode(&unhex("01 02 03 02 0101 c80102 00")).expect("a group of the first version");
    assert_eq!((pg.members.len(), pg.since.len()), (2, 0));
    let old = unhex("01 808080808020 01 02 00 0466756c6c");
    let beat = StoreBeat::decode(&old).expect("a beat of the first version");
    assert_eq!((beat.blocks, beat.durable_records), (2, 0));
    let times = DirTimes::decode(&unhex("01 02 03")).expect("times of the first version");
    assert_eq!((times.mtime_ns, times.birth), (1, 0));
    let link = Symlink::decode(&unhex("01 04 2e2e2f78")).expect("a link of the first version");
    assert_eq!((&link.target[..], link.birth), (&b"../x"[..], 0));
    let extent = Extent::decode(&unhex("01 02 01 02 6869 01")).expect("an extent of the first version");
    assert_eq!((extent.len, extent.birth, extent.born), (2, 1, 0));
    let garbage = Garbage::decode(&unhex("01 40")).expect("garbage of the first version");
    assert_eq!(garbage, Garbage { count: 64, born: 0, dropped: 0 });
    let old = unhex("0101a403e80764 01ac02 8080d0e2c6bfce972f 01 00 05 02 03 80808002 01 00 00 00");
    let before = Inode { btime_ns: 0, rdev: 0, flags: 0, xattrs: 0, xattr_bytes: 0, trash_s: 0, ..inode() };
    assert_eq!(Inode::decode(&old), Ok(before));
    assert_eq!(Holds::decode(&[1]), Ok(Holds { count: 0 }));
    assert_eq!(SessionBeat::decode(&unhex("01 05")), Ok(SessionBeat { beats: 5, server: 0 }));
    let old = unhex("01 01010101010101010101010101010101 02020202020202020202020202020202 03683a31 017a 00 0168 00");
    assert_eq!(Node::decode(&old).expect("a node of the first version").registered, 0);
    // The fields of the second version are not taken for rest of the first.
    assert!(StoreBeat::decode(&unhex("01 808080808020 01 02 00 0466756c6c ac02")).is_err());
}

#[test]
fn a_gigabyte_is_some_fifty_bytes() {
    use crate::keys::Key;
    let run = Run { pgs: vec![12], ..run() };
    let row = Extent { len: 1 << 30, content: Content::Blocks(run), birth: 0, born: 0 };
    let key = crate::keys::Extent { inode: 70_000, generation: 0, offset: 1 << 30 };
    let bytes = key.encode().len() + row.encode().len();
    assert!(bytes <= 50, "{bytes} bytes");
}

#[test]
fn a_count_that_lies_allocates_nothing() {
    let mut bytes = vec![1, 2, 3];
    u64::MAX.put(&mut bytes);
    assert!(Pg::decode(&bytes).is_err());
    let mut bytes = vec![1, 1];
    (u64::MAX / 2).put(&mut bytes);
    assert!(Slot::decode(&bytes).is_err());
    // A run without a block length or without groups is no run.
    let broken = Extent { len: 1, content: Content::Blocks(Run { block_len: 0, ..run() }), birth: 0, born: 0 };
    assert!(Extent::decode(&broken.encode()).is_err());
    let broken = Extent { len: 1, content: Content::Blocks(Run { pgs: vec![], ..run() }), birth: 0, born: 0 };
    assert!(Extent::decode(&broken.encode()).is_err());
}

proptest! {
    #[test]
    fn numbers_come_back(unsigned in any::<u64>(), signed in any::<i64>(), narrow in any::<u32>()) {
        let row = Usage { inodes: signed, file_bytes: unsigned as i64 };
        prop_assert_eq!(Usage::decode(&row.encode()), Ok(row));
        let row = Dentry { inode: unsigned, kind: Kind::Symlink, birth: u64::from(narrow) };
        prop_assert_eq!(Dentry::decode(&row.encode()), Ok(row));
    }

    #[test]
    fn no_bytes_make_a_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
        let mut bytes = bytes;
        bytes.insert(0, 1);
        let _ = (Extent::decode(&bytes), Pg::decode(&bytes), Node::decode(&bytes), Session::decode(&bytes));
        let _ = (Inode::decode(&bytes), Slot::decode(&bytes), StoreBeat::decode(&bytes));
    }
}
