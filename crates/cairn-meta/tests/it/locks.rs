//! Locks of files against a table of bytes, and between servers.

use crate::support::{ManualClock, World, at, code, options};
use cairn_meta::Meta;
use cairn_meta::limits::{LOCK_WAIT_KEPT, LOCKS_PER_OWNER_MAX};
use cairn_proto::pb;
use cairn_proto::pb::request::Kind;
use cairn_proto::pb::response::Kind as Reply;
use cairn_proto::pb::{LockKind, LockMode};
use cairn_proto::status::{Code, Status};
use proptest::prelude::*;
use std::sync::Arc;
use std::time::Duration;

/// One of the owners of a test: a session and a number in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Who {
    session: u64,
    owner: u64,
}

fn ask(inode: u64, who: Who, range: (u64, u64), mode: LockMode) -> pb::LockAsk {
    let (start, end) = range;
    let kind = LockKind::Range as i32;
    pb::LockAsk { inode, kind, start, end, mode: mode as i32, owner: who.owner, pid: 7 }
}

/// Sends a lock operation under an id of its own.
async fn set(world: &World, session: u64, lock: pb::LockAsk) -> Result<(), Status> {
    let op_id = Some(pb::OpId { session, ..world.next_op() });
    let kind = Some(Kind::SetLock(pb::SetLock { lock: Some(lock) }));
    world.meta.execute(&pb::Request { op_id, kind, ..Default::default() }).await.map(|_| ())
}

async fn wait(world: &World, session: u64, lock: pb::LockAsk, leave: bool) -> Result<pb::WaitLockReply, Status> {
    let ask = pb::WaitLock { session, epoch: 1, lock: Some(lock), wait_ms: 0, leave };
    match world.ask(Kind::WaitLock(ask)).await? {
        Reply::WaitLock(reply) => Ok(reply),
        other => panic!("{other:?}"),
    }
}

async fn locks(world: &World, path: &str) -> Vec<pb::Lock> {
    let ask = pb::ListLocks { at: Some(at(path)), ..Default::default() };
    match world.ask(Kind::ListLocks(ask)).await {
        Ok(Reply::ListLocks(reply)) => reply.locks,
        other => panic!("{other:?}"),
    }
}

const OWNERS: usize = 3;
const BYTES: usize = 48;

#[derive(Clone, Debug)]
enum Op {
    Set { owner: usize, start: u64, len: u64, mode: LockMode },
    EndSession(usize),
}

fn op() -> impl Strategy<Value = Op> {
    let mode = prop_oneof![Just(LockMode::Unlock), Just(LockMode::Shared), Just(LockMode::Exclusive)];
    prop_oneof![
        20 => (0..OWNERS, 0u64..40, 1u64..9, mode)
            .prop_map(|(owner, start, len, mode)| Op::Set { owner, start, len, mode }),
        1 => (0..OWNERS).prop_map(Op::EndSession),
    ]
}

type Table = [[LockMode; BYTES]; OWNERS];

fn refused(table: &Table, owner: usize, range: std::ops::Range<usize>, mode: LockMode) -> bool {
    mode != LockMode::Unlock
        && (0..OWNERS).filter(|other| *other != owner).any(|other| {
            table[other][range.clone()]
                .iter()
                .any(|held| *held == LockMode::Exclusive || (*held == LockMode::Shared && mode == LockMode::Exclusive))
        })
}

