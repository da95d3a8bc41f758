//! Locks of files: flock(2) and fcntl(2). Rows, so that they hold whichever server is asked, and end with their session.
//!
//! Taking a lock is a mutation that succeeds at once or not at all. Who has to wait asks with another request, which is no
//! mutation and occupies no slot: it puts the owner in a line, and returns as soon as trying again makes sense. In the line
//! the one that came first goes first, so a stream of readers does not keep a writer out. An owner that holds a lock
//! anywhere does not stand behind others: it would be waited for itself.

mod ranges;

use crate::error::{Op, fail};
use crate::keys;
use crate::kv::{Durability, Order};
use crate::limits::{
    INODE_LOCKS, LOCK_WAIT_KEPT, LOCK_WAITERS_PER_FILE_MAX, LOCK_WALK_MAX, LOCKS_PER_FILE_MAX, LOCKS_PER_OWNER_MAX,
};
use crate::meta::{Meta, transact};
use crate::path::{self, Last};
use crate::rows;
use crate::slot::{Step, check_session};
use crate::tx::Tx;
use cairn_proto::pb::response::Kind as Reply;
use cairn_proto::pb::{self, LockKind, LockMode};
use cairn_proto::status::{Code, Status};
use ranges::{Claim, Owner};
use std::collections::BTreeSet;
use std::ops::Range;
use tokio::sync::Notify;

/// A lock that is held.
struct Held {
    key: keys::Lock,
    row: rows::Lock,
}

impl Held {
    fn owner(&self) -> Owner {
        Owner { session: self.key.session, owner: self.key.owner }
    }

    fn claim(&self) -> Claim {
        Claim { range: self.key.start..end_of(self.row.end), exclusive: self.row.exclusive }
    }
}

/// First byte behind a range, of which 0 says that there is none.
const fn end_of(end: u64) -> u64 {
    if end == 0 { u64::MAX } else { end }
}

/// Reverses [`end_of`].
const fn row_end(end: u64) -> u64 {
    if end == u64::MAX { 0 } else { end }
}

/// A lock asked for, checked.
struct Wanted {
    inode: u64,
    kind: u8,
    range: Range<u64>,
    /// `None` gives back.
    exclusive: Option<bool>,
    owner: Owner,
    pid: u32,
}

impl Wanted {
    fn new(ask: Option<&pb::LockAsk>, session: u64) -> Op<Self> {
        let Some(ask) = ask else { return fail(Code::Invalid, "no lock is named") };
        let whole = ask.kind() == LockKind::Flock;
        let range = if whole { 0..u64::MAX } else { ask.start..end_of(ask.end) };
        if ask.kind() == LockKind::Unknown {
            return fail(Code::Invalid, "which kind of lock?");
        }
        if range.is_empty() {
            return fail(Code::Invalid, format!("a lock of bytes {}..{}", ask.start, ask.end));
        }
        let exclusive = match ask.mode() {
            LockMode::Unlock => None,
            LockMode::Shared => Some(false),
            LockMode::Exclusive => Some(true),
        };
        let owner = Owner { session, owner: ask.owner };
        Ok(Self { inode: ask.inode, kind: ask.kind as u8, range, exclusive, owner, pid: ask.pid })
    }

    /// Reads back what [`Wanted`] left in the line.
    fn of_row(key: &keys::LockWait, row: &rows::LockWait) -> Self {
        Self {
            inode: key.inode,
            kind: key.kind,
            range: row.start..end_of(row.end),
            exclusive: Some(row.exclusive),
            owner: Owner { session: key.session, owner: key.owner },
            pid: row.pid,
        }
    }

    fn claim(&self) -> Claim {
        Claim { range: self.range.clone(), exclusive: self.exclusive == Some(true) }
    }

    fn wait_key(&self) -> keys::LockWait {
        let Owner { session, owner } = self.owner;
        keys::LockWait { inode: self.inode, kind: self.kind, session, owner }
    }
}

/// All locks of a kind on a file, in order of their first bytes.
async fn held_on(tx: &mut Tx, inode: u64, kind: u8) -> Op<Vec<Held>> {
    let range = keys::with_fields::<keys::Lock>(&[&inode.to_be_bytes(), &[kind]]);
    let rows = tx.scan::<keys::Lock>(&range, LOCKS_PER_FILE_MAX + 1, Order::Forward).await?;
    Ok(rows.into_iter().map(|(key, row)| Held { key, row }).collect())
}

