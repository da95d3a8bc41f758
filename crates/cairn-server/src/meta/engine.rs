//! Opening the engine and the namespace in it.
//!
//! The embedded engine opens or does not. One that is a server may be away: then this process listens, says so to whoever
//! asks, and tries again until it is there.

use super::MetaServerConfig;
use crate::backoff::Backoff;
use crate::console::{Console, Reason, Subject, Verdict, answers};
use crate::entropy;
use crate::error::StartError;
use crate::limits::{ENGINE_PAUSES, ENGINE_RETRY_AFTER_MS, STOP_GRACE};
use crate::links::Dialer;
use crate::listen::Lent;
use crate::tasks::{Tasks, blocking};
use async_trait::async_trait;
use bytes::Bytes;
use cairn_engines::{EngineUrl, OpenError};
use cairn_meta::kv::{EmbeddedEngine, EmbeddedOptions, Engine, EngineError};
use cairn_meta::{Meta, MetaOptions};
use cairn_net::{Body, Handler, Link, RequestContext, ServerConfig, serve};
use cairn_proto::NodeId;
use cairn_proto::pb::{self, response};
use cairn_proto::status::{Code, Status};
use parking_lot::Mutex;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::time::sleep;

/// An engine with its namespace.
pub(super) type Opened = (Arc<dyn Engine>, Meta);

/// Where a server listens while it waits for its engine.
pub(super) struct Doors<'a> {
    pub(super) requests: &'a Lent,
    pub(super) console: Option<&'a Console>,
    pub(super) dialer: &'a Dialer,
}

/// Opens the engine of `config`, however long it takes while that may help.
///
/// # Errors
/// What another try does not help.
pub(super) async fn open(
    config: &MetaServerConfig,
    options: MetaOptions,
    doors: Doors<'_>,
) -> Result<Opened, StartError> {
    match &config.engine {
        None => embedded(config, config.data.clone(), options).await,
        Some(url) => match url.dir() {
            Some(dir) => embedded(config, dir.clone(), options).await,
            None => wait_for(url, options, doors).await,
        },
    }
}

async fn embedded(config: &MetaServerConfig, path: PathBuf, options: MetaOptions) -> Result<Opened, StartError> {
    let embedded = EmbeddedOptions { cache_bytes: config.cache_bytes, clock: options.clock.clone() };
    let opened = blocking({
        let path = path.clone();
        move || EmbeddedEngine::open(&path, embedded)
    });
    let engine = opened.await.map_err(|source| StartError::Engine { path: path.clone(), source })?;
    let engine: Arc<dyn Engine> = Arc::new(engine);
    let meta = Meta::open(engine.clone(), options).await.map_err(|source| StartError::Meta { path, source })?;
    Ok((engine, meta))
}

/// Why one try did not work.
enum Failed {
    Never(StartError),
    Away(String),
}

async fn try_open(url: &EngineUrl, options: MetaOptions) -> Result<Opened, Failed> {
    let engine = cairn_engines::open(url, entropy::rng()).await.map_err(|error| match error {
        OpenError::Never { cause } => Failed::Never(StartError::EngineUrl { url: url.to_string(), cause }),
        OpenError::Away { cause } => Failed::Away(cause),
    })?;
    let meta = Meta::open(engine.clone(), options).await.map_err(|source| match source {
        cairn_meta::OpenError::Engine(
            error @ (EngineError::Unavailable { .. } | EngineError::Full { .. } | EngineError::Conflict),
        ) => Failed::Away(error.to_string()),
        source => Failed::Never(StartError::Meta { path: PathBuf::from(url.to_string()), source }),
    })?;
    Ok((engine, meta))
}

/// Tries until the engine is there. Meanwhile requests are answered UNAVAILABLE, and the console says why.
async fn wait_for(url: &EngineUrl, options: MetaOptions, doors: Doors<'_>) -> Result<Opened, StartError> {
    let mut cause = match try_open(url, options.clone()).await {
        Ok(opened) => return Ok(opened),
        Err(Failed::Never(error)) => return Err(error),
        Err(Failed::Away(cause)) => cause,
    };
    let away = Arc::new(Away { url: url.to_string(), cause: Mutex::new(String::new()) });
    let tasks = Tasks::new();
    let served_as = ServerConfig::new(doors.dialer.identity.clone());
    tasks.spawn_server(serve(doors.requests.lend(), away.clone(), served_as, tasks.server_stop()));
    if let Some(console) = doors.console {
        let own = doors.dialer.link(&doors.requests.addr().to_string(), NodeId(0));
        let subject = Arc::new(AwaySubject { away: away.clone(), own });
        tasks.spawn_server(console.lend().serve(subject, tasks.server_stop()));
    }
    let mut backoff = Backoff::new(ENGINE_PAUSES, entropy::rng());
    let outcome = loop {
        if *away.cause.lock() != cause {
            tracing::warn!(engine = %url, cause, "the metadata engine is away; trying until it is there");
            away.cause.lock().clone_from(&cause);
        }
        sleep(backoff.pause()).await; // tidy: sleep-ok(backoff between tries)
        match try_open(url, options.clone()).await {
            Ok(opened) => break Ok(opened),
            Err(Failed::Never(error)) => break Err(error),
            Err(Failed::Away(now)) => cause = now,
        }
    };
    tasks.stop(STOP_GRACE).await;
    outcome
}

/// What a server answers that has no engine yet.
struct Away {
    url: String,
    cause: Mutex<String>,
}

impl Away {
    fn words(&self) -> String {
        format!("the metadata engine {} is away: {}", self.url, self.cause.lock())
    }
}

#[async_trait]
impl Handler for Away {
    async fn handle(
        &self,
        _ctx: &RequestContext,
        _request: pb::Request,
        _body: Vec<Bytes>,
    ) -> Result<(response::Kind, Body), Status> {
        Err(Status::new(Code::Unavailable, self.words()).retry_after_ms(ENGINE_RETRY_AFTER_MS))
    }
}

struct AwaySubject {
    away: Arc<Away>,
    own: Link,
}

#[async_trait]
impl Subject for AwaySubject {
    async fn metrics(&self) -> String {
        String::new()
    }

    async fn health(&self) -> Verdict {
        answers(&self.own).await.into()
    }

    async fn readiness(&self) -> Verdict {
        Verdict::from_iter([Reason::new("engine", self.away.words())])
    }
}
