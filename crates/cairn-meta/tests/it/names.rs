//! Names and attributes: what POSIX expects, case by case.

use crate::support::{Expect, World, at, attr, bytes, code, create, mkdir};
use bytes::Bytes;
use cairn_proto::limits::NAME_LEN_MAX;
use cairn_proto::pb;
use cairn_proto::pb::request::Kind;
use cairn_proto::pb::response::Kind as Reply;
use cairn_proto::status::Code;
use std::time::Duration;

#[tokio::test]
async fn the_root_is_there_and_stays() {
    let world = World::new().await;
    let root = world.stat("").await.expect("root");
    assert_eq!((root.inode, root.kind(), root.mode), (1, pb::Kind::Directory, 0o755));
    assert_eq!(root.policy.expect("policy").replicas, 3);
    assert_eq!(world.stat("/../..").await.expect("root").inode, 1);
    assert_eq!(code(world.rmdir("/").await), Code::Invalid);
    assert_eq!(code(world.mkdir("/").await), Code::Exists);
    assert_eq!(code(world.rename("/", "/a").await), Code::Invalid);
}

#[tokio::test]
async fn made_things_are_found_listed_and_removed() {
    let world = World::new().await;
    let dir = world.mkdir("d").await.expect("made");
    assert_eq!((dir.kind(), dir.mode, dir.uid, dir.gid, dir.nlink), (pb::Kind::Directory, 0o755, 1000, 100, 1));
    let file = world.create("d/f").await.expect("made");
    assert_eq!((file.kind(), file.size, file.nlink, file.version), (pb::Kind::File, 0, 1, 1));
    assert_eq!(world.create("/d//./f").await.expect("opened").inode, file.inode);
    let link = world.symlink("d/l", "f").await.expect("made");
    assert_eq!((link.kind(), link.size, link.target.clone()), (pb::Kind::Symlink, 1, bytes("f")));
    assert_eq!(world.stat("d/l").await, Ok(link));
    assert_eq!(world.list("d").await.expect("listed"), ["f", "l"]);
    assert_eq!(code(world.mkdir("d/f").await), Code::Exists);
    assert_eq!(code(world.rmdir("d").await), Code::NotEmpty);
    assert_eq!(code(world.unlink("d").await), Code::IsADirectory);
    assert_eq!(code(world.rmdir("d/f").await), Code::NotADirectory);
    assert_eq!(code(world.stat("d/f/x").await), Code::NotADirectory);
    assert_eq!(code(world.stat("d/f/..").await), Code::NotADirectory);
    assert_eq!(code(world.create("x/y").await), Code::NotFound);
    world.unlink("d/f").await.expect("removed");
    world.unlink("d/l").await.expect("removed");
    assert_eq!(code(world.stat("d/f").await), Code::NotFound);
    assert_eq!(code(world.stat_inode(file.inode).await), Code::NotFound);
    world.rmdir("d").await.expect("removed");
    assert_eq!(code(world.list("d").await), Code::NotFound);
    // A directory that is gone takes no names, also by its number.
    let ask = pb::Mkdir { at: Some(pb::At { dir: dir.inode, path: bytes("x") }), attr: None };
    assert_eq!(code(world.change(Kind::Mkdir(ask)).await), Code::NotFound);
}

#[tokio::test]
async fn names_have_limits_but_are_bytes() {
    let world = World::new().await;
    let long = "n".repeat(NAME_LEN_MAX);
    world.create(&long).await.expect("the longest name");
    assert_eq!(code(world.create(&format!("{long}n")).await), Code::NameTooLong);
    assert_eq!(code(world.create("a\0b").await), Code::Invalid);
    assert_eq!(code(world.stat(&"a/".repeat(2100)).await), Code::NameTooLong);
    let path = Bytes::from_static(&[0xff, 0xfe, b'\n']);
    let ask = pb::Create { at: Some(pb::At { dir: 1, path: path.clone() }), attr: None, ..Default::default() };
    world.change(Kind::Create(ask)).await.expect("any byte but zero and slash");
    let ask = pb::ReadDir { at: Some(at("")), ..Default::default() };
    let Ok(Reply::ReadDir(page)) = world.ask(Kind::ReadDir(ask)).await else { panic!("no listing") };
    assert_eq!(page.entries.last().expect("entries").name, path);
}

