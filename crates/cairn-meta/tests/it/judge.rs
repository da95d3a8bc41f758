//! What metadata says about blocks that lie on a store, on both engines.

use crate::support::{BLOCK, ManualClock, World, at, attr, code, embedded, options};
use cairn_meta::Meta;
use cairn_meta::kv::{Engine, MapEngine};
use cairn_proto::limits::{BLOCKS_JUDGED_MAX, BLOCKS_PER_REQUEST_MAX, SESSION_LEASE_MS};
use cairn_proto::pb;
use cairn_proto::pb::Verdict::{self, Dead, Future, Live, Undecided};
use cairn_proto::pb::WriterState::{self, Closed, Open, Unknown};
use cairn_proto::pb::request::Kind;
use cairn_proto::pb::response::Kind as Reply;
use cairn_proto::status::{Code, Status};
use std::sync::Arc;
use std::time::Duration;

fn run(inode: u64, writer: u64, seq: u32, count: u32) -> pb::GroupRun {
    let first = pb::BlockId { inode, writer, seq };
    pb::GroupRun { pg: 1, run: Some(pb::Run { first: Some(first), count }) }
}

impl World {
    /// The verdict on each block of the runs, as the first member of group 1 asks.
    pub async fn judge(&self, runs: Vec<pb::GroupRun>) -> Result<Vec<Verdict>, Status> {
        let ask = pb::JudgeBlocks { store: self.members(1).await[0], runs };
        match self.ask(Kind::JudgeBlocks(ask)).await? {
            Reply::JudgeBlocks(reply) => {
                assert_eq!(Some(reply.duty_epoch), self.meta.duty_epoch());
                Ok(reply.spans.iter().flat_map(|span| vec![span.verdict(); span.count as usize]).collect())
            }
            other => panic!("{other:?}"),
        }
    }

    async fn states(&self, writers: &[u64]) -> Vec<WriterState> {
        match self.ask(Kind::JudgeWriters(pb::JudgeWriters { writers: writers.to_vec() })).await {
            Ok(Reply::JudgeWriters(reply)) => {
                assert_eq!(Some(reply.duty_epoch), self.meta.duty_epoch());
                reply.states().collect()
            }
            other => panic!("{other:?}"),
        }
    }

    pub async fn close_writer(&self) {
        let ask = pb::CloseWriter { session: self.session, epoch: 1, writer: self.writer };
        self.ask(Kind::CloseWriter(ask)).await.expect("closed");
    }
}

async fn on_each_engine(test: impl AsyncFn(World)) {
    let dir = tempfile::tempdir().expect("a scratch directory");
    for engine in [Arc::new(MapEngine::new()) as Arc<dyn Engine>, embedded(dir.path())] {
        let world = World::over(engine).await;
        world.add_nodes(3).await;
        test(world).await;
    }
}

#[tokio::test]
async fn every_kind_of_block_has_its_verdict() {
    on_each_engine(async |world| {
        let block = u64::from(BLOCK);
        let file = world.create("f").await.expect("made").inode;
        // Blocks 0 to 9, then 3 to 5 replaced by 10 to 12, then cut down to seven and a half. 13 and 14 are orphans.
        world.write(file, 0, 10 * block).await.expect("written");
        world.write(file, 3 * block, 3 * block).await.expect("written");
        world.truncate(file, 7 * block + 1000).await.expect("cut");
        let all = || vec![run(file, world.writer, 0, 15)];
        let expect = |orphan| {
            let mut verdicts = vec![Live; 15];
            verdicts[3..6].fill(Undecided);
            verdicts[8..10].fill(Undecided);
            verdicts[13..].fill(orphan);
            verdicts
        };
        assert_eq!(world.judge(all()).await.expect("judged"), expect(Undecided), "the writer is open");
        world.close_writer().await;
        assert_eq!(world.judge(all()).await.expect("judged"), expect(Dead));
        // Once the collector has seen them gone everywhere, a copy that turns up again is dead.
        let garbage = world.meta.garbage(None, 100).await.expect("listed");
        world.meta.garbage_done(&garbage).await.expect("done");
        let mut collected = vec![Live; 15];
        collected[3..6].fill(Dead);
        collected[8..10].fill(Dead);
        collected[13..].fill(Dead);
        assert_eq!(world.judge(all()).await.expect("judged"), collected);
        // A writer that this metadata neither opened nor closed: it was rolled back.
        let unknown = run(file, world.writer + 1000, 0, 3);
        assert_eq!(world.judge(vec![unknown]).await.expect("judged"), [Future; 3]);
        // Of an inode that never was, or that is gone.
        let nowhere = run(file + 5000, world.writer, 0, 2);
        assert_eq!(world.judge(vec![nowhere]).await.expect("judged"), [Dead; 2]);
    })
    .await;
}

