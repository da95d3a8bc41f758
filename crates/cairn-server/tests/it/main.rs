//! Whole clusters in one process, spoken to over real sockets with bare requests: no client library stands between.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::unwrap_used,
    reason = "tests damage files and speak to sockets behind the servers' backs"
)]

mod basics;
mod collection;
mod console;
mod hostile;
mod purge;
mod repair;
mod stores;
mod support;
mod sweep;
mod upkeep;
