//! Random operations on a tree with snapshots and clones. After each, every snapshot still shows the copy of the tree that
//! was taken when it was; no block that anything shows is within the collector's reach; and when everything is deleted,
//! every block that was ever written is garbage once. The same with an engine that leaves one of the rules out, to see
//! that the rule is needed, and that this would be noticed.

use super::{BlockSet, Seen, settle, table};
use crate::bent::{Bend, Bent};
use crate::support::{BLOCK, Expect, World, at, bytes};
use cairn_meta::keys::{self, Key};
use cairn_meta::kv::Engine;
use cairn_meta::rows::{self, Row};
use cairn_proto::InodeId;
use cairn_proto::pb;
use cairn_proto::pb::request::Kind;
use cairn_proto::pb::response::Kind as Reply;
use cairn_proto::status::{Code, Status};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// A rule that is left out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Without {
    Nothing,
    /// Rows are changed, and nothing is kept of them.
    History,
    /// A piece of an extent is taken for new.
    Born,
    /// Held garbage is handed to the collector.
    Hold,
    /// A clone's references are not counted.
    Shares,
}

/// An engine that loses some of what is written.
impl Bend for Without {
    fn write(&self, key: Vec<u8>, value: Option<Vec<u8>>) -> Option<(Vec<u8>, Option<Vec<u8>>)> {
        let Some(value) = value else { return Some((key, None)) };
        match (self, key[0]) {
            (Without::History, keys::History::TAG) | (Without::Shares, keys::SharedRange::TAG) => None,
            (Without::Born, keys::Extent::TAG) => {
                let row = rows::Extent::decode(&value).expect("an extent");
                Some((key, Some(rows::Extent { born: row.birth, ..row }.encode())))
            }
            (Without::Hold, keys::HeldGarbage::TAG) => {
                let keys::HeldGarbage { pg, inode, writer, seq } = keys::HeldGarbage::decode(&key).expect("a key");
                Some((keys::Garbage { pg, inode, writer, seq }.encode(), Some(value)))
            }
            _ => Some((key, Some(value))),
        }
    }
}

const B: u64 = BLOCK as u64;
/// Bytes at which writes begin and end; blocks are four times as long.
const STEP: u64 = super::UNIT;
const FILE_STEPS: u64 = 40;

struct Run {
    world: World,
    engine: Arc<dyn Engine>,
    random: fastrand::Rng,
    /// What each snapshot has to show, by its number, and the directory that it shows.
    copies: BTreeMap<u64, (u64, BTreeMap<String, Seen>)>,
    written: BlockSet,
    /// What the collector was given that nobody wrote, or twice.
    strange: Vec<(u64, u64, u32)>,
}

/// Blocks of rows, and those that are named twice.
fn blocks(rows: impl Iterator<Item = (u64, u64, u32, u32)>) -> (BlockSet, Vec<(u64, u64, u32)>) {
    let (mut blocks, mut twice) = (BlockSet::new(), Vec::new());
    for (inode, writer, first, count) in rows {
        for seq in first..first + count {
            if !blocks.insert((inode, writer, seq)) {
                twice.push((inode, writer, seq));
            }
        }
    }
    (blocks, twice)
}

impl Run {
    async fn new(without: Without, seed: u64) -> Self {
        let engine: Arc<dyn Engine> = Arc::new(Bent::around(crate::engine::fresh().await, without));
        let world = World::over(engine.clone()).await;
        world.add_nodes(3).await;
        let random = fastrand::Rng::with_seed(seed);
        Self { world, engine, random, copies: BTreeMap::new(), written: BlockSet::new(), strange: Vec::new() }
    }

    async fn paths(&self, kind: pb::Kind) -> Vec<String> {
        let tree = self.world.tree("").await;
        tree.into_iter().filter(|(_, seen)| seen.attr.kind() == kind).map(|(path, _)| path).collect()
    }

    async fn some(&mut self, kind: pb::Kind) -> Option<String> {
        let paths = self.paths(kind).await;
        (!paths.is_empty()).then(|| paths[self.random.usize(..paths.len())].clone())
    }

