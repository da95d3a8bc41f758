//! A stream of blocks: many in flight, few syncs, commits in order, memory bounded.
//!
//! Blocks are sent unsynced as they fill. When a batch is big enough it is closed: one SYNC per store makes its blocks
//! durable, one transaction makes them visible, while the next batch is already being sent. A block's bytes are kept
//! until then, because a store that restarted meanwhile may ask for them again.

use crate::caller::Call;
use crate::client::Inner;
use crate::error::{Cause, Error};
use crate::sync::{self, Unsynced};
use crate::trace;
use crate::write::{self, Draft, Stored, Target};
use bytes::Bytes;
use cairn_proto::PgId;
use cairn_proto::limits::{COMMIT_PIECES_MAX, WINDOW_BLOCKS_MAX, WINDOW_BYTES_MAX};
use cairn_proto::pb::{self, PutDurability, request, response};
use parking_lot::Mutex;
use std::sync::{Arc, OnceLock};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;

/// A batch is closed at this many bytes: half of the window, so that the next one can fill meanwhile.
const BATCH_BYTES: u64 = WINDOW_BYTES_MAX / 2;
/// ...or at this many blocks.
const BATCH_BLOCKS: usize = WINDOW_BLOCKS_MAX / 2;
/// A stream stays with its group for this many bytes, so that its runs are long.
const GROUP_BYTES: u64 = 256 * 1024 * 1024;

const _: () = assert!(BATCH_BLOCKS <= COMMIT_PIECES_MAX);

type Put = JoinHandle<Result<(Stored, OwnedSemaphorePermit), Error>>;

/// Blocks of one file under way.
pub(crate) struct Pipeline {
    inner: Arc<Inner>,
    target: Target,
    relaxed: bool,
    /// Makes the inode before the first commit, where it does not exist yet.
    create: Option<pb::CreateUnnamed>,
    group: Arc<Mutex<Option<(PgId, u64)>>>,
    next_seq: u32,
    end_seq: u32,
    permits: Arc<Semaphore>,
    /// The first thing that went wrong; nothing more is sent after it.
    failed: Arc<OnceLock<Error>>,
    /// Where relaxed blocks are noted once they are committed.
    unsynced: Option<Arc<Unsynced>>,
    /// Time of modification that commits say; absent = the server's.
    mtime_ns: Option<i64>,
    batch: Vec<Put>,
    batch_bytes: u64,
    committing: Option<JoinHandle<Result<pb::CommitReply, Error>>>,
}

impl Pipeline {
    pub(crate) fn new(
        inner: Arc<Inner>,
        target: Target,
        relaxed: bool,
        create: Option<pb::CreateUnnamed>,
        unsynced: Option<Arc<Unsynced>>,
    ) -> Self {
        Self {
            failed: Arc::default(),
            unsynced,
            inner,
            target,
            relaxed,
            create,
            group: Arc::default(),
            next_seq: 0,
            end_seq: 0,
            permits: Arc::new(Semaphore::new(WINDOW_BYTES_MAX as usize)),
            batch: Vec::new(),
            batch_bytes: 0,
            mtime_ns: None,
            committing: None,
        }
    }

    /// What commits say from now on about when the content changed.
    pub(crate) fn set_mtime(&mut self, mtime_ns: Option<i64>) {
        self.mtime_ns = mtime_ns;
    }

    /// True while nothing was committed and, for a file without a name, not even its inode was made.
    pub(crate) fn is_uncommitted(&self) -> bool {
        self.committing.is_none()
    }

    pub(crate) fn target(&self) -> &Target {
        &self.target
    }

    fn seq(&mut self) -> Result<u32, Error> {
        if self.next_seq == self.end_seq {
            self.next_seq = self.target.reserve(BATCH_BLOCKS as u32)?;
            self.end_seq = self.next_seq + BATCH_BLOCKS as u32;
        }
        self.next_seq += 1;
        Ok(self.next_seq - 1)
    }

    /// The group for the next `len` bytes: the one the stream is in, unless that has had its share, or has a member that
    /// is away while another group is whole.
    fn hint(&self, len: u64) -> Option<PgId> {
        let (inner, cluster) = (&self.inner, &self.inner.cluster);
        let mut group = self.group.lock();
        let kept = group.filter(|(_, used)| used + len <= GROUP_BYTES);
        let (pg, used) = match kept {
            Some((pg, used)) if cluster.is_all_well(pg) => (pg, used),
            Some((pg, used)) => match cluster.pick_group(inner, (self.target.replicas, &[]), len) {
                Some(other) if cluster.is_all_well(other) => (other, 0),
                _ => (pg, used),
            },
            None => (cluster.pick_group(inner, (self.target.replicas, &[]), len)?, 0),
        };
        *group = Some((pg, used + len));
        Some(pg)
    }

