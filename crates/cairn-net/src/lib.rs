//! Connections of CairnFS: frames on sockets, two lanes to every peer, cancellation, and a server loop.
//!
//! - [`Link`] is everything a process has to one peer address: a multiplexed *control* connection for small requests
//!   and a pool of exclusive *bulk* connections for large ones. [`Link::start`] begins a request and returns a [`Leg`].
//! - [`serve`] answers requests through a [`Handler`].
//! - [`Net`] is the seam to the operating system's network; [`TcpNet`] is the real one.
//!
//! This crate carries requests and knows nothing about what they mean: it never chooses a replica, never hedges, never
//! retries (but for one transparent resend when a pooled connection turned out to be stale), never gives up on a peer.
//! Such policies stand above it and see it through [`Leg`], [`Progress`], [`LegError`] and [`LinkStats`].
//!
//! The wire format is described in `docs/formats/wire.md`.

mod body;
mod call;
mod config;
mod conn;
mod error;
mod handshake;
mod identity;
mod leg;
mod link;
mod meter;
mod pool;
mod reader;
mod seam;
mod server;
mod stats;
mod sync;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod writer;

pub use body::{Body, BodyPart, FileHandle};
pub use call::{Call, Progress, Reply, Route, Timing};
pub use config::{LinkConfig, ServerConfig};
pub use error::{LegError, LegErrorClass, Sent};
pub use identity::{Identity, PeerCertificate, PeerInfo, SharedIdentity};
pub use leg::{Leg, LegWatch};
pub use link::Link;
pub use pool::ConnectionTotal;
pub use seam::{Listener, Net, ReadHalf, Stream, TcpNet, WriteHalf, now};
pub use server::{Handler, RequestContext, ServerStats, WorkTime, serve};
pub use stats::{CloseReason, LaneStats, LinkStats, WAIT_BOUNDS_US, WaitStats};
