use super::*;

use proptest::prelude::*;
use std::collections::BTreeSet;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

/// The bytes of `key`, after checking that they decode to it.
fn line<K: Key + PartialEq + std::fmt::Debug>(key: &K) -> String {
    let encoded = key.encode();
    assert_eq!(K::decode(&encoded).as_ref(), Some(key));
    assert_eq!(encoded[0], K::TAG);
    assert!(K::all().start <= encoded && encoded < K::all().end);
    hex(&encoded)
}

#[test]
fn bytes_are_pinned() {
    let (inode, writer, seq) = (0x0102_0304_0506_0708, 0x1112_1314_1516_1718, 0x2122_2324);
    let (pg, store, session) = (0x3132_3334, 0x4142_4344, 0x5152_5354_5556_5758);
    let pinned = [
        (line(&Setting { name: bytes("format_version") }), "01666f726d61745f76657273696f6e"),
        (line(&Counter { counter: counter::WRITER }), "0202"),
        (line(&Inode { inode }), "100102030405060708"),
        (line(&DirTimes { inode }), "110102030405060708"),
        (line(&Dentry { parent: inode, name: bytes("a.txt") }), "120102030405060708612e747874"),
        (line(&Extent { inode, generation: 7, offset: 0x10_0000 }), "130102030405060708000000070000000000100000"),
        (line(&Xattr { inode, name: bytes("user.x") }), "140102030405060708757365722e78"),
        (line(&Symlink { inode }), "150102030405060708"),
        (
            line(&History { key: Escaped(Bytes::from_static(&[0x10, 0, 1])), snapshot: 9 }),
            "161000ff0100000000000000000009",
        ),
        (line(&SharedRange { inode, writer, seq }), "170102030405060708111213141516171821222324"),
        (line(&MapDrop { inode, generation: 7 }), "18010203040506070800000007"),
        (line(&Trash { since_ns: 5, inode }), "1900000000000000050102030405060708"),
        (line(&Quota { root: inode }), "1a0102030405060708"),
        (line(&QuotaUsage { root: inode, log: 3 }), "1b010203040506070800000003"),
        (line(&Snapshot { number: 9 }), "1c0000000000000009"),
        (line(&SnapshotName { root: inode, name: bytes("daily") }), "1d01020304050607086461696c79"),
        (line(&SustainedBy { inode, session }), "1e01020304050607085152535455565758"),
        (line(&HeldGarbage { pg, inode, writer, seq }), "1f313233340102030405060708111213141516171821222324"),
        (line(&Pg { pg }), "2031323334"),
        (line(&PgUsage { pg }), "2131323334"),
        (line(&Node { node: 6 }), "2200000006"),
        (line(&Store { store }), "2341424344"),
        (line(&StoreBeat { store }), "2441424344"),
        (
            line(&Degraded { store, pg, inode, writer, seq }),
            "2541424344313233340102030405060708111213141516171821222324",
        ),
        (line(&Garbage { pg, inode, writer, seq }), "26313233340102030405060708111213141516171821222324"),
        (line(&Usage { server: 3 }), "2700000003"),
        (line(&Duty { name: bytes("garbage") }), "2867617262616765"),
        (line(&Task { task: session }), "295152535455565758"),
        (line(&Move { pg, from: store }), "2a3132333441424344"),
        (line(&MetaServer { server: 3 }), "2b00000003"),
        (line(&ServerBeat { server: 3 }), "2c00000003"),
        (line(&ServerPgUsage { server: 3, pg }), "2d0000000331323334"),
        (line(&DutyBeat { name: bytes("all") }), "2e616c6c"),
        (line(&Session { session }), "305152535455565758"),
        (line(&SessionBeat { session }), "315152535455565758"),
        (line(&Slot { session, slot: 63 }), "3251525354555657580000003f"),
        (line(&Writer { writer }), "331112131415161718"),
        (line(&SessionWriter { session, writer }), "3451525354555657581112131415161718"),
        (line(&Sustained { session, inode }), "3551525354555657580102030405060708"),
        (
            line(&Lock { inode, kind: 1, start: 4096, session, owner: 2 }),
            "36010203040506070801000000000000100051525354555657580000000000000002",
        ),
        (line(&ClosedWriters { first: writer }), "371112131415161718"),
        (line(&LockOf { session, owner: 2, inode, kind: 2 }), "3c51525354555657580000000000000002010203040506070802"),
        (line(&LockWait { inode, kind: 2, session, owner: 2 }), "3d01020304050607080251525354555657580000000000000002"),
        (line(&LockWaitOf { session, owner: 2 }), "3e51525354555657580000000000000002"),
        (line(&Feed { log: 3, position: 77 }), "4000000003000000000000004d"),
        (line(&FeedLog { log: 3 }), "4100000003"),
        (line(&FeedMark { log: 3 }), "4200000003"),
        (line(&TrashExpiry { until_ns: 6, since_ns: 5, inode }), "43000000000000000600000000000000050102030405060708"),
        (line(&TreeWalk { purpose: 1, root: 2, dir: inode }), "440100000000000000020102030405060708"),
        (line(&SetAside { key: bytes("\u{10}x") }), "501078"),
    ];
    assert_eq!(pinned.len(), TAGS.len(), "every key has a fixture");
    for (encoded, expected) in pinned {
        assert_eq!(encoded, expected);
    }
}

