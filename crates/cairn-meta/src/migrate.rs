//! Moving a namespace from one engine to another: the source is fenced, everything is copied and read back on both
//! sides, and only then the target can be opened.

use crate::dump::{Dump, LoadError, Loader, Purpose, RowDigest};
use crate::error::OpenError;
use crate::keys::{Key, Setting, setting};
use crate::kv::{CommitOutcome, Durability, Engine, EngineError};
use crate::limits::ATTEMPTS_MAX;
use crate::rows::{self, Row};
use bytes::Bytes;
use std::sync::Arc;

/// Why a namespace did not move. The source goes on unless the error is [`MigrateError::Unfenced`].
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// The source holds nothing that can be moved, or it was moved elsewhere.
    #[error("the source: {0}")]
    Source(#[source] OpenError),
    /// The target did not take it.
    #[error("the target: {0}")]
    Target(#[source] LoadError),
    /// The source changed although it was fenced.
    #[error("the source changed while it was copied: a server still runs on it. Stop it, and migrate again")]
    SourceChanged,
    /// The fence in the source could not be removed after a failure.
    #[error("{cause}. Besides, the source is still fenced: migrate again, or see docs/operations/backup.md")]
    Unfenced {
        /// What failed first.
        cause: Box<MigrateError>,
    },
}

fn fence_key() -> Vec<u8> {
    Setting { name: Bytes::from_static(setting::MIGRATED_TO) }.encode()
}

fn source(error: impl Into<OpenError>) -> MigrateError {
    MigrateError::Source(error.into())
}

/// Sets or removes the fence. Whoever opens the engine at the same time conflicts with this, or is seen by the caller.
async fn set_fence(engine: &dyn Engine, to: Option<&str>) -> Result<(), MigrateError> {
    for _ in 0..ATTEMPTS_MAX {
        let mut txn = engine.begin().await.map_err(source)?;
        match txn.get(&fence_key()).await {
            Ok(found) => {
                let row = found.map(|value| rows::Setting::decode(&value)).transpose();
                let row = row.map_err(|error| source(OpenError::Damaged { what: error.to_string() }))?;
                if let (Some(row), Some(to)) = (row, to)
                    && row.value != to.as_bytes()
                {
                    let to = String::from_utf8_lossy(&row.value).into_owned();
                    return Err(source(OpenError::Migrated { to }));
                }
            }
            Err(EngineError::Conflict) => continue,
            Err(error) => return Err(source(error)),
        }
        match to {
            Some(to) => txn.put(fence_key(), rows::Setting { value: Bytes::copy_from_slice(to.as_bytes()) }.encode()),
            None => txn.delete(fence_key()),
        }
        match txn.commit(Durability::Durable).await {
            Ok(CommitOutcome::Done) => return Ok(()),
            Ok(CommitOutcome::Conflict | CommitOutcome::Unknown) | Err(EngineError::Conflict) => {}
            Err(error) => return Err(source(error)),
        }
    }
    Err(source(EngineError::Conflict))
}

/// Moves the namespace. `from_name` and `to_name` are told to whoever opens the wrong engine later; `token` tells this
/// attempt from others; `progress` hears the rows copied so far.
///
/// No server may run on the source: the caller sees to that, an engine of which only one process can be open at a time by
/// itself. A server that starts while this runs finds the fence.
///
/// # Errors
/// See [`MigrateError`]. The target is as it was, or marked as half loaded.
pub async fn migrate(
    from: Arc<dyn Engine>,
    to: Arc<dyn Engine>,
    (from_name, to_name): (&str, &str),
    (token, now_ns): (u64, i64),
    mut progress: impl FnMut(RowDigest) + Send,
) -> Result<RowDigest, MigrateError> {
    let mut loader = Loader::begin(to, from_name, token, Purpose::Move).await.map_err(MigrateError::Target)?;
    set_fence(&*from, Some(to_name)).await?;
    let copied = async {
        let mut dump = Dump::of_fenced(&*from, now_ns).await.map_err(MigrateError::Source)?;
        while let Some(piece) = dump.next().await.map_err(source)? {
            loader.feed(&piece).await.map_err(MigrateError::Target)?;
            progress(loader.digest());
        }
        // A server that did not see the fence would have changed something: its beats alone do.
        if crate::dump::digest_of(&*from).await.map_err(source)? != dump.digest() {
            return Err(MigrateError::SourceChanged);
        }
        let (_, digest) = loader.finish().await.map_err(MigrateError::Target)?;
        Ok(digest)
    };
    match copied.await {
        Ok(digest) => Ok(digest),
        Err(error) => match set_fence(&*from, None).await {
            Ok(()) => Err(error),
            Err(_) => Err(MigrateError::Unfenced { cause: Box::new(error) }),
        },
    }
}
