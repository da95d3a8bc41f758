//! Faults, load and judgement: starts a cluster of real processes behind fault-injecting proxies, drives open-loop load
//! through the client library, and holds what users saw against the acceptance criteria (docs/chaos.md).
//!
//! Outside the product: works on clocks, disks, sockets and processes directly, and on the cluster only through
//! `cairn-client` and the program `cairn`.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a fault injector works on the machine itself: clocks, sockets, processes"
)]

pub mod appends;
pub mod bits;
pub mod cluster;
pub mod cost;
pub mod criterion;
pub mod disk;
pub mod engine;
pub mod fleet;
pub mod hostile;
pub mod load;
pub mod mounted;
pub mod observe;
pub mod operator;
pub mod payload;
pub mod pool;
pub mod process;
pub mod proxy;
pub mod quantile;
pub mod replicas;
pub mod report;
pub mod rot;
pub mod run;
pub mod scenario;
pub mod slots;
pub mod whole;
pub mod zombie;
