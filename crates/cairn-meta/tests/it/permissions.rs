//! Permissions, where a request names its caller.

use crate::support::{Expect, World, at, attr, bytes, code, set_xattr, user};
use cairn_proto::limits::CALLER_GROUPS_MAX;
use cairn_proto::pb;
use cairn_proto::pb::request::Kind;
use cairn_proto::status::{Code, Status};

async fn mkdir(world: &World, path: &str, mode: u32, (uid, gid): (u32, u32)) {
    let attr = Some(pb::NewAttr { mode, uid, gid, ..Default::default() });
    world.change(Kind::Mkdir(pb::Mkdir { at: Some(at(path)), attr })).await.expect("made");
}

async fn file(world: &World, path: &str, mode: u32, (uid, gid): (u32, u32)) -> u64 {
    let attr = Some(pb::NewAttr { mode, uid, gid, ..Default::default() });
    let ask = pb::Create { at: Some(at(path)), attr, exclusive: true, ..Default::default() };
    world.change(Kind::Create(ask)).await.expect("made").into_attr().inode
}

fn create(path: &str) -> Kind {
    Kind::Create(pb::Create { at: Some(at(path)), attr: Some(attr(0o644)), follow: true, ..Default::default() })
}

fn unlink(path: &str) -> Kind {
    Kind::Unlink(pb::Unlink { at: Some(at(path)), ..Default::default() })
}

fn rename(from: &str, to: &str) -> Kind {
    Kind::Rename(pb::Rename { from: Some(at(from)), to: Some(at(to)), ..Default::default() })
}

fn listing(path: &str) -> Kind {
    Kind::ReadDir(pb::ReadDir { at: Some(at(path)), ..Default::default() })
}

fn stat(path: &str) -> Kind {
    Kind::Stat(pb::Stat { at: Some(at(path)), follow: true, ..Default::default() })
}

fn access(path: &str, want: u32) -> Kind {
    Kind::Access(pb::Access { at: Some(at(path)), follow: true, want, ..Default::default() })
}

fn set(path: &str) -> pb::SetAttr {
    pb::SetAttr { at: Some(at(path)), ..Default::default() }
}

fn failed<T>(result: Result<T, Status>) -> Option<Code> {
    result.err().map(|status| status.code)
}

#[tokio::test]
async fn each_directory_on_the_way_is_searched() {
    let world = World::new().await;
    let me = user(10, 10);
    mkdir(&world, "open", 0o711, (0, 0)).await;
    mkdir(&world, "open/shut", 0o700, (0, 0)).await;
    file(&world, "open/f", 0o644, (0, 0)).await;
    file(&world, "open/shut/f", 0o644, (0, 0)).await;
    world.symlink("way", "open/shut/f").await.expect("made");
    for (ask, expected) in [
        (stat("open/f"), None),
        (stat("open/shut"), None),
        (stat("open/shut/f"), Some(Code::Permission)),
        (stat("open/shut/nothing"), Some(Code::Permission)),
        (stat("open/shut/.."), Some(Code::Permission)),
        (stat("way"), Some(Code::Permission)),
        (listing("open"), Some(Code::Permission)),
        (listing(""), None),
        (access("open/f", 4), None),
        (access("open/f", 6), Some(Code::Permission)),
        (access("open/f", 1), Some(Code::Permission)),
        (access("open", 1), None),
        (access("open/f", 8), Some(Code::Invalid)),
    ] {
        let shown = format!("{ask:?}");
        assert_eq!(failed(world.ask_as(&me, ask.clone()).await), expected, "{shown}");
        if expected == Some(Code::Permission) && !matches!(ask, Kind::Access(_)) && !shown.contains("nothing") {
            assert_eq!(failed(world.ask_as(&user(0, 0), ask.clone()).await), None, "{shown}");
            assert_eq!(failed(world.ask(ask).await), None, "a trusted caller: {shown}");
        }
    }
    let many = pb::Credentials { groups: vec![1; CALLER_GROUPS_MAX + 1], ..me };
    assert_eq!(code(world.ask_as(&many, stat("open")).await), Code::Invalid);
}

