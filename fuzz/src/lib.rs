//! What the fuzz targets do. `bodies` is compiled into the tests of cairn-store, too, which replay the corpus.
//!
//! How to run: `README.md`.
#![allow(clippy::unwrap_used, reason = "the simulated disk is a test's")]

pub mod bodies;
#[path = "../../crates/cairn-store/tests/it/sim_disk.rs"]
#[allow(dead_code, reason = "the crash tests use more of it")]
pub mod sim_disk;
