//! AC5 and AC6: what the pool of connections does when requests are given up, connections die and nobody asks.
//!
//! The product's `Link` and server loop over loopback, in one process, so that every connection, permit and task can be
//! counted on both sides.

pub mod cancel;
pub mod idle;
mod server;