    fn fresh(&mut self, dir: &str) -> String {
        // Few names, so that they are used again.
        format!("{dir}/n{}", self.random.u32(..8))
    }

    async fn write(&mut self, path: &str) -> Result<(), Status> {
        let inode = self.world.stat(path).await?.inode;
        let from = self.random.u64(..FILE_STEPS);
        let len = self.random.u64(1..12);
        let piece = self.world.piece(from * STEP, len * STEP, &[1, 2, 3]);
        let (first, count) = (piece.first_seq, (len * STEP).div_ceil(B) as u32);
        self.world.change(Kind::Commit(self.world.commit(inode, vec![piece]))).await?;
        self.written.extend((first..first + count).map(|seq| (inode, self.world.writer, seq)));
        Ok(())
    }

    /// Clones a file of the present or of a snapshot, in steps.
    async fn clone(&mut self, (dir, from): (u64, &str), to: &str) -> Result<(), Status> {
        let at_source = pb::Stat { at: Some(pb::At { dir, path: bytes(from) }), follow: false, ..Default::default() };
        let source = self.world.ask(Kind::Stat(at_source)).await?.into_attr();
        let inode = self.world.alloc_inode().await;
        let policy = source.policy.unwrap_or_default();
        let attr = Some(pb::NewAttr { replicas: policy.replicas, block_len: policy.block_len, ..Default::default() });
        self.world.change(Kind::CreateUnnamed(pb::CreateUnnamed { inode, dir: None, attr })).await?;
        if let Err(status) = self.fill(&source, inode, to).await {
            // As a client does: what has no name stays until the session ends, but keeps nothing.
            self.world.truncate(inode, 0).await?;
            return Err(status);
        }
        let (one, other) = (self.world.tree_at(dir, from).await, self.world.tree(to).await);
        let content =
            |tree: &BTreeMap<String, Seen>| tree.get("").map(|seen| (seen.units.clone(), seen.inline.clone()));
        assert_eq!(content(&one), content(&other), "a clone of {from}");
        Ok(())
    }

    /// Takes the content of `source` into an inode without a name, and names it.
    async fn fill(&self, source: &pb::Attr, inode: u64, to: &str) -> Result<(), Status> {
        let policy = source.policy.unwrap_or_default();
        let attr = Some(pb::NewAttr { replicas: policy.replicas, block_len: policy.block_len, ..Default::default() });
        let mut offset = 0;
        loop {
            let ask = pb::CloneRange { from: source.inode, from_version: source.version, to: inode, offset };
            match self.world.change(Kind::CloneRange(ask)).await? {
                Reply::CloneRange(step) if step.end => break,
                Reply::CloneRange(step) => offset = step.next_offset,
                other => panic!("{other:?}"),
            }
        }
        let publish = pb::Publish {
            inode,
            at: Some(at(to)),
            unnamed: true,
            replace: true,
            size: source.size,
            attr,
            ..Default::default()
        };
        self.world.change(Kind::Publish(publish)).await.map(|_| ())
    }

