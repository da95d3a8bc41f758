//! Each mode of the proxy on real sockets; the harness on a real cluster.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests work on sockets, clocks and processes directly"
)]

mod proxy;
