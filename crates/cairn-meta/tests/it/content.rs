//! Appends, allocations, and changes of files in very many pieces: bounded steps, exactly once.

use crate::support::{BLOCK, Expect, World, code, create};
use crate::watched::{SMALL, WatchedEngine};
use cairn_meta::kv::{Engine, MapEngine};
use cairn_proto::limits::{APPEND_TAIL_MAX, FILE_LEN_MAX, TAIL_INLINE_PER_INLINE};
use cairn_proto::pb;
use cairn_proto::pb::AllocateMode;
use cairn_proto::pb::request::Kind;
use cairn_proto::pb::response::Kind as Reply;
use cairn_proto::status::{Code, Status};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Distance of the pieces of a file that was written in many.
const STRIDE: u64 = 4096;

impl World {
    async fn append(&self, inode: u64, data: &[u8]) -> Result<pb::CommitReply, Status> {
        let ask = pb::Append { inode, data: data.to_vec().into(), ..Default::default() };
        self.change(Kind::Append(ask)).await.map(Expect::into_commit)
    }

    async fn allocate(
        &self,
        inode: u64,
        mode: AllocateMode,
        (offset, len): (u64, u64),
        keep_size: bool,
    ) -> Result<pb::CommitReply, Status> {
        let ask = pb::Allocate { inode, mode: mode as i32, offset, len, keep_size, mtime_ns: None };
        self.change(Kind::Allocate(ask)).await.map(Expect::into_commit)
    }

    /// All extents of a file, whatever pages it takes.
    async fn all_extents(&self, inode: u64) -> Vec<pb::Extent> {
        let mut all = Vec::new();
        let mut offset = 0;
        while offset < FILE_LEN_MAX {
            let page = self.extents(inode, offset, FILE_LEN_MAX - offset).await;
            all.extend(page.extents);
            offset = page.covered_to;
        }
        all
    }

    /// A file of `count` pieces with holes between them.
    async fn fragmented(&self, path: &str, count: u64) -> u64 {
        let inode = self.create(path).await.expect("made").inode;
        let members = self.members(1).await;
        for first in (0..count).step_by(32) {
            let indexes = first..count.min(first + 32);
            let pieces = indexes.map(|index| self.piece(index * STRIDE, STRIDE / 2, &members)).collect();
            self.change(Kind::Commit(self.commit(inode, pieces))).await.expect("committed");
        }
        inode
    }

    /// Every block that garbage rows name, none twice.
    async fn garbage_blocks(&self) -> BTreeSet<(u64, u32)> {
        let mut blocks = BTreeSet::new();
        let mut last = None;
        loop {
            let page = self.meta.garbage(last.as_ref(), 1000).await.expect("listed");
            let Some(row) = page.last() else { return blocks };
            last = Some(row.clone());
            for row in page {
                for index in 0..row.count {
                    assert!(blocks.insert((row.first.inode.0, row.first.seq.0 + index)), "garbage twice: {row:?}");
                }
            }
        }
    }
}

async fn small_world() -> (World, WatchedEngine) {
    let engine = WatchedEngine::new(SMALL);
    let world = World::over(Arc::new(engine.clone())).await;
    world.add_nodes(3).await;
    (world, engine)
}

#[tokio::test]
async fn small_appends_share_a_row_until_it_is_long() {
    let world = World::with_groups().await;
    let inode = world.create("log").await.expect("made").inode;
    let tail_max = crate::support::INLINE_MAX * TAIL_INLINE_PER_INLINE;
    let mut size = 0;
    for index in 0..u64::from(tail_max / 100) {
        let reply = world.append(inode, &[index as u8; 100]).await.expect("appended");
        assert_eq!((reply.offset, reply.size), (size, size + 100));
        size += 100;
    }
    assert_eq!(world.all_extents(inode).await.len(), 1);
    assert_eq!(code(world.append(inode, &[1; 100]).await), Code::NotInline);
    // The client writes it as a block, with what it appends.
    let version = world.stat("log").await.expect("there").version;
    let piece = world.piece(0, size + 100, &world.members(1).await);
    let fold = |tail_version| pb::Append {
        inode,
        writer: world.writer,
        pieces: vec![piece.clone()],
        tail_len: size,
        tail_version,
        ..Default::default()
    };
    assert_eq!(code(world.change(Kind::Append(fold(version - 1))).await), Code::Conflict);
    let reply = world.change(Kind::Append(fold(version))).await.expect("appended").into_commit();
    assert_eq!((reply.offset, reply.size), (size, size + 100));
    world.append(inode, b"next").await.expect("appended");
    let extents = world.all_extents(inode).await;
    assert_eq!(extents.iter().map(|e| (e.offset, e.len)).collect::<Vec<_>>(), [(0, size + 100), (size + 100, 4)]);
    // Behind a hole a row of its own begins.
    world.truncate(inode, size + 1000).await.expect("longer");
    assert_eq!(world.append(inode, b"last").await.expect("appended").offset, size + 1000);
    assert_eq!(world.all_extents(inode).await.len(), 3);
}

