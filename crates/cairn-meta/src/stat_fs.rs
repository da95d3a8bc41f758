//! Room and use, as statvfs(3) wants them: of the cluster, or of the quota that the place counts against.

use crate::access::Caller;
use crate::keys;
use crate::kv::Durability;
use crate::meta::{Meta, transact};
use crate::path::{self, Last};
use crate::quota::usage_of;
use crate::rows::{self, quota_state};
use cairn_proto::limits::NAME_LEN_MAX;
use cairn_proto::pb;
use cairn_proto::pb::response::Kind as Reply;
use cairn_proto::status::Status;

impl Meta {
    pub(crate) async fn stat_fs(&self, ask: &pb::StatFs, caller: Option<&Caller>) -> Result<Reply, Status> {
        let at = path::at(ask.at.as_ref());
        let row = transact!(self, Durability::Relaxed, async |tx: &mut Tx| {
            tx.looks_only();
            tx.caller = caller.cloned();
            let inode = path::find(tx, &at, Last::Follow).await?;
            let row = tx.inode(inode).await?;
            let quota = tx.get(&keys::Quota { root: row.quota_root }).await?;
            // While what is below is still being counted nothing is known of it, and nothing is refused.
            let quota = match quota.filter(|quota| quota.state == quota_state::ACTIVE) {
                Some(quota) => {
                    let used = usage_of(tx, &[row.quota_root], None).await?;
                    Some((quota, used.get(&row.quota_root).copied().unwrap_or_default()))
                }
                None => None,
            };
            Ok((row, quota))
        })?;
        let (row, quota) = row;
        let now = self.now();
        let (capacity, used) = {
            let cluster = self.inner.cluster.lock();
            let there = cluster.stores.values().filter(|store| !cluster.is_lost(store, now));
            there.fold((0u64, 0u64), |(capacity, used), store| {
                let beat = &store.beat;
                (capacity.saturating_add(beat.capacity_bytes), used.saturating_add(beat.used_bytes))
            })
        };
        let totals = *self.inner.totals.lock();
        let replicas = u64::from(row.replicas.max(1));
        let mut room = pb::StatFsReply {
            total_bytes: capacity / replicas,
            free_bytes: capacity.saturating_sub(used) / replicas,
            file_bytes: totals.file_bytes(),
            inodes: totals.inodes(),
            block_len: row.block_len,
            name_len_max: NAME_LEN_MAX as u32,
            replicas: row.replicas,
            inode_limit: 0,
        };
        if let Some((quota, used)) = quota {
            within(&mut room, &quota, used);
        }
        Ok(Reply::StatFs(room))
    }
}

/// Narrows the room of the whole to that of a quota.
fn within(room: &mut pb::StatFsReply, quota: &rows::Quota, (bytes, inodes): (i64, i64)) {
    let (bytes, inodes) = (u64::try_from(bytes).unwrap_or(0), u64::try_from(inodes).unwrap_or(0));
    if quota.bytes > 0 {
        room.total_bytes = room.total_bytes.min(quota.bytes);
        room.free_bytes = room.free_bytes.min(quota.bytes.saturating_sub(bytes));
        room.file_bytes = bytes;
    }
    if quota.inodes > 0 {
        room.inodes = inodes;
        room.inode_limit = quota.inodes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_narrows_what_it_limits() {
        let whole =
            pb::StatFsReply { total_bytes: 1000, free_bytes: 400, file_bytes: 600, inodes: 9, ..Default::default() };
        let room = |bytes, inodes, used| {
            let mut room = whole;
            within(&mut room, &rows::Quota { bytes, inodes, state: quota_state::ACTIVE }, used);
            (room.total_bytes, room.free_bytes, room.file_bytes, room.inodes, room.inode_limit)
        };
        assert_eq!(room(0, 0, (5, 5)), (1000, 400, 600, 9, 0));
        assert_eq!(room(100, 0, (30, 5)), (100, 70, 30, 9, 0));
        assert_eq!(room(800, 0, (30, 5)), (800, 400, 30, 9, 0), "there is no more than in all");
        assert_eq!(room(100, 7, (130, 5)), (100, 0, 130, 5, 7));
    }
}