    /// Sends one block, at most `block_len` bytes; waits while the window is full. `last` tells that a commit follows
    /// at once: a block that is alone is then made durable right away, which saves the SYNC.
    pub(crate) async fn push(&mut self, offset: u64, data: Bytes, last: bool) -> Result<(), Error> {
        if let Some(error) = self.failed.get() {
            return Err(error.clone());
        }
        let len = data.len() as u64;
        if !self.batch.is_empty() && self.batch_bytes + len > WINDOW_BYTES_MAX {
            // Its permits are only given back by its commit.
            self.close_batch();
        }
        let permit = self.permits.clone().acquire_many_owned(data.len() as u32).await;
        let permit = permit.expect("the semaphore is never closed");
        let durability = match (self.relaxed, last && self.batch.is_empty()) {
            (true, _) => PutDurability::Relaxed,
            (false, true) => PutDurability::Durable,
            (false, false) => PutDurability::Unsynced,
        };
        let (seq, hint) = (self.seq()?, self.hint(len));
        let (inner, target, group) = (self.inner.clone(), self.target.clone(), self.group.clone());
        let deadline = inner.deadline(inner.config.write_timeout);
        self.batch.push(self.inner.tasks.spawn(trace::carry(async move {
            let stored =
                write::put_block(&inner, &target, Draft { offset, data, seq }, hint, durability, deadline).await?;
            if Some(stored.pg) != hint {
                // The group did not take it: the stream moves on.
                *group.lock() = None;
            }
            Ok((stored, permit))
        })));
        self.batch_bytes += len;
        if !last && (self.batch_bytes >= BATCH_BYTES || self.batch.len() >= BATCH_BLOCKS) {
            self.close_batch();
        }
        Ok(())
    }

    fn close_batch(&mut self) {
        let batch = std::mem::take(&mut self.batch);
        self.batch_bytes = 0;
        let (inner, target, relaxed) = (self.inner.clone(), self.target.clone(), self.relaxed);
        let (before, create) = (self.committing.take(), self.create.take());
        let (failed, unsynced, mtime_ns) = (self.failed.clone(), self.unsynced.clone(), self.mtime_ns);
        let work = async move {
            if let Some(before) = before {
                before.await.map_err(stopped)??;
            }
            if let Some(create) = create {
                let deadline = inner.deadline(inner.config.meta_timeout);
                let call = Call { kind: request::Kind::CreateUnnamed(create), caller: target.caller.clone() };
                inner.sessions.mutate(&inner, call, relaxed, deadline).await?;
            }
            let (blocks, permits) = settle(&inner, &target, batch).await?;
            let (inode, writer) = (target.inode.0, target.writer.id.0);
            let make =
                |pieces| request::Kind::Commit(pb::Commit { inode, writer, pieces, mtime_ns, ..Default::default() });
            let deadline = inner.deadline(inner.config.write_timeout);
            let (reply, blocks) = write::commit_blocks(&inner, &target, blocks, relaxed, deadline, make).await?;
            drop(permits);
            if let Some(unsynced) = unsynced.filter(|_| relaxed) {
                unsynced.add(&blocks);
            }
            match reply {
                response::Kind::Commit(reply) => Ok(reply),
                _ => Err(inner.unexpected("commit")),
            }
        };
        self.committing = Some(
            self.inner.tasks.spawn(trace::carry(async move { work.await.inspect_err(|error| note(&failed, error)) })),
        );
    }

    /// Commits everything pushed so far and waits for it. `None` when nothing was ever pushed.
    pub(crate) async fn flush(&mut self) -> Result<Option<pb::CommitReply>, Error> {
        if !self.batch.is_empty() {
            self.close_batch();
        }
        let Some(committing) = self.committing.take() else { return Ok(None) };
        let reply = committing.await.map_err(stopped)??;
        // Later batches still come after this one, and the inode stays made.
        self.committing = Some(self.inner.tasks.spawn(std::future::ready(Ok(reply))));
        Ok(Some(reply))
    }

    /// Waits until the blocks pushed since the last commit are stored as durably as asked, and hands them out.
    pub(crate) async fn take_blocks(&mut self) -> Result<Vec<Stored>, Error> {
        let batch = std::mem::take(&mut self.batch);
        self.batch_bytes = 0;
        settle(&self.inner, &self.target, batch).await.map(|(blocks, _)| blocks)
    }
}

async fn settle(
    inner: &Arc<Inner>,
    target: &Target,
    batch: Vec<Put>,
) -> Result<(Vec<Stored>, Vec<OwnedSemaphorePermit>), Error> {
    let mut blocks = Vec::with_capacity(batch.len());
    let mut permits = Vec::with_capacity(batch.len());
    for put in batch {
        let (stored, permit) = put.await.map_err(stopped)??;
        blocks.push(stored);
        permits.push(permit);
    }
    let deadline = inner.deadline(inner.config.write_timeout);
    Ok((sync::sync_blocks(inner, target, blocks, deadline).await?, permits))
}

/// Keeps the first error of a stream.
fn note(failed: &OnceLock<Error>, error: &Error) {
    // A later one is only its consequence.
    let _ = failed.set(error.clone());
}

fn stopped(error: tokio::task::JoinError) -> Error {
    Error::new("write", Cause::Invalid(format!("the client is shutting down: {error}")))
}
