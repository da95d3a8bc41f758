//! Rows by themselves: every key and every row decodes, settings make sense, and counters are above all that was given
//! out.

use super::{Page, SCAN_PAGE};
use crate::dump::namespace;
use crate::error::{Op, fail};
use crate::keys::{self, Key, counter, setting};
use crate::kv::{KeyRange, Order};
use crate::rows::{self, Row};
use crate::tx::Tx;
use bytes::Bytes;
use cairn_proto::limits::REPLICAS_MAX;
use cairn_proto::status::Code;

/// Looks at a page of all rows; the position of the next, if there is one.
pub(super) async fn decode(tx: &mut Tx, at: &Bytes, repair: bool, page: &mut Page) -> Op<Option<Bytes>> {
    let mut range = namespace();
    if !at.is_empty() {
        range.start = at.to_vec();
    }
    let found = tx.inner.scan(&range, SCAN_PAGE, Order::Forward).await?;
    page.rows += found.len() as u64;
    let next = found.last().filter(|_| found.len() == SCAN_PAGE).map(|(key, _)| KeyRange::successor(key).into());
    for (key, value) in found {
        let Some(what) = keys::fault(&key, &value) else { continue };
        if page.is_full() {
            return Ok(Some(key));
        }
        let what = format!("the {what} at {} does not decode", key.escape_ascii());
        if repair {
            let aside = keys::SetAside { key: key.clone() };
            tx.put(&aside, &rows::Raw { bytes: value });
            tx.inner.delete(key.to_vec());
        }
        page.find("damaged row", what, "it is set aside under tag 0x50, for whoever can read it", repair);
    }
    Ok(next)
}

/// The last key of a table.
async fn last<K: Key>(tx: &mut Tx) -> Op<Option<K>> {
    Ok(tx.scan::<K>(&K::all(), 1, Order::Reverse).await?.pop().map(|(key, _)| key))
}

/// Sees to it that `counter` is above `used`, the highest number that a row names.
pub(super) async fn above(
    tx: &mut Tx,
    (counter, name): (u8, &str),
    used: Option<u64>,
    repair: bool,
    page: &mut Page,
) -> Op<()> {
    let Some(used) = used else { return Ok(()) };
    let key = keys::Counter { counter };
    let next = tx.get(&key).await?.map_or(1, |row| row.next);
    if used < next {
        return Ok(());
    }
    let Some(above) = used.checked_add(1) else {
        return fail(Code::Corrupt, format!("metadata: the highest number of a {name} is used up"));
    };
    if repair {
        tx.put(&key, &rows::Counter { next: above });
    }
    let what = format!("{name} {used} is there, and the counter stands at {next}: it would be given out again");
    page.find("counter", what, "the counter goes above it; start the servers again afterwards", repair);
    Ok(())
}

/// Looks at the counters and at the settings.
pub(super) async fn counters(tx: &mut Tx, repair: bool, page: &mut Page) -> Op<()> {
    let inode = last::<keys::Inode>(tx).await?.map(|key| key.inode);
    above(tx, (counter::INODE, "inode"), inode, repair, page).await?;
    let open = last::<keys::Writer>(tx).await?.map(|key| key.writer);
    let closed = tx.scan::<keys::ClosedWriters>(&keys::ClosedWriters::all(), 1, Order::Reverse).await?.pop();
    let closed = closed.map(|(key, row)| key.first.saturating_add(u64::from(row.count).saturating_sub(1)));
    above(tx, (counter::WRITER, "writer"), open.max(closed), repair, page).await?;
    let session = last::<keys::Session>(tx).await?.map(|key| key.session);
    above(tx, (counter::SESSION, "session"), session, repair, page).await?;
    let group = last::<keys::Pg>(tx).await?.map(|key| key.pg.into());
    above(tx, (counter::PG, "group"), group, repair, page).await?;
    let store = last::<keys::Store>(tx).await?.map(|key| key.store.into());
    above(tx, (counter::STORE, "store"), store, repair, page).await?;
    let node = last::<keys::Node>(tx).await?.map(|key| key.node.into());
    above(tx, (counter::NODE, "node"), node, repair, page).await?;
    let task = last::<keys::Task>(tx).await?.map(|key| key.task);
    above(tx, (counter::TASK, "task"), task, repair, page).await?;
    settings(tx, page).await
}

/// Whether the value of a setting can be one; unknown ones are of other versions.
fn makes_sense(name: &[u8], value: &[u8]) -> bool {
    match name {
        setting::FORMAT_VERSION | setting::CLUSTER_VERSION => value.len() == 4,
        setting::CLUSTER_ID => value.len() == 16,
        setting::ROLLBACK => value.len() == 8,
        setting::REPLICA_COUNTS => value.iter().all(|count| (1..=REPLICAS_MAX).contains(&usize::from(*count))),
        _ => true,
    }
}

async fn settings(tx: &mut Tx, page: &mut Page) -> Op<()> {
    for (key, row) in tx.scan::<keys::Setting>(&keys::Setting::all(), SCAN_PAGE, Order::Forward).await? {
        page.rows += 1;
        if !makes_sense(&key.name, &row.value) {
            let what = format!("{} is {}", key.name.escape_ascii(), row.encode().escape_ascii());
            page.find("setting", what, "restore the metadata from a backup", false);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_judged_by_their_form() {
        assert!(makes_sense(setting::CLUSTER_ID, &[0; 16]) && !makes_sense(setting::CLUSTER_ID, &[0; 15]));
        assert!(makes_sense(setting::REPLICA_COUNTS, &[1, 7]) && !makes_sense(setting::REPLICA_COUNTS, &[1, 0]));
        assert!(!makes_sense(setting::ROLLBACK, &[1]) && makes_sense(b"of a later version", &[]));
    }
}
