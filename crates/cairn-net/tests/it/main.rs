//! Connections end to end: a link against a server, over real sockets and over in-memory pipes.
#![allow(clippy::unwrap_used, reason = "tests")]

mod cancel;
mod echo;
mod hostile;
mod pool;
mod probe;
mod route;
mod server;
mod support;
mod total;
mod wire;
