use super::*;
use crate::kv::{CommitOutcome, Durability, Engine, MapEngine, Order};
use crate::tx::Sealed;

#[test]
fn every_type_that_snapshots_see_has_a_birth() {
    let name = Bytes::from_static(b"x");
    let seen = [
        (keys::Inode::VERSIONED, keys::Inode { inode: 1 }.encode()),
        (keys::DirTimes::VERSIONED, keys::DirTimes { inode: 1 }.encode()),
        (keys::Dentry::VERSIONED, keys::Dentry { parent: 1, name: name.clone() }.encode()),
        (keys::Extent::VERSIONED, keys::Extent { inode: 1, generation: 0, offset: 0 }.encode()),
        (keys::Xattr::VERSIONED, keys::Xattr { inode: 1, name }.encode()),
        (keys::Symlink::VERSIONED, keys::Symlink { inode: 1 }.encode()),
    ];
    for (versioned, key) in &seen {
        assert!(versioned);
        assert!(birth_of(key, &[]).is_err(), "the row is decoded");
    }
    let tags: Vec<u8> = seen.iter().map(|(_, key)| key[0]).collect();
    for (tag, name) in keys::TAGS {
        assert_eq!(keys::is_versioned(*tag), tags.contains(tag), "{name}");
        assert_eq!(birth_of(&[*tag], &[]) != Ok(None), tags.contains(tag), "{name}");
    }
}

#[test]
fn a_row_is_stamped_with_its_birth() {
    let mut row = rows::Symlink { target: Bytes::from_static(b"t"), birth: 0 };
    row.stamp(7);
    let key = keys::Symlink { inode: 1 }.encode();
    assert_eq!((row.birth(), birth_of(&key, &row.encode())), (7, Ok(Some(7))));
    // One that was written before there were births is older than every snapshot.
    assert_eq!(birth_of(&key, &[1, 1, b't']), Ok(Some(0)));
}

#[test]
fn a_head_that_cannot_be_is_refused() {
    let bytes = |newest: u64, live: u64| [newest.to_le_bytes(), live.to_le_bytes()].concat();
    assert_eq!(Head::decode(&bytes(9, 4)), Some(Head::new(9, 4)));
    assert_eq!(Head::new(9, 4).encode(), bytes(9, 4), "as before there were backups");
    let wide = Head { reach: 10, ..Head::new(9, 4) };
    assert_eq!(Head::decode(&wide.encode()), Some(wide));
    let short = [9u64, 4, 3].map(u64::to_le_bytes).concat();
    assert_eq!(Head::decode(&short), None);
    assert_eq!(Head::decode(&bytes(4, 9)), None);
    assert_eq!((Head::decode(&[]), Head::decode(&[0; 17])), (None, None));
}

/// An engine in which `head` are the newest snapshots.
async fn engine_at(head: Head) -> MapEngine {
    let engine = MapEngine::new();
    let mut txn = engine.begin().await.expect("begun");
    txn.put(Head::key().encode(), rows::Setting { value: head.encode().into() }.encode());
    txn.commit(Durability::Durable).await.expect("committed");
    engine
}

async fn begin(engine: &MapEngine, head: Head) -> Tx {
    Tx::new(engine.begin().await.expect("begun"), 1000, head, engine.limits())
}

async fn end(mut tx: Tx) -> (Sealed, CommitOutcome) {
    let sealed = tx.seal().await.expect("sealed");
    (sealed, tx.inner.commit(Durability::Durable).await.expect("an outcome"))
}

async fn history(engine: &MapEngine) -> Vec<(u8, u64, u64)> {
    let mut tx = begin(engine, Head::default()).await;
    let rows = tx.scan::<keys::History>(&keys::History::all(), 100, Order::Forward).await.expect("read");
    rows.into_iter().map(|(key, row)| (key.key.0[0], key.snapshot, row.birth)).collect()
}

const NEWEST: Head = Head::new(7, 5);
const READY: (Sealed, CommitOutcome) = (Sealed::Ready, CommitOutcome::Done);

#[tokio::test]
async fn what_a_snapshot_sees_is_kept_once() {
    let engine = engine_at(NEWEST).await;
    let key = keys::Xattr { inode: 1, name: Bytes::from_static(b"x") };
    let row = |value: &'static str| rows::Xattr { value: value.into(), birth: 99 };
    let mut txn = engine.begin().await.expect("begun");
    txn.put(key.encode(), rows::Xattr { birth: 4, ..row("of the fourth") }.encode());
    txn.commit(Durability::Durable).await.expect("committed");
    for value in ["new", "newer"] {
        let mut tx = begin(&engine, NEWEST).await;
        let old = tx.get(&key).await.expect("read").expect("there");
        tx.put(&key, &row(value));
        assert_eq!(
            tx.get(&key).await.expect("read").expect("there").birth,
            7,
            "the birth is not the caller's business"
        );
        assert_ne!(old.value, value);
        assert_eq!(end(tx).await, READY);
        assert_eq!(history(&engine).await, [(keys::Xattr::TAG, 7, 4)]);
    }
    // Blindly, and away.
    let mut tx = begin(&engine, NEWEST).await;
    tx.delete(&key);
    assert_eq!(tx.get(&key).await.expect("read"), None);
    assert_eq!(end(tx).await, READY);
    assert_eq!(history(&engine).await.len(), 1, "nobody saw it since");
}

