//! Sessions, writers and what ends with them.

use crate::support::{ManualClock, World, at, code, create, options};
use cairn_meta::Meta;
use cairn_proto::limits::SESSION_LEASE_MS;
use cairn_proto::pb;
use cairn_proto::pb::request::Kind;
use cairn_proto::status::Code;
use std::sync::Arc;
use std::time::Duration;

const LEASE: Duration = Duration::from_millis(SESSION_LEASE_MS);

/// Lets time pass as a server does: duties run all the while. True when somebody expired.
async fn pass(meta: &Meta, clock: &ManualClock, time: Duration) -> bool {
    const STEP: Duration = Duration::from_secs(3);
    let mut expired = false;
    let mut left = time;
    while !left.is_zero() {
        clock.advance(left.min(STEP));
        left = left.saturating_sub(STEP);
        while meta.expire_sessions().await.expect("a step") {
            expired = true;
        }
    }
    expired
}

fn close(session: u64) -> Kind {
    Kind::CloseSession(pb::CloseSession { session, epoch: 1 })
}

fn renew(session: u64) -> Kind {
    Kind::RenewSession(pb::RenewSession { session, epoch: 1 })
}

#[tokio::test]
async fn a_closed_session_is_fenced_and_leaves_nothing() {
    let world = World::with_groups().await;
    let file = world.create("f").await.expect("made").inode;
    let unnamed = world.alloc_inode().await;
    let ask = pb::CreateUnnamed { inode: unnamed, dir: Some(at("")), attr: None };
    world.change(Kind::CreateUnnamed(ask)).await.expect("made");
    world.write(unnamed, 0, 100_000).await.expect("written");
    world.ask(close(world.session)).await.expect("closed");
    world.ask(close(world.session)).await.expect("closed before");
    assert_eq!(code(world.create("g").await), Code::Fenced);
    assert_eq!(code(world.inline(file, 0, b"x").await), Code::Fenced);
    assert_eq!(code(world.ask(renew(world.session)).await), Code::Fenced);
    let ask = pb::OpenWriter { session: world.session, epoch: 1 };
    assert_eq!(code(world.ask(Kind::OpenWriter(ask)).await), Code::Fenced);
    assert_eq!(code(world.stat_inode(unnamed).await), Code::NotFound);
    while world.meta.drop_maps().await.expect("dropped") {}
    let status = world.status().await;
    assert_eq!((status.sessions, status.garbage_runs, status.inodes), (0, 1, 2));
    assert!(world.stat("f").await.is_ok(), "what has a name stays");
}

#[tokio::test]
async fn a_writer_serves_its_session_until_it_is_closed() {
    let world = World::with_groups().await;
    let file = world.create("f").await.expect("made").inode;
    let other = world.open_session().await;
    let foreign = world.open_writer(other).await;
    assert_ne!(foreign, world.writer);
    let piece = world.piece(0, 10, &world.members(1).await);
    let with = |writer| Kind::Commit(pb::Commit { writer, ..world.commit(file, vec![piece.clone()]) });
    assert_eq!(code(world.change(with(foreign)).await), Code::Fenced);
    assert_eq!(code(world.change(with(0)).await), Code::Fenced);
    let close = |session, writer| Kind::CloseWriter(pb::CloseWriter { session, epoch: 1, writer });
    assert_eq!(code(world.ask(close(world.session, foreign)).await), Code::Fenced);
    world.ask(close(world.session, world.writer)).await.expect("closed");
    world.ask(close(world.session, world.writer)).await.expect("closed before");
    assert_eq!(code(world.change(with(world.writer)).await), Code::Fenced);
}

#[tokio::test]
async fn silence_ends_a_session_and_signs_of_life_keep_it() {
    let world = World::new().await;
    let silent = world.open_session().await;
    for _ in 0..3 {
        assert!(!pass(&world.meta, &world.clock, LEASE / 3).await, "nobody is silent for longer than a lease");
        world.ask(renew(world.session)).await.expect("renewed");
    }
    assert!(pass(&world.meta, &world.clock, LEASE / 3).await);
    assert_eq!(code(world.ask(renew(silent)).await), Code::Fenced);
    world.create("f").await.expect("the other one lives on");
    assert_eq!(world.status().await.sessions, 1);
}

#[tokio::test]
async fn a_new_process_gives_everybody_a_whole_lease() {
    let engine = crate::engine::fresh().await;
    let world = World::over(engine.clone()).await;
    let clock = Arc::new(ManualClock::default());
    clock.advance(LEASE * 10);
    let meta = Meta::open(engine, options(clock.clone())).await.expect("opens again");
    assert!(!pass(&meta, &clock, LEASE).await);
    assert!(pass(&meta, &clock, Duration::from_millis(1)).await);
    let request = pb::Request { op_id: Some(world.next_op()), kind: Some(create("f")), ..Default::default() };
    assert_eq!(code(meta.execute(&request).await), Code::Fenced);
}

#[tokio::test]
async fn a_pause_of_the_server_expires_nobody() {
    let world = World::new().await;
    assert!(!pass(&world.meta, &world.clock, LEASE / 2).await);
    // The process was stopped, or its machine slept: nobody could reach it.
    world.clock.advance(LEASE * 10);
    assert!(!pass(&world.meta, &world.clock, LEASE - Duration::from_secs(3)).await);
    world.create("f").await.expect("the session lives on");
}

#[tokio::test]
async fn many_rows_of_a_session_are_cleared_in_steps() {
    let world = World::new().await;
    let session = world.open_session().await;
    for _ in 0..300 {
        world.open_writer(session).await;
    }
    assert!(!pass(&world.meta, &world.clock, LEASE).await);
    world.ask(renew(world.session)).await.expect("renewed");
    world.clock.advance(Duration::from_secs(1));
    let mut steps = 0;
    while world.meta.expire_sessions().await.expect("expired") {
        steps += 1;
    }
    assert!(steps > 2, "{steps} steps");
    assert_eq!(world.status().await.sessions, 1);
}

#[tokio::test]
async fn numbers_are_never_given_twice() {
    let engine = crate::engine::fresh().await;
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..3 {
        let world = World::over(engine.clone()).await;
        for _ in 0..5 {
            assert!(seen.insert(world.open_writer(world.session).await));
        }
    }
    // Stores know of writers this metadata does not: it was restored from an older copy.
    let world = World::over(engine).await;
    let highest = seen.last().expect("some") + 1_000_000;
    let mut registration = crate::support::registration(1, 1, true);
    if let Kind::RegisterNode(ask) = &mut registration {
        ask.stores[0].highest_writer = highest;
    }
    world.ask(registration).await.expect("registered");
    assert!(world.open_writer(world.session).await > highest);
}
