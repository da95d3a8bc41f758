//! Several servers on one engine: the same namespace from each, one holder of the duties, nobody ended by an outage.

use crate::support::{Line, NEWEST, World, at, bytes, code, create, mkdir, registration};
use bytes::Bytes;
use cairn_meta::ServerSigns;
use cairn_meta::kv::MapEngine;
use cairn_proto::limits::SESSION_LEASE_MS;
use cairn_proto::pb;
use cairn_proto::pb::NodeState;
use cairn_proto::pb::request::Kind;
use cairn_proto::pb::response::Kind as Reply;
use cairn_proto::status::{Code, Status};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

const LEASE_S: u64 = SESSION_LEASE_MS / 1000;

/// A server with its own line to the engine and its own clock.
struct Server {
    world: World,
    line: Line,
}

impl Server {
    async fn open(engine: &MapEngine, name: &str) -> Self {
        let line = Line::default();
        Self { world: World::beside(Arc::new(line.to(engine.clone())), name).await, line }
    }

    /// One second of its duties; what fails is tried again in the next.
    async fn second(&self) {
        self.world.clock.advance(Duration::from_secs(1));
        let meta = &self.world.meta;
        let _ = meta.pulse().await;
        meta.note_silence().await;
        while meta.expire_sessions().await == Ok(true) {}
        while meta.tend_servers().await == Ok(true) {}
        while meta.ensure_groups().await == Ok(true) {}
        while meta.drop_maps().await == Ok(true) {}
    }

    fn holds(&self) -> bool {
        self.world.meta.duty_epoch().is_some()
    }

    async fn renew(&self, session: u64) -> Result<Reply, Status> {
        self.world.ask(Kind::RenewSession(pb::RenewSession { session, epoch: 1 })).await
    }

    async fn send(&self, op_id: pb::OpId, kind: Kind) -> Result<Reply, Status> {
        let request = pb::Request { op_id: Some(op_id), kind: Some(kind), ..Default::default() };
        self.world.meta.execute(&request).await
    }