#[test]
fn tags_are_distinct_and_have_a_successor() {
    let tags: BTreeSet<u8> = TAGS.iter().map(|(tag, _)| *tag).collect();
    assert_eq!(tags.len(), TAGS.len());
    assert!(tags.iter().all(|tag| *tag < 0xff));
}

#[test]
fn a_directory_s_names_are_one_range() {
    let range = dentries_of(7);
    let inside = |parent, name: &'static [u8]| {
        let key = Dentry { parent, name: Bytes::from_static(name) }.encode();
        range.start <= key && key < range.end
    };
    assert!(inside(7, b"a") && inside(7, &[0xff; 255]));
    assert!(!inside(6, &[0xff; 255]) && !inside(8, b"a"));
}

#[test]
fn what_is_no_key_does_not_decode() {
    assert_eq!(Inode::decode(&[]), None);
    assert_eq!(Inode::decode(&[0x10, 1, 2]), None);
    assert_eq!(Inode::decode(&[0x10, 0, 0, 0, 0, 0, 0, 0, 1, 9]), None);
    assert_eq!(Inode::decode(&[0x11, 0, 0, 0, 0, 0, 0, 0, 1]), None);
    assert_eq!(History::decode(&[0x16, 0, 1, 0, 0]), None);
}

proptest! {
    #[test]
    fn extents_sort_by_their_fields(
        a in (any::<u64>(), any::<u32>(), any::<u64>()), b in (any::<u64>(), any::<u32>(), any::<u64>()),
    ) {
        let key = |(inode, generation, offset)| Extent { inode, generation, offset };
        prop_assert_eq!(key(a).cmp(&key(b)), key(a).encode().cmp(&key(b).encode()));
        prop_assert_eq!(Extent::decode(&key(a).encode()), Some(key(a)));
    }

    #[test]
    fn dentries_sort_by_directory_then_name(
        a in (0u64..3, prop::collection::vec(any::<u8>(), 0..5)), b in (0u64..3, prop::collection::vec(any::<u8>(), 0..5)),
    ) {
        let key = |(parent, name): (u64, Vec<u8>)| Dentry { parent, name: name.into() };
        let (a, b) = (key(a), key(b));
        prop_assert_eq!(a.cmp(&b), a.encode().cmp(&b.encode()));
        prop_assert_eq!(Dentry::decode(&a.encode()), Some(a));
    }

    #[test]
    fn escaped_keys_sort_as_they_are(
        a in (prop::collection::vec(0u8..3, 0..6), any::<u64>()), b in (prop::collection::vec(0u8..3, 0..6), any::<u64>()),
    ) {
        let key = |(key, snapshot): (Vec<u8>, u64)| History { key: Escaped(key.into()), snapshot };
        let (a, b) = (key(a), key(b));
        prop_assert_eq!(a.cmp(&b), a.encode().cmp(&b.encode()));
        prop_assert_eq!(History::decode(&a.encode()), Some(a));
    }

    #[test]
    fn no_bytes_make_a_decoder_panic(input in prop::collection::vec(any::<u8>(), 0..40), tag in prop::sample::select(TAGS)) {
        let mut input = input;
        input.insert(0, tag.0);
        if let Some(key) = History::decode(&input) {
            prop_assert_eq!(key.encode(), input.clone());
        }
        if let Some(key) = Lock::decode(&input) {
            prop_assert_eq!(key.encode(), input.clone());
        }
        if let Some(key) = Degraded::decode(&input) {
            prop_assert_eq!(key.encode(), input);
        }
    }
}
