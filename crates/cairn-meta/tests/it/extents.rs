//! Maps of files against a model that knows for every kilobyte which part of which block holds it.

use crate::support::{BLOCK, Expect, INLINE_MAX, World, at, attr, code};
use bytes::Bytes;
use cairn_meta::GarbageRow;
use cairn_proto::limits::BLOCK_LEN_MAX;
use cairn_proto::pb;
use cairn_proto::pb::Verdict;
use cairn_proto::pb::request::Kind;
use cairn_proto::pb::response::Kind as Reply;
use cairn_proto::status::Code;
use cairn_proto::{BlockId, layout};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// Grain of the model.
const UNIT: u64 = 1024;
const UNITS_PER_BLOCK: u64 = BLOCK as u64 / UNIT;
const FILE_UNITS: u64 = 400;
/// Block numbers judged at the end; more than most runs write.
const JUDGED: u32 = 1000;
/// No file of the model is that long.
const READ_TO: u64 = 1 << 40;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Cell {
    Hole,
    Inline(u8),
    /// Block number, and which of its units.
    Block(u32, u64),
}

#[derive(Clone, Debug)]
enum Op {
    /// Pieces as (gap before it, length) in units, and the member that misses them.
    Write {
        start: u64,
        pieces: Vec<(u64, u64)>,
        append: bool,
        missing: Option<usize>,
    },
    Inline {
        start: u64,
        len: u64,
        append: bool,
    },
    Truncate(u64),
    Replace(u64),
    Recreate,
    DropMaps,
    Collect,
    Heal(usize),
}

fn op() -> impl Strategy<Value = Op> {
    let pieces = prop::collection::vec((0u64..40, 1u64..150), 1..4);
    prop_oneof![
        6 => (0..FILE_UNITS, pieces, prop::bool::weighted(0.2), prop::option::of(0usize..3))
            .prop_map(|(start, pieces, append, missing)| Op::Write { start, pieces, append, missing }),
        6 => (0..FILE_UNITS, 1u64..12, prop::option::of(0usize..3))
            .prop_map(|(start, len, missing)| Op::Write { start, pieces: vec![(0, len)], append: false, missing }),
        3 => (0u64..5, 1u64..4, any::<bool>()).prop_map(|(start, len, append)| Op::Inline { start, len, append }),
        2 => prop_oneof![0..FILE_UNITS * 2, 0u64..5].prop_map(Op::Truncate),
        1 => (0u64..100).prop_map(Op::Replace),
        1 => Just(Op::Recreate),
        1 => Just(Op::DropMaps),
        1 => Just(Op::Collect),
        1 => (0usize..3).prop_map(Op::Heal),
    ]
}

/// The reference.
struct Model {
    cells: Vec<Cell>,
    /// Every block of the file ever committed that nobody has collected, of this and of earlier inodes.
    blocks: BTreeSet<(u64, u32)>,
    /// Store, inode, block.
    lacking: BTreeSet<(u32, u64, u32)>,
    inode: u64,
    version: u64,
    fill: u8,
}

impl Model {
    fn referenced(&self) -> BTreeSet<(u64, u32)> {
        let blocks = self.cells.iter().filter_map(|cell| match cell {
            Cell::Block(seq, _) => Some((self.inode, *seq)),
            _ => None,
        });
        blocks.collect()
    }

    fn lay(&mut self, at: u64, cells: impl Iterator<Item = Cell>) {
        for (index, cell) in (at as usize..).zip(cells) {
            if self.cells.len() <= index {
                self.cells.resize(index + 1, Cell::Hole);
            }
            self.cells[index] = cell;
        }
    }

    fn lay_piece(&mut self, piece: &pb::Piece, base: u64, missing: Option<u32>) {
        let (at, len) = ((piece.offset + base) / UNIT, piece.len / UNIT);
        let first = piece.first_seq;
        let cell = |unit: u64| Cell::Block(first + (unit / UNITS_PER_BLOCK) as u32, unit % UNITS_PER_BLOCK);
        self.lay(at, (0..len).map(cell));
        for seq in first..first + len.div_ceil(UNITS_PER_BLOCK) as u32 {
            self.blocks.insert((self.inode, seq));
            if let Some(store) = missing {
                self.lacking.insert((store, self.inode, seq));
            }
        }
    }

    fn inline_allowed(&self, end: u64) -> bool {
        let max = u64::from(INLINE_MAX) / UNIT;
        end <= max && self.cells.len() as u64 <= max && !self.cells.iter().any(|cell| matches!(cell, Cell::Block(..)))
    }
}

