//! The conformance battery on the engines of this crate. Those that speak to a server run it in `cairn-engines`.

use crate::support::embedded;
use cairn_meta::kv::{Engine, MapEngine, battery};
use std::sync::Arc;

/// An empty engine for a namespace under test.
pub async fn fresh() -> Arc<dyn Engine> {
    Arc::new(MapEngine::new())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_battery_on_a_map() {
    for (name, check) in battery::all() {
        tokio::spawn(check(Arc::new(MapEngine::new()))).await.unwrap_or_else(|_| panic!("{name}"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_battery_on_the_embedded_engine() {
    for (name, check) in battery::all() {
        let dir = tempfile::tempdir().expect("a directory");
        tokio::spawn(check(embedded(dir.path()))).await.unwrap_or_else(|_| panic!("{name}"));
    }
}
