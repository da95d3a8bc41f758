//! Checks of metadata's rows against each other, and what a check from outside needs to hold them against the nodes.
//!
//! A pass goes through the tables page by page: the cursor of a page is a step of [`Step`] and a position in it. Every
//! page is one transaction, so each finding was true at one moment; what changes between two pages cannot contradict
//! itself, because every rule is looked at within one page.

mod attributes;
mod maps;
mod names;
mod tables;

use crate::error::Op;
use crate::keys::{self, Key};
use crate::kv::{Durability, KeyRange, Order};
use crate::map::block_count;
use crate::meta::{Meta, transact};
use crate::rows::Content;
use crate::tx::Tx;
use bytes::{BufMut, Bytes, BytesMut};
use cairn_proto::limits::{PAGE_BYTES_MAX, PAGE_ROWS_MAX};
use cairn_proto::pb;
use cairn_proto::pb::RunKind;
use cairn_proto::pb::response::Kind as Reply;
use cairn_proto::status::{Code, Status};
use prost::Message;

/// Findings of one page; further ones are left to the next pass.
const FINDINGS_MAX: usize = 256;

/// The tables in the order of a pass.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    /// Names and inodes, in parts of a bounded number of inodes: the position is the part.
    Names,
    /// Extents: the position is the last key.
    Maps,
    /// Groups, degraded rows, garbage: the position is the last key of the table that is looked at.
    Groups,
    Degraded,
    Garbage,
    Writers,
    /// Attributes, inodes that count theirs, and both sides of holds: the position is the last key.
    Attributes,
    AttributeCounts,
    Holds,
    Held,
}

const STEPS: [Step; 10] = [
    Step::Names,
    Step::Maps,
    Step::Groups,
    Step::Degraded,
    Step::Garbage,
    Step::Writers,
    Step::Attributes,
    Step::AttributeCounts,
    Step::Holds,
    Step::Held,
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

/// The rows of a table behind position `at`, and the position behind them if there are more.
async fn table_page<K: Key>(tx: &mut Tx, at: &Bytes) -> Op<(Vec<(K, K::Row)>, Option<Bytes>)> {
    let mut range = K::all();
    if !at.is_empty() {
        range.start = KeyRange::successor(at);
    }
    let rows = tx.scan::<K>(&range, PAGE_ROWS_MAX, Order::Forward).await?;
    let next = rows.last().filter(|_| rows.len() == PAGE_ROWS_MAX).map(|(key, _)| key.encode().into());
    Ok((rows, next))
}

fn invalid_cursor() -> Status {
    Status::new(Code::Invalid, "the cursor is not one of this list")
}

impl Meta {
    pub(crate) async fn check_rows(&self, ask: &pb::CheckRows) -> Result<Reply, Status> {
        let cursor = Cursor::decode(&ask.cursor).ok_or_else(invalid_cursor)?;
        let inodes = u64::try_from(self.inner.totals.lock().inodes).unwrap_or(0);
        let durability = if ask.repair { Durability::Durable } else { Durability::Relaxed };
        transact!(self, durability, async |tx: &mut Tx| {
            let mut page = Page::default();
            let (at, repair) = (&cursor.at, ask.repair);
            let next = match STEPS[cursor.step] {
                Step::Names => names::check(tx, at, inodes, repair, &mut page).await?,
                Step::Maps => maps::check(tx, at, repair, &mut page).await?,
                Step::Groups => tables::groups(tx, at, &mut page).await?,
                Step::Degraded => tables::degraded(tx, at, repair, &mut page).await?,
                Step::Garbage => tables::garbage(tx, at, &mut page).await?,
                Step::Writers => tables::writers(tx, at, repair, &mut page).await?,
                Step::Attributes => attributes::attributes(tx, at, repair, &mut page).await?,
                Step::AttributeCounts => attributes::counts(tx, at, repair, &mut page).await?,
                Step::Holds => attributes::holds(tx, at, repair, &mut page).await?,
                Step::Held => attributes::held(tx, at, repair, &mut page).await?,
            };
            let Page { findings, rows } = page;
            Ok(Reply::CheckRows(pb::CheckRowsReply { findings, rows, next_cursor: cursor.next(next) }))
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