    async fn step(&mut self) {
        self.world.clock.advance(Duration::from_millis(10));
        let dir = self.some(pb::Kind::Directory).await.expect("the root");
        let file = self.some(pb::Kind::File).await.unwrap_or_default();
        let name = self.fresh(&dir);
        let done = match self.random.u8(..26) {
            0 => self.world.mkdir(&name).await.map(|_| ()),
            1..4 => self.world.create(&name).await.map(|_| ()),
            4..10 => self.write(&file).await,
            10 => {
                let size = self.random.u64(..FILE_STEPS * STEP);
                match self.world.stat(&file).await {
                    Ok(attr) => self.world.truncate(attr.inode, size / STEP * STEP).await.map(|_| ()),
                    Err(status) => Err(status),
                }
            }
            11 => match self.world.stat(&file).await {
                Ok(attr) => self.world.truncate(attr.inode, 0).await.map(|_| ()),
                Err(status) => Err(status),
            },
            12 | 13 => self.world.unlink(&file).await,
            14 => self.world.rename(&file, &name).await,
            15 => self.world.rename(&dir, &name).await,
            16 => self.world.rmdir(&dir).await,
            17 => self.world.symlink(&name, "somewhere").await.map(|_| ()),
            18 => match self.world.stat(&file).await {
                Ok(attr) => self.world.inline(attr.inode, 3, b"inline").await.map(|_| ()),
                Err(status) => Err(status),
            },
            19 | 20 => {
                let copy = self.world.tree(&dir).await;
                let name = format!("s{}", self.random.u8(..5));
                match self.world.snapshot(&dir, &name).await {
                    Ok(taken) => {
                        self.copies.insert(taken.number, (taken.root, copy));
                        Ok(())
                    }
                    Err(status) => Err(status),
                }
            }
            21 => match self.some_snapshot() {
                Some(number) => self.forget(number).await,
                None => Ok(()),
            },
            22 | 23 => self.clone((InodeId::ROOT.0, file.as_str()), &name).await,
            24 => self.restore(&name).await,
            _ => {
                settle(&self.world).await;
                self.collect().await
            }
        };
        if let Err(status) = done {
            let meant = [
                Code::Exists,
                Code::NotFound,
                Code::NotADirectory,
                Code::IsADirectory,
                Code::NotEmpty,
                Code::Invalid,
                Code::NotInline,
            ];
            assert!(meant.contains(&status.code), "{status}");
        }
    }

    fn some_snapshot(&mut self) -> Option<u64> {
        let index = self.random.usize(..self.copies.len().max(1));
        self.copies.keys().nth(index).copied()
    }

    async fn forget(&mut self, number: u64) -> Result<(), Status> {
        let delete = pb::DeleteSnapshot { number, ..Default::default() };
        self.world.change(Kind::DeleteSnapshot(delete)).await?;
        self.copies.remove(&number);
        Ok(())
    }

    /// Clones a file out of a snapshot.
    async fn restore(&mut self, name: &str) -> Result<(), Status> {
        let Some(number) = self.some_snapshot() else { return Ok(()) };
        let (root, copy) = &self.copies[&number];
        let dir = past(*root, number);
        let files: Vec<String> =
            copy.iter().filter(|(_, seen)| seen.attr.kind() == pb::Kind::File).map(|(path, _)| path.clone()).collect();
        match files.get(self.random.usize(..files.len().max(1))) {
            Some(file) => self.clone((dir, file.as_str()), name).await,
            None => Ok(()),
        }
    }

    /// What the collector does with all it is given.
    async fn collect(&mut self) -> Result<(), Status> {
        let rows = self.world.meta.garbage(None, 1000).await?;
        self.world.meta.garbage_done(&rows).await?;
        for row in rows {
            for seq in row.first.seq.0..row.first.seq.0 + row.count {
                let block = (row.first.inode.0, row.first.writer.0, seq);
                if !self.written.remove(&block) {
                    self.strange.push(block);
                }
            }
        }
        Ok(())
    }

    /// Blocks that the collector may have and those that are held, each with those that are named twice.
    #[allow(clippy::type_complexity, reason = "two pairs of the same kind, taken apart at once")]
    async fn garbage(&self) -> ((BlockSet, Vec<(u64, u64, u32)>), (BlockSet, Vec<(u64, u64, u32)>)) {
        let garbage = table::<keys::Garbage>(&self.engine).await;
        let held = table::<keys::HeldGarbage>(&self.engine).await;
        (
            blocks(garbage.into_iter().map(|(key, row)| (key.inode, key.writer, key.seq, row.count))),
            blocks(held.into_iter().map(|(key, row)| (key.inode, key.writer, key.seq, row.count))),
        )
    }

