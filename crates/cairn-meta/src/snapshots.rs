//! Snapshots of directory trees, taken, listed and deleted; and holds, which are snapshots that nobody can see: they keep
//! what stands at a moment for a backup, until they are released or not renewed any more.
//!
//! Taking one is one transaction of three rows, however large the tree is. Deleting one is as short; what only it needed
//! is let go of by a duty (kept.rs).

use crate::error::{Op, fail};
use crate::history::Head;
use crate::kept::{self, Live};
use crate::keys;
use crate::kv::{Durability, KeyRange, Order};
use crate::limits::{HOLD_TTL_MIN, LABEL_LEN_MAX, SNAPSHOTS_MAX};
use crate::meta::{Meta, transact};
use crate::past::LIST_NAME;
use crate::path::{self, Last, show};
use crate::permit;
use crate::rows;
use crate::tx::Tx;
use bytes::Bytes;
use cairn_proto::InodeId;
use cairn_proto::limits::{NAME_LEN_MAX, PAGE_BYTES_MAX, PAGE_ROWS_MAX};
use cairn_proto::pb;
use cairn_proto::pb::response::Kind as Reply;
use cairn_proto::status::{Code, Status};
use keys::Key;
use prost::Message;

/// The reach of a hold that holds whatever goes, because what it is for is not known yet.
const UNSETTLED: u64 = u64::MAX;

/// Why `name` cannot be the name of a snapshot.
fn objection(name: &[u8]) -> Option<&'static str> {
    match name {
        b"." | b".." => Some("a snapshot cannot be called . or .."),
        name if name.len() > NAME_LEN_MAX => Some("the name of a snapshot has at most 255 bytes"),
        name if name.contains(&b'/') || name.contains(&0) => {
            Some("the name of a snapshot has no slash and no zero byte")
        }
        _ => None,
    }
}

fn described(number: u64, row: rows::Snapshot) -> pb::Snapshot {
    let rows::Snapshot { root, name, path, taken_ns, owner, ttl_ms, renewed: _, backup, reach } = row;
    pb::Snapshot { number, root, path, name, taken_ns, owner, ttl_ms, backup, unsettled: reach == UNSETTLED }
}

/// Why this cannot be the hold of a backup.
fn objection_to_hold(ask: &pb::CreateSnapshot) -> Option<&'static str> {
    match ask.backup.as_str() {
        "" if !ask.unsettled => None,
        _ if !ask.name.is_empty() => Some("a backup is a hold, which has no name in a directory"),
        _ if ask.ttl_ms == 0 => Some("a hold that is not settled needs a time to live"),
        name if name.len() > LABEL_LEN_MAX => Some("the name of a backup is too long"),
        name if name.chars().any(char::is_control) => Some("the name of a backup has no control characters"),
        _ => None,
    }
}

