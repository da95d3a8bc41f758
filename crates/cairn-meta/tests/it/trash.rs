//! What is removed is kept for a while, where the policy says so.

use crate::support::{World, at, code};
use bytes::Bytes;
use cairn_proto::pb;
use cairn_proto::pb::request::Kind;
use cairn_proto::pb::response::Kind as Reply;
use cairn_proto::status::{Code, Status};
use std::time::Duration;

const DAY_S: u64 = 24 * 3600;

async fn keeping() -> World {
    let world = World::new().await;
    world.mkdir("d").await.expect("made");
    let set = pb::SetPolicy { at: Some(at("d")), trash_s: Some(DAY_S), ..Default::default() };
    world.change(Kind::SetPolicy(set)).await.expect("set");
    world
}

async fn trash(world: &World) -> Vec<pb::TrashItem> {
    match world.ask(Kind::ListTrash(pb::ListTrash::default())).await {
        Ok(Reply::ListTrash(reply)) => {
            assert!(reply.next_cursor.is_empty());
            reply.items
        }
        other => panic!("{other:?}"),
    }
}

async fn paths(world: &World) -> Vec<String> {
    trash(world).await.iter().map(|item| String::from_utf8_lossy(&item.path).into_owned()).collect()
}

async fn restore(world: &World, item: &pb::TrashItem, to: Option<&str>, parents: bool) -> Result<pb::Attr, Status> {
    let (since_ns, inode, to) = (item.since_ns, item.inode, to.map(at));
    let ask = pb::RestoreTrash { since_ns, inode, to, make_parents: parents };
    match world.change(Kind::RestoreTrash(ask)).await? {
        Reply::Attr(attr) => Ok(attr),
        other => panic!("{other:?}"),
    }
}

async fn remove_tree(world: &World, path: &str) -> Result<Reply, Status> {
    world.change(Kind::RemoveTree(pb::RemoveTree { at: Some(at(path)) })).await
}

async fn sound(world: &World) {
    let mut cursor = Bytes::new();
    loop {
        let Ok(Reply::CheckRows(page)) =
            world.ask(Kind::CheckRows(pb::CheckRows { cursor, ..Default::default() })).await
        else {
            panic!("no check")
        };
        assert_eq!(page.findings, []);
        cursor = page.next_cursor;
        if cursor.is_empty() {
            return;
        }
    }
}

#[tokio::test]
async fn what_is_removed_comes_back_with_its_content() {
    let world = keeping().await;
    let file = world.create("d/f").await.expect("made").inode;
    world.inline(file, 0, b"hello").await.expect("written");
    world.unlink("d/f").await.expect("removed");
    assert_eq!(code(world.stat("d/f").await), Code::NotFound);
    let items = trash(&world).await;
    assert_eq!((items.len(), items[0].inode, items[0].size, &items[0].path[..]), (1, file, 5, &b"/d/f"[..]));
    sound(&world).await;
    // Never over something that is there.
    let other = world.create("d/f").await.expect("made").inode;
    assert_eq!(code(restore(&world, &items[0], None, false).await), Code::Exists);
    restore(&world, &items[0], Some("d/g"), false).await.expect("restored");
    assert_eq!(world.stat("d/g").await.expect("there").inode, file);
    assert_eq!(world.stat("d/f").await.expect("there").inode, other);
    assert_eq!(code(restore(&world, &items[0], None, false).await), Code::NotFound);
    assert!(trash(&world).await.is_empty());
    assert_eq!(&world.extents(file, 0, 10).await.extents[0].inline[..], b"hello");
    sound(&world).await;
}

#[tokio::test]
async fn only_last_names_in_directories_that_keep_are_kept() {
    let world = keeping().await;
    world.create("outside").await.expect("made");
    world.unlink("outside").await.expect("removed");
    world.create("d/a").await.expect("made");
    world.change(Kind::Unlink(pb::Unlink { at: Some(at("d/a")), no_trash: true })).await.expect("removed");
    world.create("d/b").await.expect("made");
    let link = pb::Link { from: Some(at("d/b")), to: Some(at("d/c")), ..Default::default() };
    world.change(Kind::Link(link)).await.expect("linked");
    world.unlink("d/b").await.expect("removed");
    assert!(trash(&world).await.is_empty());
    world.unlink("d/c").await.expect("removed");
    // What is replaced is removed, too, and so is what was made below: it inherits the policy.
    world.mkdir("d/sub").await.expect("made");
    world.create("d/sub/x").await.expect("made");
    world.create("d/sub/y").await.expect("made");
    world.rename("d/sub/x", "d/sub/y").await.expect("renamed");
    assert_eq!(paths(&world).await, ["/d/c", "/d/sub/y"]);
    sound(&world).await;
}

#[tokio::test]
async fn a_tree_goes_and_comes_back_as_one() {
    let world = keeping().await;
    world.mkdir("d/t").await.expect("made");
    world.mkdir("d/t/u").await.expect("made");
    world.create("d/t/u/f").await.expect("made");
    world.mkdir("plain").await.expect("made");
    world.create("plain/f").await.expect("made");
    assert_eq!(code(remove_tree(&world, "plain").await), Code::NotEmpty, "what is in it is to be removed first");
    remove_tree(&world, "d/t").await.expect("removed");
    sound(&world).await;
    let items = trash(&world).await;
    assert_eq!(items.len(), 1);
    // The directory it was in is gone by now, for good.
    remove_tree(&world, "d").await.expect("nothing is in it any more");
    assert_eq!(code(restore(&world, &items[0], None, false).await), Code::NotFound);
    restore(&world, &items[0], None, true).await.expect("restored");
    assert_eq!(world.list("d/t/u").await.expect("listed"), ["f"]);
    sound(&world).await;
}

#[tokio::test]
async fn the_trash_runs_out_in_bounded_steps() {
    let world = keeping().await;
    let before = world.status().await.inodes;
    world.mkdir("d/t").await.expect("made");
    for dir in 0..3 {
        world.mkdir(&format!("d/t/{dir}")).await.expect("made");
        for file in 0..70 {
            world.create(&format!("d/t/{dir}/{file}")).await.expect("made");
        }
    }
    remove_tree(&world, "d/t").await.expect("removed");
    world.create("d/late").await.expect("made");
    world.clock.advance(Duration::from_secs(DAY_S / 2));
    world.unlink("d/late").await.expect("removed");
    assert!(!world.meta.expire_trash().await.expect("looked"), "nothing has run out");
    world.clock.advance(Duration::from_secs(DAY_S / 2));
    while world.meta.expire_trash().await.expect("expired") {}
    assert_eq!(paths(&world).await, ["/d/late"]);
    let mut steps = 0;
    while world.meta.drop_trees().await.expect("dropped") {
        steps += 1;
        sound(&world).await;
    }
    assert!(steps > 5, "{steps} steps");
    let late = &trash(&world).await[0];
    let empty = pb::EmptyTrash { since_ns: late.since_ns, inode: late.inode };
    world.change(Kind::EmptyTrash(empty)).await.expect("dropped");
    assert_eq!(world.status().await.inodes, before);
    assert!(trash(&world).await.is_empty());
    sound(&world).await;
}
