//! Engines that speak to servers, against real servers: one binary. Needs PostgreSQL and etcd (`cargo xtask setup`).
//!
//! The tests of the namespace are those of `cairn-meta`. Those below `real` start a server and run everything on it, one
//! after the other (`.config/nextest.toml`).

#[allow(dead_code, reason = "shared with tests that are not run here")]
#[path = "../../../cairn-meta/tests/it/bent.rs"]
mod bent;
mod engine;
#[path = "../../../cairn-meta/tests/it/extents.rs"]
mod extents;
#[allow(dead_code, reason = "shared with tests that are not run here")]
#[path = "../../../cairn-meta/tests/it/judge.rs"]
mod judge;
#[path = "../../../cairn-meta/tests/it/names.rs"]
mod names;
#[path = "../../../cairn-meta/tests/it/once.rs"]
mod once;
mod real;
#[path = "../../../cairn-meta/tests/it/sessions.rs"]
mod sessions;
#[allow(dead_code, reason = "shared with tests that are not run here")]
#[path = "../../../cairn-meta/tests/it/support.rs"]
mod support;