/// As a client appends: ten thousand lines of a hundred bytes.
#[tokio::test]
async fn a_log_of_many_lines_has_few_rows() {
    let world = World::with_groups().await;
    let inode = world.create("log").await.expect("made").inode;
    let members = world.members(1).await;
    let mut size = 0;
    for _ in 0..10_000 {
        let landed = match world.append(inode, &[7; 100]).await {
            Ok(reply) => reply,
            Err(status) => {
                assert_eq!(status.code, Code::NotInline);
                let map = world.extents(inode, size - u64::from(APPEND_TAIL_MAX).min(size), FILE_LEN_MAX / 2).await;
                let mut from = size;
                for extent in map.extents.iter().rev() {
                    if size - extent.offset + 100 <= u64::from(APPEND_TAIL_MAX) && extent.offset + extent.len == from {
                        from = extent.offset;
                    }
                }
                let ask = pb::Append {
                    inode,
                    writer: world.writer,
                    pieces: vec![world.piece(0, size - from + 100, &members)],
                    tail_len: size - from,
                    tail_version: map.version,
                    ..Default::default()
                };
                world.change(Kind::Append(ask)).await.expect("appended").into_commit()
            }
        };
        assert_eq!(landed.offset, size);
        size += 100;
    }
    let rows = world.all_extents(inode).await.len();
    assert!(rows <= 25, "{rows} rows for {size} bytes");
}

#[tokio::test]
async fn an_append_happens_once_and_leaves_no_gap() {
    let world = World::with_groups().await;
    let inode = world.create("f").await.expect("made").inode;
    let ask = pb::Append { inode, data: vec![1; 10].into(), ..Default::default() };
    let request = pb::Request { op_id: Some(world.next_op()), kind: Some(Kind::Append(ask)), ..Default::default() };
    let first = world.meta.execute(&request).await.expect("appended");
    world.inline(inode, 100, b"other").await.expect("written");
    // The answer to the retry is the first one's.
    let op = pb::OpId { slot: 1, ..world.next_op() };
    let request = pb::Request { op_id: Some(op), ..request };
    let second = world.meta.execute(&request).await.expect("appended");
    assert_eq!(world.meta.execute(&request).await.expect("the same"), second);
    assert_eq!((first.into_commit().offset, second.into_commit().offset), (0, 105));
    assert_eq!(world.stat("f").await.expect("there").size, 115);
    let members = world.members(1).await;
    let pieces = vec![world.piece(0, 100, &members), world.piece(200, 100, &members)];
    let ask = pb::Append { inode, writer: world.writer, pieces, ..Default::default() };
    assert_eq!(code(world.change(Kind::Append(ask)).await), Code::Invalid);
}