/// Those of `held` that others hold and that contradict what is wanted.
fn blocking<'a>(held: &'a [Held], wanted: &'a Wanted) -> impl Iterator<Item = &'a Held> {
    let claim = wanted.claim();
    held.iter().filter(move |held| held.owner() != wanted.owner && held.claim().contradicts(&claim))
}

/// Who stands in line before the owner for something that contradicts what it wants.
async fn waiting_before(tx: &mut Tx, wanted: &Wanted) -> Op<Option<(keys::LockWait, rows::LockWait)>> {
    let Owner { session, owner } = wanted.owner;
    let holds = keys::with_fields::<keys::LockOf>(&[&session.to_be_bytes(), &owner.to_be_bytes()]);
    if !tx.scan::<keys::LockOf>(&holds, 1, Order::Forward).await?.is_empty() {
        return Ok(None);
    }
    let line = keys::with_fields::<keys::LockWait>(&[&wanted.inode.to_be_bytes(), &[wanted.kind]]);
    let line = tx.scan::<keys::LockWait>(&line, LOCK_WAITERS_PER_FILE_MAX, Order::Forward).await?;
    let own_key = wanted.wait_key();
    let own = line.iter().find(|(key, _)| *key == own_key).map_or(tx.now_ns, |(_, row)| row.since_ns);
    let place = |key: &keys::LockWait, since_ns| (since_ns, Owner { session: key.session, owner: key.owner });
    let mine = place(&own_key, own);
    let claim = wanted.claim();
    Ok(line.into_iter().find(|(key, row)| {
        *key != own_key
            && row.until_ns >= tx.now_ns
            && place(key, row.since_ns) < mine
            && Wanted::of_row(key, row).claim().contradicts(&claim)
    }))
}

/// A lock as it travels.
async fn lock_to_pb(tx: &mut Tx, key: &keys::Lock, row: &rows::Lock, waiting: bool) -> Op<pb::Lock> {
    let session = tx.get_unvalidated(&keys::Session { session: key.session }).await?;
    Ok(pb::Lock {
        kind: i32::from(key.kind),
        start: key.start,
        end: row.end,
        mode: if row.exclusive { LockMode::Exclusive } else { LockMode::Shared } as i32,
        session: key.session,
        owner: key.owner,
        pid: row.pid,
        name: session.map(|row| row.name).unwrap_or_default(),
        waiting,
    })
}

async fn waiter_to_pb(tx: &mut Tx, key: &keys::LockWait, row: &rows::LockWait) -> Op<pb::Lock> {
    let keys::LockWait { inode, kind, session, owner } = *key;
    let lock = keys::Lock { inode, kind, start: row.start, session, owner };
    let held = rows::Lock { end: row.end, exclusive: row.exclusive, pid: row.pid };
    lock_to_pb(tx, &lock, &held, true).await
}

/// Takes the owner out of the line.
async fn leave_line(tx: &mut Tx, wanted: &Wanted) -> Op<()> {
    let key = wanted.wait_key();
    if tx.get(&key).await?.is_some() {
        tx.delete(&key);
        tx.delete(&keys::LockWaitOf { session: key.session, owner: key.owner });
        tx.effects.unlocked.push(wanted.inode);
    }
    Ok(())
}

/// Whether an owner that waited for what `held` blocks would wait for itself.
async fn waits_for_itself(tx: &mut Tx, wanted: &Wanted, held: &[Held]) -> Op<bool> {
    let mut seen: BTreeSet<Owner> = BTreeSet::new();
    let mut next: Vec<Owner> = blocking(held, wanted).map(Held::owner).collect();
    while let Some(owner) = next.pop() {
        if owner == wanted.owner {
            return Ok(true);
        }
        if seen.len() == LOCK_WALK_MAX || !seen.insert(owner) {
            continue;
        }
        let key = keys::LockWaitOf { session: owner.session, owner: owner.owner };
        let Some(at) = tx.get(&key).await? else { continue };
        let key = keys::LockWait { inode: at.inode, kind: at.kind, session: owner.session, owner: owner.owner };
        let Some(row) = tx.get(&key).await?.filter(|row| row.until_ns >= tx.now_ns) else { continue };
        let there = held_on(tx, at.inode, at.kind).await?;
        next.extend(blocking(&there, &Wanted::of_row(&key, &row)).map(Held::owner));
    }
    Ok(false)
}

