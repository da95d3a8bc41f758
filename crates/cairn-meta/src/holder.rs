//! Acting for all: duties are carried out by the one server that holds their lease, and every transaction of theirs
//! says so.

use crate::error::Op;
use crate::keys::{self, counter};
use crate::kv::Durability;
use crate::lease::Stand;
use crate::limits::{DUTY_STOP_AFTER, PAUSE_MIN};
use crate::meta::{Meta, transact};
use crate::rows;
use crate::tx::Tx;
use bytes::Bytes;
use cairn_proto::status::{Code, Status};
use std::sync::atomic::Ordering;
use std::time::Duration;

tokio::task_local! {
    /// The duty epoch in which this task acts: every transaction begun in it is fenced by that.
    static ACTS_IN: u64;
}

/// All duties have one holder.
const NAME: Bytes = Bytes::from_static(b"all");

async fn stand(tx: &mut Tx) -> Op<Stand> {
    let duty = tx.get(&keys::Duty { name: NAME }).await?;
    let beat = tx.get(&keys::DutyBeat { name: NAME }).await?;
    Ok(Stand::of(duty.as_ref(), beat.as_ref()))
}

/// The epoch in force, as of this transaction.
pub(crate) async fn duty_epoch(tx: &mut Tx) -> Op<u64> {
    Ok(tx.get(&keys::Duty { name: NAME }).await?.map_or(0, |row| row.epoch))
}

/// Renews the lease; false when another server has it by now.
pub(crate) async fn renew(tx: &mut Tx, me: u32, renewal: Stand) -> Op<bool> {
    let duty = tx.get(&keys::Duty { name: NAME }).await?;
    if duty != Some(rows::Duty { server: me, epoch: renewal.epoch }) {
        return Ok(false);
    }
    let beat = rows::DutyBeat { server: me, epoch: renewal.epoch, beats: renewal.beats };
    tx.put(&keys::DutyBeat { name: NAME }, &beat);
    Ok(true)
}

/// Gives the lease back, if `me` has it.
pub(crate) async fn give_back(tx: &mut Tx, me: u32) -> Op<()> {
    let key = keys::Duty { name: NAME };
    if let Some(row) = tx.get(&key).await?.filter(|row| row.server == me) {
        tx.put(&key, &rows::Duty { server: 0, epoch: row.epoch });
    }
    Ok(())
}

impl Meta {
    /// How the lease stands, as part of a look around.
    pub(crate) async fn stand_in(&self, tx: &mut Tx) -> Op<Stand> {
        stand(tx).await
    }

    /// The epoch in which this server carries out the duties of all; `None` while it does not. Travels with destructive
    /// commands to nodes, which refuse a lower one than they have seen.
    pub fn duty_epoch(&self) -> Option<u64> {
        self.inner.lease.lock().epoch(self.now())
    }

    /// Does `step` as the holder of the duties, each of its transactions fenced; `None`, with nothing done, when this
    /// server is not the holder, or is no longer.
    pub(crate) async fn as_holder<T>(
        &self,
        step: impl Future<Output = Result<T, Status>>,
    ) -> Result<Option<T>, Status> {
        let Some(epoch) = self.duty_epoch() else { return Ok(None) };
        let result = ACTS_IN.scope(epoch, step).await;
        if self.inner.lease.lock().epoch(self.now()) != Some(epoch) {
            // Whatever it came to meet: the lease was taken over, or has lapsed, meanwhile.
            return Ok(None);
        }
        result.map(Some)
    }

    /// Makes a transaction of a duty conflict with, or fail by, another server's taking over.
    pub(crate) async fn fence(&self, tx: &mut Tx) -> Op<()> {
        let Ok(epoch) = ACTS_IN.try_with(|epoch| *epoch) else { return Ok(()) };
        let row = tx.get(&keys::Duty { name: NAME }).await?;
        if row == Some(rows::Duty { server: self.server(), epoch }) {
            return Ok(());
        }
        self.inner.lease.lock().lose(epoch);
        let row = row.unwrap_or(rows::Duty { server: 0, epoch: 0 });
        let message = format!("duty epoch {epoch} is over: server {} has them in epoch {}", row.server, row.epoch);
        Err(Status::new(Code::Fenced, message).into())
    }

    /// Takes the lease over from how it was `seen`; false when somebody was faster. Silence is counted anew from here on.
    pub(crate) async fn take_over(&self, seen: Stand) -> Result<bool, Status> {
        let (me, asked) = (self.server(), self.now());
        let epoch = transact!(self, Durability::Durable, async |tx: &mut Tx| {
            let standing = tx.get(&keys::MetaServer { server: me }).await?.is_some_and(|row| !row.gone);
            if !standing || stand(tx).await? != seen {
                return Ok(None);
            }
            let epoch = tx.next_number(counter::DUTY_EPOCH).await?;
            tx.put(&keys::Duty { name: NAME }, &rows::Duty { server: me, epoch });
            tx.put(&keys::DutyBeat { name: NAME }, &rows::DutyBeat { server: me, epoch, beats: 0 });
            Ok(Some(epoch))
        })?;
        let Some(epoch) = epoch else { return Ok(false) };
        if seen.server != 0 && seen.server != me {
            tracing::warn!(epoch, from = seen.server, "the duties of a silent metadata server are taken over");
        } else {
            tracing::info!(epoch, "this metadata server carries out the duties");
        }
        self.reload_tables().await?;
        self.load_sessions().await?;
        self.restart_silence(self.now());
        {
            let mut cluster = self.inner.cluster.lock();
            cluster.handed_over.clear();
            cluster.sealed.clear();
        }
        self.inner.groups_enough_at.store(0, Ordering::Release);
        self.inner.members_settled_at.store(0, Ordering::Release);
        self.inner.lease.lock().confirm(epoch, 0, asked);
        Ok(true)
    }

    /// The engine did what was asked at `asked`: silence may be counted on, unless that was long ago for the first time.
    pub(crate) fn note_contact(&self, asked: Duration) {
        let most = if self.inner.options.alone { PAUSE_MIN } else { DUTY_STOP_AFTER };
        let sessions_gap = most.min(self.inner.options.lease / 2);
        let sessions = self.inner.sessions.lock().contact.note(asked, sessions_gap);
        let all = self.inner.contact.lock().note(asked, PAUSE_MIN);
        if all {
            tracing::warn!("metadata's engine was out of reach: silence is counted anew");
            self.restart_silence(self.now());
        } else if sessions {
            self.inner.sessions.lock().restart(self.now());
        }
    }

    /// Gives everybody time anew.
    pub(crate) fn restart_silence(&self, now: Duration) {
        self.inner.sessions.lock().restart(now);
        self.inner.cluster.lock().restart(now);
        self.inner.servers.lock().restart(now);
        self.inner.renewals.lock().clear();
        self.inner.feed.restart_silence();
    }
}
