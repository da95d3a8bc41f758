//! Checks of metadata's rows against each other, and what a check from outside needs to hold them against the nodes.
//!
//! A pass goes through the tables page by page: the cursor of a page is a step of [`Step`] and a position in it. Every
//! page is one transaction, so each finding was true at one moment; what changes between two pages cannot contradict
//! itself, because every rule is looked at within one page.

mod attributes;
mod kept;
mod locks;
mod maps;
mod names;
mod quotas;
mod rows;
mod runs;
mod sessions;
mod shares;
mod tables;
mod trash;
mod tree;

use crate::clock::Clock;
use crate::error::{Fault, Op, engine_status};
use crate::history::Head;
use crate::keys::{self, Key};
use crate::kv::{CommitOutcome, Durability, Engine, EngineError, KeyRange, Order};
use crate::limits::{ATTEMPTS_MAX, STORES_MAX};
use crate::meta::{Meta, transact};
use crate::tx::{Sealed, Tx};
use bytes::{BufMut, Bytes, BytesMut};
use cairn_proto::limits::PAGE_ROWS_MAX;
use cairn_proto::pb;
use cairn_proto::pb::response::Kind as Reply;
use cairn_proto::status::{Code, Status};
use std::sync::Arc;

/// Findings of one page; further ones are left to the next pass.
const FINDINGS_MAX: usize = 256;

/// Rows of one page of a table.
const SCAN_PAGE: usize = PAGE_ROWS_MAX;

/// The tables in the order of a pass: what later steps build on comes first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    /// All rows: the position is the first key that is left. So it is further on, where nothing else is said.
    Decode,
    /// Names: that they are in a directory.
    Dentries,
    /// Directories: that they are below the root.
    Directories,
    /// Names and inodes, in parts of a bounded number of inodes: the position is the part.
    Names,
    DirTimes,
    Symlinks,
    /// Attributes, and inodes that count theirs.
    Attributes,
    AttributeCounts,
    Maps,
    Drops,
    /// Blocks of clones, in parts as names.
    Shares,
    Groups,
    Degraded,
    Garbage,
    /// Whether garbage may be collected, and what is held of it for snapshots.
    Collectable,
    HeldGarbage,
    Snapshots,
    SnapshotNames,
    History,
    Writers,
    SessionWriters,
    ClosedWriters,
    /// Both sides of holds.
    Holds,
    Held,
    Slots,
    SessionBeats,
    /// Locks and waits for locks: their sessions, then both sides.
    LockSessions,
    LockOfSessions,
    WaitSessions,
    WaitOfSessions,
    Locks,
    LocksOf,
    Waits,
    WaitsOf,
    Trash,
    TrashEnds,
    TreeWalks,
    /// Counters and settings.
    Counters,
    /// Inodes: that they count against a quota that there is.
    QuotaRoots,
    /// What usage rows say, held against a count of all inodes.
    Quotas,
}

const STEPS: [Step; 40] = [
    Step::Decode,
    Step::Dentries,
    Step::Directories,
    Step::Names,
    Step::DirTimes,
    Step::Symlinks,
    Step::Attributes,
    Step::AttributeCounts,
    Step::Maps,
    Step::Drops,
    Step::Shares,
    Step::Groups,
    Step::Degraded,
    Step::Garbage,
    Step::Collectable,
    Step::HeldGarbage,
    Step::Snapshots,
    Step::SnapshotNames,
    Step::History,
    Step::Writers,
    Step::SessionWriters,
    Step::ClosedWriters,
    Step::Holds,
    Step::Held,
    Step::Slots,
    Step::SessionBeats,
    Step::LockSessions,
    Step::LockOfSessions,
    Step::WaitSessions,
    Step::WaitOfSessions,
    Step::Locks,
    Step::LocksOf,
    Step::Waits,
    Step::WaitsOf,
    Step::Trash,
    Step::TrashEnds,
    Step::TreeWalks,
    Step::Counters,
    Step::QuotaRoots,
    Step::Quotas,
];

/// Where a pass is.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Cursor {
    step: usize,
    at: Bytes,
}

impl Cursor {
    fn decode(bytes: &Bytes) -> Option<Self> {
        match bytes.split_first() {
            None => Some(Self { step: 0, at: Bytes::new() }),
            Some((step, _)) => {
                let step = usize::from(*step);
                (step < STEPS.len()).then(|| Self { step, at: bytes.slice(1..) })
            }
        }
    }

    /// The next page: at `at` of this step, or the beginning of the next one; empty at the end.
    fn next(&self, at: Option<Bytes>) -> Bytes {
        let (step, at) = match at {
            Some(at) => (self.step, at),
            None => (self.step + 1, Bytes::new()),
        };
        if step == STEPS.len() {
            return Bytes::new();
        }
        let mut bytes = BytesMut::with_capacity(1 + at.len());
        bytes.put_u8(step as u8);
        bytes.put(at);
        bytes.freeze()
    }
}