/// Makes the rows of an owner's locks on a file those of `claims`.
fn put_locks(tx: &mut Tx, wanted: &Wanted, own: &[&Held], claims: &[Claim]) {
    let Owner { session, owner } = wanted.owner;
    let (inode, kind) = (wanted.inode, wanted.kind);
    for old in own.iter().filter(|old| claims.iter().all(|claim| claim.range.start != old.key.start)) {
        tx.delete(&old.key);
    }
    for claim in claims {
        let key = keys::Lock { inode, kind, start: claim.range.start, session, owner };
        let row = rows::Lock { end: row_end(claim.range.end), exclusive: claim.exclusive, pid: wanted.pid };
        if !own.iter().any(|old| old.key == key && old.row == row) {
            tx.put(&key, &row);
        }
    }
    let index = keys::LockOf { session, owner, inode, kind };
    match (own.is_empty(), claims.is_empty()) {
        (true, false) => tx.put(&index, &rows::Unit {}),
        (false, true) => tx.delete(&index),
        (true, true) | (false, false) => {}
    }
}

impl Meta {
    /// Told when locks of the file, or of others that share its notice, became fewer: whoever waits looks again then.
    pub fn lock_notice(&self, inode: u64) -> &Notify {
        &self.inner.lock_notices[(inode % INODE_LOCKS as u64) as usize]
    }

    pub(crate) async fn set_lock(&self, tx: &mut Tx, session: u64, ask: &pb::SetLock) -> Op<Step> {
        let wanted = Wanted::new(ask.lock.as_ref(), session)?;
        let held = held_on(tx, wanted.inode, wanted.kind).await?;
        if wanted.exclusive.is_some() {
            // A file that is gone cannot be locked; what was locked of it can be given back.
            tx.inode(wanted.inode).await?;
            let blocker = blocking(&held, &wanted).next();
            if let Some(blocker) = blocker {
                let Owner { session, owner } = blocker.owner();
                let message = format!("session {session}, owner {owner:#x} (process {}) has it", blocker.row.pid);
                return fail(Code::Locked, message);
            }
            if let Some((before, _)) = waiting_before(tx, &wanted).await? {
                let message = format!("session {}, owner {:#x} has waited for longer", before.session, before.owner);
                return fail(Code::Locked, message);
            }
            leave_line(tx, &wanted).await?;
        }
        let own: Vec<&Held> = held.iter().filter(|held| held.owner() == wanted.owner).collect();
        let claims: Vec<Claim> = own.iter().map(|held| held.claim()).collect();
        let claims = ranges::after(&claims, &wanted.range, wanted.exclusive);
        let more = claims.len() > own.len();
        if more && (claims.len() > LOCKS_PER_OWNER_MAX || held.len() >= LOCKS_PER_FILE_MAX) {
            let message = format!(
                "an owner holds at most {LOCKS_PER_OWNER_MAX} separate ranges of a file, all owners together \
                 {LOCKS_PER_FILE_MAX}: give some back, or lock larger ranges"
            );
            return fail(Code::TooLarge, message);
        }
        put_locks(tx, &wanted, &own, &claims);
        // A lock that became shared lets others in, too.
        if !own.is_empty() {
            tx.effects.unlocked.push(wanted.inode);
        }
        Ok(Step::Done(Reply::Empty(pb::Empty::default())))
    }

    /// Puts the owner in line, or sees that nothing is in its way; how long to wait is up to the caller, see
    /// [`Meta::lock_notice`].
    pub(crate) async fn wait_lock(&self, ask: &pb::WaitLock) -> Result<Reply, Status> {
        let reply = transact!(self, Durability::Relaxed, async |tx: &mut Tx| {
            check_session(tx, ask.session, ask.epoch).await?;
            let wanted = Wanted::new(ask.lock.as_ref(), ask.session)?;
            if ask.leave || wanted.exclusive.is_none() {
                leave_line(tx, &wanted).await?;
                return Ok(pb::WaitLockReply { free: true, holder: None });
            }
            tx.inode(wanted.inode).await?;
            let held = held_on(tx, wanted.inode, wanted.kind).await?;
            let holder = match blocking(&held, &wanted).next() {
                Some(held) => lock_to_pb(tx, &held.key, &held.row, false).await?,
                None => match waiting_before(tx, &wanted).await? {
                    Some((key, row)) => waiter_to_pb(tx, &key, &row).await?,
                    None => return Ok(pb::WaitLockReply { free: true, holder: None }),
                },
            };
            if wanted.kind == LockKind::Range as u8 && waits_for_itself(tx, &wanted, &held).await? {
                return fail(Code::Deadlock, "the holder waits for a lock of the owner that asks");
            }
            stand_in_line(tx, &wanted).await?;
            Ok(pb::WaitLockReply { free: false, holder: Some(holder) })
        })?;
        self.heard_session(ask.session);
        Ok(Reply::WaitLock(reply))
    }

