//! Backups of metadata at one moment, behind a hold: what they refer to stays on the nodes.
//!
//! The hold is taken first and keeps whatever goes from then on, for a short time that is renewed while the dump is read.
//! Once the dump is kept somewhere the hold is settled: it keeps what is in the dump, as long as the caller says.

use super::{Admin, Dump, DumpPiece};
use crate::error::Error;
use crate::snapshots::Snapshot;
use cairn_proto::pb::{self, request};
use std::path::Path;
use std::time::Duration;
use tokio::time::Instant;

/// How long what nobody reads on is held for.
const READING_TTL: Duration = Duration::from_secs(300);
/// Time between two renewals while a dump is read.
const RENEW_PERIOD: Duration = Duration::from_secs(30);

/// A dump that is being read behind a hold. Dropped before [`HeldDump::keep`], its hold ends five minutes later.
pub struct HeldDump {
    admin: Admin,
    dump: Dump,
    hold: Snapshot,
    renewed: Instant,
}

impl Admin {
    /// Begins a backup of that name: takes the hold; [`HeldDump::next`] gives the dump.
    ///
    /// # Errors
    /// `AlreadyExists` when there is a backup of that name; `InvalidInput` for an empty name; `Conflict` when there are too
    /// many snapshots; `Unsupported` while an upgrade that brings holds is not finalized.
    pub async fn backup(&self, name: &str) -> Result<HeldDump, Error> {
        if name.is_empty() {
            return Err(Error::invalid("backup", "a backup needs a name"));
        }
        self.begin_held("backup", name).await
    }

    /// A dump as [`Admin::dump`], behind a hold while it is read: all of it refers to blocks that are there until
    /// [`HeldDump::abandon`].
    ///
    /// # Errors
    /// As [`Admin::backup`].
    pub async fn held_dump(&self) -> Result<HeldDump, Error> {
        self.begin_held("dump", "").await
    }

    async fn begin_held(&self, operation: &'static str, name: &str) -> Result<HeldDump, Error> {
        let create = pb::CreateSnapshot {
            owner: operation.into(),
            ttl_ms: READING_TTL.as_millis() as u64,
            backup: name.into(),
            unsettled: true,
            ..Default::default()
        };
        let renewed = cairn_net::now();
        let hold = self.operation(operation, self.client.take_snapshot(create)).await?;
        Ok(HeldDump { admin: self.clone(), dump: self.dump(), hold, renewed })
    }

    /// The backups there are, as their holds, in the order in which they were begun.
    ///
    /// # Errors
    /// The common ones.
    pub async fn backups(&self) -> Result<Vec<Snapshot>, Error> {
        let mut all = self.client.snapshots(None, true).await?;
        all.retain(|snapshot| snapshot.backup.is_some());
        Ok(all)
    }

    /// Gives up the hold of a backup: what it refers to may be collected from now on.
    ///
    /// # Errors
    /// `NotFound` when there is no such backup: it was removed, or its time ran out.
    pub async fn remove_backup(&self, name: &str) -> Result<(), Error> {
        let found = self.backups().await?.into_iter().find(|hold| hold.backup.as_deref() == Some(name));
        match found {
            Some(hold) => self.client.release(&hold).await,
            None => {
                let status = cairn_proto::status::Status::new(pb::Code::NotFound, format!("there is no backup {name}"));
                Err(Error::new("remove_backup", crate::Cause::Status(status)).at("remove_backup", Path::new("/")))
            }
        }
    }
}

impl HeldDump {
    /// The hold.
    pub fn hold(&self) -> &Snapshot {
        &self.hold
    }

    /// The next piece of the dump; `None` after the end. Renews the hold on the way: ask at least every five minutes.
    ///
    /// # Errors
    /// As [`Dump::next`], and `NotFound` when the hold is over because nobody asked for so long. Begin anew then.
    pub async fn next(&mut self) -> Result<Option<DumpPiece>, Error> {
        let now = cairn_net::now();
        if now.saturating_duration_since(self.renewed) >= RENEW_PERIOD {
            self.admin.client.renew(&self.hold).await?;
            self.renewed = now;
        }
        self.dump.next().await
    }

    /// The dump was read to its end and is safe: holds exactly what is in it, for `ttl` (counted by the metadata server
    /// while it runs; at least a second) or until [`Admin::remove_backup`].
    ///
    /// # Errors
    /// `InvalidInput` when it was not read to its end, or for a shorter `ttl`; `NotFound` when the hold is over. The backup
    /// is of no use then.
    pub async fn keep(self, ttl: Option<Duration>) -> Result<Snapshot, Error> {
        let Some(newest) = self.dump.newest_snapshot() else {
            return Err(Error::invalid("keep", "the dump was not read to its end"));
        };
        let ttl_ms = ttl.map_or(0, |ttl| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).max(1));
        let settle = Some(pb::SettleHold { newest, ttl_ms });
        let renew = request::Kind::RenewSnapshot(pb::RenewSnapshot { number: self.hold.number, settle });
        self.admin.operation("keep", async { self.admin.client.mutate(renew, Some(false)).await.map(|_| ()) }).await?;
        Ok(Snapshot { ttl, unsettled: false, ..self.hold })
    }

    /// Gives the hold up, and the dump if it is not at its end.
    pub async fn abandon(self) {
        // Both end by themselves after a while.
        self.dump.cancel().await;
        let _ = self.admin.client.release(&self.hold).await;
    }
}
