//! Engines that speak to servers, against real servers: one binary. Needs PostgreSQL and etcd (`cargo xtask setup`).
//!
//! The tests of the namespace are those of `cairn-meta`. Those below `real` start a server and run everything on it, one
//! after the other (`.config/nextest.toml`).

#[allow(dead_code, reason = "shared with tests that are not run here")]
#[path = "../../../cairn-meta/tests/it/bent.rs"]
mod bent;
#[allow(dead_code, reason = "shared with tests that are not run here")]
#[path = "../../../cairn-meta/tests/it/checks.rs"]
mod checks;
#[path = "../../../cairn-meta/tests/it/dump.rs"]
mod dump;
mod engine;
#[path = "../../../cairn-meta/tests/it/extents.rs"]
mod extents;
#[path = "../../../cairn-meta/tests/it/feed.rs"]
mod feed;
#[allow(dead_code, reason = "shared with tests that are not run here")]
#[path = "../../../cairn-meta/tests/it/judge.rs"]
mod judge;
#[path = "../../../cairn-meta/tests/it/locks.rs"]
mod locks;
#[allow(dead_code, reason = "shared with tests that are not run here")]
#[path = "../../../cairn-meta/tests/it/mending.rs"]
mod mending;
#[path = "../../../cairn-meta/tests/it/names.rs"]
mod names;
#[path = "../../../cairn-meta/tests/it/once.rs"]
mod once;
#[path = "../../../cairn-meta/tests/it/posix/mod.rs"]
mod posix;
#[path = "../../../cairn-meta/tests/it/quota.rs"]
mod quota;
mod real;
#[path = "../../../cairn-meta/tests/it/sessions.rs"]
mod sessions;
#[path = "../../../cairn-meta/tests/it/snapshots/mod.rs"]
mod snapshots;
#[allow(dead_code, reason = "shared with tests that are not run here")]
#[path = "../../../cairn-meta/tests/it/support.rs"]
mod support;
#[path = "../../../cairn-meta/tests/it/trash.rs"]
mod trash;
#[allow(dead_code, reason = "shared with tests that are not run here")]
#[path = "../../../cairn-meta/tests/it/watched.rs"]
mod watched;
