//! Checks of metadata's rows, and what a check from outside reads: contradictions written past the namespace are found,
//! mended where that is possible, and nothing else is.

use crate::support::{BLOCK, World, beat, options, registration};
use bytes::Bytes;
use cairn_meta::keys::{self, Key};
use cairn_meta::kv::{Durability, Engine, MapEngine};
use cairn_meta::rows::{self, Content, Row};
use cairn_meta::{MassStop, Meta};
use cairn_proto::pb;
use cairn_proto::pb::request::Kind;
use cairn_proto::pb::response::Kind as Reply;
use std::collections::BTreeSet;
use std::sync::Arc;

async fn put<K: Key>(engine: &Arc<dyn Engine>, key: K, row: K::Row) {
    let mut txn = engine.begin().await.expect("begin");
    txn.put(key.encode(), row.encode());
    txn.commit(Durability::Durable).await.expect("committed");
}

async fn get<K: Key>(engine: &Arc<dyn Engine>, key: &K) -> Option<K::Row> {
    let value = engine.begin().await.expect("begin").get(&key.encode()).await.expect("read");
    value.map(|value| K::Row::decode(&value).expect("a row"))
}

/// A whole pass: what was found, and how many rows were looked at.
async fn check(world: &World, repair: bool) -> (Vec<pb::RowFinding>, u64) {
    let (mut findings, mut rows, mut cursor) = (Vec::new(), 0, Bytes::new());
    loop {
        let page = match world.ask(Kind::CheckRows(pb::CheckRows { cursor, repair })).await {
            Ok(Reply::CheckRows(page)) => page,
            other => panic!("{other:?}"),
        };
        findings.extend(page.findings);
        rows += page.rows;
        cursor = page.next_cursor;
        if cursor.is_empty() {
            return (findings, rows);
        }
    }
}

fn rules(findings: &[pb::RowFinding]) -> BTreeSet<&str> {
    findings.iter().map(|finding| finding.rule.as_str()).collect()
}

async fn runs(world: &World, kind: pb::RunKind, limit: u32) -> Vec<pb::PlacedRun> {
    let (mut runs, mut cursor) = (Vec::new(), Bytes::new());
    loop {
        let page = match world.ask(Kind::ScanRuns(pb::ScanRuns { kind: kind as i32, cursor, limit })).await {
            Ok(Reply::ScanRuns(page)) => page,
            other => panic!("{other:?}"),
        };
        runs.extend(page.runs);
        cursor = page.next_cursor;
        if cursor.is_empty() {
            return runs;
        }
    }
}

/// Some directories, and files with blocks, without, cut, replaced and removed.
async fn busy_world() -> (World, Arc<dyn Engine>, u64) {
    let engine: Arc<dyn Engine> = Arc::new(MapEngine::new());
    let world = World::over(engine.clone()).await;
    world.add_nodes(3).await;
    world.mkdir("/d").await.expect("made");
    world.mkdir("/d/e").await.expect("made");
    let file = world.create("/d/file").await.expect("made").inode;
    world.write(file, 0, 5 * u64::from(BLOCK)).await.expect("written");
    world.write(file, u64::from(BLOCK), u64::from(BLOCK)).await.expect("written");
    world.truncate(file, 3 * u64::from(BLOCK) + 7).await.expect("cut");
    let small = world.create("/d/e/small").await.expect("made").inode;
    world.inline(small, 0, b"inline").await.expect("written");
    world.symlink("/d/link", "file").await.expect("made");
    let gone = world.create("/gone").await.expect("made").inode;
    world.write(gone, 0, u64::from(BLOCK)).await.expect("written");
    world.unlink("/gone").await.expect("removed");
    world.rename("/d/e", "/f").await.expect("moved");
    (world, engine, file)
}

#[tokio::test]
async fn a_namespace_that_was_used_as_meant_has_no_findings() {
    let (world, _, _) = busy_world().await;
    for _ in 0..2 {
        let (findings, rows) = check(&world, false).await;
        assert_eq!(findings, [], "of {rows} rows");
        assert!(rows >= 10, "{rows} rows");
        world.meta.drop_maps().await.expect("dropped");
    }
    assert_eq!(check(&world, true).await.0, [], "there is nothing to mend");
}