impl Meta {
    pub(crate) async fn create_snapshot(&self, tx: &mut Tx, ask: &pb::CreateSnapshot) -> Op<Reply> {
        let at = path::at(ask.at.as_ref());
        if let Some(why) = objection(&ask.name) {
            return fail(Code::Invalid, why);
        }
        if ask.owner.len() > LABEL_LEN_MAX {
            return fail(Code::Invalid, format!("the owner of a snapshot has at most {LABEL_LEN_MAX} bytes"));
        }
        if ask.ttl_ms != 0 && u128::from(ask.ttl_ms) < HOLD_TTL_MIN.as_millis() {
            return fail(Code::Invalid, format!("a time to live of {} ms; at least a second", ask.ttl_ms));
        }
        if let Some(why) = objection_to_hold(ask) {
            return fail(Code::Invalid, why);
        }
        let root = path::find(tx, &at, Last::Follow).await?;
        if InodeId(root).is_past() {
            return fail(Code::ReadOnly, format!("{} lies in a snapshot already", show(&at.path)));
        }
        // Read validated: whoever removes the directory meets this.
        let row = tx.directory(root).await?;
        permit::own(tx.caller.as_ref(), &row, "its snapshots")?;
        let others = tx.scan::<keys::Snapshot>(&keys::Snapshot::all(), SNAPSHOTS_MAX, Order::Forward).await?;
        if others.len() >= SNAPSHOTS_MAX {
            return fail(Code::Conflict, format!("there are {SNAPSHOTS_MAX} snapshots; delete some first"));
        }
        if !ask.backup.is_empty() && others.iter().any(|(_, row)| row.backup == ask.backup) {
            let message = format!("there is a backup {} already", show(ask.backup.as_bytes()));
            return fail(Code::Exists, message);
        }
        let head = Head::load(tx).await?;
        let number = head.newest + 1;
        if number > InodeId::SNAPSHOT_MAX {
            return fail(Code::TooLarge, "all numbers of snapshots have been used");
        }
        if !ask.name.is_empty() {
            let list = keys::Dentry { parent: root, name: Bytes::from_static(LIST_NAME) };
            if tx.get(&list).await?.is_some_and(|dentry| !InodeId(dentry.inode).is_past()) {
                return fail(Code::Exists, format!("{} has an entry of its own called .snapshots", show(&at.path)));
            }
            let name = keys::SnapshotName { root, name: ask.name.clone() };
            if tx.get(&name).await?.is_some() {
                return fail(Code::Exists, format!("{} has a snapshot {} already", show(&at.path), show(&ask.name)));
            }
            tx.put(&name, &rows::SnapshotName { number });
        }
        let row = rows::Snapshot {
            root,
            name: ask.name.clone(),
            path: at.path,
            taken_ns: tx.now_ns,
            owner: ask.owner.clone(),
            ttl_ms: ask.ttl_ms,
            renewed: 0,
            backup: ask.backup.clone(),
            reach: if ask.unsettled { UNSETTLED } else { 0 },
        };
        tx.put(&keys::Snapshot { number }, &row);
        let reach = head.reach.max(number).max(row.reach);
        Head { newest: number, live: number, reach }.store(tx);
        Ok(Reply::CreateSnapshot(described(number, row)))
    }

    pub(crate) async fn delete_snapshot(&self, tx: &mut Tx, ask: &pb::DeleteSnapshot) -> Op<Reply> {
        let number = match ask.number {
            0 => {
                let at = path::at(ask.at.as_ref());
                let root = path::find(tx, &at, Last::Follow).await?;
                match tx.get(&keys::SnapshotName { root, name: ask.name.clone() }).await? {
                    Some(row) => row.number,
                    None => {
                        let message = format!("{} has no snapshot {}", show(&at.path), show(&ask.name));
                        return fail(Code::NotFound, message);
                    }
                }
            }
            number => number,
        };
        if let Some(row) = tx.get(&keys::Snapshot { number }).await?
            && let Some(dir) = tx.get(&keys::Inode { inode: row.root }).await?
        {
            permit::own(tx.caller.as_ref(), &dir, "its snapshots")?;
        }
        if remove(tx, number).await? {
            Ok(Reply::Empty(pb::Empty::default()))
        } else {
            fail(Code::NotFound, format!("there is no snapshot {number}"))
        }
    }

    pub(crate) async fn renew_snapshot(&self, tx: &mut Tx, ask: &pb::RenewSnapshot) -> Op<Reply> {
        let key = keys::Snapshot { number: ask.number };
        let Some(row) = tx.get(&key).await? else {
            return fail(
                Code::NotFound,
                format!("there is no snapshot {}: it was deleted, or not renewed in time", ask.number),
            );
        };
        let row = rows::Snapshot { renewed: row.renewed + 1, ..row };
        match &ask.settle {
            Some(settle) => settle_hold(tx, ask.number, row, settle).await?,
            None => tx.put(&key, &row),
        }
        Ok(Reply::Empty(pb::Empty::default()))
    }