#[tokio::test]
async fn names_change_where_the_directory_may_be_written() {
    let world = World::new().await;
    let (me, other) = (user(10, 10), user(11, 11));
    mkdir(&world, "mine", 0o755, (10, 10)).await;
    mkdir(&world, "theirs", 0o755, (11, 11)).await;
    world.change_as(&me, create("mine/f")).await.expect("made");
    let found = world.stat("mine/f").await.expect("there");
    assert_eq!((found.uid, found.gid), (10, 10), "whoever makes it owns it, whatever the request says");
    world.create("theirs/f").await.expect("made");
    let mkdir = Kind::Mkdir(pb::Mkdir { at: Some(at("theirs/d")), attr: Some(attr(0o755)) });
    let mknod = |kind: pb::Kind| {
        let ask = pb::Mknod { at: Some(at("theirs/n")), attr: Some(attr(0o644)), kind: kind as i32, rdev: 0 };
        Kind::Mknod(ask)
    };
    let link = Kind::Link(pb::Link { from: Some(at("mine/f")), to: Some(at("theirs/g")), follow: false });
    let symlink = Kind::Symlink(pb::Symlink { at: Some(at("theirs/s")), target: bytes("x"), ..Default::default() });
    let inode = world.alloc_inode().await;
    let publish = pb::Publish { at: Some(at("theirs/p")), inode, attr: Some(attr(0o644)), ..Default::default() };
    for ask in [
        create("theirs/new"),
        mkdir,
        mknod(pb::Kind::Fifo),
        link,
        symlink,
        Kind::Publish(publish),
        unlink("theirs/f"),
        rename("theirs/f", "mine/g"),
        rename("mine/f", "theirs/f"),
        rename("mine/f", "theirs/h"),
    ] {
        let shown = format!("{ask:?}");
        assert_eq!(failed(world.change_as(&me, ask.clone()).await), Some(Code::Permission), "{shown}");
    }
    assert_eq!(code(world.change_as(&me, mknod(pb::Kind::CharDevice)).await), Code::NotPermitted);
    world.change_as(&other, mknod(pb::Kind::Fifo)).await.expect("made");
    world.change_as(&me, rename("mine/f", "mine/g")).await.expect("moved");
    world.change_as(&me, unlink("mine/g")).await.expect("removed");
    // A directory that gets another parent has to be writable itself.
    mkdir_at(&world, "mine/sub", 0o555).await;
    mkdir_at(&world, "mine/to", 0o755).await;
    assert_eq!(code(world.change_as(&me, rename("mine/sub", "mine/to/sub")).await), Code::Permission);
    world.change_as(&me, rename("mine/sub", "mine/sub2")).await.expect("moved within its directory");
}

async fn mkdir_at(world: &World, path: &str, mode: u32) {
    mkdir(world, path, mode, (10, 10)).await;
}

#[tokio::test]
async fn a_sticky_directory_keeps_others_names() {
    let world = World::new().await;
    mkdir(&world, "tmp", 0o1777, (0, 0)).await;
    file(&world, "tmp/a", 0o666, (10, 10)).await;
    file(&world, "tmp/b", 0o666, (11, 11)).await;
    let me = user(10, 10);
    assert_eq!(code(world.change_as(&me, unlink("tmp/b")).await), Code::NotPermitted);
    assert_eq!(code(world.change_as(&me, rename("tmp/b", "tmp/c")).await), Code::NotPermitted);
    assert_eq!(code(world.change_as(&me, rename("tmp/a", "tmp/b")).await), Code::NotPermitted);
    world.change_as(&me, rename("tmp/a", "tmp/c")).await.expect("one's own");
    world.change_as(&me, unlink("tmp/c")).await.expect("one's own");
    world.change_as(&user(0, 0), unlink("tmp/b")).await.expect("user 0");
}

#[tokio::test]
async fn attributes_change_by_the_owner_s_rules() {
    let world = World::new().await;
    file(&world, "f", 0o6775, (10, 20)).await;
    let (owner, writer, reader) = (user(10, 10), user(11, 20), user(12, 12));
    for (caller, ask, expected) in [
        (&writer, pb::SetAttr { mode: Some(0o777), ..set("f") }, Some(Code::NotPermitted)),
        (&writer, pb::SetAttr { mtime_ns: Some(1), ..set("f") }, Some(Code::NotPermitted)),
        (&writer, pb::SetAttr { mtime_now: true, atime_now: true, ..set("f") }, None),
        (&reader, pb::SetAttr { mtime_now: true, ..set("f") }, Some(Code::Permission)),
        (&owner, pb::SetAttr { mtime_ns: Some(1), atime_ns: Some(2), ..set("f") }, None),
        (&reader, pb::SetAttr { size: Some(0), ..set("f") }, Some(Code::Permission)),
        (&owner, pb::SetAttr { uid: Some(11), ..set("f") }, Some(Code::NotPermitted)),
        (&owner, pb::SetAttr { gid: Some(21), ..set("f") }, Some(Code::NotPermitted)),
    ] {
        let shown = format!("{caller:?} {ask:?}");
        assert_eq!(failed(world.change_as(caller, Kind::SetAttr(ask)).await), expected, "{shown}");
    }
    let found = world.stat("f").await.expect("there");
    assert_eq!((found.mtime_ns, found.atime_ns, found.mode), (1, 2, 0o6775));
    // The owner is in neither the file's group nor the new one's bit.
    let change = pb::SetAttr { mode: Some(0o2755), ..set("f") };
    let after = world.change_as(&owner, Kind::SetAttr(change)).await.expect("changed").into_attr();
    assert_eq!(after.mode, 0o755);
    // Who changes hands lends no rights, unless that is asked for along with it.
    for (mode, expected) in [(None, 0o755), (Some(0o6755), 0o6755)] {
        world.change(Kind::SetAttr(pb::SetAttr { mode: Some(0o6755), ..set("f") })).await.expect("changed");
        let change = pb::SetAttr { uid: Some(10), gid: Some(20), mode, ..set("f") };
        assert_eq!(world.change(Kind::SetAttr(change)).await.expect("changed").into_attr().mode, expected);
    }
    // Nor does what somebody else than user 0 writes.
    let inode = world.stat("f").await.expect("there").inode;
    let write = || {
        let inline = Some(pb::InlineWrite { offset: 0, data: bytes("x") });
        Kind::Commit(pb::Commit { inode, inline, ..Default::default() })
    };
    world.change(write()).await.expect("written");
    world.change_as(&user(0, 0), write()).await.expect("written");
    assert_eq!(world.stat("f").await.expect("there").mode, 0o6755);
    world.change_as(&writer, write()).await.expect("written");
    assert_eq!(world.stat("f").await.expect("there").mode, 0o755);
}