    /// What does not hold; empty when all is well.
    async fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let mut shown = BlockSet::new();
        let mut note = |tree: &BTreeMap<String, Seen>| {
            shown.extend(
                tree.values().flat_map(|seen| seen.units.iter().flatten()).map(|place| (place.0, place.1, place.2)),
            );
        };
        note(&self.world.tree("").await);
        for (number, (root, copy)) in &self.copies {
            let tree = self.world.tree_at(past(*root, *number), "").await;
            note(&tree);
            if tree != *copy {
                let differs = |path: &&String| tree.get(*path) != copy.get(*path);
                let paths: Vec<_> = tree.keys().chain(copy.keys()).filter(differs).collect();
                faults.push(format!("snapshot {number} shows other things at {paths:?}"));
            }
        }
        let ((garbage, twice), (held, held_twice)) = self.garbage().await;
        if !twice.is_empty() || !held_twice.is_empty() || !self.strange.is_empty() {
            faults.push(format!("garbage twice: {twice:?}, {held_twice:?}, {:?}", self.strange));
        }
        let gone: Vec<_> =
            shown.iter().filter(|block| garbage.contains(*block) || !self.written.contains(*block)).collect();
        if !gone.is_empty() {
            faults.push(format!("{gone:?} are shown, and the collector has them"));
        }
        if !garbage.is_disjoint(&held) {
            faults.push("blocks are garbage and held".into());
        }
        faults
    }

    /// Everything is deleted: what was written has to be garbage, all of it and once.
    async fn end(&mut self) -> Vec<String> {
        for number in self.copies.keys().copied().collect::<Vec<_>>() {
            self.forget(number).await.expect("deleted");
        }
        for path in self.world.tree("").await.keys().rev().filter(|path| !path.is_empty()) {
            if self.world.unlink(path).await.is_err() {
                self.world.rmdir(path).await.expect("it is empty: what is in it sorts behind it");
            }
        }
        settle(&self.world).await;
        let mut faults = Vec::new();
        let ((garbage, _), (held, _)) = self.garbage().await;
        if garbage != self.written || !held.is_empty() {
            let lost: Vec<_> = self.written.difference(&garbage).collect();
            faults.push(format!("{lost:?} are nobody's, {held:?} are held"));
        }
        let left = (
            table::<keys::History>(&self.engine).await.len(),
            table::<keys::SharedRange>(&self.engine).await.len(),
            table::<keys::Snapshot>(&self.engine).await.len(),
            table::<keys::MapDrop>(&self.engine).await.len(),
            table::<keys::Extent>(&self.engine).await.len(),
        );
        if left != (0, 0, 0, 0, 0) {
            faults.push(format!("rows of history, shares, snapshots, dropped maps, extents are left: {left:?}"));
        }
        faults
    }
}

fn past(root: u64, number: u64) -> u64 {
    InodeId(root).in_snapshot(number).expect("small numbers").0
}

/// Operations between two checks of all rows.
const CHECK_EVERY: usize = 10;

/// The first fault of a run, and after which operation.
async fn first_fault(without: Without, seed: u64, operations: usize) -> Option<String> {
    let mut run = Run::new(without, seed).await;
    for operation in 0..operations {
        run.step().await;
        let mut faults = run.faults().await;
        if without == Without::Nothing && operation % CHECK_EVERY == 0 {
            let findings = crate::mending::check(&run.engine, false).await;
            faults.extend(findings.into_iter().map(|finding| format!("{}: {}", finding.rule, finding.what)));
        }
        if !faults.is_empty() {
            return Some(format!("seed {seed}, operation {operation}: {faults:?}"));
        }
    }
    let faults = run.end().await;
    (!faults.is_empty()).then(|| format!("seed {seed}, at the end: {faults:?}"))
}

#[tokio::test]
async fn snapshots_show_copies_of_the_tree_and_no_block_is_lost() {
    let seeds = std::env::var("CAIRN_SNAPSHOT_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(4);
    for seed in 0..seeds {
        assert_eq!(first_fault(Without::Nothing, seed, 100).await, None);
    }
}

#[tokio::test]
async fn without_any_of_the_rules_something_is_lost() {
    for without in [Without::History, Without::Born, Without::Hold, Without::Shares] {
        let mut found = None;
        for seed in 0..20 {
            found = first_fault(without, seed, 100).await;
            if found.is_some() {
                break;
            }
        }
        assert!(found.is_some(), "{without:?} was not noticed");
    }
}