#[tokio::test]
async fn a_map_that_is_dropped_in_steps_keeps_its_blocks() {
    on_each_engine(async |world| {
        let file = world.create("f").await.expect("made").inode;
        let members = world.members(1).await;
        for chunk in 0..10u64 {
            let pieces: Vec<_> = (0..60).map(|n| world.piece((chunk * 60 + n) * 2048, 1024, &members)).collect();
            world.change(Kind::Commit(world.commit(file, pieces))).await.expect("written");
        }
        world.close_writer().await;
        let all = || vec![run(file, world.writer, 0, 600)];
        assert_eq!(world.judge(all()).await.expect("judged"), vec![Live; 600]);
        world.unlink("f").await.expect("removed");
        let mut steps = 0;
        loop {
            assert_eq!(world.judge(all()).await.expect("judged"), vec![Undecided; 600], "after {steps} steps");
            if !world.meta.drop_maps().await.expect("dropped") {
                break;
            }
            steps += 1;
        }
        assert!(steps > 1);
        loop {
            let garbage = world.meta.garbage(None, 100).await.expect("listed");
            if garbage.is_empty() {
                break;
            }
            world.meta.garbage_done(&garbage).await.expect("done");
        }
        assert_eq!(world.judge(all()).await.expect("judged"), vec![Dead; 600]);
    })
    .await;
}

#[tokio::test]
async fn a_file_without_a_name_holds_its_blocks_until_its_session_ends() {
    on_each_engine(async |world| {
        let inode = world.alloc_inode().await;
        let ask = pb::CreateUnnamed { inode, dir: Some(at("")), attr: Some(attr(0o644)) };
        world.change(Kind::CreateUnnamed(ask)).await.expect("made");
        world.write(inode, 0, 3 * u64::from(BLOCK)).await.expect("written");
        let all = || vec![run(inode, world.writer, 0, 4)];
        assert_eq!(world.judge(all()).await.expect("judged"), [Live, Live, Live, Undecided]);
        let close = pb::CloseSession { session: world.session, epoch: 1 };
        world.ask(Kind::CloseSession(close)).await.expect("closed");
        assert_eq!(world.judge(all()).await.expect("judged"), [Undecided, Undecided, Undecided, Dead]);
    })
    .await;
}

#[tokio::test]
async fn writers_end_with_their_session_and_are_remembered_as_closed() {
    let dir = tempfile::tempdir().expect("a scratch directory");
    for engine in [Arc::new(MapEngine::new()) as Arc<dyn Engine>, embedded(dir.path())] {
        let world = World::over(engine.clone()).await;
        let silent = world.open_session().await;
        let mut writers = Vec::new();
        for _ in 0..300 {
            writers.push(world.open_writer(silent).await);
        }
        assert_eq!(world.states(&writers[..2]).await, [Open, Open]);
        // Closed one by one, in an order in which ranges begin apart and meet later.
        for n in [4, 2, 3, 0] {
            let ask = pb::CloseWriter { session: silent, epoch: 1, writer: writers[n] };
            world.ask(Kind::CloseWriter(ask)).await.expect("closed");
            world.ask(Kind::CloseWriter(ask)).await.expect("closed before");
        }
        assert_eq!(world.states(&writers[..6]).await, [Closed, Open, Closed, Closed, Closed, Open]);
        // The client dies: its lease runs out.
        for _ in 0..SESSION_LEASE_MS / 3000 {
            world.clock.advance(Duration::from_secs(3));
            world
                .ask(Kind::RenewSession(pb::RenewSession { session: world.session, epoch: 1 }))
                .await
                .expect("renewed");
            world.meta.expire_sessions().await.expect("a step");
        }
        assert_eq!(world.states(&writers[1..2]).await, [Open]);
        world.clock.advance(Duration::from_millis(1));
        while world.meta.expire_sessions().await.expect("a step") {}
        for some in writers.chunks(BLOCKS_PER_REQUEST_MAX) {
            assert!(world.states(some).await.iter().all(|state| *state == Closed));
        }
        let last = *writers.last().expect("some");
        assert_eq!(world.states(&[world.writer, 0, last + 1, u64::MAX]).await, [Open, Unknown, Unknown, Unknown]);
        // What was closed is closed for the next process too.
        let epoch = world.meta.duty_epoch();
        let again = Meta::open(engine, options(Arc::new(ManualClock::default()))).await.expect("opens");
        let request = pb::Request {
            kind: Some(Kind::JudgeWriters(pb::JudgeWriters { writers: vec![writers[0], last, world.writer] })),
            ..Default::default()
        };
        let Ok(Reply::JudgeWriters(reply)) = again.execute(&request).await else { panic!("no answer") };
        assert_eq!(reply.states().collect::<Vec<_>>(), [Closed, Closed, Open]);
        assert_eq!(Some(reply.duty_epoch - 1), epoch, "a later process has a later duty");
    }
}

