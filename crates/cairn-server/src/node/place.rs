//! Where a store lies, and how it is opened there: at the start, and again when it failed or its disk has come back.

use super::config::StoreConfig;
use super::disk::{DiskWatch, WatchedDisk};
use cairn_proto::StoreUuid;
use cairn_store::{Disk, OpenDiskError, OpenError, OpenReport, RealDisk, Store, StoreOptions};
use parking_lot::Mutex;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use thiserror::Error;

/// Why a store is not open.
#[derive(Debug, Error)]
pub enum PlaceError {
    /// The directory held a store and holds none now. Making a new one there would take an unmounted disk for an empty
    /// one.
    #[error(
        "{path} holds no store, but {uuid} was there: is its disk mounted? (--accept-empty-stores makes a new one)"
    )]
    Gone {
        /// The directory.
        path: PathBuf,
        /// What was there.
        uuid: StoreUuid,
    },
    /// The directory holds another store than it did.
    #[error("{path} holds {found}, but {expected} belongs there")]
    Other {
        /// The directory.
        path: PathBuf,
        /// What is there.
        found: StoreUuid,
        /// What was there.
        expected: StoreUuid,
    },
    /// The directory cannot be used, or another process uses it.
    #[error("cannot use the directory {path}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: OpenDiskError,
    },
    /// The store in it cannot be opened.
    #[error("cannot open the store in {path}")]
    Store {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: OpenError,
    },
}

/// How a directory becomes a disk.
pub(crate) type OpenDisk = Arc<dyn Fn(&Path) -> Result<Box<dyn Disk>, OpenDiskError> + Send + Sync>;

/// The operating system's disk.
pub(crate) fn real_disk() -> OpenDisk {
    Arc::new(|path| RealDisk::open(path).map(|disk| Box::new(disk) as Box<dyn Disk>))
}

/// The directory of one store.
pub(crate) struct StorePlace {
    path: PathBuf,
    options: StoreOptions,
    open_disk: OpenDisk,
    watch: Arc<DiskWatch>,
    /// The store that was here when this directory was opened last, in this life of the process or an earlier one.
    expected: Mutex<Option<StoreUuid>>,
    accept_empty: bool,
}

impl StorePlace {
    pub(crate) fn new(
        path: PathBuf,
        options: StoreOptions,
        open_disk: OpenDisk,
        expected: Option<StoreUuid>,
        accept_empty: bool,
    ) -> Self {
        Self { path, options, open_disk, watch: Arc::default(), expected: Mutex::new(expected), accept_empty }
    }

    /// What is seen of its disk, over all openings.
    pub(crate) fn watch(&self) -> &Arc<DiskWatch> {
        &self.watch
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What the directory is called in the node's own files.
    pub(crate) fn name(&self) -> String {
        name_of(&self.path)
    }

    /// The store that belongs here, as far as that is known.
    pub(crate) fn expected(&self) -> Option<StoreUuid> {
        *self.expected.lock()
    }

    /// Opens what is here, or makes a store where none ever was. Blocks the calling thread.
    pub(crate) fn open(&self) -> Result<(Store, OpenReport), PlaceError> {
        let path = || self.path.clone();
        if let Some(uuid) = self.expected()
            && !self.accept_empty
            && !RealDisk::holds_store(&self.path)
        {
            return Err(PlaceError::Gone { path: path(), uuid });
        }
        let disk = (self.open_disk)(&self.path).map_err(|source| PlaceError::Directory { path: path(), source })?;
        let disk: Arc<dyn Disk> = Arc::new(WatchedDisk::new(disk, self.watch.clone()));
        let (store, report) =
            Store::open(disk, self.options.clone()).map_err(|source| PlaceError::Store { path: path(), source })?;
        if report.is_damaged() {
            tracing::warn!(path = %self.path.display(), "store opened with defects");
        }
        *self.expected.lock() = Some(store.uuid());
        Ok((store, report))
    }
}

/// What a directory is called in the node's own files.
pub(crate) fn name_of(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// How a store is opened, as the configuration says.
pub(crate) fn store_options(config: &StoreConfig) -> StoreOptions {
    let mut options = StoreOptions::default();
    if let Some(segment_len) = config.segment_len {
        options.segment_len = segment_len;
    }
    options.capacity_bytes = config.capacity_bytes;
    options.reserve_bytes = config.reserve_bytes;
    options
}
