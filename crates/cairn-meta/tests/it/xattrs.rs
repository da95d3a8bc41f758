//! Extended attributes and the ACLs among them.

use crate::support::{Expect, World, at, attr, bytes, code, set_xattr, user};
use bytes::Bytes;
use cairn_proto::limits::{XATTR_NAME_LEN_MAX, XATTR_VALUE_LEN_MAX};
use cairn_proto::pb;
use cairn_proto::pb::request::Kind;
use cairn_proto::pb::response::Kind as Reply;
use cairn_proto::status::{Code, Status};
use std::time::Duration;

const ACCESS: &str = "system.posix_acl_access";
const DEFAULT: &str = "system.posix_acl_default";

async fn names(world: &World, path: &str, caller: Option<pb::Credentials>) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    loop {
        let after = names.last().map(|name| bytes(name)).unwrap_or_default();
        let ask = pb::ListXattrs { at: Some(at(path)), follow: false, after };
        let request = pb::Request { kind: Some(Kind::ListXattrs(ask)), caller: caller.clone(), ..Default::default() };
        let Ok(Reply::ListXattrs(page)) = world.meta.execute(&request).await else { panic!("no page") };
        names.extend(page.names.iter().map(|name| String::from_utf8_lossy(name).into_owned()));
        if page.end {
            return names;
        }
        assert!(!page.names.is_empty());
    }
}

async fn remove(world: &World, path: &str, name: &str) -> Result<pb::Attr, Status> {
    let ask = pb::RemoveXattr { at: Some(at(path)), follow: false, name: bytes(name) };
    world.change(Kind::RemoveXattr(ask)).await.map(Expect::into_attr)
}

/// The kernel's form of entries (tag, permissions, id).
fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut out = 2u32.to_le_bytes().to_vec();
    for (tag, perm, id) in entries {
        out.extend_from_slice(&tag.to_le_bytes());
        out.extend_from_slice(&perm.to_le_bytes());
        out.extend_from_slice(&id.to_le_bytes());
    }
    out
}

const NONE: u32 = u32::MAX;

#[tokio::test]
async fn attributes_are_set_read_listed_and_removed() {
    let world = World::new().await;
    let made = world.create("f").await.expect("made");
    world.mkdir("d").await.expect("made");
    world.clock.advance(Duration::from_secs(1));
    assert_eq!(code(world.xattr("f", "user.a").await), Code::NoAttribute);
    let set = world.set_xattr("f", "user.a", b"1").await.expect("set");
    assert!(set.ctime_ns > made.ctime_ns && set.mtime_ns == made.mtime_ns && set.version == made.version);
    assert!(set.has_xattrs && !set.has_acl && !made.has_xattrs);
    world.set_xattr("f", "user.a", b"two").await.expect("set anew");
    world.set_xattr("f", "trusted.t", b"").await.expect("set");
    world.set_xattr("d", "security.selinux", b"label").await.expect("set");
    assert_eq!(world.xattr("f", "user.a").await.expect("there"), bytes("two"));
    assert_eq!(world.xattr("f", "trusted.t").await.expect("there"), Bytes::new());
    assert_eq!(names(&world, "f", None).await, ["trusted.t", "user.a"]);
    assert_eq!(names(&world, "f", Some(user(5, 5))).await, ["user.a"]);
    assert_eq!(names(&world, "d", None).await, ["security.selinux"]);
    let with = |create, replace, name: &str| {
        let name = bytes(name);
        Kind::SetXattr(pb::SetXattr { at: Some(at("f")), name, create, replace, ..Default::default() })
    };
    assert_eq!(code(world.change(with(true, false, "user.a")).await), Code::Exists);
    assert_eq!(code(world.change(with(false, true, "user.b")).await), Code::NoAttribute);
    assert_eq!(code(world.change(with(true, true, "user.b")).await), Code::Invalid);
    world.change(with(true, false, "user.b")).await.expect("new");
    world.change(with(false, true, "user.b")).await.expect("old");
    assert!(remove(&world, "f", "user.a").await.expect("removed").has_xattrs);
    assert_eq!(code(remove(&world, "f", "user.a").await), Code::NoAttribute);
    remove(&world, "f", "user.b").await.expect("removed");
    assert!(!remove(&world, "f", "trusted.t").await.expect("removed").has_xattrs);
    // Through a rename they stay with the inode.
    world.rename("d", "e").await.expect("moved");
    assert_eq!(world.xattr("e", "security.selinux").await.expect("there"), bytes("label"));
    assert_eq!(world.broken_rules().await, Vec::<String>::new());
}

