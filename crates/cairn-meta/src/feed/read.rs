//! Reading all change logs from a cursor, in one transaction.

use super::paths::{Paths, Seat};
use crate::attrs::whole_attr;
use crate::error::{Op, fail};
use crate::keys::{self, Key, counter};
use crate::kv::{Durability, Order};
use crate::limits::{FEED_LOGS_MAX, FEED_LOOK_BACK, FEED_PAGE_ROWS, QUOTA_TAIL_MAX, SCAN_ROWS};
use crate::meta::{Meta, transact};
use crate::path::{self, Last};
use crate::rows::{self, Change, Kind, LogCursor, Row};
use crate::tx::Tx;
use bytes::Bytes;
use cairn_proto::limits::PAGE_BYTES_MAX;
use cairn_proto::pb;
use cairn_proto::pb::ChangeKind;
use cairn_proto::pb::response::Kind as Reply;
use cairn_proto::status::{Code, Status};
use prost::Message;
use std::collections::BTreeMap;

/// A log as a reader finds it.
struct Found {
    sealed: bool,
    mark: rows::FeedMark,
}

/// What a reader is to be told, before paths are known.
struct Told {
    log: u32,
    position: u64,
    time_ns: i64,
    change: Change,
}

fn too_old() -> Status {
    let message =
        "changes behind this cursor are not kept any more: look at everything anew, and start without a cursor";
    Status::new(Code::CursorTooOld, message)
}

/// Every log there is, and how many were removed before.
async fn find_logs(tx: &mut Tx) -> Op<(BTreeMap<u32, Found>, u64)> {
    let rows = tx.table::<keys::FeedLog>(FEED_LOGS_MAX).await?;
    let marks: Vec<_> = rows.iter().map(|(key, _)| keys::FeedMark { log: key.log }).collect();
    let marks = tx.get_many(&marks).await?;
    let logs = rows.into_iter().zip(marks).map(|((key, row), mark)| {
        let mark = mark.unwrap_or(rows::FeedMark { beat: 0, folded: 0, trimmed: 0 });
        (key.log, Found { sealed: row.sealed, mark })
    });
    let retired = tx.get(&keys::Counter { counter: counter::FEED_RETIRED }).await?.map_or(0, |row| row.next);
    Ok((logs.collect(), retired))
}

/// The entries of `log` from `next` on, at most `limit`.
pub(super) async fn entries(tx: &mut Tx, log: u32, next: u64, limit: usize) -> Op<Vec<(keys::Feed, rows::Feed)>> {
    let mut range = keys::with_fields::<keys::Feed>(&[&log.to_be_bytes()]);
    range.start = keys::Feed { log, position: next }.encode();
    tx.scan::<keys::Feed>(&range, limit, Order::Forward).await
}

/// The highest position in `log` that has a row; 0 without any.
pub(super) async fn last_position(tx: &mut Tx, log: u32) -> Op<u64> {
    let range = keys::with_fields::<keys::Feed>(&[&log.to_be_bytes()]);
    let rows = tx.scan::<keys::Feed>(&range, 1, Order::Reverse).await?;
    Ok(rows.first().map_or(0, |(key, _)| key.position))
}

/// Deltas of entries that are not in the usage rows yet, of every log but `except`.
pub(crate) async fn unfolded_deltas(tx: &mut Tx, except: Option<u32>) -> Op<Vec<rows::Delta>> {
    let (logs, _) = find_logs(tx).await?;
    let mut deltas = Vec::new();
    let mut read = 0;
    for (log, found) in logs.iter().filter(|(log, _)| Some(**log) != except) {
        let mut next = found.mark.folded + 1;
        loop {
            let rows = entries(tx, *log, next, SCAN_ROWS).await?;
            read += rows.len();
            if read > QUOTA_TAIL_MAX {
                return fail(Code::Unavailable, "usage cannot be told now: servers are behind with summing it up");
            }
            let Some((last, _)) = rows.last() else { break };
            next = last.position + 1;
            let whole = rows.len() < SCAN_ROWS;
            deltas.extend(rows.into_iter().flat_map(|(_, row)| row.deltas));
            if whole {
                break;
            }
        }
    }
    Ok(deltas)
}

/// Where a reader begins that wants to know what changes from now on: behind everything that is there without a gap.
async fn end_of(tx: &mut Tx, log: u32, found: &Found) -> Op<LogCursor> {
    let last = last_position(tx, log).await?;
    if found.sealed {
        return Ok(LogCursor { log, next: last + 1, done: true });
    }
    // What is open lies among the last positions: so many transactions are under way at most.
    let mut next = (found.mark.folded + 1).max(last.saturating_sub(FEED_LOOK_BACK) + 1);
    for (key, _) in entries(tx, log, next, FEED_LOOK_BACK as usize).await? {
        if key.position != next {
            break;
        }
        next += 1;
    }
    Ok(LogCursor { log, next, done: false })
}