#[tokio::test]
async fn what_no_snapshot_sees_any_more_is_not_kept() {
    for (birth, kept) in [(4, true), (5, false), (6, false), (7, false)] {
        let engine = engine_at(NEWEST).await;
        let key = keys::Symlink { inode: 9 };
        let mut txn = engine.begin().await.expect("begun");
        txn.put(key.encode(), rows::Symlink { target: Bytes::new(), birth }.encode());
        txn.commit(Durability::Durable).await.expect("committed");
        let mut tx = begin(&engine, NEWEST).await;
        tx.delete(&key);
        assert_eq!(end(tx).await, READY);
        assert_eq!(!history(&engine).await.is_empty(), kept, "born at {birth}");
    }
}

#[tokio::test]
async fn changes_of_one_directory_do_not_meet_and_keep_its_times() {
    let engine = engine_at(NEWEST).await;
    let times = rows::DirTimes { mtime_ns: 1, ctime_ns: 1, birth: 0 };
    let mut txn = engine.begin().await.expect("begun");
    txn.put(keys::DirTimes { inode: 5 }.encode(), times.encode());
    txn.commit(Durability::Durable).await.expect("committed");
    let (mut one, mut other) = (begin(&engine, NEWEST).await, begin(&engine, NEWEST).await);
    one.touch_dir(5);
    other.touch_dir(5);
    assert_eq!(end(one).await, READY);
    assert_eq!(end(other).await, READY);
    let mut tx = begin(&engine, NEWEST).await;
    let rows = tx.scan::<keys::History>(&keys::History::all(), 9, Order::Forward).await.expect("read");
    let kept: Vec<_> = rows.iter().map(|(_, row)| rows::DirTimes::decode(&row.row).expect("times")).collect();
    assert_eq!(kept, [times]);
}

#[tokio::test]
async fn a_snapshot_taken_meanwhile_is_noticed() {
    // By another server, before the transaction began: it runs again with what it learns.
    let engine = engine_at(NEWEST).await;
    let mut tx = begin(&engine, Head::new(6, 5)).await;
    tx.touch_dir(5);
    assert_eq!(tx.seal().await.expect("sealed"), Sealed::Moved(NEWEST));
    // While it runs: it conflicts.
    let mut tx = begin(&engine, NEWEST).await;
    tx.touch_dir(5);
    assert_eq!(tx.seal().await.expect("sealed"), Sealed::Ready);
    let mut snapshot = engine.begin().await.expect("begun");
    snapshot.put(Head::key().encode(), rows::Setting { value: Bytes::from_static(&[8; 16]) }.encode());
    assert_eq!(snapshot.commit(Durability::Durable).await.expect("committed"), CommitOutcome::Done);
    assert_eq!(tx.inner.commit(Durability::Durable).await.expect("an outcome"), CommitOutcome::Conflict);
    // What snapshots do not see does not care.
    let mut tx = begin(&engine, NEWEST).await;
    tx.put(&keys::Usage { server: 1 }, &rows::Usage { inodes: 1, file_bytes: 1 });
    assert_eq!(end(tx).await, READY);
}

#[tokio::test]
async fn a_scan_sees_what_was_written_blindly() {
    let engine = engine_at(NEWEST).await;
    let key = |name: &'static str| keys::Dentry { parent: 3, name: name.into() };
    let row = rows::Dentry { inode: 4, kind: rows::Kind::File, birth: 0 };
    let mut tx = begin(&engine, NEWEST).await;
    tx.put(&key("b"), &row);
    tx.put(&key("a"), &row);
    tx.delete(&key("b"));
    let found = tx.scan::<keys::Dentry>(&keys::dentries_of(3), 9, Order::Forward).await.expect("read");
    let names: Vec<_> = found.iter().map(|(key, row)| (&key.name[..], row.birth)).collect();
    assert_eq!(names, [(&b"a"[..], 7)]);
    let many = tx.get_many(&[key("a"), key("b")]).await.expect("read");
    assert!(many[0].is_some() && many[1].is_none());
    assert_eq!(end(tx).await, READY);
    assert_eq!(history(&engine).await, []);
}

#[tokio::test]
async fn who_only_looks_changes_nothing() {
    let engine = engine_at(NEWEST).await;
    let mut tx = begin(&engine, NEWEST).await;
    tx.looks_only();
    tx.touch_dir(1);
    assert!(tx.seal().await.is_err());
}
