//! Quotas: usage is what a count finds, and what would exceed a limit is refused.

use crate::support::{ManualClock, World, at, code, create, mkdir, options};
use bytes::Bytes;
use cairn_meta::{Meta, MetaOptions};
use cairn_proto::pb;
use cairn_proto::pb::request::Kind;
use cairn_proto::pb::response::Kind as Reply;
use cairn_proto::status::{Code, Status};
use std::sync::Arc;

fn set(path: &str, bytes: Option<u64>, inodes: Option<u64>) -> Kind {
    Kind::SetQuota(pb::SetQuota { at: Some(at(path)), bytes, inodes, remove: false })
}

async fn quota(world: &World, path: &str) -> Option<pb::QuotaInfo> {
    match world.ask(Kind::GetQuota(pb::GetQuota { at: Some(at(path)) })).await {
        Ok(Reply::GetQuota(reply)) => reply.quota,
        other => panic!("{other:?}"),
    }
}

async fn used(world: &World, path: &str) -> (u64, u64) {
    let info = quota(world, path).await.expect("a quota");
    (info.used_bytes, info.used_inodes)
}

async fn counted(world: &World) {
    while world.meta.count_quotas().await.expect("counted") {}
    world.meta.refresh_quotas().await.expect("refreshed");
}

/// Every rule of the check, usage among them; how much was found.
async fn check(world: &World, repair: bool) -> Vec<String> {
    let (mut cursor, mut found) = (Bytes::new(), Vec::new());
    loop {
        let ask = pb::CheckRows { cursor, repair };
        let Ok(Reply::CheckRows(page)) = world.ask(Kind::CheckRows(ask)).await else { panic!("no check") };
        found.extend(page.findings.into_iter().map(|finding| finding.rule));
        cursor = page.next_cursor;
        if cursor.is_empty() {
            return found;
        }
    }
}

#[tokio::test]
async fn limits_hold_to_the_last_byte_and_inode() {
    let world = World::new().await;
    world.mkdir("d").await.expect("made");
    world.change(set("d", Some(100), Some(3))).await.expect("set");
    counted(&world).await;
    assert_eq!(used(&world, "d").await, (0, 1), "the directory itself");
    let file = world.create("d/f").await.expect("made").inode;
    world.create("d/g").await.expect("made");
    assert_eq!(code(world.create("d/h").await), Code::QuotaExceeded);
    world.inline(file, 0, &[1; 100]).await.expect("written");
    assert_eq!(code(world.inline(file, 100, &[1]).await), Code::QuotaExceeded);
    assert_eq!(used(&world, "d/f").await, (100, 3));
    // What replaces or shrinks still works, and makes room.
    world.inline(file, 0, &[2; 100]).await.expect("replaced");
    world.truncate(file, 40).await.expect("cut");
    world.inline(file, 40, &[1; 60]).await.expect("written");
    world.unlink("d/g").await.expect("removed");
    world.create("d/h").await.expect("made");
    // Across the border nothing moves, but a directory with a quota of its own.
    assert_eq!(code(world.rename("d/f", "f").await), Code::CrossDevice);
    world.rename("d", "e").await.expect("renamed");
    assert_eq!(used(&world, "e").await, (100, 3));
    // More is allowed at once.
    world.change(set("e", Some(0), Some(10))).await.expect("set");
    counted(&world).await;
    world.inline(file, 100, &[1; 1000]).await.expect("written");
    assert_eq!(check(&world, false).await, Vec::<String>::new());
}

#[tokio::test]
async fn what_is_there_already_is_counted_and_counted_back() {
    let world = World::new().await;
    for dir in ["d", "d/a", "d/a/b", "d/q"] {
        world.mkdir(dir).await.expect("made");
    }
    world.change(set("d/q", None, Some(100))).await.expect("set");
    for file in 0..40 {
        let inode = world.create(&format!("d/a/{file}")).await.expect("made").inode;
        world.inline(inode, 0, b"ten bytes.").await.expect("written");
    }
    world.create("d/q/other").await.expect("made");
    world.change(set("d", Some(1), Some(1))).await.expect("set");
    assert!(quota(&world, "d").await.expect("a quota").counting);
    world.create("d/a/more").await.expect("nothing is refused while it is counted");
    assert_eq!(code(world.change(set("d/a", Some(5), None)).await), Code::Conflict);
    counted(&world).await;
    let info = quota(&world, "d").await.expect("a quota");
    assert_eq!(
        (info.used_bytes, info.used_inodes, info.counting),
        (400, 44, false),
        "what has a quota of its own apart"
    );
    assert_eq!(used(&world, "d/q").await, (0, 2));
    assert_eq!(code(world.create("d/a/again").await), Code::QuotaExceeded);
    assert_eq!(check(&world, false).await, Vec::<String>::new());
    let remove = pb::SetQuota { at: Some(at("d")), remove: true, ..Default::default() };
    world.change(Kind::SetQuota(remove)).await.expect("removed");
    counted(&world).await;
    assert_eq!(quota(&world, "d/a").await, None);
    world.create("d/a/again").await.expect("made");
    assert_eq!(check(&world, false).await, Vec::<String>::new());
}