    async fn beat(&self, index: u8) -> pb::HeartbeatReply {
        let map = self.world.map().await;
        let node = map.nodes.iter().find(|node| node.uuid[..] == [index; 16]).map_or(0, |node| node.id);
        let boot_id = Bytes::from(vec![index; 16]);
        let ask = pb::Heartbeat {
            node_id: node,
            boot_id,
            stores: vec![],
            brief: true,
            newest_version: NEWEST,
            ..Default::default()
        };
        match self.world.ask(Kind::Heartbeat(ask)).await {
            Ok(Reply::Heartbeat(reply)) => reply,
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn who_is_at_work_is_seen_from_outside() {
    let (engine, a, b) = pair().await;
    let look = async || ServerSigns::look(&engine).await.expect("looked");
    let first = look().await;
    assert!(!first.is_empty());
    assert_eq!(first.running(&look().await), [], "nobody did anything in between");
    b.second().await;
    let running = first.running(&look().await);
    let [one] = &running[..] else { panic!("{running:?}") };
    assert_eq!((one.addr.as_str(), one.since_ns > 0), ("b:1", true));
    b.world.meta.leave().await.expect("left");
    let last = look().await;
    a.second().await;
    let running = last.running(&look().await);
    assert_eq!(running.iter().map(|server| server.addr.as_str()).collect::<Vec<_>>(), ["a:1"]);
}

async fn pair() -> (MapEngine, Server, Server) {
    let engine = MapEngine::new();
    let a = Server::open(&engine, "a:1").await;
    let b = Server::open(&engine, "b:1").await;
    assert!(a.holds() && !b.holds());
    (engine, a, b)
}

async fn seconds(servers: &[&Server], count: u64) {
    for _ in 0..count {
        for server in servers {
            server.second().await;
        }
    }
}

#[tokio::test]
async fn what_one_server_did_every_other_sees_at_once() {
    let (_, a, b) = pair().await;
    for round in 0..20 {
        let (one, other) = if round % 2 == 0 { (&a, &b) } else { (&b, &a) };
        let dir = format!("d{round}");
        one.world.mkdir(&dir).await.expect("made");
        let file = other.world.create(&format!("{dir}/f")).await.expect("made").inode;
        one.world.inline(file, 0, b"first").await.expect("written");
        other.world.inline(file, 5, b" second").await.expect("written");
        assert_eq!(one.world.stat(&format!("{dir}/f")).await.expect("there").size, 12);
        one.world.rename(&format!("{dir}/f"), &format!("{dir}/g")).await.expect("renamed");
        assert_eq!(code(other.world.stat(&format!("{dir}/f")).await), Code::NotFound);
        other.world.unlink(&format!("{dir}/g")).await.expect("removed");
        one.world.rmdir(&dir).await.expect("empty");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_servers_that_make_a_name_one_succeeds() {
    let (_, a, b) = pair().await;
    let exclusive =
        |name: String| Kind::Create(pb::Create { at: Some(at(&name)), exclusive: true, ..Default::default() });
    for round in 0..50 {
        let name = format!("f{round}");
        let (one, two) = tokio::join!(a.world.change(exclusive(name.clone())), b.world.change(exclusive(name)));
        assert!(one.is_ok() != two.is_ok(), "{one:?} {two:?}");
        assert_eq!(code(if one.is_ok() { two } else { one }), Code::Exists);
    }
    assert_eq!(a.world.list("").await.expect("listed").len(), 50);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operation_sent_to_two_servers_is_done_once() {
    let (_, a, b) = pair().await;
    let file = a.world.create("f").await.expect("made").inode;
    let append = || {
        let inline = Some(pb::InlineWrite { offset: 0, data: bytes("x") });
        Kind::Commit(pb::Commit { inode: file, inline, append: true, ..Default::default() })
    };
    let mut last = None;
    for round in 1..=50u64 {
        let op_id = a.world.next_op();
        let (one, two) = tokio::join!(a.send(op_id, append()), b.send(op_id, append()));
        assert_eq!(one, two);
        assert_eq!(b.world.stat("f").await.expect("there").size, round);
        last = Some((op_id, one));
    }
    // The server that did it is gone, and the answer with it.
    drop(a);
    let (op_id, first) = last.expect("some");
    assert_eq!(b.send(op_id, append()).await, first);
    assert_eq!(b.world.stat("f").await.expect("there").size, 50);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operation_that_was_given_up_is_never_done() {
    let (_, a, b) = pair().await;
    let abort = || Kind::AbortOp(pb::AbortOp {});
    // Given up before it came.
    let op_id = a.world.next_op();
    assert_eq!(b.send(op_id, abort()).await, Ok(Reply::AbortOp(pb::AbortOpReply {})));
    assert_eq!(code(a.send(op_id, mkdir("late")).await), Code::Aborted);
    assert_eq!(b.send(op_id, abort()).await, Ok(Reply::AbortOp(pb::AbortOpReply {})));
    assert_eq!(code(a.world.stat("late").await), Code::NotFound);
    // Done before it was given up: that is the answer.
    let op_id = a.world.next_op();
    let done = a.send(op_id, mkdir("done")).await;
    assert_eq!(b.send(op_id, abort()).await, done);
    a.world.stat("done").await.expect("there");
    // Both at once: one of the two, and everybody is told the same.
    let mut outcomes = BTreeSet::new();
    for round in 0..100 {
        let name = format!("r{round}");
        let op_id = a.world.next_op();
        let (made, given_up) = tokio::join!(a.send(op_id, mkdir(&name)), b.send(op_id, abort()));
        let there = b.world.stat(&name).await.is_ok();
        match made {
            Ok(reply) => assert!(there && given_up == Ok(reply)),
            Err(status) => {
                assert_eq!((status.code, there), (Code::Aborted, false));
                assert_eq!(given_up, Ok(Reply::AbortOp(pb::AbortOpReply {})));
            }
        }
        outcomes.insert(there);
    }
}

#[tokio::test]
async fn the_duties_of_a_dead_server_are_taken_over_and_of_one_that_stopped_at_once() {
    let (engine, a, b) = pair().await;
    let first = a.world.meta.duty_epoch().expect("held");
    seconds(&[&a, &b], 60).await;
    assert_eq!((a.world.meta.duty_epoch(), b.holds()), (Some(first), false));
    // Dead: nobody hears of it.
    drop(a);
    seconds(&[&b], 9).await;
    assert!(!b.holds(), "not before it was silent for ten seconds");
    seconds(&[&b], 2).await;
    let second = b.world.meta.duty_epoch().expect("taken over");
    assert!(second > first);
    seconds(&[&b], 12).await;
    let c = Server::open(&engine, "c:1").await;
    assert!(!c.holds());
    b.world.meta.leave().await.expect("left");
    assert!(!b.holds());
    seconds(&[&c], 1).await;
    assert!(c.world.meta.duty_epoch() > Some(second));
    assert_eq!(c.world.map().await.metas, ["c:1", "127.0.0.1:9000"]);
}

/// Makes work for duties: a map that nobody reaches any more.
async fn dropped_map(server: &Server) {
    let world = &server.world;
    let file = world.create("big").await.expect("made").inode;
    for index in 0..20 {
        world.write(file, index * 1_000_000, 100).await.expect("written");
    }
    world.unlink("big").await.expect("removed");
}

#[tokio::test]
async fn a_holder_that_slept_through_the_takeover_does_nothing() {
    let (_, a, b) = pair().await;
    a.world.add_nodes(3).await;
    seconds(&[&a, &b], 2).await;
    dropped_map(&a).await;
    // The process of A stands still, its clock too; on waking it believes to hold the duties.
    seconds(&[&b], 12).await;
    assert!(b.holds() && a.holds());
    let (rows, clock) = (b.world.status().await.garbage_runs, a.world.clock.clone());
    dropped_map(&b).await;
    assert!(rows > 0 && a.holds());
    assert_eq!(a.world.meta.drop_maps().await, Ok(false));
    assert!(!a.holds(), "it has noticed");
    assert_eq!(b.world.status().await.garbage_runs, rows);
    assert_eq!(a.world.meta.garbage(None, 10).await, Ok(vec![]));
    assert_eq!(a.world.meta.expire_sessions().await, Ok(false));
    assert!(b.world.meta.drop_maps().await.expect("a step"));
    assert!(b.world.status().await.garbage_runs > rows);
    drop(clock);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_was_under_way_at_the_takeover_is_not_committed() {
    let (_, a, b) = pair().await;
    a.world.add_nodes(3).await;
    seconds(&[&a, &b], 2).await;
    dropped_map(&a).await;
    let frozen = a.line.freeze().await;
    let begun = a.line.commits.load(Ordering::SeqCst);
    let step = tokio::spawn({
        let meta = a.world.meta.clone();
        async move { meta.drop_maps().await }
    });
    while a.line.commits.load(Ordering::SeqCst) == begun {
        tokio::task::yield_now().await;
    }
    for _ in 0..12 {
        b.world.clock.advance(Duration::from_secs(1));
        b.world.meta.pulse().await.expect("beats");
    }
    assert!(b.holds());
    drop(frozen);
    assert_eq!(step.await.expect("ended"), Ok(false));
    assert_eq!(b.world.status().await.garbage_runs, 0);
    assert!(b.world.meta.drop_maps().await.expect("a step"));
}

#[tokio::test]
async fn who_renews_at_another_server_than_the_holder_stays() {
    let (_, a, b) = pair().await;
    let session = b.world.session;
    for _ in 0..3 * LEASE_S {
        // A client renews three times a lease.
        if a.world.clock.seconds() % (LEASE_S / 3) == 0 {
            b.renew(session).await.expect("renewed");
        }
        seconds(&[&a, &b], 1).await;
    }
    b.world.create("f").await.expect("the session lives");
    // Its own session, of which it hears nothing, has ended.
    assert_eq!(code(a.world.create("g").await), Code::Fenced);
    seconds(&[&a, &b], LEASE_S * 3 / 2).await;
    assert_eq!(code(b.world.create("g").await), Code::Fenced);
    assert_eq!(a.world.status().await.sessions, 0);
}

#[tokio::test]
async fn an_engine_that_is_away_for_long_ends_nobody() {
    let (_, a, b) = pair().await;
    seconds(&[&a, &b], LEASE_S - 10).await;
    for line in [&a.line, &b.line] {
        line.away.store(true, Ordering::SeqCst);
    }
    assert_eq!(code(a.world.create("x").await), Code::Unavailable);
    seconds(&[&a, &b], 2 * LEASE_S).await;
    assert!(!a.holds() && !b.holds(), "nobody acts who cannot renew");
    for line in [&a.line, &b.line] {
        line.away.store(false, Ordering::SeqCst);
    }
    seconds(&[&a, &b], LEASE_S - 1).await;
    assert!(a.holds() != b.holds());
    a.world.create("f").await.expect("nobody could renew");
    b.world.create("g").await.expect("nobody could renew");
    seconds(&[&a, &b], 2 * LEASE_S).await;
    assert_eq!(code(a.world.create("h").await), Code::Fenced, "that silence was its own");
}

#[tokio::test]
async fn an_outage_that_is_shorter_than_the_duties_lease_counts_as_nobodys_silence() {
    let (_, a, b) = pair().await;
    for line in [&a.line, &b.line] {
        line.refuses_commits.store(true, Ordering::SeqCst);
    }
    seconds(&[&a, &b], 6).await;
    assert!(a.holds());
    for line in [&a.line, &b.line] {
        line.refuses_commits.store(false, Ordering::SeqCst);
    }
    seconds(&[&a, &b], LEASE_S - 10).await;
    a.world.create("f").await.expect("it lives");
}

#[tokio::test]
async fn a_holder_that_stood_still_ends_nobody() {
    let (_, a, b) = pair().await;
    seconds(&[&a, &b], LEASE_S - 10).await;
    // Its clock went on; whatever was sent to it meanwhile was not heard.
    a.world.clock.advance(Duration::from_secs(10 * LEASE_S));
    seconds(&[&a, &b], LEASE_S - 1).await;
    assert!(a.holds(), "and nobody else looked meanwhile");
    for server in [&a, &b] {
        server.world.create(&server.world.session.to_string()).await.expect("it lives");
    }
}

#[tokio::test]
async fn a_takeover_gives_everybody_a_whole_lease() {
    let (_, a, b) = pair().await;
    let session = b.world.session;
    seconds(&[&a, &b], LEASE_S - 2).await;
    drop(a);
    // Until B takes over, and then a lease.
    seconds(&[&b], LEASE_S + 9).await;
    assert!(b.holds());
    let op_id = pb::OpId { session, epoch: 1, slot: 5, seq: 1 };
    b.send(op_id, create("f")).await.expect("it lives");
}

#[tokio::test]
async fn a_server_that_cannot_write_down_whom_it_hears_sends_them_away() {
    let (_, a, b) = pair().await;
    b.renew(b.world.session).await.expect("renewed");
    b.line.refuses_commits.store(true, Ordering::SeqCst);
    seconds(&[&a, &b], LEASE_S / 3 + 4).await;
    assert_eq!(code(b.renew(b.world.session).await), Code::Unavailable);
    a.renew(b.world.session).await.expect("renewed at the other one");
    b.line.refuses_commits.store(false, Ordering::SeqCst);
    seconds(&[&a, &b], 1).await;
    b.renew(b.world.session).await.expect("renewed");
}

#[tokio::test]
async fn when_all_nodes_are_silent_none_is_out_and_everybody_says_so() {
    let (_, a, b) = pair().await;
    a.world.add_nodes(3).await;
    seconds(&[&a, &b], 2).await;
    for _ in 0..5 {
        for index in 1..=3 {
            assert!(!a.beat(index).await.register_again);
            assert!(!b.beat(index).await.register_again, "registered with the other server");
        }
        seconds(&[&a, &b], 1).await;
    }
    let states = |map: pb::ClusterMapReply| map.nodes.iter().map(pb::NodeInfo::state).collect::<Vec<_>>();
    for server in [&a, &b] {
        assert_eq!(states(server.world.map().await), [NodeState::Up; 3]);
    }
    for second in 0..700 {
        // One of them is heard by the server that does not decide.
        if second < 300 {
            b.beat(1).await;
        }
        seconds(&[&a, &b], 1).await;
    }
    for server in [&a, &b] {
        assert_eq!(states(server.world.map().await), [NodeState::Suspect; 3]);
        assert!(server.world.status().await.alarms.iter().any(|alarm| alarm.contains("silent at once")));
    }
}

#[tokio::test]
async fn the_version_of_the_map_never_goes_back_whoever_is_asked() {
    let (engine, a, b) = pair().await;
    let mut last = 0;
    let mut see = |version: u64, grew: bool| {
        assert!(if grew { version > last } else { version >= last }, "{version} after {last}");
        last = version;
    };
    for index in 1..=8u8 {
        let (one, other) = if index % 2 == 0 { (&a, &b) } else { (&b, &a) };
        one.world.ask(registration(index, index, true)).await.expect("registered");
        let there = one.world.map().await;
        see(there.version, true);
        // A client that has this version asks the other server, which has not looked around yet.
        let known = pb::ClusterMap { known_version: there.version, cursor: 0 };
        let Ok(Reply::ClusterMap(here)) = other.world.ask(Kind::ClusterMap(known)).await else { panic!("no map") };
        see(here.version, false);
        assert!(here.unchanged);
        assert_eq!(other.world.map().await.nodes.len(), usize::from(index));
        // What only stands in memory moves the version too.
        other.world.clock.advance(Duration::from_secs(12));
        other.world.meta.note_silence().await;
        see(other.world.map().await.version, true);
        seconds(&[&a, &b], 1).await;
        see(a.world.map().await.version, false);
        see(b.world.map().await.version, false);
    }
    let c = Server::open(&engine, "c:1").await;
    see(c.world.map().await.version, true);
}

#[tokio::test]
async fn every_server_tells_how_groups_stand() {
    let (_, a, b) = pair().await;
    b.world.add_nodes(3).await;
    assert_eq!(b.world.map().await.pgs.len(), 0, "only the holder makes groups");
    seconds(&[&a, &b], 1).await;
    for index in 1..=3 {
        a.beat(index).await;
    }
    seconds(&[&a, &b], 2).await;
    for index in 1..=3 {
        b.beat(index).await;
    }
    for server in [&a, &b] {
        let status = server.world.status().await;
        assert_eq!((status.groups, status.sessions), (6, 2));
        let servers: Vec<(&str, bool)> = status.servers.iter().map(|s| (s.addr.as_str(), s.holds_duties)).collect();
        assert_eq!(servers, [("a:1", true), ("b:1", false)]);
    }
}

#[tokio::test]
async fn what_two_servers_counted_is_right_when_one_is_gone() {
    let (engine, a, b) = pair().await;
    a.world.add_nodes(3).await;
    seconds(&[&a, &b], 2).await;
    let write = async |server: &Server, name: &str, len: u64| {
        let file = server.world.create(name).await.expect("made").inode;
        server.world.write(file, 0, len).await.expect("written");
    };
    write(&a, "a1", 1000).await;
    write(&b, "b1", 200).await;
    write(&b, "b2", 30).await;
    seconds(&[&a, &b], 11).await;
    let counted = async |server: &Server| {
        let status = server.world.status().await;
        let map = server.world.map().await;
        (status.inodes, status.file_bytes, map.pgs.iter().find(|pg| pg.id == 1).expect("there").bytes)
    };
    for server in [&a, &b] {
        assert_eq!(counted(server).await, (4, 1230, 1230));
    }
    drop(a);
    // It is taken for dead, and its counts are folded into the others'.
    seconds(&[&b], 40).await;
    assert_eq!(b.world.status().await.servers.len(), 1);
    assert_eq!(counted(&b).await, (4, 1230, 1230));
    let c = Server::open(&engine, "c:1").await;
    write(&c, "c1", 4).await;
    seconds(&[&b, &c], 11).await;
    for server in [&b, &c] {
        assert_eq!(counted(server).await, (5, 1234, 1234));
    }
    // One that ends in order loses nothing either, not even of the last second.
    write(&c, "c2", 5).await;
    c.world.meta.leave().await.expect("left");
    seconds(&[&b], 12).await;
    assert_eq!(counted(&b).await, (6, 1239, 1239));
}

#[tokio::test]
async fn a_server_that_was_taken_for_dead_comes_back_as_another() {
    let (_, a, b) = pair().await;
    a.world.add_nodes(3).await;
    seconds(&[&a, &b], 2).await;
    let file = b.world.create("f").await.expect("made").inode;
    b.world.write(file, 0, 100).await.expect("written");
    seconds(&[&a, &b], 1).await;
    let epoch = a.world.meta.duty_epoch();
    // B stands still long enough to be forgotten, with counts of its last moment in memory.
    b.world.write(file, 100, 11).await.expect("written");
    seconds(&[&a], 20).await;
    assert_eq!(a.world.status().await.servers.len(), 1);
    seconds(&[&a, &b], 12).await;
    for server in [&a, &b] {
        let status = server.world.status().await;
        assert_eq!((status.inodes, status.file_bytes, status.servers.len()), (3 - 1, 111, 2));
        assert_eq!(server.world.map().await.pgs.iter().map(|pg| pg.bytes).sum::<u64>(), 111);
    }
    assert_eq!(a.world.meta.duty_epoch(), epoch);
}