/// The file as its extents say, page by page.
async fn cells_of(world: &World, inode: u64) -> (Vec<Cell>, Vec<pb::Extent>) {
    let mut offset = 0;
    let mut extents: Vec<pb::Extent> = Vec::new();
    let first = world.extents(inode, 0, u64::MAX).await;
    let mut cells = vec![Cell::Hole; (first.size / UNIT) as usize];
    loop {
        let page = world.extents(inode, offset, READ_TO - offset).await;
        for extent in page.extents {
            let end = extents.last().map_or(0, |last| last.offset + last.len);
            assert!(extent.offset >= end && extent.len > 0, "{extent:?} behind {end}");
            extents.push(extent);
        }
        offset = page.covered_to;
        if offset == READ_TO {
            break;
        }
    }
    for extent in &extents {
        assert!(extent.offset + extent.len <= first.size, "{extent:?} behind the end");
        for (index, byte) in extent.inline.iter().enumerate().step_by(UNIT as usize) {
            cells[(extent.offset as usize + index) / UNIT as usize] = Cell::Inline(*byte);
        }
        for range in layout::blocks_of(extent, 0, u64::MAX >> 1).expect("a sound extent") {
            assert_eq!((range.block.inode.0, range.pg.0), (inode, 1));
            for unit in 0..u64::from(range.len) / UNIT {
                let cell = Cell::Block(range.block.seq.0, u64::from(range.offset) / UNIT + unit);
                cells[(range.target / UNIT + unit) as usize] = cell;
            }
        }
    }
    (cells, extents)
}

async fn garbage_rows(world: &World) -> Vec<GarbageRow> {
    let mut rows: Vec<GarbageRow> = Vec::new();
    loop {
        let page = world.meta.garbage(rows.last(), 3).await.expect("listed");
        if page.is_empty() {
            return rows;
        }
        rows.extend(page);
    }
}

fn blocks_of(rows: &[GarbageRow]) -> Vec<(u64, u32)> {
    let block = |row: &GarbageRow| {
        let BlockId { inode, seq, .. } = row.first;
        (seq.0..seq.0 + row.count).map(move |seq| (inode.0, seq))
    };
    rows.iter().flat_map(block).collect()
}

fn lacks_of(rows: &[pb::DegradedRow]) -> Vec<(u32, u64, u32)> {
    let lack = |row: &pb::DegradedRow| {
        let run = row.run.expect("a run");
        let first = run.first.expect("a block");
        let store = row.store;
        (first.seq..first.seq + run.count).map(move |seq| (store, first.inode, seq))
    };
    rows.iter().flat_map(lack).collect()
}

struct Run {
    world: World,
    model: Model,
    members: Vec<u32>,
}

impl Run {
    async fn new() -> Self {
        let world = World::with_groups().await;
        let members = world.members(1).await;
        let inode = world.create("f").await.expect("made").inode;
        let model =
            Model { cells: vec![], blocks: BTreeSet::new(), lacking: BTreeSet::new(), inode, version: 1, fill: 0 };
        Self { world, model, members }
    }

    async fn apply(&mut self, op: &Op) {
        match op {
            Op::Write { start, pieces, append, missing } => self.write(*start, pieces, *append, *missing).await,
            Op::Inline { start, len, append } => self.inline(*start, *len, *append).await,
            Op::Truncate(units) => {
                let reply = self.world.truncate(self.model.inode, units * UNIT).await.expect("truncated");
                self.model.cells.resize(*units as usize, Cell::Hole);
                assert_eq!(reply.size, units * UNIT);
                self.newer(reply.version);
            }
            Op::Replace(units) => self.replace(*units).await,
            Op::Recreate => {
                self.world.unlink("f").await.expect("removed");
                let made = self.world.create("f").await.expect("made");
                self.fresh(made.inode, made.version);
            }
            Op::DropMaps => drop(self.world.meta.drop_maps().await.expect("dropped")),
            Op::Collect => {
                let rows = garbage_rows(&self.world).await;
                self.world.meta.garbage_done(&rows).await.expect("done");
                self.world.meta.garbage_done(&rows).await.expect("done before");
                for (inode, seq) in blocks_of(&rows) {
                    assert!(self.model.blocks.remove(&(inode, seq)), "collected twice");
                    self.model.lacking.retain(|(_, i, s)| (*i, *s) != (inode, seq));
                }
            }
            Op::Heal(member) => self.heal(self.members[*member]).await,
        }
    }

    fn newer(&mut self, version: u64) {
        assert!(version > self.model.version);
        self.model.version = version;
    }

    fn fresh(&mut self, inode: u64, version: u64) {
        assert!(inode != self.model.inode);
        (self.model.inode, self.model.version) = (inode, version);
        self.model.cells.clear();
    }