/// The cursor of a reader that has none.
async fn first_cursor(tx: &mut Tx, oldest: bool) -> Op<rows::FeedCursor> {
    let (found, retired) = find_logs(tx).await?;
    let mut logs = Vec::with_capacity(found.len());
    for (log, found) in &found {
        logs.push(match oldest {
            true => LogCursor { log: *log, next: found.mark.trimmed + 1, done: false },
            false => end_of(tx, *log, found).await?,
        });
    }
    Ok(rows::FeedCursor { retired, logs })
}

/// The cursor brought up to the logs there are. CURSOR_TOO_OLD when something behind it is gone.
fn refreshed(cursor: rows::FeedCursor, found: &BTreeMap<u32, Found>, retired: u64) -> Result<rows::FeedCursor, Status> {
    let mut known: BTreeMap<u32, LogCursor> = cursor.logs.into_iter().map(|log| (log.log, log)).collect();
    let gone: Vec<LogCursor> = known.extract_if(.., |log, _| !found.contains_key(log)).map(|(_, log)| log).collect();
    // Every log that went since must be one that this reader had read to its end.
    if gone.iter().any(|log| !log.done) || retired.checked_sub(cursor.retired) != Some(gone.len() as u64) {
        return Err(too_old());
    }
    let mut logs = Vec::with_capacity(found.len());
    for (log, found) in found {
        let at = known.remove(log).unwrap_or(LogCursor { log: *log, next: 1, done: false });
        if !at.done && found.mark.trimmed >= at.next {
            return Err(too_old());
        }
        logs.push(at);
    }
    Ok(rows::FeedCursor { retired, logs })
}

fn decode_cursor(bytes: &Bytes) -> Result<rows::FeedCursor, Status> {
    let invalid = || Status::new(Code::Invalid, "the cursor is not one of the change feed");
    let cursor = rows::FeedCursor::decode(bytes).map_err(|_| invalid())?;
    let sane = cursor.logs.len() <= FEED_LOGS_MAX && cursor.logs.iter().all(|log| log.next > 0);
    if sane { Ok(cursor) } else { Err(invalid()) }
}

/// How far one log is read: as far as nothing is missing, or to its end if nobody writes to it any more.
pub(super) fn readable(sealed: bool, next: u64, rows: &[(keys::Feed, rows::Feed)]) -> usize {
    let dense = |(index, (key, _)): &(usize, &(keys::Feed, rows::Feed))| key.position == next + *index as u64;
    if sealed { rows.len() } else { rows.iter().enumerate().take_while(dense).count() }
}

impl Meta {
    /// One page of changes; does not wait for any. Whoever finds none, and no more to read, waits for
    /// [`Meta::feed_moved`] and, since other servers write too, asks again after a while.
    pub(crate) async fn watch_changes(&self, ask: &pb::WatchChanges) -> Result<Reply, Status> {
        let known = if ask.cursor.is_empty() { None } else { Some(decode_cursor(&ask.cursor)?) };
        let limit = if ask.limit == 0 { FEED_PAGE_ROWS } else { (ask.limit as usize).min(FEED_PAGE_ROWS) };
        transact!(self, Durability::Relaxed, async |tx: &mut Tx| {
            tx.looks_only();
            let watched = match &ask.at {
                Some(at) => Some(path::find(tx, at, Last::Follow).await?),
                None => None,
            };
            let (found, retired) = find_logs(tx).await?;
            let mut cursor = match &known {
                Some(known) => refreshed(known.clone(), &found, retired)?,
                None => first_cursor(tx, ask.oldest).await?,
            };
            let mut page = Page::new(self, watched, ask.with_attr);
            let count = cursor.logs.len().max(1);
            let share = (limit / count).max(1);
            // Not always the same log first: the reply may be full before the last one has its turn.
            let first = cursor.logs.iter().fold(0, |sum, log| (sum + log.next) % count as u64) as usize;
            for index in 0..cursor.logs.len() {
                let at = &mut cursor.logs[(first + index) % count];
                if at.done || page.full {
                    page.more |= page.full && !at.done;
                    continue;
                }
                let sealed = found.get(&at.log).is_some_and(|found| found.sealed);
                let rows = entries(tx, at.log, at.next, share).await?;
                let (whole, read) = (rows.len() < share, readable(sealed, at.next, &rows));
                page.more |= !whole && read == rows.len();
                for (key, row) in rows.into_iter().take(read) {
                    let skipped = row.session != 0 && row.session == ask.skip_session;
                    if !skipped && !page.add(tx, &key, row).await? {
                        break;
                    }
                    at.next = key.position + 1;
                }
                at.done = sealed && whole && !page.full;
            }
            let Page { changes, more, .. } = page;
            let cursor = cursor.encode().into();
            Ok(Reply::WatchChanges(pb::WatchChangesReply { changes, cursor, more }))
        })
    }
}