fn run(ops: &[Op]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let world = World::new().await;
        let inode = world.create("f").await.expect("made").inode;
        let mut who = Vec::new();
        for owner in 0..OWNERS as u64 {
            who.push(Who { session: world.open_session().await, owner });
        }
        let mut table: Table = [[LockMode::Unlock; BYTES]; OWNERS];
        for op in ops {
            match op {
                Op::Set { owner, start, len, mode } => {
                    let range = *start as usize..(*start + *len) as usize;
                    let lock = ask(inode, who[*owner], (*start, *start + *len), *mode);
                    let result = set(&world, who[*owner].session, lock).await;
                    if refused(&table, *owner, range.clone(), *mode) {
                        assert_eq!(code(result), Code::Locked, "{op:?}");
                    } else {
                        result.unwrap_or_else(|status| panic!("{op:?}: {status}"));
                        table[*owner][range].fill(*mode);
                    }
                }
                Op::EndSession(owner) => {
                    let session = who[*owner].session;
                    world.ask(Kind::CloseSession(pb::CloseSession { session, epoch: 1 })).await.expect("closed");
                    who[*owner].session = world.open_session().await;
                    table[*owner] = [LockMode::Unlock; BYTES];
                }
            }
            let mut found: Table = [[LockMode::Unlock; BYTES]; OWNERS];
            for lock in locks(&world, "f").await {
                let owner = who.iter().position(|who| who.session == lock.session).expect("an owner");
                found[owner][lock.start as usize..lock.end as usize].fill(lock.mode());
            }
            assert_eq!(found, table, "after {op:?}");
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn what_is_locked_is_what_a_table_says(ops in prop::collection::vec(op(), 1..40)) {
        run(&ops);
    }
}

async fn two_owners(world: &World) -> (u64, [Who; 2]) {
    let inode = world.create("f").await.expect("made").inode;
    let first = Who { session: world.session, owner: 1 };
    (inode, [first, Who { session: world.open_session().await, owner: 1 }])
}

#[tokio::test]
async fn flock_is_of_the_whole_file_and_apart_from_ranges() {
    let world = World::new().await;
    let (inode, [one, two]) = two_owners(&world).await;
    let flock = |who, mode| pb::LockAsk { kind: LockKind::Flock as i32, ..ask(inode, who, (5, 6), mode) };
    set(&world, one.session, flock(one, LockMode::Shared)).await.expect("taken");
    set(&world, two.session, flock(two, LockMode::Shared)).await.expect("shared");
    set(&world, two.session, ask(inode, two, (0, 0), LockMode::Exclusive)).await.expect("another kind");
    assert_eq!(code(set(&world, one.session, flock(one, LockMode::Exclusive)).await), Code::Locked);
    set(&world, two.session, flock(two, LockMode::Unlock)).await.expect("given back");
    set(&world, one.session, flock(one, LockMode::Exclusive)).await.expect("alone");
    let held = locks(&world, "f").await;
    assert_eq!(
        held.iter().map(|lock| (lock.kind(), lock.start, lock.end)).collect::<Vec<_>>(),
        [(LockKind::Flock, 0, 0), (LockKind::Range, 0, 0)]
    );
    assert_eq!((held[0].session, held[0].pid, held[0].name.as_str()), (one.session, 7, "test"));
}

#[tokio::test]
async fn who_is_in_the_way_is_told() {
    let world = World::new().await;
    let (inode, [one, two]) = two_owners(&world).await;
    set(&world, one.session, ask(inode, one, (10, 20), LockMode::Exclusive)).await.expect("taken");
    for (range, found) in [((0, 10), 0), ((0, 11), 1), ((19, 0), 1), ((20, 30), 0)] {
        let against = Some(ask(inode, two, range, LockMode::Shared));
        let ask = pb::ListLocks { at: None, against, session: two.session };
        let Ok(Reply::ListLocks(reply)) = world.ask(Kind::ListLocks(ask)).await else { panic!("no list") };
        assert_eq!(reply.locks.len(), found, "{range:?}");
    }
    let mistaken = [
        pb::LockAsk { kind: LockKind::Unknown as i32, ..ask(inode, one, (0, 1), LockMode::Shared) },
        ask(inode, one, (5, 5), LockMode::Shared),
    ];
    for lock in mistaken {
        assert_eq!(code(set(&world, one.session, lock).await), Code::Invalid);
    }
    assert_eq!(code(set(&world, one.session, ask(999, one, (0, 1), LockMode::Shared)).await), Code::NotFound);
}

#[tokio::test]
async fn a_late_lock_request_takes_nothing_back() {
    let world = World::new().await;
    let (inode, [one, two]) = two_owners(&world).await;
    let take = Kind::SetLock(pb::SetLock { lock: Some(ask(inode, one, (0, 0), LockMode::Exclusive)) });
    let request = pb::Request { op_id: Some(world.next_op()), kind: Some(take), ..Default::default() };
    world.meta.execute(&request).await.expect("taken");
    set(&world, one.session, ask(inode, one, (0, 0), LockMode::Unlock)).await.expect("given back");
    assert_eq!(code(world.meta.execute(&request).await), Code::StaleSeq);
    set(&world, two.session, ask(inode, two, (0, 0), LockMode::Exclusive)).await.expect("free");
}

#[tokio::test]
async fn the_longest_in_line_goes_first() {
    let world = World::new().await;
    let (inode, [reader, writer]) = two_owners(&world).await;
    let late = Who { session: reader.session, owner: 2 };
    let all = (0, 0);
    let shared = |who| ask(inode, who, all, LockMode::Shared);
    let exclusive = |who| ask(inode, who, all, LockMode::Exclusive);
    set(&world, reader.session, shared(reader)).await.expect("taken");
    assert!(!wait(&world, writer.session, exclusive(writer), false).await.expect("in line").free);
    world.clock.advance(Duration::from_millis(10));
    // A reader that comes later does not pass the writer; one that is there may change what it has.
    assert_eq!(code(set(&world, late.session, shared(late)).await), Code::Locked);
    let told = wait(&world, late.session, shared(late), false).await.expect("in line");
    assert!(!told.free && told.holder.expect("somebody").waiting);
    set(&world, reader.session, ask(inode, reader, (0, 5), LockMode::Shared)).await.expect("has it");
    assert_eq!(locks(&world, "f").await.iter().filter(|lock| lock.waiting).count(), 2);
    set(&world, reader.session, ask(inode, reader, all, LockMode::Unlock)).await.expect("given back");
    assert!(!wait(&world, late.session, shared(late), false).await.expect("in line").free);
    assert!(wait(&world, writer.session, exclusive(writer), false).await.expect("its turn").free);
    set(&world, writer.session, exclusive(writer)).await.expect("its turn");
    assert_eq!(code(set(&world, late.session, shared(late)).await), Code::Locked);
    set(&world, writer.session, ask(inode, writer, all, LockMode::Unlock)).await.expect("given back");
    set(&world, late.session, shared(late)).await.expect("its turn");
    assert_eq!(locks(&world, "f").await.len(), 1);
}

#[tokio::test]
async fn who_left_the_line_or_stopped_asking_is_not_waited_for() {
    let world = World::new().await;
    let (inode, [reader, writer]) = two_owners(&world).await;
    let late = Who { session: reader.session, owner: 2 };
    let lock = |who, mode| ask(inode, who, (0, 0), mode);
    set(&world, reader.session, lock(reader, LockMode::Shared)).await.expect("taken");
    for leaves in [true, false] {
        wait(&world, writer.session, lock(writer, LockMode::Exclusive), false).await.expect("in line");
        world.clock.advance(Duration::from_millis(10));
        assert_eq!(code(set(&world, late.session, lock(late, LockMode::Shared)).await), Code::Locked);
        if leaves {
            wait(&world, writer.session, lock(writer, LockMode::Exclusive), true).await.expect("gone");
        } else {
            world.clock.advance(LOCK_WAIT_KEPT);
        }
        set(&world, late.session, lock(late, LockMode::Shared)).await.expect("nobody is before it");
        set(&world, late.session, lock(late, LockMode::Unlock)).await.expect("given back");
    }
}

#[tokio::test]
async fn nobody_waits_for_itself() {
    let world = World::new().await;
    let (first, [one, two]) = two_owners(&world).await;
    let second = world.create("g").await.expect("made").inode;
    let three = Who { session: two.session, owner: 9 };
    let lock = |inode, who| ask(inode, who, (0, 10), LockMode::Exclusive);
    set(&world, one.session, lock(first, one)).await.expect("taken");
    set(&world, two.session, lock(second, two)).await.expect("taken");
    set(&world, three.session, ask(first, three, (20, 30), LockMode::Exclusive)).await.expect("taken");
    assert!(!wait(&world, two.session, lock(first, two), false).await.expect("waits").free);
    // Not a circle: nobody waits for the one who asks.
    assert!(!wait(&world, three.session, lock(second, three), false).await.expect("waits").free);
    assert_eq!(code(wait(&world, one.session, lock(second, one), false).await), Code::Deadlock);
    let far = ask(first, one, (25, 26), LockMode::Shared);
    assert_eq!(code(wait(&world, one.session, far, false).await), Code::Deadlock);
    // The circle is gone with the one that gave up.
    wait(&world, two.session, lock(first, two), true).await.expect("left");
    assert!(!wait(&world, one.session, lock(second, one), false).await.expect("waits").free);
}

#[tokio::test]
async fn locks_end_with_their_session_and_with_it_the_right_to_write() {
    let world = World::new().await;
    let (inode, [zombie, next]) = two_owners(&world).await;
    set(&world, zombie.session, ask(inode, zombie, (0, 0), LockMode::Exclusive)).await.expect("taken");
    let lock = ask(inode, next, (0, 0), LockMode::Exclusive);
    assert!(!wait(&world, next.session, lock, false).await.expect("in line").free);
    let lease = Duration::from_millis(cairn_proto::limits::SESSION_LEASE_MS);
    // The one is silent for longer than its lease, the other renews.
    for _ in 0..10 {
        world.clock.advance(lease / 9);
        world.ask(Kind::RenewSession(pb::RenewSession { session: next.session, epoch: 1 })).await.expect("renewed");
        // As the duty does every second: a process that stood still forgives silence.
        for _ in 0..3 {
            world.meta.expire_sessions().await.expect("looked");
        }
    }
    assert!(locks(&world, "f").await.iter().all(|lock| lock.session != zombie.session), "nobody gave it back");
    set(&world, next.session, lock).await.expect("free");
    // What the first one still writes under its lock is refused.
    assert_eq!(code(world.inline(inode, 0, b"late").await), Code::Fenced);
    let ask = pb::Append { inode, data: b"late".to_vec().into(), ..Default::default() };
    assert_eq!(code(world.change(Kind::Append(ask)).await), Code::Fenced);
    assert_eq!(code(world.truncate(inode, 5).await), Code::Fenced);
    assert_eq!(world.stat("f").await.expect("there").size, 0);
}

#[tokio::test]
async fn locks_of_one_server_hold_at_another() {
    let engine = crate::engine::fresh().await;
    let world = World::over(engine.clone()).await;
    let (inode, [one, two]) = two_owners(&world).await;
    let other = Meta::open(engine, options(Arc::new(ManualClock::default()))).await.expect("opens");
    set(&world, one.session, ask(inode, one, (0, 0), LockMode::Exclusive)).await.expect("taken");
    let lock = Some(ask(inode, two, (5, 6), LockMode::Shared));
    let op_id = Some(pb::OpId { session: two.session, epoch: 1, slot: 3, seq: 1 });
    let request = pb::Request { op_id, kind: Some(Kind::SetLock(pb::SetLock { lock })), ..Default::default() };
    assert_eq!(code(other.execute(&request).await), Code::Locked);
    world.ask(Kind::CloseSession(pb::CloseSession { session: one.session, epoch: 1 })).await.expect("closed");
    other.execute(&request).await.expect("free");
}

#[tokio::test]
async fn an_owner_does_not_hold_any_number_of_ranges() {
    let world = World::new().await;
    let (inode, [one, _]) = two_owners(&world).await;
    let range = |index: u64| ask(inode, one, (index * 2, index * 2 + 1), LockMode::Shared);
    for index in 0..LOCKS_PER_OWNER_MAX as u64 {
        set(&world, one.session, range(index)).await.expect("taken");
    }
    assert_eq!(code(set(&world, one.session, range(1000)).await), Code::TooLarge);
    set(&world, one.session, ask(inode, one, (0, 0), LockMode::Exclusive)).await.expect("one instead of all");
    assert_eq!(locks(&world, "f").await.len(), 1);
}

#[tokio::test]
async fn whoever_waits_is_told_when_a_lock_is_given_back() {
    let world = World::new().await;
    let (inode, [one, two]) = two_owners(&world).await;
    set(&world, one.session, ask(inode, one, (0, 0), LockMode::Exclusive)).await.expect("taken");
    let notice = world.meta.lock_notice(inode).notified();
    let lock = ask(inode, two, (0, 0), LockMode::Exclusive);
    assert!(!wait(&world, two.session, lock, false).await.expect("in line").free);
    set(&world, one.session, ask(inode, one, (0, 0), LockMode::Unlock)).await.expect("given back");
    notice.await;
    assert!(wait(&world, two.session, lock, false).await.expect("its turn").free);
}