/// Random changes by several servers on one engine, some of which die: usage is what a count finds.
#[tokio::test]
async fn usage_is_what_a_count_finds_whoever_writes() {
    for seed in 1..=4 {
        let engine = crate::engine::fresh().await;
        let clock = Arc::new(ManualClock::default());
        let mut rng = fastrand::Rng::with_seed(seed);
        let open = |seed| {
            let (engine, options) = (engine.clone(), MetaOptions { seed, ..options(clock.clone()) });
            async move { Meta::open(engine, options).await.expect("opened") }
        };
        let mut servers = vec![open(1).await, open(2).await, open(3).await];
        let world = World::around(servers[0].clone(), clock.clone()).await;
        for dir in ["a", "b", "b/c"] {
            world.change(mkdir(dir)).await.expect("made");
        }
        world.change(set("a", None, Some(1000))).await.expect("set");
        world.change(set("b/c", None, Some(1000))).await.expect("set");
        for step in 0..150u32 {
            let server = rng.usize(..servers.len());
            let path = |rng: &mut fastrand::Rng| format!("{}/{}", ["a", "b", "b/c"][rng.usize(..3)], rng.u8(..6));
            let (from, to) = (path(&mut rng), path(&mut rng));
            let kind = match rng.u8(..12) {
                0..=4 => create(&from),
                5 => Kind::Unlink(pb::Unlink { at: Some(at(&from)), ..Default::default() }),
                6 => Kind::Rename(pb::Rename { from: Some(at(&from)), to: Some(at(&to)), ..Default::default() }),
                7..=9 => {
                    let Ok(attr) = world.stat(&from).await else { continue };
                    Kind::Truncate(pb::Truncate { inode: attr.inode, size: rng.u64(..500), mtime_ns: None })
                }
                10 if step == 75 => set("b", Some(1 << 40), None),
                10 => {
                    servers[server].tend_feed().await.expect("tended");
                    servers[server].count_quotas().await.expect("counted");
                    continue;
                }
                _ => {
                    // It dies, and another takes its place.
                    servers[server] = open(u64::from(step) + 10).await;
                    continue;
                }
            };
            let request = pb::Request { op_id: Some(world.next_op()), kind: Some(kind), ..Default::default() };
            let _: Result<Reply, Status> = servers[server].execute(&request).await;
        }
        assert_eq!(check(&world, false).await, Vec::<String>::new(), "seed {seed}");
        // A day later the logs of those that died are gone, and their sums are not.
        clock.advance(std::time::Duration::from_secs(100));
        for _ in 0..2 {
            for server in &servers {
                while server.tend_feed().await.expect("tended") {}
            }
            clock.advance(std::time::Duration::from_secs(100));
        }
        assert_eq!(check(&world, false).await, Vec::<String>::new(), "seed {seed}, closed");
        clock.advance(std::time::Duration::from_secs(25 * 3600));
        for _ in 0..3 {
            for server in &servers {
                while server.tend_feed().await.expect("tended") {}
            }
        }
        assert_eq!(check(&world, false).await, Vec::<String>::new(), "seed {seed}, a day later");
    }
}

#[tokio::test]
async fn several_servers_enforce_what_they_see() {
    let engine = crate::engine::fresh().await;
    let clock = Arc::new(ManualClock::default());
    let open = |seed| Meta::open(engine.clone(), MetaOptions { seed, ..options(clock.clone()) });
    let (first, second) = (open(1).await.expect("opened"), open(2).await.expect("opened"));
    let world = World::around(first.clone(), clock.clone()).await;
    world.mkdir("d").await.expect("made");
    world.change(set("d", None, Some(4))).await.expect("set");
    let other = World::around(second.clone(), clock.clone()).await;
    second.refresh_quotas().await.expect("refreshed");
    for name in ["d/1", "d/2", "d/3"] {
        world.create(name).await.expect("made");
    }
    // Until it looks, it admits what it could when it looked last.
    other.create("d/4").await.expect("made");
    second.refresh_quotas().await.expect("refreshed");
    assert_eq!(code(other.create("d/5").await), Code::QuotaExceeded);
    first.refresh_quotas().await.expect("refreshed");
    assert_eq!(code(world.create("d/5").await), Code::QuotaExceeded);
    assert_eq!(used(&world, "d").await, (0, 5));
}