/// A reply that is being filled.
struct Page<'a> {
    paths: Paths<'a>,
    watched: Option<u64>,
    with_attr: bool,
    changes: Vec<pb::Change>,
    bytes: usize,
    full: bool,
    more: bool,
}

impl<'a> Page<'a> {
    fn new(meta: &'a Meta, watched: Option<u64>, with_attr: bool) -> Self {
        let paths = Paths::new(&meta.inner.feed.names, watched.unwrap_or(cairn_proto::InodeId::ROOT.0));
        Self { paths, watched, with_attr, changes: Vec::new(), bytes: 0, full: false, more: false }
    }

    /// Adds what an entry says, if it is about what is watched; false when the page was full before.
    async fn add(&mut self, tx: &mut Tx, key: &keys::Feed, row: rows::Feed) -> Op<bool> {
        self.paths.learn(&row.changes);
        let mut new = Vec::new();
        for change in row.changes {
            let told = Told { log: key.log, position: key.position, time_ns: row.time_ns, change };
            new.extend(self.tell(tx, told).await?);
        }
        let bytes: usize = new.iter().map(|change| change.encoded_len() + 4).sum();
        if self.bytes + bytes > PAGE_BYTES_MAX && !self.changes.is_empty() {
            (self.full, self.more) = (true, true);
            return Ok(false);
        }
        self.bytes += bytes;
        self.changes.extend(new);
        Ok(true)
    }

    /// The change as the watcher sees it; `None` when it does not.
    async fn tell(&mut self, tx: &mut Tx, told: Told) -> Op<Option<pb::Change>> {
        let Told { log, position, time_ns, change } = told;
        let mut out = pb::Change { log, position, time_ns, ..Default::default() };
        let seen = match change {
            Change::Created { inode, kind, parent, name } => {
                out.kind = ChangeKind::Created as i32;
                self.tell_name(tx, &mut out, (inode, kind), (parent, name)).await?
            }
            Change::Removed { inode, kind, parent, name } => {
                out.kind = ChangeKind::Removed as i32;
                self.tell_name(tx, &mut out, (inode, kind), (parent, name)).await?
            }
            Change::Renamed { inode, kind, from_parent, from_name, parent, name } => {
                self.tell_rename(tx, &mut out, (inode, kind), (from_parent, from_name), (parent, name)).await?
            }
            Change::Changed { inode, kind, parent, what, version } => {
                out.kind = ChangeKind::Changed as i32;
                (out.what, out.version) = (what, version);
                self.tell_changed(tx, &mut out, (inode, kind), parent).await?
            }
        };
        if !seen {
            return Ok(None);
        }
        if self.with_attr
            && let Some(row) = tx.get(&keys::Inode { inode: out.inode }).await?
        {
            out.attr = Some(whole_attr(tx, out.inode, &row).await?);
        }
        Ok(Some(out))
    }

    /// Where a name lies; `Below("")` for one of what is watched itself.
    async fn seat(&mut self, tx: &mut Tx, inode: u64, at: &(u64, Bytes)) -> Op<Seat> {
        if self.watched == Some(inode) {
            return Ok(Seat::Below(Some(Bytes::new())));
        }
        self.paths.entry(tx, at.0, &at.1).await
    }

    async fn tell_name(
        &mut self,
        tx: &mut Tx,
        out: &mut pb::Change,
        (inode, kind): (u64, Kind),
        at: (u64, Bytes),
    ) -> Op<bool> {
        let seat = self.seat(tx, inode, &at).await?;
        (out.inode, out.inode_kind) = (inode, kind.to_pb() as i32);
        out.now_inode = now_inode(tx, &at).await?;
        (out.parent, out.name) = at;
        out.path = seat.path();
        Ok(seat.is_seen())
    }