#[tokio::test]
async fn names_and_sizes_are_bounded() {
    let world = World::new().await;
    world.create("f").await.expect("made");
    world.symlink("s", "f").await.expect("made");
    for (name, expected) in [
        ("user.", Code::Invalid),
        ("user.\0", Code::Invalid),
        ("system.other", Code::Unsupported),
        ("plain", Code::Unsupported),
        ("", Code::Unsupported),
    ] {
        assert_eq!(code(world.set_xattr("f", name, b"").await), expected, "{name:?}");
        assert_eq!(code(world.xattr("f", name).await), expected, "{name:?}");
    }
    assert_eq!(code(world.set_xattr("s", "user.a", b"").await), Code::NotPermitted, "a symbolic link");
    world.set_xattr("s", "trusted.a", b"").await.expect("set");
    let long = format!("user.{:x<1$}", "", XATTR_NAME_LEN_MAX - 5);
    world.set_xattr("f", &long, b"").await.expect("set");
    assert_eq!(code(world.set_xattr("f", &format!("{long}x"), b"").await), Code::NameTooLong);
    let large = vec![7; XATTR_VALUE_LEN_MAX];
    world.set_xattr("f", "user.large", &large).await.expect("set");
    assert_eq!(world.xattr("f", "user.large").await.expect("there"), large);
    assert_eq!(code(world.set_xattr("f", "user.larger", &vec![7; XATTR_VALUE_LEN_MAX + 1]).await), Code::TooLarge);
    assert_eq!(code(world.set_xattr("f", "user.second", &large).await), Code::AttributesFull);
    // What takes the place of something counts without it.
    world.set_xattr("f", "user.large", &large).await.expect("set anew");
    assert_eq!(world.broken_rules().await, Vec::<String>::new());
}

#[tokio::test]
async fn many_attributes_are_listed_by_pages_and_dropped_in_steps() {
    const COUNT: usize = 500;
    let world = World::new().await;
    let file = world.create("f").await.expect("made").inode;
    let mut expected = Vec::new();
    for index in 0..COUNT {
        let name = format!("user.{index:04}");
        world.set_xattr("f", &name, b"v").await.expect("set");
        expected.push(name);
    }
    assert_eq!(names(&world, "f", None).await, expected);
    world.rename("f", "g").await.expect("moved");
    world.unlink("g").await.expect("removed");
    assert_eq!(code(world.stat_inode(file).await), Code::NotFound);
    assert_eq!(world.broken_rules().await, Vec::<String>::new(), "what is left is about to be dropped");
    let mut steps = 0;
    while world.meta.drop_maps().await.expect("dropped") {
        steps += 1;
    }
    assert!(steps >= COUNT / 64, "{steps} steps");
    assert_eq!(world.broken_rules().await, Vec::<String>::new());
    // And one with few loses them at once.
    world.create("f").await.expect("made");
    world.set_xattr("f", "user.a", b"").await.expect("set");
    world.unlink("f").await.expect("removed");
    assert!(!world.meta.drop_maps().await.expect("nothing to drop"));
}

#[tokio::test]
async fn an_access_acl_and_the_mode_say_the_same() {
    let world = World::new().await;
    world.create("f").await.expect("made");
    let list = acl(&[(1, 6, NONE), (2, 7, 1234), (4, 4, NONE), (0x10, 6, NONE), (0x20, 0, NONE)]);
    let set = world.set_xattr("f", ACCESS, &list).await.expect("set");
    assert_eq!((set.mode, set.has_acl), (0o660, true));
    assert_eq!(world.xattr("f", ACCESS).await.expect("there"), list);
    let chmod = pb::SetAttr { at: Some(at("f")), mode: Some(0o4741), ..Default::default() };
    let set = world.change(Kind::SetAttr(chmod)).await.expect("changed").into_attr();
    assert_eq!(set.mode, 0o4741);
    let list = acl(&[(1, 7, NONE), (2, 7, 1234), (4, 4, NONE), (0x10, 4, NONE), (0x20, 1, NONE)]);
    assert_eq!(world.xattr("f", ACCESS).await.expect("there"), list);
    // One that says no more than a mode is kept as the mode; removing it leaves the mode.
    let plain = acl(&[(1, 6, NONE), (4, 5, NONE), (0x20, 0, NONE)]);
    let set = world.set_xattr("f", ACCESS, &plain).await.expect("set");
    assert_eq!((set.mode, set.has_acl, set.has_xattrs), (0o4650, false, false));
    assert_eq!(code(world.xattr("f", ACCESS).await), Code::NoAttribute);
    world.set_xattr("f", ACCESS, &list).await.expect("set");
    let removed = remove(&world, "f", ACCESS).await.expect("removed");
    assert_eq!((removed.mode, removed.has_acl), (0o4741, false));
    assert_eq!(code(world.set_xattr("f", ACCESS, b"nonsense").await), Code::Invalid);
    assert_eq!(code(world.set_xattr("f", DEFAULT, &plain).await), Code::Permission, "no directory");
    world.symlink("s", "f").await.expect("made");
    assert_eq!(code(world.set_xattr("s", ACCESS, &plain).await), Code::Unsupported);
    assert_eq!(world.broken_rules().await, Vec::<String>::new());
}