#[tokio::test]
async fn symbolic_links_are_followed_but_not_forever() {
    let world = World::new().await;
    world.mkdir("a").await.expect("made");
    world.mkdir("a/b").await.expect("made");
    let file = world.create("a/b/f").await.expect("made");
    world.symlink("rel", "a/b").await.expect("made");
    world.symlink("a/abs", "/a/b/../b").await.expect("made");
    world.symlink("to-rel", "rel/f").await.expect("made");
    world.symlink("root", "/").await.expect("made");
    for path in ["rel/f", "a/abs/f", "root/rel/f", "root/root/a/b/f"] {
        assert_eq!(world.stat(path).await.expect(path).inode, file.inode, "{path}");
    }
    let follow = |path| Kind::Stat(pb::Stat { at: Some(at(path)), follow: true, ..Default::default() });
    assert_eq!(world.ask(follow("to-rel")).await.expect("followed").into_attr().inode, file.inode);
    assert_eq!(world.ask(follow("root")).await.expect("followed").into_attr().inode, 1);
    assert_eq!(world.create("to-rel").await.expect("opened through the link").inode, file.inode);
    world.symlink("x", "y").await.expect("made");
    world.symlink("y", "x").await.expect("made");
    assert_eq!(code(world.ask(follow("x")).await), Code::TooManySymlinks);
    assert_eq!(code(world.stat("x/f").await), Code::TooManySymlinks);
    world.symlink("dangling", "nowhere").await.expect("made");
    assert_eq!(code(world.create("dangling").await), Code::NotFound);
    let ask = pb::Create { at: Some(at("to-rel")), attr: None, exclusive: false, follow: false, ..Default::default() };
    assert_eq!(code(world.change(Kind::Create(ask)).await), Code::TooManySymlinks);
    let ask = pb::Create { at: Some(at("dangling")), attr: None, exclusive: true, follow: true, ..Default::default() };
    assert_eq!(code(world.change(Kind::Create(ask)).await), Code::Exists);
}

#[tokio::test]
async fn create_opens_or_makes() {
    let world = World::new().await;
    let exclusive = |path| {
        let ask = pb::Create {
            at: Some(at(path)),
            attr: Some(attr(0o600)),
            exclusive: true,
            follow: true,
            ..Default::default()
        };
        Kind::Create(ask)
    };
    let made = world.change(exclusive("f")).await.expect("made").into_attr();
    assert_eq!(made.mode, 0o600);
    assert_eq!(code(world.change(exclusive("f")).await), Code::Exists);
    assert_eq!(world.create("f").await.expect("opened").mode, 0o600);
    world.mkdir("d").await.expect("made");
    assert_eq!(code(world.create("d").await), Code::IsADirectory);
    assert_eq!(code(world.create("").await), Code::IsADirectory);
}

#[tokio::test]
async fn rename_moves_and_replaces() {
    let world = World::new().await;
    for dir in ["a", "a/sub", "b", "empty", "full", "full/x"] {
        world.mkdir(dir).await.expect(dir);
    }
    let one = world.create("a/1").await.expect("made").inode;
    let two = world.create("b/2").await.expect("made").inode;
    world.rename("a/1", "b/2").await.expect("a file over a file");
    assert_eq!(world.stat("b/2").await.expect("there").inode, one);
    assert_eq!(code(world.stat_inode(two).await), Code::NotFound);
    assert_eq!(code(world.stat("a/1").await), Code::NotFound);
    world.rename("b/2", "b/2").await.expect("onto itself");
    assert_eq!(code(world.rename("b/2", "empty").await), Code::IsADirectory);
    assert_eq!(code(world.rename("empty", "b/2").await), Code::NotADirectory);
    assert_eq!(code(world.rename("empty", "full").await), Code::NotEmpty);
    assert_eq!(code(world.rename("a", "a/sub/deep").await), Code::Invalid);
    assert_eq!(code(world.rename("a", "a/sub").await), Code::Invalid);
    assert_eq!(code(world.rename("a/sub", "a").await), Code::NotEmpty);
    assert_eq!(code(world.rename("none", "x").await), Code::NotFound);
    assert_eq!(code(world.rename("a", "none/x").await), Code::NotFound);
    world.rename("full", "empty").await.expect("a directory over an empty one");
    assert_eq!(world.list("empty").await.expect("listed"), ["x"]);
    world.rename("empty/x", "b/moved").await.expect("moved");
    assert_eq!(world.stat("b/moved/..").await.expect("up").inode, world.stat("b").await.expect("b").inode);
    let ask = pb::Rename { from: Some(at("b/2")), to: Some(at("a/1")), no_replace: true, ..Default::default() };
    world.change(Kind::Rename(ask.clone())).await.expect("the place was free");
    world.create("b/2").await.expect("made");
    assert_eq!(code(world.change(Kind::Rename(ask)).await), Code::Exists);
    assert_eq!(world.stat("a/1").await.expect("untouched").inode, one);
}