#[tokio::test]
async fn ranges_become_holes_and_files_longer() {
    let world = World::with_groups().await;
    let inode = world.create("f").await.expect("made").inode;
    world.write(inode, 0, 4 * u64::from(BLOCK)).await.expect("written");
    let block = u64::from(BLOCK);
    let reply = world.allocate(inode, AllocateMode::Punch, (block, block), false).await.expect("punched");
    assert_eq!(reply.size, 4 * block);
    let spans = |extents: &[pb::Extent]| extents.iter().map(|e| (e.offset / block, e.len / block)).collect::<Vec<_>>();
    assert_eq!(spans(&world.all_extents(inode).await), [(0, 1), (2, 2)]);
    assert_eq!(world.garbage_blocks().await.len(), 1);
    // Behind the end there is nothing to be punched.
    let reply = world.allocate(inode, AllocateMode::Punch, (8 * block, block), false).await.expect("nothing to do");
    assert_eq!(reply.size, 4 * block);
    let reply = world.allocate(inode, AllocateMode::Zero, (3 * block, 2 * block), true).await.expect("zeroed");
    assert_eq!((reply.size, spans(&world.all_extents(inode).await)), (4 * block, vec![(0, 1), (2, 1)]));
    let reply = world.allocate(inode, AllocateMode::Zero, (3 * block, 2 * block), false).await.expect("zeroed");
    assert_eq!(reply.size, 5 * block);
    let reply = world.allocate(inode, AllocateMode::Extend, (0, 9 * block), true).await.expect("nothing reserved");
    assert_eq!(reply.size, 5 * block);
    let reply = world.allocate(inode, AllocateMode::Extend, (0, 9 * block), false).await.expect("longer");
    assert_eq!(reply.size, 9 * block);
    for mode in [AllocateMode::Collapse, AllocateMode::Insert] {
        assert_eq!(code(world.allocate(inode, mode, (0, block), false).await), Code::Unsupported);
    }
    assert_eq!(code(world.allocate(inode, AllocateMode::Punch, (0, 0), false).await), Code::Invalid);
    assert_eq!(code(world.allocate(inode, AllocateMode::Punch, (1, u64::MAX), false).await), Code::TooLarge);
}

#[tokio::test]
async fn many_pieces_are_cut_punched_and_dropped_in_small_steps() {
    const PIECES: u64 = 500;
    let (world, engine) = small_world().await;
    let inode = world.fragmented("f", PIECES).await;
    assert_eq!(world.all_extents(inode).await.len() as u64, PIECES);
    let half = PIECES / 2 * STRIDE;
    let before = engine.commits();
    assert_eq!(world.truncate(inode, half).await.expect("shortened").size, half);
    assert!(engine.commits() > before + 4, "in steps");
    assert_eq!(world.garbage_blocks().await.len() as u64, PIECES / 2);
    let quarter = half / 2;
    world.allocate(inode, AllocateMode::Punch, (1, quarter), false).await.expect("punched");
    let left = world.all_extents(inode).await;
    // The first byte stays, and so does its block.
    assert_eq!((left[0].offset, left[0].len, left[1].offset), (0, 1, quarter + 1));
    assert_eq!(world.garbage_blocks().await.len() as u64, PIECES / 2 + PIECES / 4 - 1);
    world.unlink("f").await.expect("removed");
    while world.meta.drop_maps().await.expect("dropped") {}
    assert_eq!(world.garbage_blocks().await.len() as u64, PIECES);
    assert!(engine.watch().writes_most.load(Ordering::SeqCst) <= SMALL.writes);
}

/// Blocks that many rows share: a big one with holes punched into it.
#[tokio::test]
async fn a_block_in_pieces_is_garbage_with_the_last_of_them() {
    let (world, _engine) = small_world().await;
    let inode = world.create("f").await.expect("made").inode;
    world.write(inode, 0, u64::from(BLOCK)).await.expect("written");
    for index in 0..40 {
        world.allocate(inode, AllocateMode::Punch, (index * 1024 + 512, 256), false).await.expect("punched");
    }
    world.allocate(inode, AllocateMode::Punch, (1000, 30 * 1024), false).await.expect("punched");
    assert!(world.garbage_blocks().await.is_empty());
    world.truncate(inode, 100).await.expect("shortened");
    assert!(world.garbage_blocks().await.is_empty());
    world.allocate(inode, AllocateMode::Punch, (0, 100), false).await.expect("punched");
    assert_eq!(world.garbage_blocks().await.len(), 1);
}

#[tokio::test]
async fn a_truncate_that_was_broken_off_goes_on_where_it_was() {
    const PIECES: u64 = 300;
    let (world, engine) = small_world().await;
    let inode = world.fragmented("f", PIECES).await;
    let full = world.stat("f").await.expect("there").size;
    let ask = Kind::Truncate(pb::Truncate { inode, size: STRIDE, mtime_ns: None });
    let request = pb::Request { op_id: Some(world.next_op()), kind: Some(ask), ..Default::default() };
    engine.break_after(3);
    assert_eq!(code(world.meta.execute(&request).await), Code::Unavailable);
    let part = world.stat("f").await.expect("there").size;
    assert!(STRIDE < part && part < full, "{part} of {full}");
    // What is left of it is whole.
    let extents = world.all_extents(inode).await;
    assert_eq!(extents.len() as u64, part.div_ceil(STRIDE));
    engine.break_after(u64::MAX);
    // Another server, which opens what the first one left.
    let world = World::over(Arc::new(engine.clone())).await;
    assert_eq!(world.meta.execute(&request).await.expect("goes on").into_commit().size, STRIDE);
    assert_eq!(world.garbage_blocks().await.len() as u64, PIECES - 1);
    world.inline(inode, 0, b"x").await.expect_err("a file in blocks");
    let size = world.stat("f").await.expect("there").size;
    assert_eq!(world.meta.execute(&request).await.expect("done before").into_commit().size, size);
}