#[tokio::test]
async fn a_default_acl_is_handed_down_and_replaces_the_umask() {
    let world = World::new().await;
    world.mkdir("d").await.expect("made");
    let made = |path: &str, mode| pb::Create {
        at: Some(at(path)),
        attr: Some(pb::NewAttr { umask: 0o027, ..attr(mode) }),
        ..Default::default()
    };
    let plain = world.change(Kind::Create(made("d/plain", 0o666))).await.expect("made").into_attr();
    assert_eq!((plain.mode, plain.has_acl), (0o640, false));
    let list = acl(&[(1, 7, NONE), (2, 6, 1234), (4, 5, NONE), (0x10, 7, NONE), (0x20, 5, NONE)]);
    let set = world.set_xattr("d", DEFAULT, &list).await.expect("set");
    assert_eq!((set.mode, set.has_acl), (0o755, true), "the directory's own rights do not change");
    let file = world.change(Kind::Create(made("d/f", 0o666))).await.expect("made").into_attr();
    assert_eq!((file.mode, file.has_acl), (0o664, true));
    let inherited = acl(&[(1, 6, NONE), (2, 6, 1234), (4, 5, NONE), (0x10, 6, NONE), (0x20, 4, NONE)]);
    assert_eq!(world.xattr("d/f", ACCESS).await.expect("there"), inherited);
    assert_eq!(code(world.xattr("d/f", DEFAULT).await), Code::NoAttribute);
    world.mkdir("d/sub").await.expect("made");
    assert_eq!(world.xattr("d/sub", DEFAULT).await.expect("there"), list);
    assert_eq!(world.stat("d/sub").await.expect("there").mode, 0o755);
    let fifo = pb::Mknod { at: Some(at("d/sub/p")), attr: Some(attr(0o622)), kind: pb::Kind::Fifo as i32, rdev: 0 };
    assert_eq!(world.change(Kind::Mknod(fifo)).await.expect("made").into_attr().mode, 0o620);
    assert!(!world.symlink("d/s", "f").await.expect("made").has_xattrs);
    // Files that are published inherit, too.
    let inode = world.alloc_inode().await;
    let publish = pb::Publish { at: Some(at("d/p")), inode, attr: Some(attr(0o600)), ..Default::default() };
    let published = world.change(Kind::Publish(publish)).await.expect("published").into_attr();
    assert_eq!((published.mode, published.has_acl), (0o600, true));
    assert_eq!(world.broken_rules().await, Vec::<String>::new());
    remove(&world, "d", DEFAULT).await.expect("removed");
    assert!(!world.change(Kind::Create(made("d/g", 0o666))).await.expect("made").into_attr().has_acl);
}

#[tokio::test]
async fn each_namespace_has_its_rules() {
    let world = World::new().await;
    world.change(crate::support::create("f")).await.expect("made");
    let (owner, other, root) = (user(1000, 100), user(5, 5), user(0, 0));
    let list = acl(&[(1, 6, NONE), (4, 6, NONE), (0x20, 4, NONE)]);
    for (caller, name, value, expected) in [
        (&owner, "user.a", &b"1"[..], None),
        (&other, "user.a", b"2", Some(Code::Permission)),
        (&owner, "trusted.a", b"3", Some(Code::NotPermitted)),
        (&root, "trusted.a", b"4", None),
        (&owner, "security.a", b"5", Some(Code::NotPermitted)),
        (&root, "security.a", b"6", None),
        (&other, ACCESS, &list, Some(Code::NotPermitted)),
        (&owner, ACCESS, &list, None),
    ] {
        let result = world.change_as(caller, set_xattr("f", name, value)).await;
        assert_eq!(result.err().map(|status| status.code), expected, "{caller:?} {name}");
    }
    let get = |name: &str| Kind::GetXattr(pb::GetXattr { at: Some(at("f")), follow: false, name: bytes(name) });
    assert!(world.ask_as(&other, get("user.a")).await.is_ok(), "others may read the file");
    assert!(world.ask_as(&other, get("security.a")).await.is_ok());
    assert_eq!(code(world.ask_as(&other, get("trusted.a")).await), Code::NoAttribute);
    let chmod = pb::SetAttr { at: Some(at("f")), mode: Some(0o600), ..Default::default() };
    world.change_as(&owner, Kind::SetAttr(chmod)).await.expect("changed");
    assert_eq!(code(world.ask_as(&other, get("user.a")).await), Code::Permission);
}