#[tokio::test]
async fn attributes_change_as_asked() {
    let world = World::new().await;
    world.create("f").await.expect("made");
    let before = world.stat("f").await.expect("there");
    world.clock.advance(Duration::from_secs(5));
    let ask = pb::SetAttr {
        at: Some(at("f")),
        mode: Some(0o100_640),
        uid: Some(7),
        mtime_ns: Some(-5),
        ..Default::default()
    };
    let after = world.change(Kind::SetAttr(ask)).await.expect("changed").into_attr();
    assert_eq!((after.mode, after.uid, after.gid, after.mtime_ns), (0o640, 7, before.gid, -5));
    assert_eq!(after.atime_ns, before.atime_ns);
    assert_eq!(after.ctime_ns, before.ctime_ns + 5_000_000_000);
    assert_eq!(after.version, before.version, "content did not change");
    assert_eq!(world.stat("f").await, Ok(after));
}

#[tokio::test]
async fn directory_times_follow_their_names() {
    let world = World::new().await;
    let made = world.mkdir("d").await.expect("made");
    world.clock.advance(Duration::from_secs(1));
    world.create("d/f").await.expect("made");
    let touched = world.stat("d").await.expect("there");
    assert_eq!(touched.mtime_ns, made.mtime_ns + 1_000_000_000);
    let ask = pb::SetAttr { at: Some(at("d")), mtime_ns: Some(42), ..Default::default() };
    world.change(Kind::SetAttr(ask)).await.expect("changed");
    assert_eq!(world.stat("d").await.expect("there").mtime_ns, 42);
    let ask = pb::SetAttr { at: Some(at("d")), mode: Some(0o700), ..Default::default() };
    let after = world.change(Kind::SetAttr(ask)).await.expect("changed").into_attr();
    assert_eq!((after.mtime_ns, after.mode), (42, 0o700));
    world.clock.advance(Duration::from_secs(1));
    world.unlink("d/f").await.expect("removed");
    assert_eq!(world.stat("d").await.expect("there").mtime_ns, made.mtime_ns + 2_000_000_000);
}

#[tokio::test]
async fn policy_is_inherited_and_checked() {
    let world = World::new().await;
    let with = |block_len, replicas| {
        let attr = pb::NewAttr { block_len, replicas, ..attr(0o755) };
        Kind::Mkdir(pb::Mkdir { at: Some(at("d")), attr: Some(attr) })
    };
    assert_eq!(code(world.change(with(1000, 0)).await), Code::Invalid);
    assert_eq!(code(world.change(with(0, 5)).await), Code::Invalid);
    world.change(with(1 << 20, 3)).await.expect("made");
    let policy = world.create("d/f").await.expect("made").policy.expect("policy");
    assert_eq!((policy.block_len, policy.replicas), (1 << 20, 3));
}

#[tokio::test]
async fn a_long_listing_is_stable_and_bounded() {
    let world = World::new().await;
    let name = |index: u32| format!("{:0>200}", index);
    for index in 0..400 {
        world.create(&name(index)).await.expect("made");
    }
    let ask = |after: Bytes| pb::ReadDir { at: Some(at("")), after, limit: 0, with_attr: true, ..Default::default() };
    let Ok(Reply::ReadDir(first)) = world.ask(Kind::ReadDir(ask(Bytes::new()))).await else { panic!("no page") };
    assert!(!first.end && prost::Message::encoded_len(&first) < 64 * 1024);
    let last = first.entries.last().expect("entries").name.clone();
    // What comes and goes behind and before the cursor moves nothing else.
    world.unlink(&name(0)).await.expect("removed");
    world.unlink(&String::from_utf8_lossy(&last)).await.expect("removed");
    let Ok(Reply::ReadDir(second)) = world.ask(Kind::ReadDir(ask(last))).await else { panic!("no page") };
    assert_eq!(second.entries[0].name, bytes(&name(first.entries.len() as u32)));
}