#[tokio::test]
async fn each_contradiction_is_found_and_mended_if_that_is_possible() {
    let (world, engine, file) = busy_world().await;
    let run = |pg| rows::Run {
        inode: file,
        writer: world.writer,
        seq: 0,
        skip: 0,
        block_len: BLOCK,
        pgs: vec![pg],
        codec: 0,
        flags: 0,
    };
    let extent = |pg| rows::Extent { len: u64::from(BLOCK), content: Content::Blocks(run(pg)), birth: 0, born: 0 };
    let inode = get(&engine, &keys::Inode { inode: file }).await.expect("the file");
    // What --repair mends.
    let ghost = keys::Dentry { parent: 1, name: Bytes::from_static(b"ghost") };
    put(&engine, ghost.clone(), rows::Dentry { inode: 9_999, kind: rows::Kind::File, birth: 0 }).await;
    put(&engine, keys::Inode { inode: 8_888 }, rows::Inode { nlink: 1, ..inode.clone() }).await;
    put(&engine, keys::Inode { inode: file }, rows::Inode { nlink: 7, ..inode.clone() }).await;
    put(&engine, keys::Extent { inode: file, generation: 77, offset: 0 }, extent(1)).await;
    let stranger = keys::Degraded { store: 99, pg: 1, inode: file, writer: world.writer, seq: 0 };
    put(&engine, stranger.clone(), rows::RunLen { count: 1 }).await;
    put(&engine, keys::Writer { writer: 77_777 }, rows::Writer { session: 66_666 }).await;
    // Attributes and holds that one side knows nothing of.
    let attribute = |inode| keys::Xattr { inode, name: Bytes::from_static(b"user.a") };
    for inode in [file, 7_777] {
        put(&engine, attribute(inode), rows::Xattr { value: Bytes::new(), birth: 0 }).await;
    }
    let session = world.session;
    put(&engine, keys::Sustained { session: 66_666, inode: file }, rows::Holds { count: 1 }).await;
    put(&engine, keys::Sustained { session, inode: file }, rows::Holds { count: 1 }).await;
    put(&engine, keys::SustainedBy { inode: 8_888, session }, rows::Unit {}).await;
    let of_others = ["stray attribute", "attribute count", "hold without session", "one-sided hold"];
    let mendable = ["dangling name", "nameless inode", "link count", "stray map", "degraded row of a stranger"];
    let more = ["writer without session", "extent behind the end", "counter"];
    let mendable: BTreeSet<&str> = mendable.into_iter().chain(more).chain(of_others).collect();
    // What an operator has to look at.
    let generation = inode.generation;
    put(&engine, keys::Extent { inode: file, generation, offset: 7 }, extent(1)).await;
    put(&engine, keys::Extent { inode: file, generation, offset: 1 << 30 }, extent(55)).await;
    put(
        &engine,
        keys::Pg { pg: 44 },
        rows::Pg { epoch: 1, replicas: 3, members: Vec::new(), sealed: true, since: Vec::new() },
    )
    .await;
    let by_hand: BTreeSet<&str> = ["overlapping extents", "unknown group", "group without members"].into();

    let all: BTreeSet<&str> = mendable.union(&by_hand).copied().collect();
    for look in ["first", "second"] {
        let (findings, _) = check(&world, false).await;
        assert_eq!(rules(&findings), all, "{look} look");
        assert!(findings.iter().all(|finding| !finding.repaired && !finding.remedy.is_empty()), "{findings:?}");
    }
    let (findings, _) = check(&world, true).await;
    for finding in &findings {
        assert_eq!(finding.repaired, mendable.contains(finding.rule.as_str()), "{finding:?}");
    }
    let (left, _) = check(&world, false).await;
    assert_eq!(rules(&left), by_hand, "{left:?}");
    assert!(get(&engine, &ghost).await.is_none() && get(&engine, &stranger).await.is_none());
    assert_eq!(world.stat("/d/file").await.expect("there").nlink, 1);
    assert_eq!(world.list("/lost+found").await.expect("made"), ["inode-8888"]);
    while world.meta.drop_maps().await.expect("the stray map is dropped") {}
    assert!(get(&engine, &keys::Extent { inode: file, generation: 77, offset: 0 }).await.is_none());
}

#[tokio::test]
async fn pages_of_runs_have_every_run_once() {
    let (world, _, file) = busy_world().await;
    let whole = runs(&world, pb::RunKind::Extents, 0).await;
    for limit in [1, 2, 1000] {
        assert_eq!(runs(&world, pb::RunKind::Extents, limit).await, whole, "pages of {limit}");
    }
    let of_file: Vec<_> = whole.iter().filter(|placed| placed.inode == file).collect();
    let shape = |placed: &&pb::PlacedRun| (placed.file_offset / u64::from(BLOCK), placed.run.expect("set").count);
    assert_eq!(of_file.iter().map(shape).collect::<Vec<_>>(), [(0, 1), (1, 1), (2, 2)], "{of_file:?}");
    assert!(of_file.iter().all(|placed| placed.current && placed.pgs == [1] && placed.block_len == BLOCK));
    assert_eq!(of_file.iter().map(|placed| placed.len).sum::<u64>(), 3 * u64::from(BLOCK) + 7);
    assert!(whole.iter().filter(|placed| placed.inode != file).all(|placed| !placed.current), "{whole:?}");
    while world.meta.drop_maps().await.expect("dropped") {}
    let garbage = runs(&world, pb::RunKind::Garbage, 1).await;
    let blocks: u32 = garbage.iter().map(|placed| placed.run.expect("set").count).sum();
    assert_eq!(blocks, 3, "one overwritten, one cut off, one of the file that went: {garbage:?}");
}