#[tokio::test]
async fn one_request_sets_size_mode_and_times() {
    let world = World::new().await;
    let inode = file(&world, "f", 0o600, (0, 0)).await;
    world.mkdir("d").await.expect("made");
    world.inline(inode, 0, b"0123456789").await.expect("written");
    let ask = pb::SetAttr { size: Some(4), mode: Some(0o640), mtime_ns: Some(-5), atime_now: true, ..set("f") };
    let after = world.change(Kind::SetAttr(ask)).await.expect("changed").into_attr();
    assert_eq!((after.size, after.mode, after.mtime_ns, after.atime_ns), (4, 0o640, -5, after.ctime_ns));
    assert_eq!(world.extents(inode, 0, 10).await.extents[0].inline, bytes("0123"));
    let size = |path: &str| Kind::SetAttr(pb::SetAttr { size: Some(1), ..set(path) });
    assert_eq!(code(world.change(size("d")).await), Code::IsADirectory);
    world.symlink("s", "f").await.expect("made");
    assert_eq!(code(world.change(size("s")).await), Code::Invalid);
    // Nothing asked, nothing changed.
    world.clock.advance(std::time::Duration::from_secs(1));
    assert_eq!(world.change(Kind::SetAttr(set("f"))).await.expect("unchanged").into_attr(), after);
}

#[tokio::test]
async fn groups_are_handed_down_and_acls_let_in() {
    let world = World::new().await;
    mkdir(&world, "team", 0o2775, (0, 50)).await;
    let member = pb::Credentials { uid: 10, gid: 10, groups: vec![50] };
    world.change_as(&member, create("team/f")).await.expect("made");
    let made = Kind::Mkdir(pb::Mkdir { at: Some(at("team/sub")), attr: Some(attr(0o755)) });
    let sub = world.change_as(&member, made).await.expect("made").into_attr();
    assert_eq!((sub.uid, sub.gid, sub.mode), (10, 50, 0o2755));
    assert_eq!(world.stat("team/f").await.expect("there").gid, 50);
    // An ACL lets one more in, to the directory and to a file in it.
    let guest = user(77, 77);
    mkdir(&world, "private", 0o700, (10, 10)).await;
    file(&world, "private/f", 0o600, (10, 10)).await;
    assert_eq!(code(world.ask_as(&guest, access("private/f", 4)).await), Code::Permission);
    let mut list = 2u32.to_le_bytes().to_vec();
    for (tag, perm, id) in
        [(1u16, 7u16, u32::MAX), (2, 5, 77), (4, 0, u32::MAX), (0x10, 7, u32::MAX), (0x20, 0, u32::MAX)]
    {
        list.extend_from_slice(&tag.to_le_bytes());
        list.extend_from_slice(&perm.to_le_bytes());
        list.extend_from_slice(&id.to_le_bytes());
    }
    for path in ["private", "private/f"] {
        world.change(set_xattr(path, "system.posix_acl_access", &list)).await.expect("set");
    }
    world.ask_as(&guest, access("private/f", 4)).await.expect("let in");
    world.ask_as(&guest, listing("private")).await.expect("let in");
    assert_eq!(code(world.ask_as(&guest, access("private/f", 2)).await), Code::Permission);
    assert_eq!(code(world.change_as(&guest, unlink("private/f")).await), Code::Permission);
    assert_eq!(code(world.ask_as(&user(78, 78), access("private/f", 4)).await), Code::Permission);
    // chmod takes the mask away, and with it what the ACL gave.
    world.change(Kind::SetAttr(pb::SetAttr { mode: Some(0o700), ..set("private") })).await.expect("changed");
    assert_eq!(code(world.ask_as(&guest, access("private/f", 4)).await), Code::Permission);
}

#[tokio::test]
async fn room_is_told_by_replicas() {
    let world = World::with_groups().await;
    world.create("f").await.expect("made");
    let ask = Kind::StatFs(pb::StatFs { at: Some(at("")) });
    let Ok(cairn_proto::pb::response::Kind::StatFs(room)) = world.ask(ask).await else { panic!("no answer") };
    assert_eq!((room.total_bytes, room.free_bytes, room.replicas), (1 << 40, 1 << 40, 3));
    assert_eq!((room.inodes, room.file_bytes, room.name_len_max), (2, 0, 255));
    let ask = Kind::StatFs(pb::StatFs { at: Some(at("nowhere")) });
    assert_eq!(code(world.ask(ask).await), Code::NotFound);
}
