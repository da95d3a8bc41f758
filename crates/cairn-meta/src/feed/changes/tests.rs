use super::*;
use crate::keys::Key;
use crate::rows::Row;

fn inode(nlink: u32) -> rows::Inode {
    // A row of the first version, all of it zero: fields of later ones have their defaults.
    let mut blank = vec![1, Kind::File.to_pb() as u8];
    blank.extend([0; 16]);
    let mut row = rows::Inode::decode(&blank).expect("a row of the first version");
    (row.nlink, row.size, row.version, row.parent) = (nlink, 10, 1, 5);
    row
}

fn row<K: Key>(key: &K, old: Option<&K::Row>, new: Option<&K::Row>) -> RowChange {
    RowChange { key: key.encode(), old: old.map(|row| row.encode().into()), new: new.map(Row::encode) }
}

fn name(parent: u64, name: &'static str) -> keys::Dentry {
    keys::Dentry { parent, name: Bytes::from_static(name.as_bytes()) }
}

fn dentry(inode: u64) -> rows::Dentry {
    rows::Dentry { inode, kind: Kind::File, birth: 0 }
}

fn told(rows: &[RowChange]) -> Vec<Change> {
    derive(rows, &[]).expect("rows decode").changes
}

#[test]
fn a_new_file_is_one_change() {
    let rows = [row(&keys::Inode { inode: 9 }, None, Some(&inode(1))), row(&name(5, "a"), None, Some(&dentry(9)))];
    let created = Change::Created { inode: 9, kind: Kind::File, parent: 5, name: Bytes::from_static(b"a") };
    assert_eq!(told(&rows), [created]);
}

#[test]
fn a_rename_over_a_file_says_what_went_first() {
    let rows = [
        row(&keys::Inode { inode: 8 }, Some(&inode(1)), None),
        row(&keys::Inode { inode: 9 }, Some(&inode(1)), Some(&rows::Inode { ctime_ns: 7, ..inode(1) })),
        row(&name(5, "a"), Some(&dentry(9)), None),
        row(&name(5, "b"), Some(&dentry(8)), Some(&dentry(9))),
    ];
    let removed = Change::Removed { inode: 8, kind: Kind::File, parent: 5, name: Bytes::from_static(b"b") };
    let renamed = Change::Renamed {
        inode: 9,
        kind: Kind::File,
        from_parent: 5,
        from_name: Bytes::from_static(b"a"),
        parent: 5,
        name: Bytes::from_static(b"b"),
    };
    assert_eq!(told(&rows), [removed, renamed], "and the time of the change alone is none");
}

#[test]
fn an_exchange_is_two_renames() {
    let rows = [
        row(&name(5, "a"), Some(&dentry(1)), Some(&dentry(2))),
        row(&name(5, "b"), Some(&dentry(2)), Some(&dentry(1))),
    ];
    let changes = told(&rows);
    assert!(matches!(changes[..], [Change::Renamed { inode: 2, .. }, Change::Renamed { inode: 1, .. }]), "{changes:?}");
}

#[test]
fn content_attributes_and_xattrs_are_told_apart() {
    let what = |new: rows::Inode| match told(&[row(&keys::Inode { inode: 9 }, Some(&inode(1)), Some(&new))])[..] {
        [Change::Changed { what, .. }] => what,
        [] => 0,
        ref other => panic!("{other:?}"),
    };
    assert_eq!(what(rows::Inode { version: 2, mtime_ns: 4, size: 11, ..inode(1) }), 1);
    assert_eq!(what(rows::Inode { mode: 0o600, ..inode(1) }), 2);
    assert_eq!(what(rows::Inode { mtime_ns: 5, ..inode(1) }), 2);
    assert_eq!(what(rows::Inode { version: 2, uid: 4, ..inode(1) }), 3);
    assert_eq!(
        what(rows::Inode { nlink: 2, ctime_ns: 9, quota_root: 3, ..inode(1) }),
        0,
        "names tell it, or nobody needs it"
    );
    let key = keys::Xattr { inode: 9, name: Bytes::from_static(b"user.x") };
    let change = RowChange { key: key.encode(), old: None, new: Some(vec![]) };
    // What it holds does not matter, only a row that decodes does.
    if let Ok(derived) = derive(&[change], &[]) {
        assert!(matches!(derived.changes[..], [Change::Changed { inode: 9, what: 4, .. }]));
    }
    let noted = Change::Changed { inode: 7, kind: Kind::Directory, parent: 1, what: 2, version: 1 };
    assert_eq!(derive(&[], std::slice::from_ref(&noted)).map(|derived| derived.changes), Ok(vec![noted]));
}

#[test]
fn what_has_no_name_is_not_told() {
    let grown = rows::Inode { version: 2, size: 99, ..inode(0) };
    assert_eq!(told(&[row(&keys::Inode { inode: 9 }, Some(&inode(0)), Some(&grown))]), []);
    // It gets its name: created, not changed.
    let rows = [
        row(&keys::Inode { inode: 9 }, Some(&inode(0)), Some(&rows::Inode { version: 2, ..inode(1) })),
        row(&name(5, "a"), None, Some(&dentry(9))),
    ];
    assert!(matches!(told(&rows)[..], [Change::Created { inode: 9, .. }]));
}

#[test]
fn deltas_follow_the_quota_root() {
    let of = |root, size| rows::Inode { quota_root: root, size, ..inode(1) };
    let deltas = |old: Option<rows::Inode>, new: Option<rows::Inode>| {
        let rows = [row(&keys::Inode { inode: 9 }, old.as_ref(), new.as_ref())];
        derive(&rows, &[]).expect("rows decode").deltas
    };
    assert_eq!(deltas(None, Some(of(3, 10))), [Delta { root: 3, bytes: 10, inodes: 1 }]);
    assert_eq!(deltas(Some(of(3, 10)), Some(of(3, 4))), [Delta { root: 3, bytes: -6, inodes: 0 }]);
    assert_eq!(deltas(Some(of(3, 10)), None), [Delta { root: 3, bytes: -10, inodes: -1 }]);
    assert_eq!(
        deltas(Some(of(3, 10)), Some(of(4, 12))),
        [Delta { root: 3, bytes: -10, inodes: -1 }, Delta { root: 4, bytes: 12, inodes: 1 }]
    );
    assert_eq!(deltas(Some(of(0, 10)), Some(of(0, 99))), []);
    assert_eq!(deltas(Some(of(3, 10)), Some(of(3, 10))), []);
}