    pub(crate) async fn list_snapshots(&self, ask: &pb::ListSnapshots) -> Result<Reply, Status> {
        let limit = if ask.limit == 0 { PAGE_ROWS_MAX } else { (ask.limit as usize).min(PAGE_ROWS_MAX) };
        transact!(self, Durability::Relaxed, async |tx: &mut Tx| {
            let root = match &ask.at {
                Some(at) => {
                    let root = path::find(tx, at, Last::Follow).await?;
                    tx.directory(root).await?;
                    Some(root)
                }
                None => None,
            };
            let mut reply = pb::ListSnapshotsReply::default();
            let mut range = keys::Snapshot::all();
            range.start = KeyRange::successor(&keys::Snapshot { number: ask.after }.encode());
            let mut bytes = 0;
            // There are few enough to be looked through.
            let rows = tx.scan::<keys::Snapshot>(&range, SNAPSHOTS_MAX, Order::Forward).await?;
            for (key, row) in rows {
                if root.is_some_and(|root| root != row.root) || (row.name.is_empty() && !ask.holds) {
                    continue;
                }
                let snapshot = described(key.number, row);
                bytes += snapshot.encoded_len() + 4;
                let full = bytes > PAGE_BYTES_MAX || reply.snapshots.len() == limit;
                if full && !reply.snapshots.is_empty() {
                    return Ok(Reply::ListSnapshots(reply));
                }
                reply.snapshots.push(snapshot);
            }
            reply.end = true;
            Ok(Reply::ListSnapshots(reply))
        })
    }
}

/// Removes a snapshot; false when there is none of that number.
pub(crate) async fn remove(tx: &mut Tx, number: u64) -> Op<bool> {
    let key = keys::Snapshot { number };
    let Some(row) = tx.get(&key).await? else { return Ok(false) };
    tx.delete(&key);
    if !row.name.is_empty() {
        tx.delete(&keys::SnapshotName { root: row.root, name: row.name });
    }
    let head = Head::load(tx).await?;
    let left = if head.reach == head.live {
        let last = tx.scan::<keys::Snapshot>(&keys::Snapshot::all(), 1, Order::Reverse).await?;
        Head::new(head.newest, last.first().map_or(0, |(key, _)| key.number))
    } else {
        Live::load(tx).await?.head(head.newest)
    };
    if left != head {
        left.store(tx);
    }
    kept::look_again(tx).await?;
    Ok(true)
}

/// From now on a hold that held everything holds what is in the dump: whatever a snapshot up to `settle.newest` was the
/// newest of when it came. That number is not given to anything that comes now.
async fn settle_hold(tx: &mut Tx, number: u64, row: rows::Snapshot, settle: &pb::SettleHold) -> Op<()> {
    let head = Head::load(tx).await?;
    if row.reach != UNSETTLED {
        return fail(Code::Invalid, format!("hold {number} is settled already"));
    }
    if settle.newest < number || settle.newest > head.newest {
        let message = format!("hold {number} cannot be of the time of snapshot {}", settle.newest);
        return fail(Code::Invalid, message);
    }
    if settle.ttl_ms != 0 && u128::from(settle.ttl_ms) < HOLD_TTL_MIN.as_millis() {
        return fail(Code::Invalid, format!("a time to live of {} ms; at least a second", settle.ttl_ms));
    }
    let newest = head.newest.max(settle.newest + 1);
    if newest > InodeId::SNAPSHOT_MAX {
        return fail(Code::TooLarge, "all numbers of snapshots have been used");
    }
    tx.put(&keys::Snapshot { number }, &rows::Snapshot { reach: settle.newest + 1, ttl_ms: settle.ttl_ms, ..row });
    Live::load(tx).await?.head(newest).store(tx);
    // What came since the dump was begun was held, too.
    kept::look_again(tx).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_no_path_could_lead_to_are_refused() {
        for good in [&b"daily-2026"[..], b"a b", b"...", &[b'x'; 255], b""] {
            assert_eq!(objection(good), None);
        }
        for bad in [&b"."[..], b"..", b"a/b", b"a\0", &[b'x'; 256]] {
            assert!(objection(bad).is_some(), "{bad:?}");
        }
    }
}
