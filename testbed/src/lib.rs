//! Real servers for tests and chaos scenarios: PostgreSQL and etcd from Debian's packages, each in a directory of its own
//! on free ports of loopback, with everything on disk as in production; and a relay that loses the answer to a request.
//!
//! Servers end when they are dropped. They also end when the thread that started them does, so that a killed test leaves
//! nothing behind: start them on a thread that stays.
#![allow(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "starts servers for tests, outside the product"
)]

mod etcd;
mod http;
mod postgres;
mod process;
mod relay;

pub use etcd::Etcd;
pub use postgres::{PG_PASSWORD, Postgres};
pub use process::StartError;
pub use relay::{Cut, Relay};