#[tokio::test]
async fn one_write_replaces_very_many_pieces() {
    const PIECES: u64 = 600;
    let world = World::with_groups().await;
    let inode = world.fragmented("f", PIECES).await;
    world.write(inode, 0, PIECES * STRIDE).await.expect("written");
    assert_eq!(world.all_extents(inode).await.len(), 1);
    assert_eq!(world.garbage_blocks().await.len() as u64, PIECES);
    // Where transactions are small it is refused, whole and with advice, and what it advises works.
    let (world, _engine) = small_world().await;
    let inode = world.fragmented("f", PIECES).await;
    let refused = world.write(inode, 0, PIECES * STRIDE).await.expect_err("too many");
    assert_eq!(refused.code, Code::TooLarge);
    assert!(refused.message.contains("punch"), "{}", refused.message);
    assert_eq!(world.all_extents(inode).await.len() as u64, PIECES);
    world.allocate(inode, AllocateMode::Punch, (0, PIECES * STRIDE), false).await.expect("punched");
    world.write(inode, 0, PIECES * STRIDE).await.expect("written");
}

/// On one thread, so that who waits is known.
#[tokio::test]
async fn commits_that_wait_for_one_file_are_one_transaction() {
    const CALLERS: u32 = 33;
    let engine = WatchedEngine::new(MapEngine::new().limits());
    let world = Arc::new(World::over(Arc::new(engine.clone())).await);
    let inode = world.create("f").await.expect("made").inode;
    let before = engine.commits();
    let held = engine.watch().gate.acquire_many(1 << 20).await.expect("never closed");
    let mut tasks = Vec::new();
    for slot in 1..=CALLERS {
        let world = world.clone();
        tasks.push(tokio::spawn(async move {
            let op_id = Some(pb::OpId { session: world.session, epoch: 1, slot, seq: 1 });
            // One of them asks for what cannot be, and alone is told so.
            let data = vec![slot as u8; if slot == 20 { 100_000 } else { 8 }];
            let ask = pb::Append { inode, data: data.into(), ..Default::default() };
            world.meta.execute(&pb::Request { op_id, kind: Some(Kind::Append(ask)), ..Default::default() }).await
        }));
    }
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    drop(held);
    let mut offsets = BTreeSet::new();
    for (slot, task) in (1u8..).zip(tasks) {
        match task.await.expect("no task fails") {
            Ok(reply) => assert!(offsets.insert((reply.into_commit().offset, slot))),
            Err(status) => assert_eq!((slot, status.code), (20, Code::NotInline)),
        }
    }
    // The first came alone, because nobody waited yet.
    assert_eq!(engine.commits() - before, 2);
    let content = world.extents(inode, 0, 1 << 20).await.extents[0].inline.clone();
    assert_eq!(content.len(), 8 * (CALLERS as usize - 1));
    for (index, (offset, slot)) in offsets.into_iter().enumerate() {
        assert_eq!(offset, index as u64 * 8);
        assert_eq!(content[offset as usize..offset as usize + 8], [slot; 8]);
    }
}

/// Whoever took others along is given up: they are done all the same, and once.
#[tokio::test]
async fn a_caller_that_goes_away_takes_nobody_with_it() {
    let engine = WatchedEngine::new(MapEngine::new().limits());
    let world = Arc::new(World::over(Arc::new(engine.clone())).await);
    let inode = world.create("f").await.expect("made").inode;
    let held = engine.watch().gate.acquire_many(1 << 20).await.expect("never closed");
    let mut tasks = Vec::new();
    for slot in 1..=6 {
        let world = world.clone();
        tasks.push(tokio::spawn(async move {
            let op_id = Some(pb::OpId { session: world.session, epoch: 1, slot, seq: 1 });
            let ask = pb::Append { inode, data: vec![slot as u8].into(), ..Default::default() };
            world.meta.execute(&pb::Request { op_id, kind: Some(Kind::Append(ask)), ..Default::default() }).await
        }));
        tokio::task::yield_now().await;
    }
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    // The first one's transaction goes on by itself; its place is taken by the second, which takes the others along.
    tasks.remove(0).abort();
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    tasks.remove(0).abort();
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    drop(held);
    let mut offsets = BTreeSet::new();
    for task in tasks {
        offsets.insert(task.await.expect("not aborted").expect("appended").into_commit().offset);
    }
    assert_eq!(offsets.len(), 4);
    let content = world.extents(inode, 0, 1 << 20).await.extents[0].inline.clone();
    let once: BTreeSet<u8> = content.iter().copied().collect();
    assert_eq!(once.len(), content.len(), "{content:?}");
    assert!((3..=6).all(|slot| once.contains(&slot)));
}