#[tokio::test]
async fn a_commit_beside_the_end_of_its_writer_is_whole_or_refused() {
    // Whatever the order, a block that was judged dead is never referred to afterwards.
    for _ in 0..20 {
        let world = Arc::new(World::with_groups().await);
        let file = world.create("f").await.expect("made").inode;
        let piece = world.piece(0, 1000, &world.members(1).await);
        let commit = tokio::spawn({
            let world = world.clone();
            async move { world.change(Kind::Commit(world.commit(file, vec![piece]))).await }
        });
        let judged = tokio::spawn({
            let world = world.clone();
            async move {
                world.close_writer().await;
                world.judge(vec![run(file, world.writer, 0, 1)]).await.expect("judged")
            }
        });
        let (committed, judged) = (commit.await.expect("ran"), judged.await.expect("ran"));
        match committed {
            Ok(_) => assert_eq!(judged, [Live]),
            Err(refused) => {
                assert_eq!(refused.code, Code::Fenced);
                assert_eq!(judged, [Dead]);
            }
        }
    }
}

#[tokio::test]
async fn requests_beyond_their_bounds_are_refused() {
    let world = World::with_groups().await;
    let too_many = run(1, 1, 0, BLOCKS_JUDGED_MAX as u32 + 1);
    assert_eq!(code(world.judge(vec![too_many]).await), Code::Invalid);
    assert_eq!(code(world.judge(vec![run(2, 1, 0, 1), run(1, 1, 0, 1)]).await), Code::Invalid);
    let ask = pb::JudgeWriters { writers: vec![1; BLOCKS_PER_REQUEST_MAX + 1] };
    assert_eq!(code(world.ask(Kind::JudgeWriters(ask)).await), Code::Invalid);
    let stranger = pb::JudgeBlocks { store: 99, runs: vec![run(1, 1, 0, 1)] };
    assert_eq!(code(world.ask(Kind::JudgeBlocks(stranger)).await), Code::NotFound);
    assert_eq!(world.judge(Vec::new()).await.expect("nothing to judge"), []);
}

#[tokio::test]
async fn a_late_acknowledgement_clears_what_stands_and_nothing_else() {
    let world = World::with_groups().await;
    let file = world.create("f").await.expect("made").inode;
    let members = world.members(1).await;
    let late = members[2];
    let piece = world.piece(0, 8 * u64::from(BLOCK), &members[..2]);
    let clear = |first_seq, count| {
        let first = pb::BlockId { inode: file, writer: world.writer, seq: first_seq };
        let row = pb::DegradedRow { pg: 1, store: late, run: Some(pb::Run { first: Some(first), count }), pg_epoch: 0 };
        Kind::ClearDegraded(pb::ClearDegraded { rows: vec![row; 2] })
    };
    // The acknowledgement overtakes the commit: there is no row yet, and the one that comes stays.
    world.ask(clear(piece.first_seq, 8)).await.expect("ignored");
    world.change(Kind::Commit(world.commit(file, vec![piece.clone()]))).await.expect("committed");
    assert_eq!(world.degraded(late).await.len(), 1);
    // Meanwhile the file is cut and the collector has seen the rest gone: the row is about fewer blocks now.
    world.truncate(file, 5 * u64::from(BLOCK)).await.expect("cut");
    let garbage = world.meta.garbage(None, 10).await.expect("listed");
    world.meta.garbage_done(&garbage).await.expect("done");
    let rows = world.degraded(late).await;
    assert_eq!(rows[0].run.expect("a run").count, 5);
    world.ask(clear(piece.first_seq, 8)).await.expect("ignored");
    assert_eq!(world.degraded(late).await, rows);
    world.ask(clear(piece.first_seq, 5)).await.expect("cleared");
    world.ask(clear(piece.first_seq, 5)).await.expect("cleared before");
    assert!(world.degraded(late).await.is_empty());
}
