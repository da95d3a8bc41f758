//! etcd v3 as an engine.
//!
//! A transaction reads at the revision it began at and is validated when it commits, by comparisons in the same etcd
//! transaction as its writes: a row that was read by the revision that last wrote it, a range that was walked by there
//! being none newer in it. Ranges do not show what was deleted, so a removed row stays for a while as a *tombstone*; the
//! *floor* says up to which revision tombstones may be gone, and every commit compares that its snapshot is not older.
//! What does not fit into one request of etcd is committed by way of a *pending* row (`big.rs`), which every commit
//! compares to be absent and every begin looks at. Why this is right, by interleavings: docs/decisions/0020.

mod ask;
mod big;
mod client;
mod commit;
mod frame;
mod janitor;
mod pb;
mod pending;
mod scan;
mod txn;

use crate::OpenError;
use crate::url::EtcdPlace;
use async_trait::async_trait;
use cairn_meta::kv::{Engine, EngineError, Limits, Snapshot, Txn};
use client::{CallError, Client, Repeat};
use frame::{Keys, State};
use parking_lot::Mutex;
use pending::Gate;
use std::sync::Arc;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::limits::TXN_LIMITS;

/// What transactions and the janitor share.
struct Inner {
    client: Client,
    keys: Keys,
    /// Why nothing new should be made.
    pressure: Mutex<Option<String>>,
    rng: Mutex<fastrand::Rng>,
}

impl Inner {
    /// The newest revision that can be read at.
    async fn now(&self) -> Result<i64, EngineError> {
        loop {
            let Gate { revision, pending, .. } = self.gate().await?;
            match pending {
                // What is committed but not everywhere yet is no state to read at.
                Some(found) if found.pending.state == State::Committed => self.roll_forward(&found, None).await?,
                _ => return Ok(revision),
            }
        }
    }

    /// What a call's failure means to a transaction that has written nothing yet.
    fn failed(&self, error: CallError) -> EngineError {
        match error {
            CallError::Compacted => EngineError::Conflict,
            CallError::NoSpace => {
                *self.pressure.lock() = Some(error.to_string());
                EngineError::Full { cause: error.to_string() }
            }
            CallError::Away { cause } | CallError::Lost { cause } => EngineError::Unavailable { cause },
            // Somebody may be changing users right now; the process does not have to end for it.
            CallError::Denied { .. } | CallError::Future => EngineError::Unavailable { cause: error.to_string() },
            CallError::Refused { cause } => EngineError::Failed { cause: format!("etcd refuses a request: {cause}") },
        }
    }
}

/// An etcd cluster as an engine. Dropped, its janitor ends.
pub struct EtcdEngine {
    inner: Arc<Inner>,
    _janitor: DropGuard,
}

impl EtcdEngine {
    /// Reaches the cluster, and makes sure that the keys below the prefix can be used.
    ///
    /// # Errors
    /// [`OpenError::Never`] for what another try does not help: a wrong password, an etcd that is too old.
    /// [`OpenError::Away`] for what may pass.
    pub(crate) async fn open(place: &EtcdPlace, rng: fastrand::Rng) -> Result<Self, OpenError> {
        let client = Client::new(place).map_err(opening)?;
        client.log_in().await.map_err(opening)?;
        let statuses = client.statuses().await.map_err(opening)?;
        if let Some(old) = statuses.iter().find(|status| too_old(&status.version)) {
            let cause = format!("etcd {} is too old: 3.4 or newer is needed", old.version);
            return Err(OpenError::Never { cause });
        }
        let keys = Keys::new(&place.prefix);
        let floor = pb::TxnRequest {
            compare: vec![ask::unchanged(keys.floor(), 0)],
            success: vec![ask::put(keys.floor(), frame::floor_value(0))],
            failure: Vec::new(),
        };
        client.txn(Repeat::Allowed, floor).await.map_err(opening)?;
        let inner = Inner { client, keys, pressure: Mutex::new(None), rng: Mutex::new(rng) };
        let inner = Arc::new(inner);
        let stop = CancellationToken::new();
        let mut janitor = janitor::Janitor::new(inner.clone(), place);
        janitor.look().await;
        let running = stop.clone();
        tokio::spawn(async move { running.run_until_cancelled(janitor.run()).await });
        Ok(Self { inner, _janitor: stop.drop_guard() })
    }
}

fn opening(error: CallError) -> OpenError {
    let cause = error.to_string();
    match error {
        CallError::Denied { .. } | CallError::Refused { .. } => OpenError::Never { cause },
        _ => OpenError::Away { cause },
    }
}

/// Comparisons of ranges came with 3.3; what is tested is 3.4 and newer.
fn too_old(version: &str) -> bool {
    let mut numbers = version.split('.').map(|number| number.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) < (3, 4)
}

#[async_trait]
impl Engine for EtcdEngine {
    async fn begin(&self) -> Result<Box<dyn Txn>, EngineError> {
        let revision = self.inner.now().await?;
        Ok(Box::new(txn::EtcdTxn::new(self.inner.clone(), revision)))
    }

    /// Lasts as long as history does: see [`crate::limits::ETCD_HISTORY`].
    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, EngineError> {
        let revision = self.inner.now().await?;
        Ok(Box::new(txn::EtcdSnapshot::new(self.inner.clone(), revision)))
    }

    fn limits(&self) -> Limits {
        TXN_LIMITS
    }

    fn name(&self) -> &'static str {
        "etcd"
    }

    fn pressure(&self) -> Option<String> {
        self.inner.pressure.lock().clone()
    }
}

#[cfg(test)]
mod real;

#[cfg(test)]
mod tests {
    #[test]
    fn versions() {
        assert_eq!(["3.4.23", "3.5.0", "3.10.1", "4.0.0"].map(super::too_old), [false; 4]);
        assert_eq!(["3.3.27", "2.3.8", ""].map(super::too_old), [true; 3]);
    }
}
