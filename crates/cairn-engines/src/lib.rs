//! Existing databases as engines of metadata: PostgreSQL's wire and etcd v3, each behind
//! [`cairn_meta::kv::Engine`].
//!
//! An [`EngineUrl`] says which; [`open`] reaches it. This crate knows nothing of inodes: it moves keys, values and ranges
//! to a server and back, in serializable transactions. Its sockets are those of the drivers. Whatever may be written
//! down of a transaction in one request, or how often it is tried before it counts as a conflict, stays in here; but a
//! commit whose answer is lost is never repeated: its outcome is unknown, and the caller's slot resolves it.

mod etcd;
pub mod limits;
mod postgres;
mod url;

pub use etcd::EtcdEngine;
pub use postgres::PostgresEngine;
pub use url::{EngineUrl, UrlError};

use cairn_meta::kv::Engine;
use std::sync::Arc;
use thiserror::Error;
use url::Place;

/// Why an engine could not be opened.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum OpenError {
    /// Trying again does not help: something has to be changed first.
    #[error("{cause}")]
    Never {
        /// What is wrong and what to do.
        cause: String,
    },
    /// It may be there later.
    #[error("{cause}")]
    Away {
        /// What the server said, or that there was none.
        cause: String,
    },
}

/// Opens the engine at `url`, with whatever is random in it drawn from `rng`.
///
/// # Errors
/// See [`OpenError`]. That of `file:` is always [`OpenError::Never`]: the embedded engine is not of this crate.
pub async fn open(url: &EngineUrl, rng: fastrand::Rng) -> Result<Arc<dyn Engine>, OpenError> {
    match &url.place {
        Place::File(_) => Err(OpenError::Never { cause: "the embedded engine is opened by its server".into() }),
        Place::Postgres(place) => Ok(Arc::new(PostgresEngine::open(place, rng).await?)),
        Place::Etcd(place) => Ok(Arc::new(EtcdEngine::open(place, rng).await?)),
    }
}