/// What a page found.
#[derive(Default)]
struct Page {
    findings: Vec<pb::RowFinding>,
    rows: u64,
}

impl Page {
    /// Notes a finding; false when the page is full and nothing further should be mended on it.
    fn find(&mut self, rule: &str, what: String, remedy: &str, repaired: bool) {
        self.findings.push(pb::RowFinding { rule: rule.into(), what, remedy: remedy.into(), repaired });
    }

    fn is_full(&self) -> bool {
        self.findings.len() >= FINDINGS_MAX
    }
}

/// The rows of a table from position `at` on, and the position behind them if there are more.
async fn table_page<K: Key>(tx: &mut Tx, at: &Bytes) -> Op<(Vec<(K, K::Row)>, Option<Bytes>)> {
    let mut range = K::all();
    if !at.is_empty() {
        range.start = at.to_vec();
    }
    let rows = tx.scan::<K>(&range, SCAN_PAGE, Order::Forward).await?;
    let last = rows.last().filter(|_| rows.len() == SCAN_PAGE);
    let next = last.map(|(key, _)| KeyRange::successor(&key.encode()).into());
    Ok((rows, next))
}

fn invalid_cursor() -> Status {
    Status::new(Code::Invalid, "the cursor is not one of this list")
}

/// Looks at one page, as of this transaction.
async fn check_page(tx: &mut Tx, cursor: &Cursor, inodes: u64, repair: bool) -> Op<pb::CheckRowsReply> {
    let mut page = Page::default();
    let next = match check_step(tx, cursor, inodes, repair, &mut page).await {
        Ok(next) => next,
        // The first step has found the row. A pass that mends has set it aside, and would leave half of something here.
        Err(Fault::Status(status)) if status.code == Code::Corrupt && !repair => {
            let what = format!("{:?}: {}", STEPS[cursor.step], status.message);
            page.find("not checked", what, "damaged rows are set aside first", false);
            None
        }
        Err(fault) => return Err(fault),
    };
    let Page { findings, rows } = page;
    Ok(pb::CheckRowsReply { findings, rows, next_cursor: cursor.next(next) })
}

/// Looks at the rows of a page; the position of the next, if there is one.
async fn check_step(tx: &mut Tx, cursor: &Cursor, inodes: u64, repair: bool, page: &mut Page) -> Op<Option<Bytes>> {
    let at = &cursor.at;
    Ok(match STEPS[cursor.step] {
        Step::Decode => rows::decode(tx, at, repair, page).await?,
        Step::Dentries => tree::names(tx, at, repair, page).await?,
        Step::Directories => tree::directories(tx, at, repair, page).await?,
        Step::Names => names::check(tx, at, inodes, repair, page).await?,
        Step::DirTimes => {
            let of: (_, fn(&keys::DirTimes) -> u64) = ("times", |key| key.inode);
            tree::attached(tx, at, of, repair, page).await?
        }
        Step::Symlinks => {
            let of: (_, fn(&keys::Symlink) -> u64) = ("the target", |key| key.inode);
            tree::attached(tx, at, of, repair, page).await?
        }
        Step::Attributes => attributes::attributes(tx, at, repair, page).await?,
        Step::AttributeCounts => attributes::counts(tx, at, repair, page).await?,
        Step::Maps => maps::check(tx, at, repair, page).await?,
        Step::Drops => maps::drops(tx, at, repair, page).await?,
        Step::Shares => shares::check(tx, at, repair, page).await?,
        Step::Groups => tables::groups(tx, at, page).await?,
        Step::Degraded => tables::degraded(tx, at, repair, page).await?,
        Step::Garbage => tables::garbage(tx, at, page).await?,
        Step::Collectable => kept::garbage(tx, at, repair, page).await?,
        Step::HeldGarbage => kept::held(tx, at, repair, page).await?,
        Step::Snapshots => kept::snapshots(tx, at, repair, page).await?,
        Step::SnapshotNames => kept::names(tx, at, repair, page).await?,
        Step::History => kept::history(tx, at, repair, page).await?,
        Step::Writers => sessions::writers(tx, at, repair, page).await?,
        Step::SessionWriters => sessions::session_writers(tx, at, repair, page).await?,
        Step::ClosedWriters => sessions::closed(tx, at, repair, page).await?,
        Step::Holds => attributes::holds(tx, at, repair, page).await?,
        Step::Held => attributes::held(tx, at, repair, page).await?,
        Step::Slots => {
            let of: (_, fn(&keys::Slot) -> u64) = ("a stored result", |key| key.session);
            sessions::owned(tx, at, of, repair, page).await?
        }
        Step::SessionBeats => {
            let of: (_, fn(&keys::SessionBeat) -> u64) = ("a sign of life", |key| key.session);
            sessions::owned(tx, at, of, repair, page).await?
        }
        Step::LockSessions => {
            let of: (_, fn(&keys::Lock) -> u64) = ("a lock", |key| key.session);
            sessions::owned(tx, at, of, repair, page).await?
        }
        Step::LockOfSessions => {
            let of: (_, fn(&keys::LockOf) -> u64) = ("a list of locks", |key| key.session);
            sessions::owned(tx, at, of, repair, page).await?
        }
        Step::WaitSessions => {
            let of: (_, fn(&keys::LockWait) -> u64) = ("a wait for a lock", |key| key.session);
            sessions::owned(tx, at, of, repair, page).await?
        }
        Step::WaitOfSessions => {
            let of: (_, fn(&keys::LockWaitOf) -> u64) = ("what is waited for", |key| key.session);
            sessions::owned(tx, at, of, repair, page).await?
        }
        Step::Locks => locks::held(tx, at, repair, page).await?,
        Step::LocksOf => locks::listed(tx, at, repair, page).await?,
        Step::Waits => locks::waiting(tx, at, repair, page).await?,
        Step::WaitsOf => locks::waits(tx, at, repair, page).await?,
        Step::Trash => trash::entries(tx, at, repair, page).await?,
        Step::TrashEnds => trash::ends(tx, at, repair, page).await?,
        Step::TreeWalks => trash::walks(tx, at, repair, page).await?,
        Step::Counters => {
            rows::counters(tx, repair, page).await?;
            None
        }
        Step::QuotaRoots => quotas::roots(tx, at, repair, page).await?,
        Step::Quotas => {
            quotas::check(tx, repair, page).await?;
            None
        }
    })
}

