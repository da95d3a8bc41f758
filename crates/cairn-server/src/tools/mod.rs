//! What the command line does to an engine without a server: dumps, loading, moving, checking.

mod recover;

use crate::clock::wall_ns;
use crate::entropy;
use crate::limits::{META_CACHE_BYTES, SERVER_SIGN_WAIT};
use crate::tasks::blocking;
use bytes::Bytes;
use cairn_engines::{EngineUrl, UrlError};
use cairn_meta::ServerSigns;
use cairn_meta::clock::{Clock, SystemClock};
use cairn_meta::kv::{EmbeddedEngine, EmbeddedOptions, Engine, EngineError};
use cairn_meta::migrate::migrate;
use cairn_proto::pb;
use cairn_proto::status::Status;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::time::sleep;

pub use recover::{RecoverError, Recovered};

pub use cairn_meta::dump::{Dump, DumpProgress, LoadError, Loader, Purpose, RowDigest};
pub use cairn_meta::migrate::MigrateError;
pub use cairn_meta::{OpenError, RunningServer};

/// Why an engine cannot be worked on.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// The URL names no engine.
    #[error(transparent)]
    Url {
        /// What would be right.
        source: UrlError,
    },
    /// The engine is a server, and cannot be used now.
    #[error("{url}: {source}")]
    Server {
        /// The engine, without password.
        url: String,
        /// Why.
        source: cairn_engines::OpenError,
    },
    /// The engine cannot be opened; the embedded one also when a server runs on it.
    #[error("{url}: {source}")]
    Engine {
        /// The engine.
        url: String,
        /// Why.
        source: EngineError,
    },
}

/// Where a check goes on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CheckCursor(Bytes);

/// Rows that contradict each other.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// Which rule is broken.
    pub rule: String,
    /// What and where.
    pub what: String,
    /// What was done, or can be done.
    pub remedy: String,
    /// It was mended.
    pub repaired: bool,
}

/// A page of rows, checked.
#[derive(Clone, Debug)]
pub struct CheckPage {
    /// What was found.
    pub findings: Vec<Finding>,
    /// Rows looked at.
    pub rows: u64,
    /// Where the next page begins; `None` = that was all.
    pub next: Option<CheckCursor>,
}

/// An engine that this process has opened.
#[derive(Clone)]
pub struct OpenEngine {
    engine: Arc<dyn Engine>,
    url: String,
    clock: Arc<dyn Clock>,
    /// Others may be at work on it at the same time.
    shared: bool,
}

impl OpenEngine {
    /// A file that is in the directory of every embedded engine: where it is not, opening makes a new one.
    pub const MARKER: &str = EmbeddedEngine::MARKER;

    /// Directory of an embedded engine; `None` for a URL that names no such one.
    pub fn dir(url: &str) -> Option<PathBuf> {
        url.strip_prefix("file:").filter(|dir| !dir.is_empty()).map(PathBuf::from)
    }

    /// Opens the engine at `url`; in a directory without one an empty one is made.
    ///
    /// # Errors
    /// [`ToolError`].
    pub async fn open(url: &str) -> Result<Self, ToolError> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let named: EngineUrl = url.parse().map_err(|source| ToolError::Url { source })?;
        let url = named.to_string();
        let Some(dir) = named.dir().cloned() else {
            let opened = cairn_engines::open(&named, entropy::rng()).await;
            let engine = opened.map_err(|source| ToolError::Server { url: url.clone(), source })?;
            return Ok(Self { engine, url, clock, shared: true });
        };
        let options = EmbeddedOptions { cache_bytes: META_CACHE_BYTES, clock: clock.clone() };
        let opened = blocking(move || EmbeddedEngine::open(&dir, options));
        let engine = opened.await.map_err(|source| ToolError::Engine { url: url.clone(), source })?;
        Ok(Self { engine: Arc::new(engine), url, clock, shared: false })
    }

    /// Metadata servers that are at work on it. Where several can be, and rows of some are there, it takes two looks with
    /// some seconds between them; an embedded engine is this process's alone.
    ///
    /// # Errors
    /// The engine does not serve.
    pub async fn running(&self) -> Result<Vec<RunningServer>, OpenError> {
        if !self.shared {
            return Ok(Vec::new());
        }
        let before = ServerSigns::look(&*self.engine).await?;
        if before.is_empty() {
            return Ok(Vec::new());
        }
        sleep(SERVER_SIGN_WAIT).await;
        Ok(before.running(&ServerSigns::look(&*self.engine).await?))
    }

    /// Begins a dump of what is in it now.
    ///
    /// # Errors
    /// There is no namespace in it, or not a whole one.
    pub async fn dump(&self) -> Result<Dump, OpenError> {
        Dump::begin(&*self.engine, wall_ns()).await
    }

    /// Begins to load a dump that comes from `from`.
    ///
    /// # Errors
    /// It is not empty.
    pub async fn loader(&self, from: &str) -> Result<Loader, LoadError> {
        let mut rng = entropy::rng();
        let purpose = Purpose::Restore { seed: rng.u64(..) };
        Loader::begin(self.engine.clone(), from, rng.u64(..), purpose).await
    }

    /// Moves the namespace in it to `to`; see [`cairn_meta::migrate::migrate`].
    ///
    /// # Errors
    /// [`MigrateError`].
    pub async fn migrate(&self, to: &Self, progress: impl FnMut(RowDigest) + Send) -> Result<RowDigest, MigrateError> {
        let stamp = (entropy::rng().u64(..), wall_ns());
        migrate(self.engine.clone(), to.engine.clone(), (&self.url, &to.url), stamp, progress).await
    }

    /// Checks the page of rows at `cursor` against each other (`None` = the first), and mends what can be mended when
    /// `repair` is set.
    ///
    /// # Errors
    /// What the engine said.
    pub async fn check(&self, cursor: Option<&CheckCursor>, repair: bool) -> Result<CheckPage, Status> {
        let cursor = cursor.map(|cursor| cursor.0.clone()).unwrap_or_default();
        let ask = pb::CheckRows { cursor, repair };
        let reply = cairn_meta::check_engine(&self.engine, &self.clock, &ask).await?;
        let finding = |pb::RowFinding { rule, what, remedy, repaired }| Finding { rule, what, remedy, repaired };
        let next = Some(reply.next_cursor).filter(|next| !next.is_empty()).map(CheckCursor);
        Ok(CheckPage { findings: reply.findings.into_iter().map(finding).collect(), rows: reply.rows, next })
    }

    /// Closes the engine. Everything is durable when this returns.
    pub async fn close(self) {
        blocking(move || drop(self)).await;
    }
}
