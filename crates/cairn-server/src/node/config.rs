//! Settings of a storage node.

use crate::console::ConsolePlace;
use crate::limits::{COMPARE_PERIOD, SCRUB_PERIOD, SWEEP_MASS_PERCENT, SWEEP_PERIOD};
use std::path::PathBuf;
use std::time::Duration;

/// How a store uses its disk; `None` = the store's own default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreConfig {
    /// Length at which segments are sealed, in bytes.
    pub segment_len: Option<u64>,
    /// Bytes of the disk the store may use; default: all of the file system.
    pub capacity_bytes: Option<u64>,
    /// Bytes kept free for tombstones and checkpoints.
    pub reserve_bytes: Option<u64>,
}

/// Settings of a [`crate::NodeServer`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeServerConfig {
    /// The node's directory: identity, fence, and the store where `stores` names none. Made when missing.
    pub data: PathBuf,
    /// A directory per store (one per disk); empty = one store, in `data/store-1`. Made when missing.
    pub stores: Vec<PathBuf>,
    /// Make new stores in directories that held one before and hold none now. Without it such a directory is taken for a
    /// disk that is not mounted: the store is reported and the others serve.
    pub accept_empty_stores: bool,
    /// `ip:port` to listen on; port 0 picks a free one. Loopback only, unless `insecure`.
    pub listen: String,
    /// Listen off loopback, too.
    pub insecure: bool,
    /// The address that others are told, `host:port`, where it differs from the one listened on.
    pub advertise: Option<String>,
    /// Addresses of the metadata servers, `host:port` each.
    pub metas: Vec<String>,
    /// Failure domain above racks; may be empty.
    pub zone: String,
    /// Failure domain above hosts; may be empty.
    pub rack: String,
    /// Failure domain above nodes: nodes of one name share a machine; may be empty.
    pub host: String,
    /// How each store uses its disk.
    pub store: StoreConfig,
    /// How often the node looks for blocks without a file.
    pub sweep_every: Duration,
    /// Time in which everything that a store holds is read back once.
    pub scrub_period: Duration,
    /// How often each group is compared with another member.
    pub compare_every: Duration,
    /// Most bytes a second that copies to and from one store may take; `None` = as many as foreground requests leave.
    pub repair_rate: Option<u64>,
    /// Share of what a store holds when it is opened that a sweep may delete, in percent; 100 = all of it. When more
    /// would go, none goes, and the store's alarm says so.
    pub sweep_mass_percent: u8,
    /// Where metrics and health checks are served.
    pub console: ConsolePlace,
}

impl NodeServerConfig {
    /// A node with one store in `data`, no failure domains, and defaults for the rest.
    pub fn new(data: impl Into<PathBuf>, listen: impl Into<String>, metas: Vec<String>) -> Self {
        Self {
            data: data.into(),
            stores: Vec::new(),
            accept_empty_stores: false,
            listen: listen.into(),
            insecure: false,
            advertise: None,
            metas,
            zone: String::new(),
            rack: String::new(),
            host: String::new(),
            store: StoreConfig::default(),
            sweep_every: SWEEP_PERIOD,
            scrub_period: SCRUB_PERIOD,
            compare_every: COMPARE_PERIOD,
            repair_rate: None,
            sweep_mass_percent: SWEEP_MASS_PERCENT,
            console: ConsolePlace::default(),
        }
    }

    /// Directories of the stores, in order.
    pub(crate) fn store_dirs(&self) -> Vec<PathBuf> {
        if self.stores.is_empty() { vec![self.data.join("store-1")] } else { self.stores.clone() }
    }
}