#[tokio::test]
async fn what_a_member_lacks_becomes_rows_once() {
    let (world, _, file) = busy_world().await;
    let live =
        runs(&world, pb::RunKind::Extents, 0).await.into_iter().find(|placed| placed.inode == file).expect("one");
    let first = live.run.and_then(|run| run.first).expect("set");
    let member = world.members(1).await[0];
    let report = |store, seq, count| {
        let run = pb::Run { first: Some(pb::BlockId { seq, ..first }), count };
        Kind::ReportLacking(pb::ReportLacking { store, runs: vec![pb::GroupRun { pg: 1, run: Some(run) }] })
    };
    for (store, seq) in [(99, first.seq), (member, 4_000_000)] {
        world.ask(report(store, seq, 1)).await.expect("ignored");
        assert_eq!(world.degraded(0).await, [], "strangers and blocks that no file has are ignored");
    }
    for _ in 0..2 {
        world.ask(report(member, first.seq, 1)).await.expect("noted");
        let rows = world.degraded(member).await;
        assert_eq!((rows.len(), rows[0].run), (1, live.run), "{rows:?}");
    }
}

#[tokio::test]
async fn after_a_rollback_nothing_is_collected_until_an_operator_accepts_it() {
    let (world, _, _) = busy_world().await;
    while world.meta.drop_maps().await.expect("dropped") {}
    assert!(!world.meta.garbage(None, 10).await.expect("listed").is_empty(), "there is something to collect");
    assert!(!world.meta.is_rolled_back());
    // A store comes back with blocks of a writer that this metadata never named.
    let unknown = 1 << 40;
    let beat = pb::StoreBeat { highest_writer: unknown, ..beat(1, false) };
    let Kind::RegisterNode(registration) = registration(1, 1, false) else { unreachable!("a registration") };
    let registration = pb::RegisterNode { stores: vec![beat], ..registration };
    world.ask(Kind::RegisterNode(registration)).await.expect("registered");
    assert!(world.meta.is_rolled_back());
    assert_eq!(world.meta.garbage(None, 10).await.expect("listed"), [], "nothing is collected");
    let alarms = world.status().await.alarms;
    assert!(
        alarms.iter().any(|alarm| alarm.contains("rolled back") && alarm.contains("accept-rollback")),
        "{alarms:?}"
    );
    let judged = |writer| Kind::JudgeWriters(pb::JudgeWriters { writers: vec![writer] });
    let state = async |writer| match world.ask(judged(writer)).await {
        Ok(Reply::JudgeWriters(reply)) => reply.states[0],
        other => panic!("{other:?}"),
    };
    assert_eq!(state(unknown).await, pb::WriterState::Unknown as i32);

    world.ask(Kind::AcceptRollback(pb::AcceptRollback {})).await.expect("accepted");
    assert!(!world.meta.is_rolled_back() && world.status().await.alarms.is_empty());
    assert!(!world.meta.garbage(None, 10).await.expect("listed").is_empty());
    assert_eq!(state(unknown).await, pb::WriterState::Closed as i32);
    assert_eq!(state(world.writer).await, pb::WriterState::Open as i32, "who writes now goes on");
    assert!(world.open_writer(world.session).await > unknown, "no number is given out twice");
}

#[tokio::test]
async fn a_stopped_collector_stays_stopped_when_metadata_starts_again() {
    let engine = crate::engine::fresh().await;
    let world = World::over(engine.clone()).await;
    assert_eq!(world.meta.mass_stop().await, Ok(None));
    let stop = MassStop { accepted: false, copies: 40, held: 100 };
    world.meta.set_mass_stop(Some(stop)).await.expect("noted");
    let again = async || Meta::open(engine.clone(), options(world.clock.clone())).await.expect("opens");
    let ask = async |meta: &Meta, kind| meta.execute(&pb::Request { kind: Some(kind), ..Default::default() }).await;
    let alarms = async |meta: &Meta| match ask(meta, Kind::ClusterStatus(pb::ClusterStatus {})).await {
        Ok(Reply::ClusterStatus(status)) => status.alarms,
        other => panic!("{other:?}"),
    };
    let meta = again().await;
    assert_eq!(meta.mass_stop().await, Ok(Some(stop)));
    let told = alarms(&meta).await.join(" ");
    assert!(told.contains("40 of 100 copies of blocks (40 %)"), "{told}");
    // So does the consent, which whoever collects next goes on by.
    ask(&meta, Kind::AcceptCollection(pb::AcceptCollection {})).await.expect("accepted");
    let meta = again().await;
    assert_eq!(meta.mass_stop().await, Ok(Some(MassStop { accepted: true, ..stop })));
    assert_eq!(alarms(&meta).await, Vec::<String>::new());
}
