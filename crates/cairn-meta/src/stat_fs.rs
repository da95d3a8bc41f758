//! Room and use, as statvfs(3) wants them.

use crate::access::Caller;
use crate::kv::Durability;
use crate::meta::{Meta, transact};
use crate::path::{self, Last};
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
            tx.inode(inode).await
        })?;
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
        Ok(Reply::StatFs(pb::StatFsReply {
            total_bytes: capacity / replicas,
            free_bytes: capacity.saturating_sub(used) / replicas,
            file_bytes: totals.file_bytes(),
            inodes: totals.inodes(),
            block_len: row.block_len,
            name_len_max: NAME_LEN_MAX as u32,
            replicas: row.replicas,
        }))
    }
}