    async fn write(&mut self, start: u64, pieces: &[(u64, u64)], append: bool, missing: Option<usize>) {
        let missing = missing.map(|index| self.members[index]);
        let acked: Vec<u32> = self.members.iter().copied().filter(|store| Some(*store) != missing).collect();
        let mut at = if append { 0 } else { start };
        let mut asked = Vec::new();
        for (gap, len) in pieces {
            at += gap;
            asked.push(self.world.piece(at * UNIT, len * UNIT, &acked));
            at += len;
        }
        asked.reverse();
        let commit = pb::Commit { append, ..self.world.commit(self.model.inode, asked.clone()) };
        let reply = self.world.change(Kind::Commit(commit)).await.expect("committed").into_commit();
        let base = if append { self.model.cells.len() as u64 * UNIT } else { 0 };
        for piece in &asked {
            self.model.lay_piece(piece, base, missing);
        }
        assert_eq!(reply.size, self.model.cells.len() as u64 * UNIT);
        self.newer(reply.version);
    }

    async fn inline(&mut self, start: u64, len: u64, append: bool) {
        self.model.fill += 1;
        let fill = self.model.fill;
        let data = Bytes::from(vec![fill; (len * UNIT) as usize]);
        let inline = Some(pb::InlineWrite { offset: if append { 0 } else { start * UNIT }, data });
        let ask = pb::Commit { inode: self.model.inode, inline, append, ..Default::default() };
        let reply = self.world.change(Kind::Commit(ask)).await;
        let start = if append { self.model.cells.len() as u64 } else { start };
        if !self.model.inline_allowed(start + len) {
            assert_eq!(code(reply), Code::NotInline);
            return;
        }
        let reply = reply.expect("written").into_commit();
        assert_eq!(reply.offset, start * UNIT);
        self.model.lay(start, (0..len).map(|_| Cell::Inline(fill)));
        // A hole below inline content is kept as zeros.
        let last = self.model.cells.iter().rposition(|cell| *cell != Cell::Hole).unwrap_or(0);
        for cell in self.model.cells[..last].iter_mut().filter(|cell| **cell == Cell::Hole) {
            *cell = Cell::Inline(0);
        }
        self.newer(reply.version);
    }

    async fn replace(&mut self, units: u64) {
        let inode = self.world.alloc_inode().await;
        let mut ask = pb::Publish {
            at: Some(at("f")),
            inode,
            attr: Some(attr(0o644)),
            replace: true,
            writer: self.world.writer,
            size: units * UNIT,
            ..Default::default()
        };
        if units > 0 {
            ask.pieces = vec![self.world.piece(0, units * UNIT, &self.members)];
        }
        let made = self.world.change(Kind::Publish(ask.clone())).await.expect("published").into_attr();
        self.fresh(inode, made.version);
        for piece in &ask.pieces {
            self.model.lay_piece(piece, 0, None);
        }
    }

    /// The store catches up on everything listed for it.
    async fn heal(&mut self, store: u32) {
        let rows = self.world.degraded(store).await;
        // A row that says more or less than what stands is left alone.
        let mut wrong = rows.clone();
        for row in &mut wrong {
            row.run = row.run.map(|run| pb::Run { count: run.count + 1, ..run });
        }
        self.world.ask(Kind::ClearDegraded(pb::ClearDegraded { rows: wrong })).await.expect("ignored");
        assert_eq!(self.world.degraded(store).await, rows);
        self.world.ask(Kind::ClearDegraded(pb::ClearDegraded { rows })).await.expect("cleared");
        self.model.lacking.retain(|(lacks, ..)| *lacks != store);
    }

    async fn check(&self) {
        let (cells, extents) = cells_of(&self.world, self.model.inode).await;
        let differs = cells.iter().zip(&self.model.cells).position(|(found, expected)| found != expected);
        assert_eq!((differs, cells.len()), (None, self.model.cells.len()), "first unit that differs; units");
        for extent in extents.iter().filter(|extent| extent.inline.is_empty()) {
            let blocks = layout::blocks_of(extent, 0, u64::MAX >> 1).expect("a sound extent");
            let lacks = |store: &u32| {
                blocks
                    .iter()
                    .any(|range| self.model.lacking.contains(&(*store, range.block.inode.0, range.block.seq.0)))
            };
            let expected: BTreeSet<u32> = self.members.iter().copied().filter(lacks).collect();
            assert_eq!(extent.lacking.iter().copied().collect::<BTreeSet<_>>(), expected);
        }
        let stat = self.world.stat("f").await.expect("there");
        assert_eq!((stat.size, stat.version), (cells.len() as u64 * UNIT, self.model.version));
        assert_eq!(self.world.status().await.file_bytes, stat.size);
    }