    async fn tell_rename(
        &mut self,
        tx: &mut Tx,
        out: &mut pb::Change,
        (inode, kind): (u64, Kind),
        from: (u64, Bytes),
        to: (u64, Bytes),
    ) -> Op<bool> {
        let (from_seat, to_seat) = (self.seat(tx, inode, &from).await?, self.seat(tx, inode, &to).await?);
        (out.inode, out.inode_kind) = (inode, kind.to_pb() as i32);
        match (from_seat.is_seen(), to_seat.is_seen()) {
            (false, false) => return Ok(false),
            (true, true) => {
                out.kind = ChangeKind::Renamed as i32;
                out.now_inode = now_inode(tx, &to).await?;
                out.from_now_inode = now_inode(tx, &from).await?;
                (out.path, out.from_path) = (to_seat.path(), from_seat.path());
                ((out.parent, out.name), (out.from_parent, out.from_name)) = (to, from);
            }
            (came_from_here, _) => {
                let (kind, seat, at) = match came_from_here {
                    true => (ChangeKind::Removed, from_seat, from),
                    false => (ChangeKind::Created, to_seat, to),
                };
                (out.kind, out.moved) = (kind as i32, true);
                out.now_inode = now_inode(tx, &at).await?;
                (out.parent, out.name) = at;
                out.path = seat.path();
            }
        }
        Ok(true)
    }

    async fn tell_changed(
        &mut self,
        tx: &mut Tx,
        out: &mut pb::Change,
        (inode, kind): (u64, Kind),
        parent: u64,
    ) -> Op<bool> {
        // What it is now, if it is: a file may have moved since.
        let row = tx.get(&keys::Inode { inode }).await?;
        let (kind, parent) = row.map_or((kind, parent), |row| (row.kind, row.parent));
        (out.inode, out.inode_kind, out.parent) = (inode, kind.to_pb() as i32, parent);
        let seat = if self.watched == Some(inode) {
            Seat::Below(Some(Bytes::new()))
        } else if kind == Kind::Directory {
            self.paths.dir(tx, inode).await?
        } else {
            self.paths.member(tx, parent, inode).await?
        };
        out.path = seat.path();
        Ok(seat.is_seen())
    }
}

/// What a name leads to now; 0 = nothing.
async fn now_inode(tx: &mut Tx, at: &(u64, Bytes)) -> Op<u64> {
    let dentry = tx.get(&keys::Dentry { parent: at.0, name: at.1.clone() }).await?;
    Ok(dentry.map_or(0, |dentry| dentry.inode))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(log: u32, next: u64, done: bool) -> LogCursor {
        LogCursor { log, next, done }
    }
    fn found(trimmed: u64, sealed: bool) -> Found {
        Found { sealed, mark: rows::FeedMark { beat: 0, folded: 0, trimmed } }
    }
    fn refresh(logs: Vec<LogCursor>, retired: u64, there: Vec<(u32, Found)>, now: u64) -> Result<Vec<LogCursor>, Code> {
        let cursor = rows::FeedCursor { retired, logs };
        refreshed(cursor, &there.into_iter().collect(), now).map(|cursor| cursor.logs).map_err(|status| status.code)
    }

    #[test]
    fn a_cursor_that_missed_something_is_too_old() {
        let old = Err(Code::CursorTooOld);
        // A new log is read from its beginning.
        let there = || vec![(1, found(0, false)), (2, found(0, false))];
        assert_eq!(refresh(vec![at(1, 5, false)], 0, there(), 0), Ok(vec![at(1, 5, false), at(2, 1, false)]));
        // What it would read next was removed; what it has read may be.
        assert_eq!(refresh(vec![at(1, 5, false)], 0, vec![(1, found(5, false))], 0), old);
        assert!(refresh(vec![at(1, 5, false)], 0, vec![(1, found(4, false))], 0).is_ok());
        assert!(refresh(vec![at(1, 5, true)], 0, vec![(1, found(9, true))], 0).is_ok());
        // A log is gone: fine when it was read to its end.
        assert_eq!(refresh(vec![at(1, 5, false)], 0, vec![], 1), old);
        assert_eq!(refresh(vec![at(1, 5, true)], 0, vec![], 1), Ok(vec![]));
        // One came and went meanwhile.
        assert_eq!(refresh(vec![at(1, 5, true)], 0, vec![], 2), old);
        assert_eq!(refresh(vec![], 3, vec![], 2), old, "and one from another future");
    }

    #[test]
    fn a_gap_stops_readers_of_a_log_in_use_only() {
        let empty = rows::Feed { time_ns: 0, session: 0, changes: vec![], deltas: vec![] };
        let rows: Vec<_> = [3, 4, 6].map(|position| (keys::Feed { log: 1, position }, empty.clone())).to_vec();
        assert_eq!(readable(false, 3, &rows), 2);
        assert_eq!(readable(false, 2, &rows), 0);
        assert_eq!(readable(true, 2, &rows), 3);
    }

    #[test]
    fn foreign_cursors_are_refused() {
        assert!(decode_cursor(&Bytes::from_static(b"nonsense")).is_err());
        let zero = rows::FeedCursor { retired: 0, logs: vec![at(1, 0, false)] };
        assert!(decode_cursor(&zero.encode().into()).is_err());
    }
}
