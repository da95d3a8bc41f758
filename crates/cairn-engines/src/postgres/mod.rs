//! PostgreSQL's wire protocol as an engine: one table of keys and values, in SQL so plain that other servers which speak
//! it take it too.
//!
//! A transaction reads in a read-only serializable transaction of the server, which never conflicts with its own writes:
//! it has none. Its commit is a second, short one (`commit.rs`): it reads the same again, compares, and writes. So what
//! holds locks or meets others lasts a round trip or two, however long the caller thought, and one such transaction of
//! the server carries the commits of all that wait at that moment. Both kinds are SERIALIZABLE, so the server orders them
//! among all processes.

mod commit;
mod error;
mod open;
mod pool;
mod snapshot;
mod txn;

use crate::OpenError;
use crate::limits::{PG_QUEUE_MAX, TXN_LIMITS};
use crate::url::PostgresPlace;
use async_trait::async_trait;
use cairn_meta::kv::{CommitCounts, Engine, EngineError, Limits, Snapshot, Txn};
use commit::{Committer, Counts, Waiting};
use pool::Pool;
use std::sync::Arc;
use tokio::sync::mpsc;

/// A table of PostgreSQL, or of a server that speaks its wire protocol, as an engine.
pub struct PostgresEngine {
    pool: Arc<Pool>,
    queue: mpsc::Sender<Waiting>,
    counts: Arc<Counts>,
}

impl PostgresEngine {
    /// Reaches the server, sees to the table, and looks whether the server keeps what it acknowledges.
    ///
    /// # Errors
    /// [`OpenError::Never`] for what another try does not help: a wrong password, no such database, a server that does
    /// not write to its disk. [`OpenError::Away`] for what may pass.
    pub(crate) async fn open(place: &PostgresPlace, rng: fastrand::Rng) -> Result<Self, OpenError> {
        let setup = open::look(place).await?;
        let pool = Arc::new(Pool::new(place, setup));
        let (queue, waiting) = mpsc::channel(PG_QUEUE_MAX);
        let counts = Arc::new(Counts::default());
        // Ends when the last sender is gone.
        tokio::spawn(Committer::new(pool.clone(), counts.clone(), rng).run(waiting));
        Ok(Self { pool, queue, counts })
    }
}

#[async_trait]
impl Engine for PostgresEngine {
    async fn begin(&self) -> Result<Box<dyn Txn>, EngineError> {
        Ok(Box::new(txn::PgTxn::new(self.pool.clone(), self.queue.clone())))
    }

    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, EngineError> {
        Ok(Box::new(snapshot::PgSnapshot::begin(self.pool.clone()).await?))
    }

    fn limits(&self) -> Limits {
        TXN_LIMITS
    }

    fn name(&self) -> &'static str {
        "postgres"
    }

    fn commits(&self) -> CommitCounts {
        self.counts.read()
    }
}