    pub(crate) async fn list_locks(&self, ask: &pb::ListLocks) -> Result<Reply, Status> {
        transact!(self, Durability::Relaxed, async |tx: &mut Tx| {
            let against = match &ask.against {
                Some(lock) => Some(Wanted::new(Some(lock), ask.session)?),
                None => None,
            };
            let inode = match &against {
                Some(wanted) if wanted.inode != 0 => wanted.inode,
                _ => path::find(tx, &path::at(ask.at.as_ref()), Last::Follow).await?,
            };
            let mut locks = Vec::new();
            let kinds = match &against {
                Some(wanted) => vec![wanted.kind],
                None => vec![LockKind::Flock as u8, LockKind::Range as u8],
            };
            for kind in kinds {
                let held = held_on(tx, inode, kind).await?;
                let shown: Vec<&Held> = match &against {
                    Some(wanted) => blocking(&held, wanted).collect(),
                    None => held.iter().collect(),
                };
                for held in shown {
                    locks.push(lock_to_pb(tx, &held.key, &held.row, false).await?);
                }
                if against.is_some() {
                    continue;
                }
                let line = keys::with_fields::<keys::LockWait>(&[&inode.to_be_bytes(), &[kind]]);
                for (key, row) in tx.scan::<keys::LockWait>(&line, LOCK_WAITERS_PER_FILE_MAX, Order::Forward).await? {
                    if row.until_ns >= tx.now_ns {
                        locks.push(waiter_to_pb(tx, &key, &row).await?);
                    }
                }
            }
            locks.truncate(LOCKS_SHOWN_MAX);
            Ok(Reply::ListLocks(pb::ListLocksReply { inode, locks }))
        })
    }
}

/// Locks of one reply: with the longest session names they fit a page.
const LOCKS_SHOWN_MAX: usize = 128;

/// Writes down that the owner waits, unless that was done a moment ago.
async fn stand_in_line(tx: &mut Tx, wanted: &Wanted) -> Op<()> {
    let kept = LOCK_WAIT_KEPT.as_nanos() as i64;
    let key = wanted.wait_key();
    let old = tx.get(&key).await?.filter(|old| old.until_ns >= tx.now_ns);
    let row = rows::LockWait {
        start: wanted.range.start,
        end: row_end(wanted.range.end),
        exclusive: wanted.exclusive == Some(true),
        pid: wanted.pid,
        since_ns: old.as_ref().map_or(tx.now_ns, |old| old.since_ns),
        until_ns: tx.now_ns + kept,
    };
    let stands = old.is_some_and(|old| {
        old.until_ns - tx.now_ns > kept / 2 && rows::LockWait { until_ns: old.until_ns, ..row.clone() } == old
    });
    if !stands {
        tx.put(&key, &row);
        let of = keys::LockWaitOf { session: key.session, owner: key.owner };
        tx.put(&of, &rows::LockWaitOf { inode: key.inode, kind: key.kind });
    }
    Ok(())
}

/// Gives back some of the locks of a session that has ended, and takes it out of lines. Returns how many rows that took,
/// about `room` at most.
pub(crate) async fn release_step(tx: &mut Tx, session: u64, room: usize) -> Op<usize> {
    let field = session.to_be_bytes();
    let mut taken = 0;
    let range = keys::with_fields::<keys::LockWaitOf>(&[&field]);
    for (key, at) in tx.scan::<keys::LockWaitOf>(&range, room / 2, Order::Forward).await? {
        tx.delete(&keys::LockWait { inode: at.inode, kind: at.kind, session, owner: key.owner });
        tx.delete(&key);
        tx.effects.unlocked.push(at.inode);
        taken += 2;
    }
    let range = keys::with_fields::<keys::LockOf>(&[&field]);
    for (index, _) in tx.scan::<keys::LockOf>(&range, room / 2, Order::Forward).await? {
        if taken >= room {
            break;
        }
        for held in held_on(tx, index.inode, index.kind).await? {
            if (held.key.session, held.key.owner) == (session, index.owner) {
                tx.delete(&held.key);
                taken += 1;
            }
        }
        tx.delete(&index);
        tx.effects.unlocked.push(index.inode);
        taken += 1;
    }
    Ok(taken)
}
