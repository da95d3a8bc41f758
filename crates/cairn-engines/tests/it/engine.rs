//! Which engine the tests of the namespace run on.

use cairn_engines::EngineUrl;
use cairn_meta::kv::{Engine, MapEngine};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// The engine's URL without its last name; a test gets one of its own below it.
pub const URL_VAR: &str = "CAIRN_TEST_ENGINE";

static NEXT: AtomicU32 = AtomicU32::new(1);

/// A name that no other test of this run has.
pub fn fresh_name() -> String {
    format!("t{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::SeqCst))
}

pub async fn open(url: &str) -> Arc<dyn Engine> {
    let url: EngineUrl = url.parse().expect("a URL");
    let rng = fastrand::Rng::with_seed(NEXT.fetch_add(1, Ordering::SeqCst).into());
    cairn_engines::open(&url, rng).await.expect("the engine opens")
}

/// An empty engine for a namespace under test: on the server that the environment names, else in memory.
pub async fn fresh() -> Arc<dyn Engine> {
    match std::env::var(URL_VAR) {
        Ok(url) => open(&format!("{url}{}", fresh_name())).await,
        Err(_) => Arc::new(MapEngine::new()),
    }
}
