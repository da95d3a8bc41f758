//! The servers of CairnFS: metadata and stores get a socket, a clock and duties.
//!
//! - [`NodeServer`] is a storage node: one or more stores, what clients and metadata may ask of them, and the duties that
//!   keep them complete.
//! - [`MetaServer`] is a metadata server: the namespace on its engine, and the duties that go with it.
//! - [`LocalCluster`] is one metadata server and some nodes in this process.
//!
//! This crate decides nothing about names, extents or bytes on disk: that is `cairn-meta` and `cairn-store`, which know
//! neither each other nor a socket. It must never use the client library.

mod backoff;
mod clock;
mod console;
mod entropy;
mod error;
mod gate;
pub mod limits;
mod links;
mod listen;
mod local;
mod meta;
mod node;
mod observe;
mod state_file;
mod tasks;
pub mod tools;
mod view;
mod wanted;
mod wire;

/// Which engine a metadata server works on.
pub use cairn_engines::{EngineUrl, UrlError};
/// The network that every server is started on outside simulations, so that a program that runs servers needs no other
/// crate.
pub use cairn_net::TcpNet;
/// Looking into a segment file, for the command line.
pub use cairn_store::inspect;
pub use console::{ConsolePlace, ConsolePlaceError};
pub use error::StartError;
pub use listen::{ListenError, loopback_addr};
pub use local::{LocalCluster, LocalClusterConfig, LocalClusterError, LocalConsoles};
pub use meta::{MassRule, MetaServer, MetaServerConfig};
pub use node::{
    FenceError, IdentityError, Membership, NodeServer, NodeServerConfig, PlaceError, StoreConfig, SweepTotals,
};
