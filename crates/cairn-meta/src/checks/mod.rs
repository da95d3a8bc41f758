//! Checks of metadata's rows against each other, and what a check from outside needs to hold them against the nodes.
//!
//! A pass goes through the tables page by page: the cursor of a page is a step of [`Step`] and a position in it. Every
//! page is one transaction, so each finding was true at one moment; what changes between two pages cannot contradict
//! itself, because every rule is looked at within one page.

mod attributes;
mod maps;
mod names;
mod quotas;
mod rows;
mod sessions;
mod tables;
mod tree;

use crate::clock::Clock;
use crate::error::{Fault, Op, engine_status};
use crate::history::Head;
use crate::keys::{self, Key};
use crate::kv::{CommitOutcome, Durability, Engine, EngineError, KeyRange, Order};
use crate::limits::{ATTEMPTS_MAX, STORES_MAX};
use crate::map::block_count;
use crate::meta::{Meta, transact};
use crate::rows::Content;
use crate::tx::{Sealed, Tx};
use bytes::{BufMut, Bytes, BytesMut};
use cairn_proto::limits::{PAGE_BYTES_MAX, PAGE_ROWS_MAX};
use cairn_proto::pb;
use cairn_proto::pb::RunKind;
use cairn_proto::pb::response::Kind as Reply;
use cairn_proto::status::{Code, Status};
use prost::Message;
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
    Groups,
    Degraded,
    Garbage,
    Writers,
    SessionWriters,
    ClosedWriters,
    /// Both sides of holds.
    Holds,
    Held,
    Slots,
    SessionBeats,
    /// Counters and settings.
    Counters,
    /// What usage rows say, held against a count of all inodes.
    Quotas,
}

const STEPS: [Step; 22] = [
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
    Step::Groups,
    Step::Degraded,
    Step::Garbage,
    Step::Writers,
    Step::SessionWriters,
    Step::ClosedWriters,
    Step::Holds,
    Step::Held,
    Step::Slots,
    Step::SessionBeats,
    Step::Counters,
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
        Step::Groups => tables::groups(tx, at, page).await?,
        Step::Degraded => tables::degraded(tx, at, repair, page).await?,
        Step::Garbage => tables::garbage(tx, at, page).await?,
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
        Step::Counters => {
            rows::counters(tx, repair, page).await?;
            None
        }
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

    pub(crate) async fn scan_runs(&self, ask: &pb::ScanRuns) -> Result<Reply, Status> {
        let limit = if ask.limit == 0 { PAGE_ROWS_MAX } else { (ask.limit as usize).min(PAGE_ROWS_MAX) };
        match ask.kind() {
            RunKind::Extents => self.scan_extents(&ask.cursor, limit).await,
            RunKind::Garbage => self.scan_garbage(&ask.cursor, limit).await,
            RunKind::Unknown => Err(Status::new(Code::Invalid, "which runs? extents or garbage")),
        }
    }

    async fn scan_extents(&self, cursor: &Bytes, limit: usize) -> Result<Reply, Status> {
        let range = range_behind::<keys::Extent>(cursor)?;
        transact!(self, Durability::Relaxed, async |tx: &mut Tx| {
            tx.looks_only();
            let rows = tx.scan::<keys::Extent>(&range, limit, Order::Forward).await?;
            let mut page = RunPage::new(rows.len() == limit);
            let mut generation_of: Option<(u64, Option<u32>)> = None;
            for (key, row) in rows {
                let generation = match generation_of {
                    Some((inode, generation)) if inode == key.inode => generation,
                    _ => {
                        let row = tx.get(&keys::Inode { inode: key.inode }).await?;
                        let generation = row.map(|row| row.generation);
                        generation_of = Some((key.inode, generation));
                        generation
                    }
                };
                let run = match row.content {
                    Content::Blocks(run) => Some(pb::PlacedRun {
                        run: Some(pb::Run {
                            first: Some(pb::BlockId { inode: run.inode, writer: run.writer, seq: run.seq }),
                            count: block_count(&run, row.len),
                        }),
                        block_len: run.block_len,
                        pgs: run.pgs,
                        len: row.len,
                        file_offset: key.offset,
                        inode: key.inode,
                        current: generation == Some(key.generation),
                    }),
                    Content::Inline(_) => None,
                };
                if !page.add(run, key.encode().into()) {
                    break;
                }
            }
            Ok(page.into_reply())
        })
    }

    async fn scan_garbage(&self, cursor: &Bytes, limit: usize) -> Result<Reply, Status> {
        let range = range_behind::<keys::Garbage>(cursor)?;
        transact!(self, Durability::Relaxed, async |tx: &mut Tx| {
            let rows = tx.scan::<keys::Garbage>(&range, limit, Order::Forward).await?;
            let mut page = RunPage::new(rows.len() == limit);
            for (key, row) in rows {
                let first = Some(pb::BlockId { inode: key.inode, writer: key.writer, seq: key.seq });
                let run = pb::PlacedRun {
                    run: Some(pb::Run { first, count: row.count }),
                    pgs: vec![key.pg],
                    inode: key.inode,
                    ..Default::default()
                };
                if !page.add(Some(run), key.encode().into()) {
                    break;
                }
            }
            Ok(page.into_reply())
        })
    }
}

fn range_behind<K: Key>(cursor: &Bytes) -> Result<KeyRange, Status> {
    let mut range = K::all();
    if !cursor.is_empty() {
        K::decode(cursor).ok_or_else(invalid_cursor)?;
        range.start = KeyRange::successor(cursor);
    }
    Ok(range)
}

/// A page of runs that is being filled.
struct RunPage {
    reply: pb::ScanRunsReply,
    bytes: usize,
    /// Rows were left in the table.
    more: bool,
    last: Bytes,
}

impl RunPage {
    fn new(more: bool) -> Self {
        Self { reply: pb::ScanRunsReply::default(), bytes: 0, more, last: Bytes::new() }
    }

    /// Adds what the row at `key` says, if anything; false when the page is full before it.
    fn add(&mut self, run: Option<pb::PlacedRun>, key: Bytes) -> bool {
        if let Some(run) = run {
            self.bytes += run.encoded_len() + 4;
            if self.bytes > PAGE_BYTES_MAX && !self.reply.runs.is_empty() {
                self.more = true;
                return false;
            }
            self.reply.runs.push(run);
        }
        self.last = key;
        true
    }

    fn into_reply(self) -> Reply {
        let next_cursor = if self.more { self.last } else { Bytes::new() };
        Reply::ScanRuns(pb::ScanRunsReply { next_cursor, ..self.reply })
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
