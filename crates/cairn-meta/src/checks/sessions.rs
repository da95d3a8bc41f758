//! What sessions and writers leave: every row names a session that is there, and nobody is open and closed at once.

use super::{Page, table_page};
use crate::error::Op;
use crate::keys::{self, Key};
use crate::kv::{KeyRange, Order};
use crate::tx::Tx;
use crate::writers;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

/// Sessions that were looked up, each once.
#[derive(Default)]
struct Sessions(BTreeMap<u64, bool>);

impl Sessions {
    async fn has(&mut self, tx: &mut Tx, session: u64) -> Op<bool> {
        Ok(match self.0.entry(session) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(unknown) => *unknown.insert(tx.get(&keys::Session { session }).await?.is_some()),
        })
    }
}

/// Rows that belong to a session, one type of key each; the position of the next page, if there is one.
pub(super) async fn owned<K: Key>(
    tx: &mut Tx,
    at: &Bytes,
    (what_row, session_of): (&str, fn(&K) -> u64),
    repair: bool,
    page: &mut Page,
) -> Op<Option<Bytes>> {
    let (found, next) = table_page::<K>(tx, at).await?;
    page.rows += found.len() as u64;
    let mut sessions = Sessions::default();
    for (key, _) in found {
        if page.is_full() {
            return Ok(Some(key.encode().into()));
        }
        let session = session_of(&key);
        if !sessions.has(tx, session).await? {
            if repair {
                tx.delete(&key);
            }
            let what = format!("{what_row} of session {session}, which does not exist");
            page.find("row of a missing session", what, "the row is removed", repair);
        }
    }
    Ok(next)
}

/// Looks at a page of the writers of sessions; the position of the next, if there is one.
pub(super) async fn session_writers(tx: &mut Tx, at: &Bytes, repair: bool, page: &mut Page) -> Op<Option<Bytes>> {
    let (found, next) = table_page::<keys::SessionWriter>(tx, at).await?;
    page.rows += found.len() as u64;
    for (key, _) in found {
        if page.is_full() {
            return Ok(Some(key.encode().into()));
        }
        let (session, writer) = (key.session, key.writer);
        let agrees = tx.get(&keys::Writer { writer }).await?.is_some_and(|row| row.session == session);
        if !agrees {
            if repair {
                tx.delete(&key);
            }
            let what = format!("writer {writer} is listed for session {session}, and is not open in it");
            page.find("writer of a session", what, "the row is removed", repair);
        }
    }
    Ok(next)
}

/// Looks at a page of open writers; the position of the next, if there is one.
pub(super) async fn writers(tx: &mut Tx, at: &Bytes, repair: bool, page: &mut Page) -> Op<Option<Bytes>> {
    let (found, next) = table_page::<keys::Writer>(tx, at).await?;
    page.rows += found.len() as u64;
    for (key, row) in found {
        if page.is_full() {
            return Ok(Some(key.encode().into()));
        }
        let (writer, session) = (key.writer, row.session);
        if tx.get(&keys::Session { session }).await?.is_none() {
            if repair {
                writers::close(tx, session, writer).await?;
            }
            let what = format!("writer {writer} is open, its session {session} does not exist");
            page.find("writer without session", what, "it is closed: nothing can commit with it", repair);
        } else if closed_as_well(tx, writer).await? {
            if repair {
                tx.delete(&key);
                tx.delete(&keys::SessionWriter { session, writer });
            }
            let what = format!("writer {writer} of session {session} is open, and closed");
            page.find("writer open and closed", what, "it is closed: its blocks may be gone", repair);
        } else if tx.get(&keys::SessionWriter { session, writer }).await?.is_none() {
            if repair {
                tx.put(&keys::SessionWriter { session, writer }, &crate::rows::Unit {});
            }
            let what = format!("writer {writer} is not listed for its session {session}");
            page.find("unlisted writer", what, "it is listed, and ends with the session", repair);
        }
    }
    Ok(next)
}

/// Whether a range of closed writers holds `writer`, which is open.
async fn closed_as_well(tx: &mut Tx, writer: u64) -> Op<bool> {
    let at = |first| keys::ClosedWriters { first }.encode();
    let range = KeyRange { start: at(0), end: KeyRange::successor(&at(writer)) };
    let before = tx.scan::<keys::ClosedWriters>(&range, 1, Order::Reverse).await?.pop();
    Ok(before.is_some_and(|(key, row)| writer - key.first < u64::from(row.count)))
}

/// Looks at a page of ranges of closed writers; the position of the next, if there is one.
pub(super) async fn closed(tx: &mut Tx, at: &Bytes, repair: bool, page: &mut Page) -> Op<Option<Bytes>> {
    let (found, next) = table_page::<keys::ClosedWriters>(tx, at).await?;
    page.rows += found.len() as u64;
    let mut last: Option<(u64, u64)> = None;
    for (key, row) in found {
        if page.is_full() {
            return Ok(Some(key.encode().into()));
        }
        let end = key.first.saturating_add(row.count.into());
        if row.count == 0 || last.is_some_and(|(_, before)| before > key.first && before >= end) {
            if repair {
                tx.delete(&key);
            }
            let what = format!("the range of {} closed writers at {} says nothing", row.count, key.first);
            page.find("closed writers", what, "the row is removed: others say the same", repair);
            continue;
        }
        last = Some((key.first, end));
    }
    Ok(next)
}