#[tokio::test]
async fn publish_gives_content_and_name_at_once() {
    let world = World::with_groups().await;
    let publish = |inode, path: &str, replace| pb::Publish {
        at: Some(at(path)),
        inode,
        attr: Some(attr(0o644)),
        replace,
        inline: bytes("hello"),
        size: 8,
        ..Default::default()
    };
    let inode = world.alloc_inode().await;
    let made = world.change(Kind::Publish(publish(inode, "f", false))).await.expect("published").into_attr();
    assert_eq!((made.inode, made.size, made.nlink), (inode, 8, 1));
    assert_eq!(world.extents(inode, 0, 100).await.extents[0].inline, bytes("hello"));
    // The number is used up, whatever happens to the file.
    assert_eq!(code(world.change(Kind::Publish(publish(inode, "g", false))).await), Code::Invalid);
    let next = world.alloc_inode().await;
    assert_eq!(code(world.change(Kind::Publish(publish(next, "f", false))).await), Code::Exists);
    world.mkdir("d").await.expect("made");
    assert_eq!(code(world.change(Kind::Publish(publish(next, "d", true))).await), Code::IsADirectory);
    world.change(Kind::Publish(publish(next, "f", true))).await.expect("replaced");
    assert_eq!(world.stat("f").await.expect("there").inode, next);
    assert_eq!(code(world.stat_inode(inode).await), Code::NotFound);
    // Never reserved, and the root's.
    for inode in [0, 1, 1 << 40] {
        assert_eq!(code(world.change(Kind::Publish(publish(inode, "h", false))).await), Code::Invalid);
    }
    let inode = world.alloc_inode().await;
    let short = pb::Publish { size: 4, ..publish(inode, "h", false) };
    assert_eq!(code(world.change(Kind::Publish(short)).await), Code::Invalid);
    let members = world.members(1).await;
    let blocks = pb::Publish {
        inline: Bytes::new(),
        writer: world.writer,
        pieces: vec![world.piece(0, 100_000, &members)],
        size: 200_000,
        ..publish(inode, "h", false)
    };
    let made = world.change(Kind::Publish(blocks)).await.expect("published").into_attr();
    assert_eq!(made.size, 200_000);
    assert_eq!(world.extents(inode, 0, 200_000).await.extents.len(), 1);
}

#[tokio::test]
async fn an_unnamed_file_is_named_once() {
    let world = World::with_groups().await;
    let inode = world.alloc_inode().await;
    let ask = pb::CreateUnnamed { inode, dir: Some(at("")), attr: Some(attr(0o600)) };
    let made = world.change(Kind::CreateUnnamed(ask.clone())).await.expect("made").into_attr();
    assert_eq!((made.nlink, made.inode), (0, inode));
    assert_eq!(code(world.change(Kind::CreateUnnamed(ask)).await), Code::Invalid);
    world.write(inode, 0, 150_000).await.expect("written");
    assert_eq!(world.stat_inode(inode).await.expect("reachable by number").size, 150_000);
    let publish =
        |size| Kind::Publish(pb::Publish { at: Some(at("f")), inode, unnamed: true, size, ..Default::default() });
    assert_eq!(code(world.change(publish(10)).await), Code::Invalid);
    let named = world.change(publish(150_000)).await.expect("named").into_attr();
    assert_eq!((named.nlink, named.size, named.mode), (1, 150_000, 0o600));
    assert_eq!(world.stat("f").await.expect("there").inode, inode);
    assert_eq!(code(world.change(publish(150_000)).await), Code::Exists);
    world.unlink("f").await.expect("removed");
    assert_eq!(code(world.change(publish(150_000)).await), Code::NotFound);
}

#[tokio::test]
async fn what_is_no_metadata_request_is_refused() {
    let world = World::new().await;
    assert_eq!(code(world.ask(Kind::Get(pb::GetBlock::default())).await), Code::Unsupported);
    assert_eq!(code(world.meta.execute(&pb::Request::default()).await), Code::Unsupported);
    assert_eq!(code(world.ask(mkdir("x")).await), Code::Invalid, "a mutation without an operation id");
    assert_eq!(code(world.ask(create("x")).await), Code::Invalid);
}

#[tokio::test]
async fn subdirectories_are_counted_for_who_asks() {
    let world = World::new().await;
    world.mkdir("d").await.expect("made");
    for name in ["d/a", "d/b"] {
        world.mkdir(name).await.expect("made");
    }
    world.create("d/f").await.expect("made");
    let links = async |count_links| {
        let ask = pb::Stat { at: Some(at("d")), count_links, ..Default::default() };
        world.ask(Kind::Stat(ask)).await.map(Expect::into_attr).expect("there").nlink
    };
    assert_eq!((links(false).await, links(true).await), (1, 4));
    let ask = pb::ReadDir { at: Some(at("")), with_attr: true, count_links: true, ..Default::default() };
    let Ok(Reply::ReadDir(listed)) = world.ask(Kind::ReadDir(ask)).await else { panic!("no listing") };
    assert_eq!(listed.entries[0].attr.as_ref().map(|attr| attr.nlink), Some(4));
    for index in 0..600 {
        world.create(&format!("d/f{index}")).await.expect("made");
    }
    assert_eq!(links(true).await, 1, "too many entries to count among");
}