/// Sixteen terabytes as a stream writes them: 64 blocks a commit, another group each 256 MiB.
#[tokio::test]
async fn a_big_file_written_in_order_takes_little_metadata() {
    const BLOCK_LEN: u64 = 4 << 20;
    const PER_COMMIT: u64 = 64;
    const BYTES: u64 = 1 << 40;
    let engine = WatchedEngine::new(MapEngine::new().limits());
    let world = World::over(Arc::new(engine.clone())).await;
    world.add_nodes(3).await;
    world.change(create("big")).await.expect("made");
    let inode = world.stat("big").await.expect("there").inode;
    let groups: Vec<(u32, Vec<u32>)> = (1..=4u32).map(|pg| (pg, vec![1, 2, 3])).collect();
    let mut offset = 0;
    let mut seq = 0;
    while offset < BYTES {
        let (pg, acked) = &groups[(offset / (256 << 20)) as usize % groups.len()];
        let piece = pb::Piece {
            offset,
            len: PER_COMMIT * BLOCK_LEN,
            first_seq: seq,
            block_len: BLOCK_LEN as u32,
            pg: *pg,
            acked: acked.clone(),
            pg_epoch: 0,
        };
        world.change(Kind::Commit(world.commit(inode, vec![piece]))).await.expect("committed");
        offset += PER_COMMIT * BLOCK_LEN;
        seq += PER_COMMIT as u32;
    }
    let (mut rows, mut bytes) = (0u64, 0u64);
    let mut txn = engine.begin().await.expect("begun");
    let mut range = cairn_meta::keys::extents_between(inode, 0, 0, u64::MAX);
    loop {
        let page = txn.scan(&range, 1000, cairn_meta::kv::Order::Forward).await.expect("read");
        rows += page.len() as u64;
        bytes += page.iter().map(|(key, value)| (key.len() + value.len()) as u64).sum::<u64>();
        match page.last() {
            Some((last, _)) => range.start = cairn_meta::kv::KeyRange::successor(last),
            None => break,
        }
    }
    // A terabyte; sixteen take sixteen times as much.
    println!("{rows} rows of {bytes} bytes for a terabyte");
    assert!(bytes * 16 < 10_000_000, "{rows} rows, {bytes} bytes for {BYTES}");
}

#[tokio::test]
async fn the_older_form_of_append_still_lands_at_the_end() {
    let world = World::with_groups().await;
    let inode = world.create("f").await.expect("made").inode;
    for offset in [0, 2] {
        let inline = Some(pb::InlineWrite { offset: 0, data: vec![1; 2].into() });
        let ask = pb::Commit { inode, inline, append: true, ..Default::default() };
        match world.change(Kind::Commit(ask)).await {
            Ok(Reply::Commit(reply)) => assert_eq!(reply.offset, offset),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_file_with_holes_tells_what_is_kept_of_it() {
    let world = World::with_groups().await;
    let inode = world.create("f").await.expect("made").inode;
    let block = u64::from(BLOCK);
    let allocated = async || world.stat("f").await.expect("there").allocated;
    world.write(inode, 0, block).await.expect("written");
    assert_eq!(allocated().await, None, "it has no holes");
    world.write(inode, 3 * block, block).await.expect("written");
    assert_eq!(allocated().await, Some(2 * block));
    world.truncate(inode, 100 * block).await.expect("made longer");
    assert_eq!(allocated().await, Some(2 * block));
    world.allocate(inode, AllocateMode::Punch, (0, block / 2), true).await.expect("punched");
    assert_eq!(allocated().await, Some(2 * block - block / 2));
    world.truncate(inode, 0).await.expect("emptied");
    assert_eq!(allocated().await, None);
}