    /// Blocks of the file are live, those that wait for the collector undecided, and all others, committed or not,
    /// `orphan`.
    async fn check_judgement(&self, orphan: Verdict) {
        let inode = self.model.inode;
        let referenced = self.model.referenced();
        let expected: Vec<Verdict> = (0..JUDGED)
            .map(|seq| match (inode, seq) {
                block if referenced.contains(&block) => Verdict::Live,
                block if self.model.blocks.contains(&block) => Verdict::Undecided,
                _ => orphan,
            })
            .collect();
        let first = pb::BlockId { inode, writer: self.world.writer, seq: 0 };
        let run = pb::Run { first: Some(first), count: JUDGED };
        let verdicts = self.world.judge(vec![pb::GroupRun { pg: 1, run: Some(run) }]).await.expect("judged");
        assert_eq!(verdicts, expected);
    }

    /// With nothing left to drop, garbage is exactly what nothing refers to.
    async fn check_garbage(&self) {
        while self.world.meta.drop_maps().await.expect("dropped") {}
        let found = blocks_of(&garbage_rows(&self.world).await);
        let distinct: BTreeSet<_> = found.iter().copied().collect();
        assert_eq!(distinct.len(), found.len(), "a block is garbage twice");
        let expected: BTreeSet<_> = self.model.blocks.difference(&self.model.referenced()).copied().collect();
        assert_eq!(distinct, expected);
        let lacking = lacks_of(&self.world.degraded(0).await);
        assert_eq!(lacking.iter().copied().collect::<BTreeSet<_>>(), self.model.lacking);
        assert_eq!(lacking.len(), self.model.lacking.len());
    }
}

proptest! {
    #[test]
    fn every_byte_and_every_block_is_accounted_for(ops in prop::collection::vec(op(), 1..50)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let mut run = Run::new().await;
            for op in &ops {
                run.apply(op).await;
                run.check().await;
            }
            run.check_judgement(Verdict::Undecided).await;
            run.world.close_writer().await;
            run.check_judgement(Verdict::Dead).await;
            run.check_garbage().await;
            run.check_judgement(Verdict::Dead).await;
        });
    }
}

#[tokio::test]
async fn a_stream_is_one_row() {
    let world = World::with_groups().await;
    let inode = world.create("f").await.expect("made").inode;
    let step = 16 * u64::from(BLOCK);
    for index in 0..50 {
        world.write(inode, index * step, step).await.expect("written");
    }
    let reply = world.extents(inode, 0, u64::MAX).await;
    assert_eq!((reply.extents.len(), reply.extents[0].len), (1, 50 * step));
}

#[tokio::test]
async fn known_extents_are_not_sent_again() {
    let world = World::with_groups().await;
    let inode = world.create("f").await.expect("made").inode;
    let version = world.write(inode, 0, 10).await.expect("written").version;
    let ask = |known_version| Kind::GetExtents(pb::GetExtents { inode, offset: 0, len: 10, known_version });
    let Ok(Reply::GetExtents(same)) = world.ask(ask(version)).await else { panic!("no reply") };
    assert!(same.unchanged && same.extents.is_empty() && same.size == 10);
    let Ok(Reply::GetExtents(moved)) = world.ask(ask(version - 1)).await else { panic!("no reply") };
    assert!(!moved.unchanged && moved.extents.len() == 1 && moved.version == version);
    world.mkdir("d").await.expect("made");
    let dir = world.stat("d").await.expect("there").inode;
    let ask = pb::GetExtents { inode: dir, offset: 0, len: 1, known_version: 0 };
    assert_eq!(code(world.ask(Kind::GetExtents(ask)).await), Code::IsADirectory);
}

#[tokio::test]
async fn a_minority_of_acks_is_no_commit() {
    let world = World::with_groups().await;
    let inode = world.create("f").await.expect("made").inode;
    let members = world.members(1).await;
    for acked in [vec![], vec![members[0]], vec![members[0], members[0]], vec![members[0], 999]] {
        let piece = world.piece(0, 100, &acked);
        let refused = world.change(Kind::Commit(world.commit(inode, vec![piece]))).await.expect_err("no quorum");
        assert_eq!(refused.code, Code::NoQuorum);
        assert_eq!(refused.pg.expect("the current row").members.len(), 3);
    }
    assert_eq!(world.stat("f").await.expect("there").size, 0);
    assert!(world.degraded(0).await.is_empty());
    let stranger = pb::Piece { pg: 999, ..world.piece(0, 100, &members) };
    assert_eq!(code(world.change(Kind::Commit(world.commit(inode, vec![stranger]))).await), Code::Invalid);
}

