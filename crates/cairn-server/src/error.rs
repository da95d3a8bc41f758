//! Why a server did not start.

use crate::console::ConsolePlaceError;
use crate::listen::ListenError;
use crate::node::{FenceError, IdentityError, PlaceError};
use cairn_meta::kv::EngineError;
use cairn_store::OpenDiskError;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use thiserror::Error;

/// A server did not start; nothing of it keeps running.
#[derive(Debug, Error)]
pub enum StartError {
    /// The address to listen on is refused.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The address cannot be listened on, mostly because another process does.
    #[error("cannot listen on {addr}")]
    Bind {
        /// The address.
        addr: SocketAddr,
        /// What the operating system said.
        source: io::Error,
    },
    /// There is no address for the console.
    #[error(transparent)]
    ConsolePlace(#[from] ConsolePlaceError),
    /// The console's address cannot be listened on, mostly because another process does.
    #[error("cannot listen on {addr} for the console (metrics and health checks)")]
    Console {
        /// The address.
        addr: SocketAddr,
        /// What the operating system said.
        source: io::Error,
    },
    /// A directory cannot be used, or another process uses it.
    #[error("cannot use the directory {path}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: OpenDiskError,
    },
    /// The node's identity cannot be read or made.
    #[error("no identity in {path}")]
    Identity {
        /// The node's directory.
        path: PathBuf,
        /// Why.
        source: IdentityError,
    },
    /// The epochs of destructive commands cannot be read.
    #[error("no fence in {path}")]
    Fence {
        /// The node's directory.
        path: PathBuf,
        /// Why.
        source: FenceError,
    },
    /// The ledger of defects cannot be read.
    #[error("no ledger in {path}")]
    Ledger {
        /// The node's directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A store cannot be opened.
    #[error(transparent)]
    Store(PlaceError),
    /// The metadata engine cannot be opened, mostly because another process has it open.
    #[error("cannot open the metadata engine in {path}")]
    Engine {
        /// The engine's directory.
        path: PathBuf,
        /// Why.
        source: EngineError,
    },
    /// The engine that was named cannot be used, and waiting does not help.
    #[error("cannot use the metadata engine {url}: {cause}")]
    EngineUrl {
        /// The engine, without password.
        url: String,
        /// Why, and what to do.
        cause: String,
    },
    /// The namespace cannot be opened, or an option is out of range.
    #[error("cannot open metadata in {path}")]
    Meta {
        /// The engine's directory.
        path: PathBuf,
        /// Why.
        source: cairn_meta::OpenError,
    },
    /// Two directories hold the same store.
    #[error("two directories hold the same store: one of them was copied")]
    Confused,
}