/// As the request for a page of a check, on an engine without a server.
///
/// # Errors
/// As of the request: the engine does not serve, or a row does not decode that a former page would have set aside.
pub async fn check_engine(
    engine: &Arc<dyn Engine>,
    clock: &Arc<dyn Clock>,
    ask: &pb::CheckRows,
) -> Result<pb::CheckRowsReply, Status> {
    let cursor = Cursor::decode(&ask.cursor).ok_or_else(invalid_cursor)?;
    let durability = if ask.repair { Durability::Durable } else { Durability::Relaxed };
    for _ in 0..ATTEMPTS_MAX {
        let begun = crate::meta::begin(&**engine, &**clock, Head::default()).await;
        let mut tx = begun.map_err(|error| engine_status(&error))?;
        let made = async {
            tx.head = Head::load(&mut tx).await?;
            tx.birth = tx.head.newest;
            if !ask.repair {
                tx.looks_only();
            }
            let counted = tx.table::<keys::Usage>(STORES_MAX).await?;
            let inodes = counted.iter().map(|(_, row)| row.inodes).sum::<i64>();
            let reply = check_page(&mut tx, &cursor, u64::try_from(inodes).unwrap_or(0), ask.repair).await?;
            match tx.seal().await? {
                Sealed::Ready => Ok(reply),
                // It was read in this very transaction.
                Sealed::Moved(_) => Err(EngineError::Conflict.into()),
            }
        };
        let reply = match made.await {
            Ok(reply) => reply,
            Err(Fault::Engine(EngineError::Conflict)) => continue,
            Err(Fault::Engine(error)) => return Err(engine_status(&error)),
            Err(Fault::Status(status)) => return Err(*status),
        };
        match tx.inner.commit(durability).await {
            Ok(CommitOutcome::Done) => return Ok(reply),
            // What an attempt mended that was carried out all the same is found to be right.
            Ok(CommitOutcome::Conflict | CommitOutcome::Unknown) | Err(EngineError::Conflict) => {}
            Err(error) => return Err(engine_status(&error)),
        }
    }
    Err(engine_status(&EngineError::Conflict))
}

impl Meta {
    pub(crate) async fn check_rows(&self, ask: &pb::CheckRows) -> Result<Reply, Status> {
        let cursor = Cursor::decode(&ask.cursor).ok_or_else(invalid_cursor)?;
        let inodes = self.inner.totals.lock().inodes();
        let durability = if ask.repair { Durability::Durable } else { Durability::Relaxed };
        transact!(self, durability, async |tx: &mut Tx| {
            if !ask.repair {
                tx.looks_only();
            }
            check_page(tx, &cursor, inodes, ask.repair).await.map(Reply::CheckRows)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_lead_through_all_steps_and_end() {
        let mut cursor = Cursor::decode(&Bytes::new()).expect("the beginning");
        let mut seen = Vec::new();
        loop {
            seen.push(STEPS[cursor.step]);
            let within = cursor.next(Some(Bytes::from_static(b"here")));
            assert_eq!(Cursor::decode(&within), Some(Cursor { at: Bytes::from_static(b"here"), ..cursor.clone() }));
            let next = cursor.next(None);
            if next.is_empty() {
                break;
            }
            cursor = Cursor::decode(&next).expect("our own");
        }
        assert_eq!(seen, STEPS);
        assert_eq!(Cursor::decode(&Bytes::from(vec![STEPS.len() as u8])), None);
    }
}