#[tokio::test]
async fn contradictory_commits_are_refused_whole() {
    let world = World::with_groups().await;
    let inode = world.create("f").await.expect("made").inode;
    let members = world.members(1).await;
    let version = world.write(inode, 0, 100).await.expect("written").version;
    let piece = world.piece(0, 100, &members);
    let refuse = |commit: pb::Commit| async { code(world.change(Kind::Commit(commit)).await) };
    let empty = pb::Piece { len: 0, ..piece.clone() };
    assert_eq!(refuse(world.commit(inode, vec![empty])).await, Code::Invalid);
    let odd = pb::Piece { block_len: BLOCK_LEN_MAX + 1, ..piece.clone() };
    assert_eq!(refuse(world.commit(inode, vec![odd])).await, Code::Invalid);
    let inline = Some(pb::InlineWrite { offset: 0, data: Bytes::from_static(b"x") });
    let both = pb::Commit { inline: inline.clone(), ..world.commit(inode, vec![piece.clone()]) };
    assert_eq!(refuse(both).await, Code::Invalid);
    let old = pb::Commit { expected_version: Some(version - 1), ..world.commit(inode, vec![piece.clone()]) };
    assert_eq!(refuse(old).await, Code::Conflict);
    assert_eq!(refuse(world.commit(1, vec![piece.clone()])).await, Code::IsADirectory);
    assert_eq!(refuse(world.commit(99_999, vec![piece.clone()])).await, Code::NotFound);
    assert_eq!(world.stat("f").await.expect("there").version, version);
    let current = pb::Commit { expected_version: Some(version), ..world.commit(inode, vec![piece]) };
    world.change(Kind::Commit(current)).await.expect("the version held");
    // An empty write changes nothing, whatever the file.
    let nothing = pb::Commit { inode, inline: Some(pb::InlineWrite::default()), ..Default::default() };
    let reply = world.change(Kind::Commit(nothing)).await.expect("nothing to do").into_commit();
    assert_eq!(reply.version, version + 1);
}

#[tokio::test]
async fn a_file_in_a_thousand_pieces_is_cut_and_dropped_in_steps() {
    let world = World::with_groups().await;
    let inode = world.create("f").await.expect("made").inode;
    let members = world.members(1).await;
    let mut blocks = BTreeMap::new();
    // Every second kilobyte, so that nothing continues.
    for chunk in 0..20u64 {
        let piece = |index| world.piece((chunk * 50 + index) * 2 * UNIT, UNIT, &members);
        let pieces: Vec<_> = (0..50).map(piece).collect();
        blocks.extend(pieces.iter().map(|piece| (piece.first_seq, piece.offset)));
        world.change(Kind::Commit(world.commit(inode, pieces))).await.expect("written");
    }
    let reply = world.truncate(inode, 99 * UNIT).await.expect("truncated");
    assert_eq!(reply.size, 99 * UNIT);
    let dropped = blocks.values().filter(|offset| **offset >= 99 * UNIT).count();
    assert_eq!(blocks_of(&garbage_rows(&world).await).len(), dropped);
    assert_eq!(world.extents(inode, 0, u64::MAX).await.extents.len(), blocks.len() - dropped);
    world.truncate(inode, 0).await.expect("truncated");
    assert!(world.extents(inode, 0, u64::MAX).await.extents.is_empty());
    while world.meta.drop_maps().await.expect("dropped") {}
    assert_eq!(blocks_of(&garbage_rows(&world).await).len(), blocks.len());
}

#[tokio::test]
async fn pages_of_extents_cover_the_file() {
    let world = World::with_groups().await;
    let inode = world.create("f").await.expect("made").inode;
    let members = world.members(1).await;
    for chunk in 0..40u64 {
        let piece = |index| world.piece((chunk * 64 + index) * 2 * UNIT, UNIT, &members);
        let pieces = (0..64).map(piece).collect();
        world.change(Kind::Commit(world.commit(inode, pieces))).await.expect("written");
    }
    let (mut offset, mut rows, mut pages) = (0, 0, 0);
    let end = 40 * 64 * 2 * UNIT;
    while offset < end {
        let page = world.extents(inode, offset, end - offset).await;
        assert!(prost::Message::encoded_len(&page) < 64 * 1024 && page.covered_to > offset);
        rows += page.extents.len();
        offset = page.covered_to;
        pages += 1;
    }
    assert_eq!(rows, 40 * 64);
    assert!(pages > 1);
}
